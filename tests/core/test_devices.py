"""Which device the programs take, on machines of every kind: what torch finds is told to it here."""

import math
from types import SimpleNamespace

import pytest
import torch

from pusa_core import devices

KINDS = ("cuda", "mps", "xpu")


@pytest.fixture
def machine(monkeypatch):
    """Makes torch find `count` accelerators of a kind."""

    def has(kind, count=1):
        accelerator = getattr(torch, "accelerator", None)
        if accelerator is None:
            pytest.skip("this torch has no torch.accelerator")
        monkeypatch.setattr(accelerator, "is_available", lambda: count > 0)
        monkeypatch.setattr(accelerator, "current_accelerator", lambda: torch.device(kind) if count else None)
        monkeypatch.setattr(accelerator, "device_count", lambda: count)

    return has


@pytest.mark.parametrize("kind", KINDS)
def test_the_accelerator_is_taken(machine, kind):
    machine(kind)
    assert devices.find_device() == torch.device(kind, 0)
    assert devices.find_device("cpu") == torch.device("cpu")


def test_without_one_it_is_the_cpu(machine):
    machine("cuda", 0)
    assert devices.accelerator() is None
    assert devices.find_device() == torch.device("cpu")


def test_each_process_takes_its_own(machine):
    machine("cuda", 4)
    assert devices.find_device("auto", 3) == torch.device("cuda:3")
    assert devices.find_device("cuda", 2) == torch.device("cuda:2")
    assert devices.find_device("cuda:1", 2) == torch.device("cuda:1")


@pytest.mark.parametrize(
    "kind, count, name, said",
    [
        ("cuda", 1, "cdua", '"cdua" is no device: use cuda'),
        ("cuda", 0, "cuda", 'The device "cuda" cannot be used: use the CPU'),
        ("mps", 1, "cuda", 'The device "cuda" cannot be used: use the mps that is here'),
        ("cuda", 1, "cuda:1", "cuda:1 was asked for, but there is only cuda:0:"),
        ("cuda", 2, "cuda:2", "cuda:2 was asked for, but there is only cuda:0 to cuda:1:"),
        ("cuda", 1, "meta", 'The device "meta" cannot be used'),
    ],
)
def test_what_is_no_device_here_is_told(machine, kind, count, name, said):
    machine(kind, count)
    with pytest.raises(ValueError, match=said):
        devices.find_device(name)


def test_an_older_torch(monkeypatch):
    """Without torch.accelerator: cuda, then mps, then the CPU."""
    monkeypatch.delattr(torch, "accelerator", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert devices.find_device("cuda:1") == torch.device("cuda:1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert devices.find_device() == torch.device("mps:0")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert devices.find_device() == torch.device("cpu")


def test_weights_are_as_the_device_computes():
    assert devices.default_dtype(torch.device("cpu")) == torch.float32
    assert {devices.default_dtype(torch.device(kind)) for kind in KINDS} == {torch.bfloat16}


def test_what_is_asked_of_every_kind_of_device(monkeypatch):
    """torch.mps lacks most of what torch.cuda and torch.xpu have, torch.cpu nearly all."""
    counted = iter([100, 350])
    calls = []
    xpu = SimpleNamespace(
        synchronize=lambda: calls.append("synchronize"),
        get_device_name=lambda: "Arc",
        reset_peak_memory_stats=lambda: calls.append("reset"),
        memory_allocated=lambda: next(counted),
        max_memory_allocated=lambda: next(counted),
    )
    monkeypatch.setattr(torch, "xpu", xpu)
    monkeypatch.setattr(torch, "mps", SimpleNamespace(synchronize=lambda: calls.append("mps")))
    for kind in ("xpu", "mps", "cpu"):
        devices.synchronize(torch.device(kind))
    assert calls == ["synchronize", "mps"]
    assert [devices.device_name(torch.device(kind)) for kind in ("xpu", "mps", "cpu")] == ["Arc", "mps", "cpu"]
    assert devices.peak_memory(torch.device("xpu"), lambda: calls.append("run")) == 250
    assert calls[-2:] == ["reset", "run"]
    assert math.isnan(devices.peak_memory(torch.device("mps"), lambda: None))
