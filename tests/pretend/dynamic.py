"""ComfyUI's dynamic VRAM on the pretend card.

What ComfyUI does with it is ComfyUI's own. comfy-aimdo, which gives it pages of a card, hands out addresses of CUDA: in the
place of its pages are tensors of the pretend card here, up to a limit, as where what computes needs the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partialmethod
from itertools import count
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor

from .device import DEVICE, Pretend

Place = tuple["Pages", int, int]  # where a weight may be: whose, from which byte, how many
_numbers = count()


class Pages:
    """The weights of one model that are on the card, as ComfyUI asks for them."""

    limit = 0
    every: WeakSet[Pages] = WeakSet()

    def __init__(self, size: int, device: int) -> None:
        self.end = 0
        self.held: dict[int, tuple[bytes, Tensor]] = {}
        Pages.every.add(self)

    def alloc(self, size: int) -> Place:
        begin, self.end = self.end, self.end + size
        return self, begin, size

    def fault(self, begin: int, size: int) -> bytes | None:
        """By which a weight's place is known while it is held; None if there is no room for it."""
        if begin not in self.held:
            if sum(pages.loaded_size() for pages in Pages.every) + size > Pages.limit:
                return None
            self.held[begin] = str(next(_numbers)).encode(), torch.empty(size, dtype=torch.uint8, device=DEVICE)
        return self.held[begin][0]

    def tensor(self, begin: int) -> Tensor:
        return self.held[begin][1]

    def loaded_size(self) -> int:
        return sum(tensor.nbytes for _, tensor in self.held.values())

    def free_memory(self, size: int) -> int:
        freed = 0
        while self.held and freed < size:
            freed += self.held.popitem()[1][1].nbytes
        return freed

    def prioritize(self) -> None:
        """All are as important."""

    def unpin(self, begin: int, size: int) -> None:
        """What is in use is held."""


def pages() -> Iterator[Tensor]:
    """What is held for all models."""
    return (tensor for each in Pages.every for _, tensor in each.held.values())


def is_held(module: torch.nn.Module) -> bool:
    """Whether a module's weights are."""
    place: Place | None = getattr(module, "_v", None)
    return place is not None and place[1] in place[0].held


def load_library() -> None:
    """Makes comfy-aimdo's buffers on the host, which are real ones, work; before ComfyUI is imported, as its own start does.

    Nothing where a ComfyUI has none of it.
    """
    with suppress(ModuleNotFoundError):
        import comfy_aimdo.control

        comfy_aimdo.control.init("cuda")


def is_known() -> bool:
    """Whether this ComfyUI has dynamic VRAM."""
    import comfy.model_patcher

    return hasattr(comfy.model_patcher, "ModelPatcherDynamic")


def use_dynamic_vram(limit: int) -> None:
    """What ComfyUI does at its start, with so many bytes for weights."""
    import comfy.memory_management
    import comfy.model_patcher
    import comfy_aimdo.model_vbar
    import comfy_aimdo.torch
    from comfy.cli_args import args

    Pages.limit = limit
    comfy_aimdo.model_vbar.ModelVBAR = Pages
    comfy_aimdo.torch.aimdo_to_tensor = _tensor
    comfy.memory_management.read_tensor_file_slice_into = lambda *_, **__: False  # from a file to an address of a card
    args.disable_pinned_memory = True
    patcher = comfy.model_patcher.ModelPatcherDynamic
    patcher._load_list = partialmethod(_load_list, patcher._load_list)
    Pretend.data = property(lambda self: self, _set_data)
    comfy.model_patcher.CoreModelPatcher = patcher
    comfy.memory_management.aimdo_enabled = True


def _tensor(place: Place, device: torch.device) -> Tensor:
    pages, begin, _ = place
    return pages.tensor(begin)


def _load_list(patcher: Any, load_list: Callable, default_device: torch.device | None = None, **options: Any) -> list:
    """ComfyUI's, which gives parameters of modules that have others another device in place: the pretend card's cannot."""
    for module in patcher.model.modules():
        if default_device is not None and next(module.children(), None) is not None:
            for name, weight in module.named_parameters(recurse=False):
                moved = weight.data.to(default_device, getattr(module, f"{name}_comfy_model_dtype", None))
                module._parameters[name] = torch.nn.Parameter(moved, requires_grad=False)
    return load_list(patcher, default_device=default_device, **options)


def _set_data(weight: Pretend, data: Pretend) -> None:
    if data.raw is not weight.raw:
        raise NotImplementedError("the pretend card cannot put other data into a weight")
