"""ComfyUI-GGUF's tensors on the pretend card."""

from __future__ import annotations

from functools import partialmethod

import torch
from torch import Tensor

from tests import real_wan

from .device import Pretend


def use_gguf() -> None:
    """
    Raises:
        ModuleNotFoundError: ComfyUI-GGUF is not in ComfyUI's folder.
    """
    kind = real_wan.gguf_nodes().GGMLTensor
    kind.__torch_function__ = torch._C._disabled_torch_function_impl  # which makes what comes from the card one of its own
    kind.to = Pretend.to = partialmethod(_moved_with_notes, kind)
    Pretend.detach = lambda self: self  # as ComfyUI-GGUF's own tensors


def _moved_with_notes(weight: Tensor, kind: type[Tensor], *args, **kwargs) -> Tensor:
    """The weight elsewhere, with what ComfyUI-GGUF notes on it, which the pretend card's tensors do not carry over."""
    moved = Tensor.to(weight, *args, **kwargs)
    if moved is weight or not hasattr(weight, "tensor_type"):
        return moved
    moved = moved if isinstance(moved, Pretend) else moved.as_subclass(kind)
    for name in ("tensor_type", "tensor_shape", "patches"):
        setattr(moved, name, getattr(weight, name))
    return moved
