"""A Wan checkpoint's tensors, one at a time, whatever they are stored as."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from .checkpoint_files import checkpoint_files
from .messages import fault, shorten
from .safetensors_reader import Stored, read_header
from .wan import original_key, wan_config

FLOATS = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"}
# ComfyUI's names for the scale of a weight in fp8, and for what goes with it.
SCALES = ".scale_weight", ".weight_scale"
BESIDE_SCALES = ".scale_input", ".input_scale", ".comfy_quant"
HAS_SCALES = "scaled_fp8"  # a tensor by which older files say that they have scales
OWN_METADATA = "_quantization_metadata"  # of ComfyUI, for a file's scales
MARKER = "patch_embedding.weight"  # before whose name a checkpoint's prefix stands


class WanCheckpoint:
    """A Wan text-to-video model in safetensors files, in ComfyUI's, the original, or Diffusers' names.

    Tensors are read one at a time, so that no more than one is in memory.

    Args:
        path: as `checkpoint_files` takes it.

    Attributes:
        name: what messages call it.
        shapes: of all parameters, under their original names.
        metadata: without what ComfyUI wrote about scales.

    Raises:
        ValueError: it is no such model, incomplete, or stored in a way that cannot be merged into.
    """

    def __init__(self, path: Path):
        self.name, files = checkpoint_files(path)
        self._stored: dict[str, Stored] = {}
        metadata: dict[str, str] = {}
        for file in files:
            stored, more = _read_header(file)
            self._stored |= stored
            metadata |= more
        named = _original_names(list(self._stored))
        self._scales = {f"{_stem(name)}.weight": key for name, key in named.items() if name.endswith(SCALES)}
        self._keys = {name: key for name, key in named.items() if not _is_beside(name)}
        self.shapes = {name: self._stored[key].shape for name, key in self._keys.items()}
        self.metadata = {key: value for key, value in metadata.items() if key != OWN_METADATA}
        wan_config(self.name, self.shapes, self.metadata)
        self._check_storage()

    def _check_storage(self) -> None:
        odd = [name for name, key in self._keys.items() if self._stored[key].dtype not in FLOATS]
        for name, key in self._scales.items():
            if _numel(self._stored[key].shape) not in (1, self.shapes.get(name, (0,))[0]):
                odd.append(name)
        if odd:
            raise fault(
                "{name} is quantised in a way that LoRAs cannot be merged into ({tensor}): choose its bf16, fp16, fp32 or "
                "fp8 form.",
                name=self.name,
                tensor=shorten(odd[0], 100),
            )

    def tensor(self, name: str) -> Tensor:
        """A parameter's values in fp32, its scale applied."""
        value = self._stored[self._keys[name]].read().float()
        if name in self._scales:
            value *= self._stored[self._scales[name]].read().float().reshape(-1, *[1] * (value.ndim - 1))
        return value


def _read_header(path: Path) -> tuple[dict[str, Stored], dict[str, str]]:
    _check_kind(path)
    try:
        return read_header(path)
    except (OSError, SafetensorError) as error:
        raise fault("{name} is damaged or cut off ({error}): download it again.", name=path.name, error=error) from error


def _check_kind(path: Path) -> None:
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        reason = error.strerror or error
        raise fault("{path} cannot be opened ({reason}): give a checkpoint's file.", path=path, reason=reason) from error
    if head.startswith(b"GGUF"):
        raise fault(
            "{name} is a GGUF file, whose quantised blocks LoRAs cannot be merged into: choose the safetensors form of this "
            "model.",
            name=path.name,
        )
    if head[8:9] != b"{":
        raise fault("{name} is no safetensors file: choose the safetensors form of this model.", name=path.name)


def _original_names(keys: list[str]) -> dict[str, str]:
    """Keys by original name; of a file that holds more than one model, those of the diffusion model."""
    prefix = next((key.removesuffix(MARKER) for key in keys if f".{key}".endswith(f".{MARKER}")), "")
    own = {key.removeprefix(prefix): key for key in keys if key.startswith(prefix)}
    return {original_key(name): key for name, key in own.items() if name != HAS_SCALES}


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def _is_beside(name: str) -> bool:
    return name.endswith(SCALES + BESIDE_SCALES)


def _numel(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()
