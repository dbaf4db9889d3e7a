"""What goes wrong with clips, done to good ones: a clip that sticks, one with too few frames."""

from __future__ import annotations

from torch import Tensor

STUCK = slice(5, 13)  # frames: latent frames 2 and 3


def stutter(clip: Tensor, stuck: slice = STUCK) -> Tensor:
    """A clip (T, ...) that stands still for some frames, on the one before them, and then jumps on."""
    clip = clip.clone()
    clip[stuck] = clip[stuck.start - 1]
    return clip


def thin(clip: Tensor, every: int) -> Tensor:
    """Every n-th frame of a clip (T, ...), from the first."""
    return clip[::every]
