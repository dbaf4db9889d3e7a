"""One policy for devices, for programs that choose one themselves: the accelerator that torch can use, else the CPU."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from typing import Any

import torch

from .messages import fault, say

AUTO = "auto"


def accelerator() -> torch.device | None:
    """The kind of accelerator that torch can use here (cuda, mps, xpu, ...), without an index; None if there is none."""
    if hasattr(torch, "accelerator"):  # torch 2.6
        return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps") if torch.backends.mps.is_available() else None


def find_device(name: str = AUTO, process: int = 0) -> torch.device:
    """The device of a name, or the default one.

    Args:
        name: "auto" is the accelerator where there is one, else the CPU; or as torch writes it, "cuda", "cuda:1", "cpu".
        process: of those on this machine; each takes the accelerator of its number where the name has none.

    Raises:
        ValueError: it is no device, or torch cannot use it here.
    """
    found = accelerator()
    if name == AUTO:
        device = found or torch.device("cpu")
    else:
        device = _named(name)
        if device.type not in ("cpu", found and found.type):
            usable = (
                say("the {kind} that is here", kind=found.type)
                if found
                else say("the CPU (there is no accelerator that torch can use here)")
            )
            raise fault(
                'The device "{name}" cannot be used: use {usable}, or install a torch for it.', name=name, usable=usable
            )
    if device.type == "cpu":
        return torch.device("cpu")
    index = process if device.index is None else device.index
    if index >= (count := device_count()):
        first, last = f"{device.type}:0", f"{device.type}:{count - 1}"
        known = say("{first} to {last}", first=first, last=last) if count > 1 else first
        raise fault(
            "{device} was asked for, but there is only {known}: use what is there.",
            device=f"{device.type}:{index}",
            known=known,
        )
    return torch.device(device.type, index)


def _named(name: str) -> torch.device:
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise fault('"{name}" is no device: use cuda, cuda:1, mps, cpu or auto.', name=name[:40]) from error


def device_count() -> int:
    """How many accelerators torch can use here."""
    if hasattr(torch, "accelerator"):
        return torch.accelerator.device_count()
    return torch.cuda.device_count() if torch.cuda.is_available() else int(accelerator() is not None)


def use_device(device: torch.device) -> None:
    """Makes an accelerator the one that "cuda" without an index means in this process."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    elif device.type != "cpu" and hasattr(torch, "accelerator"):
        torch.accelerator.set_device_index(device.index)


def default_dtype(device: torch.device) -> torch.dtype:
    """Of a model's weights and activations: bfloat16 on an accelerator, float32 on a CPU."""
    return torch.float32 if device.type == "cpu" else torch.bfloat16


def free_memory(device: torch.device) -> None:
    """Gives back what dropped models left: cycles to Python, cached blocks to the device."""
    gc.collect()
    _of_backend(device, "empty_cache")


def synchronize(device: torch.device) -> None:
    """Waits until the device has done all that it was given."""
    _of_backend(device, "synchronize")


def device_name(device: torch.device) -> str:
    """What its maker calls it; its kind where torch does not say."""
    return _of_backend(device, "get_device_name") or device.type


def peak_memory(device: torch.device, run: Callable[[], object]) -> float:
    """Bytes that a run takes of an accelerator, at most, beyond what was taken before; NaN where torch does not count."""
    _of_backend(device, "reset_peak_memory_stats")
    before = _of_backend(device, "memory_allocated")
    run()
    peak = _of_backend(device, "max_memory_allocated")
    return math.nan if peak is None else peak - before


def _of_backend(device: torch.device, name: str) -> Any:
    """Calls a function of torch.cuda, torch.xpu, torch.mps, ...; None where it has no such."""
    return getattr(getattr(torch, device.type, None), name, lambda: None)()
