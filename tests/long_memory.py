"""What a video that is made latent frame by latent frame holds of tensors, at chosen ones."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from tests.peak_memory import PeakMemory


def held_bytes() -> int:
    """Of all tensors of this process that have memory (a compiler's have none), each storage once."""
    gc.collect()
    tensors = [thing for thing in gc.get_objects() if type(thing) in (torch.Tensor, torch.nn.Parameter)]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def measured(frames: Iterator[Any], at: Sequence[int]) -> tuple[list[int], list[int]]:
    """Bytes held after each of the latent frames `at`, and bytes of what was made at most at once while it was made."""
    held, peaks, done = [], [], 0
    for wanted in at:
        for _ in range(done, wanted):
            next(frames)
        done = wanted + 1
        with PeakMemory() as memory:
            next(frames)
        held.append(held_bytes())
        peaks.append(memory.peak)
    return held, peaks
