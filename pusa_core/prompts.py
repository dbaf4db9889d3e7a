"""Prompts by frame: which holds at a frame of a long video, and how one passes into the next."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad


def prompts_at(begins: Sequence[int], blend: int, frame: int) -> tuple[int, int, float]:
    """The prompts that hold at a pixel frame: two by number, and the second's share.

    Args:
        begins: rising pixel frames at which each begins to hold; the first holds before its own, too.
        blend: pixel frames over which one passes into the next, around the frame at which that begins.
    """
    number = max(bisect_right(begins, frame) - 1, 0)
    for later in (number, number + 1):
        if 0 < later < len(begins) and abs(frame - begins[later]) < blend / 2:
            return later - 1, later, (frame - begins[later]) / blend + 0.5
    return number, number, 0.0


def mixed(before: Tensor, after: Tensor, share: float) -> Tensor:
    """Embeddings (B, L, width) between two; the shorter is padded with zeros, as Wan pads texts."""
    length = max(before.shape[1], after.shape[1])
    before, after = (pad(text, (0, 0, 0, length - text.shape[1])) for text in (before, after))
    return torch.lerp(before, after, share)
