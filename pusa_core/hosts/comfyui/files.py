"""Weight files as ComfyUI's loaders read them."""

from __future__ import annotations

import pickle
from pathlib import Path

import comfy.utils
from safetensors import SafetensorError
from torch import Tensor

from ...messages import fault, say


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
    except (OSError, ValueError, RuntimeError, EOFError, SafetensorError, pickle.UnpicklingError) as error:
        raise fault(
            "{path} cannot be read as weights, or is damaged or cut off: give the path of {wanted}.",
            path=path,
            wanted=say(wanted),
        ) from error
    if not isinstance(state, dict):
        raise fault("{path} holds no weights: give the path of {wanted}.", path=path, wanted=say(wanted))
    return state
