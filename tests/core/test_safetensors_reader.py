"""Safetensors files that are read tensor by tensor."""

import json
import struct
import subprocess
import sys
import textwrap

import pytest
import torch
from safetensors.torch import save_file

from environment.comfyui import PACK
from pusa_core.safetensors_reader import read_header
from pusa_core.safetensors_writer import DTYPES


def test_what_was_saved_is_read(tmp_path):
    tensors = {str(dtype): torch.arange(6).reshape(2, 3).to(dtype) for dtype in DTYPES}
    save_file({**tensors, "number": torch.tensor(2.0)}, tmp_path / "saved.safetensors", {"of": "文"})
    stored, metadata = read_header(tmp_path / "saved.safetensors")
    assert metadata == {"of": "文"} and stored["number"].read() == 2
    for name, tensor in tensors.items():
        read = stored[name].read()
        assert read.dtype == tensor.dtype and stored[name].shape == read.shape and torch.equal(read.double(), tensor.double())


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not limit writable memory alone")
def test_a_file_that_is_larger_than_the_memory_is_read(tmp_path):
    large, path = 2**33, tmp_path / "large.safetensors"
    entries = {"large": ("U8", [large], 0), "small": ("F32", [2], large)}
    header = json.dumps(
        {k: {"dtype": d, "shape": s, "data_offsets": [b, large + 8 * b // large]} for k, (d, s, b) in entries.items()}
    )
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header.encode())
        file.truncate(8 + len(header) + large)  # of which nothing takes room on the disk
        file.seek(0, 2)
        file.write(struct.pack("<2f", 3, 4))
    code = f"""
        import resource
        from pathlib import Path
        from pusa_core.safetensors_reader import read_header
        resource.setrlimit(resource.RLIMIT_DATA, (2**32, 2**32))
        print(read_header(Path({str(path)!r}))[0]["small"].read().tolist())
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=PACK, capture_output=True, text=True)
    assert done.stdout == "[3.0, 4.0]\n", done.stderr
