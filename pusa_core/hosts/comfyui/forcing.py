"""Diffusion forcing checkpoints on ComfyUI: what their own loader would add to a plain Wan."""

from __future__ import annotations

from pathlib import Path

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...forcing import PARTS, TARGET, frame_rate_offset
from ...messages import fault, mark
from .checks import check_model
from .files import read_state


def fold_frame_rate(model: ModelPatcher, path: Path, fps: float) -> ModelPatcher:
    """A clone of `model` that knows its frame rate, as SkyReels-V2-DF-1.3B was trained to.

    That model adds a vector, which follows from the frame rate alone, to what its time projection gives: for one rate a
    constant, so it is folded exactly into that layer's bias, as a weight patch. ComfyUI's loader leaves it out.

    Args:
        path: the file that the model was loaded from.

    Raises:
        ValueError: the file has no such vector, or is not the model's.
    """
    check_model(model)
    state = _stripped(read_state(path, mark("the model's file")))
    missing = [name for name in (*PARTS, TARGET) if name not in state]
    if missing:
        raise fault(
            "{file} has no frame-rate embedding ({missing} is not in it): only SkyReels-V2-DF-1.3B has one, so with other "
            "models leave this node out.",
            file=path.name,
            missing=missing[0],
        )
    own = model.model.diffusion_model.get_parameter(TARGET)
    if own.shape != state[TARGET].shape or not torch.allclose(own.float().cpu(), state[TARGET].float(), atol=1e-2):
        raise fault(
            "{file} is not the file that this model was loaded from: choose the same as in its loader.", file=path.name
        )
    clone = model.clone()
    clone.add_patches({f"diffusion_model.{TARGET}": (frame_rate_offset(state, fps),)})
    return clone


def _stripped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without what some tools put before every name."""
    return {name.removeprefix("model.diffusion_model.").removeprefix("diffusion_model."): t for name, t in state.items()}
