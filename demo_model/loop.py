"""A training loop that can be resumed, for the small models: cosine decay, and an average of the weights."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

Loss = Callable[[int], Tensor]


def learning_rate_share(step: int, steps: int, warmup: int) -> float:
    """Share of the full learning rate at a step: a linear rise, then half a cosine down to 0."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 + 0.5 * math.cos(math.pi * (step - warmup) / max(1, steps - warmup))


def train(
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    loss: Loss,
    steps: int,
    checkpoint: Path,
    *,
    warmup: int = 100,
    decay: float = 0.998,
    every: int = 250,
    evaluate: Callable[[nn.Module], str] | None = None,
) -> nn.Module:
    """Trains `model` in place, goes on from `checkpoint` when it is there, and returns the average of its weights.

    Args:
        loss: the loss of a step's batch; a batch follows from the step's number alone, so a
            resumed run goes on with the batches that would have come.
        decay: of the exponential moving average of the weights, which is what is returned.
        every: steps between checkpoints and lines of progress.
        evaluate: what to say about the averaged weights at a checkpoint.
    """
    mean = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(decay))
    first = 0
    if checkpoint.is_file():
        state = torch.load(checkpoint, weights_only=True)
        first = state["step"]
        model.load_state_dict(state["model"])
        mean.load_state_dict(state["mean"])
        for optimizer, saved in zip(optimizers, state["optimizers"]):
            optimizer.load_state_dict(saved)
        print(f"going on from step {first}", flush=True)
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    for group in groups:
        group.setdefault("full_lr", group["lr"])
    start, recent = time.monotonic(), []
    for step in range(first, steps):
        share = learning_rate_share(step, steps, warmup)
        for group in groups:
            group["lr"] = group["full_lr"] * share
        value = loss(step)
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        mean.update_parameters(model)
        recent.append(float(value.detach()))
        if (step + 1) % every == 0 or step + 1 == steps:
            _save(checkpoint, step + 1, model, mean, optimizers)
            pace = (time.monotonic() - start) / (step + 1 - first)
            progress = f"{pace:.3f} s a step, {pace * (steps - step - 1) / 60:.0f} min left"
            said = evaluate(mean.module) if evaluate else ""
            print(f"step {step + 1}/{steps}, loss {sum(recent) / len(recent):.5f}, {progress} {said}", flush=True)
            recent.clear()
    return mean.module


def _save(path: Path, step: int, model: nn.Module, mean: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        "step": step,
        "model": model.state_dict(),
        "mean": mean.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
    }
    torch.save(state, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)
