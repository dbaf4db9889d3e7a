"""The optimiser, its learning rate over the steps, and the average of the weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import nn

from .settings import Settings
from .shards import divided_as, whole


def make_optimizer(weights: Sequence[nn.Parameter], settings: Settings) -> torch.optim.Optimizer:
    """AdamW, or torchao's with moments of 8 bits.

    Raises:
        ValueError: torchao is not installed.
    """
    options: dict[str, Any] = {"lr": settings.lr, "weight_decay": settings.weight_decay}
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(weights, **options)
    try:
        from torchao.optim import AdamW8bit
    except ImportError as error:
        raise ValueError("--optimizer adamw8bit was given, which is torchao's: pip install torchao.") from error
    return AdamW8bit(weights, **options)


def make_schedule(optimizer: torch.optim.Optimizer, settings: Settings) -> Any:
    """The learning rate of every step, as a factor of --lr; None where it stays."""
    if settings.schedule == "constant" and not settings.warmup:
        return None
    name = "constant_with_warmup" if settings.schedule == "constant" else settings.schedule
    return get_scheduler(name, optimizer, num_warmup_steps=settings.warmup, num_training_steps=settings.steps)


def set_rates(optimizer: torch.optim.Optimizer, schedule: Any) -> None:
    """Gives the next step the rate of the schedule that is wanted now; what was loaded may have been of fewer steps."""
    for group, highest, factor in zip(optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas):
        group["lr"] = highest * factor(schedule.last_epoch)


class Average:
    """The exponential moving average of the weights that are trained, which is what the run writes and measures; without a
    decay the weights themselves.

    Attributes:
        ema: None without a decay.
    """

    def __init__(self, weights: Sequence[nn.Parameter], decay: float | None):
        self.weights = weights
        self.ema = EMAModel(weights, decay=decay) if decay is not None else None

    def to(self, device: torch.device) -> None:
        if self.ema is not None:
            self.ema.to(device)

    def state_dict(self) -> dict[str, Any]:
        """With whole tensors, for which all processes call this."""
        state = self.ema.state_dict() if self.ema is not None else {}
        return {**state, "shadow_params": [whole(part) for part in state.get("shadow_params", [])]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.ema is not None:
            parts = [divided_as(part, weight) for part, weight in zip(state["shadow_params"], self.weights)]
            self.ema.load_state_dict({**state, "shadow_params": parts})

    def step(self) -> None:
        if self.ema is not None:
            self.ema.step(self.weights)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within it the weights are the averaged ones."""
        if self.ema is None:
            yield
            return
        self.ema.store(self.weights)
        self.ema.copy_to(self.weights)
        try:
            yield
        finally:
            self.ema.restore(self.weights)
