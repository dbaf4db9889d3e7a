"""Weight files as ComfyUI's loaders read them."""

from __future__ import annotations

from pathlib import Path

import comfy.utils
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...messages import fault, say


def checkpoint_file(model: ModelPatcher) -> Path | None:
    """The file that a model was loaded from, if ComfyUI remembers it (0.8.0: no)."""
    source = getattr(model, "cached_patcher_init", None)
    path = Path(source[1][0]) if source and source[1] and isinstance(source[1][0], str) else None
    return path if path and path.is_file() else None


def safetensors_file(model: ModelPatcher) -> Path | None:
    """The same, if it is one whose header and metadata can be read."""
    path = checkpoint_file(model)
    return path if path and path.suffix in (".safetensors", ".sft") else None


def read_state(path: Path, wanted: str) -> dict[str, Tensor]:
    """The tensors of a file; those of a .safetensors file stay on the disk until they are used.

    Args:
        wanted: what the file should be, for messages.

    Raises:
        ValueError: the file is not there, damaged, or holds no tensors.
    """
    if not path.is_file():
        raise fault("{path} is not there: give the path of {wanted}.", path=path, wanted=say(wanted))
    try:
        state = comfy.utils.load_torch_file(str(path), safe_load=True)
    except Exception as error:  # damaged files raise a dozen types
        raise fault(
            "{path} cannot be read as weights, or is damaged or cut off: give the path of {wanted}.",
            path=path,
            wanted=say(wanted),
        ) from error
    if not isinstance(state, dict):
        raise fault("{path} holds no weights: give the path of {wanted}.", path=path, wanted=say(wanted))
    return state
