"""Safetensors files read a tensor at a time, without a mapping of the whole: PyTorch's is one that may be written to, which
systems refuse for a file that is larger than their memory."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from .safetensors_writer import DTYPES

TORCH_DTYPES = {name: dtype for dtype, name in DTYPES.items()}


@dataclass(frozen=True)
class Stored:
    """A tensor in a file.

    Attributes:
        dtype: as the format names it.
        begin, end: its bytes in the file.
    """

    path: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    def read(self) -> Tensor:
        data = bytearray(self.end - self.begin)
        with self.path.open("rb") as file:
            file.seek(self.begin)
            file.readinto(data)
        return torch.frombuffer(data, dtype=TORCH_DTYPES[self.dtype]).reshape(self.shape)


def read_header(path: Path) -> tuple[dict[str, Stored], dict[str, str]]:
    """(what is stored by its name, metadata).

    Raises:
        SafetensorError: the file is none, damaged or cut off.
    """
    with safe_open(path, framework="numpy") as checked:
        metadata = checked.metadata() or {}
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        entries = json.loads(file.read(size))
    data = 8 + size
    stored = {
        name: Stored(path, entry["dtype"], tuple(entry["shape"]), *(data + offset for offset in entry["data_offsets"]))
        for name, entry in entries.items()
        if name != "__metadata__"
    }
    return stored, metadata
