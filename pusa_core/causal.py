"""Attention of frames to their own and earlier blocks only, as autoregressive video models are trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def block_causal(
    attend: Callable[[Tensor, Tensor, Tensor], Tensor], query: Tensor, key: Tensor, value: Tensor, tokens: Sequence[int]
) -> Tensor:
    """Block-causal attention by an attention function that knows no mask: each block's queries meet all keys up to its end.

    Takes neither a mask of tokens times tokens nor the half of the work that a mask throws away.

    Args:
        attend: attention of (B, L, ...), (B, M, ...) and (B, M, ...) to (B, L, ...).
        tokens: of each block, L in all.
    """
    parts, end = [], 0
    for count in tokens:
        start, end = end, end + count
        parts.append(attend(query[:, start:end], key[:, :end], value[:, :end]))
    return torch.cat(parts, dim=1)


def block_causal_mask(tokens: Sequence[int], device: torch.device | str) -> Tensor:
    """The same for attention functions that are out of reach but take a mask: (L, L), True where a query sees a key."""
    block = torch.repeat_interleave(torch.tensor(list(tokens), device=device))
    return block[:, None] >= block[None]
