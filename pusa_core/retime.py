"""Frames of a clip at other moments: between its own, and across those that are to have no say."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from .messages import fault


def at_times(frames: Iterable[Tensor], times: Sequence[float]) -> Tensor:
    """Frames of a clip at moments between them, blended of the two on either side: (len(times), H, W, 3).

    Args:
        frames: (1, H, W, 3) each; no more of them are looked at than needed.
        times: rising, counted in frames from 0; beyond the last frame that one stays.

    Raises:
        ValueError: there are no frames.
    """
    made: list[Tensor] = []
    before, wanted = None, deque(times)
    for number, frame in enumerate(frames):
        while wanted and wanted[0] <= number:
            share = 1 - (number - wanted.popleft())
            made.append(frame if before is None or share == 1 else torch.lerp(before, frame, share))
        if not wanted:
            break
        before = frame
    if before is None and not made:
        raise fault("The clip has no frames: give another.")
    return torch.cat([*made, *([before] * len(wanted) if before is not None else [])])


def bridged(pictures: Tensor, free: Iterable[int]) -> Tensor:
    """A clip (N, H, W, 3) with blends of the frames around them in place of those by number that are to have no say.

    The VAE is causal: what a bad frame shows would reach the latents after it.
    """
    gap = set(free)
    solid = [number for number in range(len(pictures)) if number not in gap]
    if len(solid) in (0, len(pictures)):
        return pictures
    times = np.interp(np.arange(len(pictures)), solid, np.arange(len(solid)))
    return at_times((pictures[number : number + 1] for number in solid), times.tolist())
