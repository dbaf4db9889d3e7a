"""Pusa's sigma grid as a scheduler of Diffusers."""

from __future__ import annotations

from typing import Any

from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers import SchedulerMixin as SchedulerMixin  # `from_pretrained` looks here for what a saved scheduler is

from ...schedule import pusa_sigmas


class PusaScheduler(FlowMatchEulerDiscreteScheduler):
    """Euler's method on the exact sigma grid of Pusa and Wan, see `pusa_sigmas`.

    `from_config` takes `shift` of another flow-matching Euler scheduler's settings, and nothing else.

    Args:
        num_train_timesteps: timesteps are sigmas times this; 1000 for every Wan.
        shift: 5 is Wan's.
    """

    _compatibles = ["FlowMatchEulerDiscreteScheduler", "UniPCMultistepScheduler"]  # of whose settings no warning is given

    def __init__(self, num_train_timesteps: int = 1000, shift: float = 5.0):
        super().__init__(num_train_timesteps=num_train_timesteps, shift=shift)  # which registers them

    def set_timesteps(
        self, num_inference_steps: int | None = None, device: Any = None, sigmas: list[float] | None = None, **kwargs: Any
    ) -> None:
        if sigmas is None and kwargs.get("timesteps") is None:
            sigmas = pusa_sigmas(num_inference_steps or 0, 1.0)[:-1].tolist()  # the base class shifts it
        super().set_timesteps(num_inference_steps, device, sigmas, **kwargs)
