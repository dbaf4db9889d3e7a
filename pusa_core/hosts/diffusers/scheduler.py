"""Pusa's sigma grid as a scheduler of Diffusers."""

from __future__ import annotations

from typing import Any

from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers import SchedulerMixin as SchedulerMixin  # `from_pretrained` looks here for what a saved scheduler is
from diffusers.configuration_utils import register_to_config

from ...schedule import pusa_sigmas


class PusaScheduler(FlowMatchEulerDiscreteScheduler):
    """Euler's method on the exact sigma grid of Pusa and Wan, see `pusa_sigmas`.

    Args:
        num_train_timesteps: timesteps are sigmas times this; 1000 for every Wan.
        shift: 5 is Wan's.
    """

    @register_to_config
    def __init__(self, num_train_timesteps: int = 1000, shift: float = 5.0):
        super().__init__(num_train_timesteps, shift)

    def set_timesteps(
        self, num_inference_steps: int | None = None, device: Any = None, sigmas: list[float] | None = None, **kwargs: Any
    ) -> None:
        if sigmas is None and kwargs.get("timesteps") is None:
            sigmas = pusa_sigmas(num_inference_steps or 0, 1.0)[:-1].tolist()  # the base class shifts it
        super().set_timesteps(num_inference_steps, device, sigmas, **kwargs)
