"""Safetensors files written one tensor after another, whatever their size, and in place only when they are whole."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from .lora_report import amount
from .messages import fault

# By torch's name; https://github.com/huggingface/safetensors#format
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.uint8: "U8",
}
ENTRY_SIZE = 200  # bytes that the header needs for a tensor of up to 5 dimensions, beside its name
ALIGNMENT = 8


def check_target(path: Path, size: int) -> None:
    """Refuses to begin a file that exists, or that the disk has no room for.

    Args:
        size: bytes that the file will have at most.

    Raises:
        ValueError: what to do.
    """
    if path.exists():
        raise fault("{name} exists already: give another name, or delete it.", name=path.name)
    if not path.parent.is_dir():
        raise fault("The folder {folder} is not there: make it, or give another.", folder=path.parent)
    free = shutil.disk_usage(path.parent).free
    if size > free:
        raise fault(
            "{name} takes up to {size}B, but the disk of {folder} has {free}B free: make room or choose another.",
            name=path.name,
            size=amount(size),
            folder=path.parent,
            free=amount(free),
        )


class SafetensorsWriter:
    """Writes beside the file's name, and renames when all is written; a process that is killed leaves `<name>.part`.

    The header, which comes first and tells where each tensor is, gets its room at the beginning and is filled at the end.
    So neither sizes nor metadata need be known before, and one tensor at a time is in memory.

    Args:
        path: of the file.
        names: of all tensors that may be added.
        metadata_size: bytes that the metadata will have at most.

    Attributes:
        metadata: what the file is to say of itself; to be set before the end.
    """

    def __init__(self, path: Path, names: Collection[str], metadata_size: int = 2**12):
        self.path = path
        self.metadata: Mapping[str, str] = {"format": "pt"}
        self._partial = path.with_name(f"{path.name}.part")
        room = metadata_size + sum(ENTRY_SIZE + len(json.dumps(name)) for name in names)
        self._room = -(-room // ALIGNMENT) * ALIGNMENT
        self._entries: dict[str, dict[str, Any]] = {}
        self._small: dict[str, Tensor] = {}
        self._end = 0

    def __enter__(self) -> SafetensorsWriter:
        try:
            self._file = self._partial.open("wb")
            self._file.seek(8 + self._room)
        except OSError as error:
            raise self._failure(error) from error
        return self

    def add(self, name: str, tensor: Tensor) -> None:
        """Writes a tensor; one that would leave those behind it unaligned waits until the end.

        Raises:
            ValueError: the disk is full, or gone.
        """
        if tensor.numel() * tensor.element_size() % ALIGNMENT:
            self._small[name] = tensor.clone()
        else:
            self._write(name, tensor)

    def _write(self, name: str, tensor: Tensor) -> None:
        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        try:
            self._file.write(data.data)
        except OSError as error:
            raise self._failure(error) from error
        begin, self._end = self._end, self._end + data.nbytes
        self._entries[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, self._end],
        }

    def _finish(self) -> None:
        for name, tensor in sorted(self._small.items(), key=lambda item: -item[1].element_size()):
            self._write(name, tensor)
        header = json.dumps({"__metadata__": dict(self.metadata), **self._entries}, separators=(",", ":")).encode()
        if len(header) > self._room:
            raise OverflowError(len(header))
        self._file.seek(0)
        self._file.write(struct.pack("<Q", self._room) + header.ljust(self._room))
        self._file.flush()
        os.fsync(self._file.fileno())

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self._finish()
                self._file.close()
                os.replace(self._partial, self.path)
        except OSError as failed:
            raise self._failure(failed) from failed
        finally:
            with suppress(OSError):  # a full disk has no room for what is still to be flushed
                self._file.close()
            self._partial.unlink(missing_ok=True)

    def _failure(self, error: OSError) -> ValueError:
        return fault(
            "{name} could not be written ({reason}), and nothing of it was kept: make room, or choose another folder.",
            name=self.path.name,
            reason=error.strerror or error,
        )
