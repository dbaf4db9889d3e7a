"""What a loop shows of one object, frame by frame round the circle: frame 0 follows the last."""

from __future__ import annotations

import torch
from torch import Tensor

from .measure_long import look_at
from .world import Scene


def velocities(frames: Tensor, scene: Scene) -> Tensor:
    """The object's way from the frame before to each of a loop's, (T, 2) in pixels; not a number where it is not seen."""
    centre = look_at(frames, scene).centre
    return centre - centre.roll(1, 0)


def velocity_changes(frames: Tensor, scene: Scene) -> Tensor:
    """How much the velocity changes at each step between frames of a loop, (T,) in pixels a frame; step t leads to frame t.

    The mean of the changes before and after the step: a jump shows in both.
    """
    velocity = velocities(frames, scene)
    change = (velocity.roll(-1, 0) - velocity).norm(dim=1)  # of each frame, between the steps around it
    return (change + change.roll(1, 0)) / 2


def picture_steps(frames: Tensor) -> Tensor:
    """Mean difference of each frame of a loop from the one before, (T,) in levels of 255."""
    return 255 * (frames - frames.roll(1, 0)).abs().flatten(1).mean(1)


def places(frames: int) -> dict[str, Tensor]:
    """Which steps of a loop that `pusa_core.loop.turn` decoded lie over its seam, over other borders of latents, and inside.

    Frame 0 is the last picture of a latent frame, so the step to frame 4k + 1 leads over a border, and k = 0 is the seam.
    """
    step = torch.arange(frames)
    return {"seam": step == 1, "borders": (step % 4 == 1) & (step > 1), "inside": step % 4 != 1}
