"""What SkyReels-V2-DF-1.3B, a diffusion forcing model, has beside a plain Wan: an embedding of its frame rate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn.functional import linear, silu

TARGET = "time_projection.1.bias"
TRAINED_RATE = 16  # frames a second of row 0 of the embedding; row 1 is any other rate
PARTS = ("fps_embedding.weight", *(f"fps_projection.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")))


def frame_rate_offset(state: Mapping[str, Any], fps: float) -> Tensor:
    """What that model adds to its time projection: for one frame rate a constant, which goes into that layer's bias.

    Args:
        state: the model's tensors by their original names; `PARTS` are looked at.
    """
    embedding, *layers = (state[name].float() for name in PARTS)
    hidden = silu(linear(embedding[int(fps != TRAINED_RATE)], layers[0], layers[1]))
    return linear(hidden, layers[2], layers[3])
