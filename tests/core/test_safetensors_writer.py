"""Safetensors files that are written tensor by tensor."""

import io
import json
import subprocess
import sys
import textwrap
from collections import namedtuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from pusa_core import safetensors_writer
from pusa_core.safetensors_writer import DTYPES, SafetensorsWriter, check_target

SHAPES = [(), (1,), (3,), (8,), (5, 3), (4, 8), (2, 3, 1, 2, 2), (0,), (0, 4)]


def write(path, tensors, metadata=None):
    with SafetensorsWriter(path, tensors) as writer:
        for name, tensor in tensors.items():
            writer.add(name, tensor)
        writer.metadata = metadata or {}


def of(shape, dtype, seed=0):
    numbers = torch.randint(0, 100, shape, generator=torch.Generator().manual_seed(seed))
    return numbers.to(dtype)


def same(one, other):
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one.double(), other.double())


@given(st.lists(st.tuples(st.sampled_from(SHAPES), st.sampled_from(list(DTYPES))), max_size=12))
def test_any_tensors_come_back_as_they_were(tmp_path_factory, kinds):
    tensors = {f'tensor {i} \u00e4."weight"': of(shape, dtype, i) for i, (shape, dtype) in enumerate(kinds)}
    path = tmp_path_factory.mktemp("files") / "new.safetensors"
    write(path, tensors, {"of": "\u6587"})
    read = load_file(path)
    assert read.keys() == tensors.keys()
    assert all(same(read[name], tensors[name]) for name in tensors)
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"of": "\u6587"}


def test_every_tensor_is_aligned_for_its_type(tmp_path):
    """Readers look at mapped bytes as numbers, which not all can do anywhere."""
    tensors = {f"{i}": of((3,), dtype) for i, dtype in enumerate([torch.uint8, torch.float32, torch.bfloat16] * 2)}
    path = tmp_path / "new.safetensors"
    write(path, tensors)
    length = int.from_bytes(path.read_bytes()[:8], "little")
    header = json.loads(path.read_bytes()[8 : 8 + length])
    assert length % 8 == 0
    assert all(header[name]["data_offsets"][0] % tensor.element_size() == 0 for name, tensor in tensors.items())


def test_views_and_tensors_in_another_order_are_written_right(tmp_path):
    tensors = {"transposed": torch.arange(24.0).reshape(4, 6).T, "part": torch.arange(10.0)[2:6]}
    write(tmp_path / "new.safetensors", tensors)
    assert all(same(load_file(tmp_path / "new.safetensors")[name], tensors[name]) for name in tensors)


def test_a_fault_on_the_way_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError, match="on the way"), SafetensorsWriter(tmp_path / "new.safetensors", ["a"]) as writer:
        writer.add("a", torch.zeros(8))
        raise RuntimeError("on the way")
    assert list(tmp_path.iterdir()) == []


class FullDisk(io.FileIO):
    """A file on a disk that has room for half a megabyte."""

    def write(self, data):
        if self.tell() > 2**19:
            raise OSError(28, "No space left on device")
        return super().write(data)


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("pathlib.Path.open", lambda path, mode: io.BufferedWriter(FullDisk(path, mode)))
    tensors = {f"{i}": torch.zeros(2**16) for i in range(40)}
    with pytest.raises(ValueError, match="new.safetensors could not be written .No space left on device.*make room"):
        write(tmp_path / "new.safetensors", tensors)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_process_leaves_no_file_of_that_name_and_the_next_one_takes_its_place(tmp_path):
    path = tmp_path / "new.safetensors"
    code = f"""
        import os, signal, torch
        from pathlib import Path
        from pusa_core.safetensors_writer import SafetensorsWriter
        with SafetensorsWriter(Path({str(path)!r}), ["a", "b"]) as writer:
            writer.add("a", torch.zeros(2**20))
            os.kill(os.getpid(), signal.SIGKILL)
    """
    died = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=safetensors_writer.__file__.rpartition("pusa_core")[0]
    )
    assert died.returncode == -9
    assert [path.name for path in tmp_path.iterdir()] == ["new.safetensors.part"]
    write(path, {"a": torch.ones(8)})
    assert [path.name for path in tmp_path.iterdir()] == ["new.safetensors"] and load_file(path)["a"].sum() == 8


def test_a_target_that_cannot_be_begun_is_refused(tmp_path, monkeypatch):
    (tmp_path / "old.safetensors").touch()
    with pytest.raises(ValueError, match="old.safetensors exists already: give another name"):
        check_target(tmp_path / "old.safetensors", 1)
    with pytest.raises(ValueError, match="The folder .*none is not there"):
        check_target(tmp_path / "none" / "new.safetensors", 1)
    usage = namedtuple("usage", "total used free")(10, 9, 10**9)
    monkeypatch.setattr(safetensors_writer.shutil, "disk_usage", lambda folder: usage)
    check_target(tmp_path / "new.safetensors", 10**9)
    with pytest.raises(ValueError, match="new.safetensors takes up to 28.6 GB, but the disk of .* has 1 GB free: make room"):
        check_target(tmp_path / "new.safetensors", 28_600_000_000)
