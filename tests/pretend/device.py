"""A GPU for machines that have none: tensors on device "pretend" compute on the CPU and behave as those of a card do.

Importing this registers the device, once for the whole process. `card` is the card itself: it knows every live byte on it,
refuses to go over its budget, and counts by caller how often the host waited for it. As on CUDA, operands on different
devices are refused unless one is a single number, a number generator of the CPU does not fill a tensor of the card, and the
host waits for copies in either direction, but for those to the card that are asked not to block. What a kernel allocates
inside of itself is not seen, and no gradients are kept.

Tensors above `card.largest_computed` elements are hollow: they are counted, but have no values and nothing is computed, so
that models of real size run on it. What is made of them is hollow, too; the host reads 1 from them.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "pretend"
CPU, META = torch.device("cpu"), torch.device("meta")
READ, TO_HOST, TO_CARD = "read", "copy to the host", "copy to the card"  # what the host waits for


class Card:
    """The memory of the device and the times that the host waited for it.

    Attributes:
        budget: bytes that it has.
        live, peak, made: bytes on it now, the most, and all that were written to new places, since `watch`.
        sought, seen: bytes at which it is looked at once, and its owners then.
        waits: how often the host waited since `watch`, by (kind, caller).
        largest_computed: elements of the largest tensors that have values.
    """

    def __init__(self) -> None:
        self.budget = 2**40
        self.largest_computed = sys.maxsize
        self.live = self.peak = self.made = 0
        self.sought, self.seen = sys.maxsize, Counter[str]()
        self.waits: Counter[tuple[str, str]] = Counter()
        self.allocations: WeakValueDictionary[int, _Allocation] = WeakValueDictionary()

    @property
    def free(self) -> int:
        return self.budget - self.live

    def watch(self) -> None:
        """Starts the peak and the counts anew."""
        self.peak, self.made = self.live, 0
        self.waits.clear()

    def wait(self, kind: str) -> None:
        self.waits[kind, _name(_caller())] += 1

    def hold(self, raw: Tensor) -> _Allocation:
        """The allocation of a tensor's storage, which views share; made where there is none."""
        storage = raw.untyped_storage()
        held = self.allocations.get(storage._cdata)
        if held is None:
            held = self.allocations[storage._cdata] = _Allocation(storage.nbytes())
        return held

    def bytes_of(self, tensors: Iterable[Tensor]) -> int:
        """The bytes on the card that these tensors hold; what they share counts once."""
        return sum(held.nbytes for held in {id(h): h for h in _held(tensors)}.values())

    def owners(self, but: Iterable[Tensor] = ()) -> Counter[str]:
        """Bytes on the card by the line that made them, without those that the given tensors hold."""
        known = {id(held) for held in _held(but)}
        owners: Counter[str] = Counter()
        for held in list(self.allocations.values()):
            if id(held) not in known:
                owners[held.owner] += held.nbytes
        return owners


class _Allocation:
    """Bytes on the card for as long as a tensor uses them."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes, self.line = 0, _caller()
        if nbytes > card.free:
            raise torch.OutOfMemoryError(
                f"{self.owner} asks for {nbytes} bytes of the pretend card, which has {card.free} of {card.budget} left."
            )
        self.nbytes = nbytes
        card.live += nbytes
        card.made += nbytes
        card.peak = max(card.peak, card.live)
        if card.live >= card.sought:
            card.seen, card.sought = card.owners() + Counter({self.owner: nbytes}), sys.maxsize

    def __del__(self) -> None:
        card.live -= self.nbytes

    @property
    def owner(self) -> str:
        return _name(self.line)


def _held(tensors: Iterable[Tensor]) -> Iterator[_Allocation]:
    return (tensor.allocation for tensor in tensors if isinstance(tensor, Pretend))


Line = tuple[str, int]


def _caller() -> Line:
    """File and line of the innermost call outside of torch, einops and this file."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _is_plumbing(frame.f_code.co_filename):
        frame = frame.f_back
    return ("?", 0) if frame is None else (frame.f_code.co_filename, frame.f_lineno)


def _is_plumbing(file: str) -> bool:
    return file == __file__ or "/torch/" in file or "/einops/" in file or file.startswith("<")


def _name(line: Line) -> str:
    return f"{'/'.join(Path(line[0]).parts[-3:])}:{line[1]}"


card = Card()


# --- its tensors -----------------------------------------------------------------------------------------------------


class Pretend(Tensor):
    """A tensor on the card, of which `raw` is the CPU tensor that computes, or one on `meta` if it is hollow."""

    raw: Tensor
    allocation: _Allocation

    @staticmethod
    def __new__(cls, raw: Tensor, requires_grad: bool | None = None) -> Any:
        if requires_grad is not None:  # accelerate makes a weight of the kind that the old one was
            return torch.nn.Parameter(raw, requires_grad=False)
        if raw.numel() > card.largest_computed:
            raw = raw.to(META)
        self = Tensor._make_wrapper_subclass(
            cls, raw.size(), strides=raw.stride(), storage_offset=raw.storage_offset(), dtype=raw.dtype, device=DEVICE
        )
        self.raw, self.allocation = raw, card.hold(raw)
        return self

    @property
    def is_hollow(self) -> bool:
        return self.raw.is_meta

    def __repr__(self, *, tensor_contents=None) -> str:
        return f"pretend({self.raw!r})"

    def tolist(self) -> list:
        return self.to(CPU).tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        name, kwargs = func._schema.name, kwargs or {}
        if any("__torch_dispatch__" in kind.__dict__ and kind is not Pretend for kind in types):
            return NotImplemented  # a quantised tensor, of which one here is a part, computes with it
        if name == "aten::_has_compatible_shallow_copy_type":
            return False  # so that modules replace their parameters
        if name in ("aten::to", "aten::_to_copy"):
            return _moved(func, args, kwargs)
        if name == "aten::copy_":
            return _copied(*args, **kwargs)
        return _computed(func, name, args, kwargs)


SHAPES_ONLY = {"aten::expand_as", "aten::view_as", "aten::reshape_as", "aten::is_same_size"}
INDEXING = {"aten::index", "aten::index_put_", "aten::index_put", "aten::_index_put_impl_"}
READING = {"aten::item", "aten::is_nonzero", "aten::allclose"}


def _computed(func, name: str, args, kwargs):
    tensors = list(_tensors((*args, *kwargs.values())))
    _check_devices(name, args, tensors, kwargs)
    hollow = any(_is_hollow(tensor) for tensor in tensors)
    if _is_read(func, name, tensors):
        card.wait(READ)
        if hollow:
            return _read_of_hollow(func)
    written = args[0] if func._schema.is_mutable and args else None
    if hollow and isinstance(written, Pretend) and not written.is_hollow:
        return _mutated(func, None, args, kwargs)
    if hollow and name == "aten::scaled_dot_product_attention":  # a fused kernel
        return args[0].new_empty((*args[0].shape[:-1], args[2].shape[-1]))
    device = META if hollow else CPU
    target = _device(args, kwargs)
    out = func(*(_raw(arg, device) for arg in args), **{key: _raw(value, device) for key, value in kwargs.items()})
    if target is not None and target.type != NAME:
        return _filled(out)
    if func._schema.is_mutable:
        return _mutated(func, out, args, kwargs)
    return _wrapped(out)


def _is_hollow(tensor: Tensor) -> bool:
    return isinstance(tensor, Pretend) and tensor.is_hollow


def _becomes_hollow(source: Tensor, target: torch.device) -> bool:
    return target.type == NAME and source.numel() > card.largest_computed


def _read_of_hollow(func):
    """What the host reads of a tensor without values."""
    return Pretend(torch.ones((), dtype=torch.int64)) if func is torch.ops.aten.count_nonzero.default else 1.0


def _filled(tensor: Tensor) -> Tensor:
    """A tensor on the host, of zeros that take no memory if it comes from a hollow one."""
    return torch.zeros((), dtype=tensor.dtype).expand(tensor.shape) if tensor.is_meta else tensor


def _mutated(func, out, args, kwargs):
    """The given tensors, which hold the result already, in the place of what wraps it."""
    written = [
        kwargs.get(a.name, args[i] if i < len(args) else None) for i, a in enumerate(func._schema.arguments) if _writes(a)
    ]
    for tensor in _tensors(written):
        if isinstance(tensor, Pretend) and tensor.shape != tensor.raw.shape:
            raise NotImplementedError(f"{func}: the pretend card cannot change a tensor's shape in place")
    if not func._schema.returns:
        return None
    return written[0] if len(written) == 1 else tuple(written)


def _writes(argument) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


def _check_devices(name: str, args, tensors: list[Tensor], kwargs) -> None:
    strangers = [t for t in tensors if not isinstance(t, Pretend) and t.dim() > 0]
    if strangers and name in INDEXING and isinstance(args[0], Pretend):  # a card fetches indices, and the host waits
        card.wait(TO_CARD)
    elif strangers and name not in SHAPES_ONLY:
        raise RuntimeError(
            f"{name}: expected all tensors on one device, but one on {DEVICE} meets one on {strangers[0].device}, of shape "
            f"{tuple(strangers[0].shape)}"
        )
    generator = kwargs.get("generator")
    if generator is not None and generator.device.type != NAME:
        raise RuntimeError(f"{name}: expected a generator on {NAME}, but found one on {generator.device.type}")


def _is_read(func, name: str, tensors: list[Tensor]) -> bool:
    """Whether the host needs numbers of the result, or its shape depends on them."""
    if name in INDEXING:
        return any(tensor.dtype in (torch.bool, torch.uint8) for tensor in tensors[1:])
    return name in READING or torch.Tag.data_dependent_output in func.tags or torch.Tag.dynamic_output_shape in func.tags


def _moved(func, args, kwargs):
    named = {argument.name: value for argument, value in zip(func._schema.arguments, args)} | kwargs
    source, other = named["self"], named.get("other")
    target = other.device if other is not None else named.get("device") or source.device
    if target.type == META.type:
        return _raw(source, META)
    device = META if _is_hollow(source) or _becomes_hollow(source, target) else CPU
    out = func(*(_raw(arg, device) for arg in args), **{key: _raw(value, device) for key, value in kwargs.items()})
    if isinstance(source, Pretend) and target.type == NAME:
        return source if out is source.raw else Pretend(out)
    if target.type == NAME:
        if not named.get("non_blocking"):
            card.wait(TO_CARD)
        return Pretend(out.clone() if out is source else out)
    card.wait(TO_HOST)
    if source.is_hollow:
        return _filled(out)
    return out.clone() if out is source.raw else out


def _copied(target: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    if not isinstance(target, Pretend):
        card.wait(TO_HOST)
    elif not isinstance(source, Pretend) and not non_blocking:
        card.wait(TO_CARD)
    if not (_is_hollow(target) or _is_hollow(source)):
        _raw(target).copy_(_raw(source))
    return target


def _raw(value, device: torch.device = CPU):
    """An argument as the CPU takes it, or `meta`."""
    if isinstance(value, Pretend):
        return value.raw if value.raw.device == device or value.dim() == 0 else value.raw.to(device)
    if isinstance(value, list | tuple):
        return type(value)(_raw(each, device) for each in value)
    return device if isinstance(value, torch.device) else value


def _wrapped(value):
    if isinstance(value, Tensor):
        return Pretend(value)
    return type(value)(map(_wrapped, value)) if isinstance(value, list | tuple) else value


def _tensors(values) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _device(args, kwargs) -> torch.device | None:
    device = kwargs.get("device") or next((arg for arg in args if isinstance(arg, torch.device)), None)
    return None if device is None else torch.device(device)


# --- the device ------------------------------------------------------------------------------------------------------

FACTORIES = (
    "empty.memory_format", "empty_strided", "arange", "arange.start", "arange.start_step", "linspace", "logspace", "eye",
    "eye.m", "randperm",
)  # fmt: skip


class _Backend:
    """What `torch.pretend` answers."""

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def is_initialized() -> bool:
        return True

    @staticmethod
    def device_count() -> int:
        return 1

    @staticmethod
    def current_device() -> int:
        return 0

    @staticmethod
    def empty_cache() -> None:
        """There is none."""

    @staticmethod
    def _is_in_bad_fork() -> bool:
        return False

    @staticmethod
    def manual_seed_all(seed: int) -> None:
        """Random numbers are the CPU's."""


def _factory(func):
    def make(*args, **kwargs):
        hollow = func(*map(_raw, args), **{**kwargs, "device": META})
        if hollow.numel() > card.largest_computed:
            return Pretend(hollow)
        return Pretend(func(*map(_raw, args), **{**kwargs, "device": CPU}))

    return make


_setup_privateuseone_for_python_backend(NAME, _Backend())
DEVICE = torch.device(NAME, 0)
_kernels = torch.library.Library("aten", "IMPL")  # for as long as the process lives
for _factory_name in FACTORIES:
    _packet, _, _overload = _factory_name.partition(".")
    _func = getattr(getattr(torch.ops.aten, _packet), _overload or "default")
    _kernels.impl(_factory_name, _factory(_func), "PrivateUse1")
_kernels.impl("_copy_from", lambda source, target, non_blocking=False: _copied(target, source, non_blocking), "PrivateUse1")
