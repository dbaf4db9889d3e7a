"""Counts the memory that operations take, on any device, on `meta` and fake ones, too, where nothing is computed."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PeakMemory(TorchDispatchMode):
    """Bytes of the storages that were made within it: `live` now, `peak` at most. What was there before does not count."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        self._add((args, kwargs), counts=False)
        output = func(*args, **kwargs)
        self._add(output, counts=True)
        return output

    def _add(self, tensors: Any, counts: bool) -> None:
        for tensor in tree_leaves(tensors):
            if not isinstance(tensor, torch.Tensor) or tensor.untyped_storage()._cdata in self._known:
                continue
            storage = tensor.untyped_storage()
            size = storage.nbytes() if counts else 0
            self._known.add(storage._cdata)
            self.live += size
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._free, storage._cdata, size)

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size
