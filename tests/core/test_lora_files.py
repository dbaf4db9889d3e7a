"""Files that are no LoRA, damaged or hostile give one sentence, and no code in them runs."""

from __future__ import annotations

import io
import pickle
import re
import zipfile

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from pusa_core import lora
from tests.core.loras import (
    GOOD,
    KEY_DOWN,
    KEY_UP,
    SHAPES,
    WIDTH,
    R,
    quick,
    refusal,
    refused_file,
    write_legacy,
    write_safetensors,
    write_zip,
    written,
)

HTML = b"<!DOCTYPE html><html><body>404 Not Found</body></html>"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4907335680\n"


def zipped(content):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "is empty"),
        (HTML, "web page"),
        (b'\n  {"error": "Repository not found"}', "download"),
        ("<html>\u5b58\u5728".encode(), "web page"),
        (LFS, "git-lfs"),
        (b"GGUF\x03\0\0\0", "GGUF"),
        (zipped({"a.txt": b"x"}), "zip"),
        (zipped({"pusa/pusa_v1.pt": b"x"}), "zip"),
        (zipped({}), "neither"),
        (b"\0" * 64, "neither"),
        (b"\x08\0\0\0\0\0\0\0{}      ", "no tensors"),
        (pickle.dumps([1], protocol=2), "download"),
    ],
)
def test_other_files(tmp_path, content, words):
    file = tmp_path / "pusa_v1.pt"
    file.write_bytes(content)
    refused_file(file, words)


def test_missing_file_and_folders_without_adapter(tmp_path):
    refused_file(tmp_path / "gone.safetensors", "not there")
    folder = tmp_path / "empty"
    folder.mkdir()
    refused_file(folder, "adapter_config.json")
    (folder / "adapter_config.json").write_text("{}")
    refused_file(folder, "adapter_model.safetensors")


@pytest.mark.parametrize("write", [write_safetensors, write_zip])
def test_a_whole_model(tmp_path, write):
    model = {f"model.diffusion_model.{name}.weight": torch.ones(shape) for name, shape in SHAPES.items()}
    refused_file(written(tmp_path, model, write), "whole model", "and 17 more")


@pytest.mark.parametrize("content", [torch.ones(2), [1, 2], {}, {"a": 1}, {"state_dict": {}}, {3: "x"}])
def test_pickles_without_named_tensors(tmp_path, content):
    refused_file(written(tmp_path, content, write_zip))


def test_a_pickle_that_contains_itself(tmp_path):
    content = {}
    content["model"] = content
    refused_file(written(tmp_path, content, write_legacy), "no tensors")


@pytest.mark.filterwarnings("ignore:Sparse invariant")
def test_tensors_without_values_are_no_lora(tmp_path):
    odd = GOOD | {KEY_UP: torch.ones(WIDTH, R).to_sparse(), KEY_DOWN: torch.ones(R, WIDTH, device="meta"), 5: 1}
    read = lora.read_lora(written(tmp_path, odd, write_zip))
    assert set(read.strays) == {KEY_UP, KEY_DOWN, "5"}
    refusal(lambda: lora.fit(read, SHAPES), "not look like a Pusa LoRA")


class Payload:
    """Unpickling it writes a file."""

    def __init__(self, file):
        self.file = str(file)

    def __reduce__(self):
        return exec, (f"open({self.file!r}, 'w').write('ran')",)


def hostile_files(file):
    payload = Payload(file)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        yield f"bare {protocol}", pickle.dumps(payload, protocol=protocol)
    for kind, zipped_form in (("zip", True), ("legacy", False)):
        for content in (payload, {**GOOD, "x": payload}, {"state_dict": GOOD, "x": payload}):
            buffer = io.BytesIO()
            torch.save(content, buffer, _use_new_zipfile_serialization=zipped_form)
            yield kind, buffer.getvalue()


@pytest.mark.parametrize("extension", ["pt", "safetensors"])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_code_in_a_pickle_never_runs(tmp_path, extension):
    ran = tmp_path / "ran"
    pickle.loads(pickle.dumps(Payload(ran)))
    assert ran.exists(), "the payload is harmless, so the test shows nothing"
    ran.unlink()
    for kind, content in hostile_files(ran):
        file = tmp_path / f"evil.{extension}"
        file.write_bytes(content)
        message = refused_file(file)
        assert not ran.exists(), kind
        if kind not in ("bare 0", "bare 1"):  # those are not recognised as a pickle at all, so never opened
            assert "code" in message and "safetensors form" in message, kind


# --- Random damage ---------------------------------------------------------------------------------------------------


def in_memory(write):
    buffer = io.BytesIO()
    if write is write_safetensors:
        return save(SMALL)
    write(buffer, SMALL)
    return buffer.getvalue()


SMALL = {key: tensor for key, tensor in GOOD.items() if "ffn" in key}
BYTES = {write.__name__: in_memory(write) for write in (write_safetensors, write_zip, write_legacy)}


def reads_or_refuses(file, content):
    """No other outcome than a LoRA or a LoraError that names the file."""
    file.write_bytes(content)
    try:
        read = lora.read_lora(file)
        str(lora.fit(read, SHAPES))
    except lora.LoraError as error:
        assert file.name in str(error)
        return None
    return read


STARTS = (b"", b"PK\x03\x04", b"\x80\x02", b"\x80\x02}", b"\x10\0\0\0\0\0\0\0{", b'\x18\0\0\0\0\0\0\0{"a":{"dtype":"F32"')


@settings(quick, max_examples=200)
@given(st.sampled_from(STARTS), st.binary(max_size=200))
@example(b"", b"\x80")
@example(b"\x80\x02", b"K\x01.")
def test_random_bytes(tmp_path, start, rest):
    assert reads_or_refuses(tmp_path / "noise.pt", start + rest) is None


@pytest.mark.parametrize("kind", BYTES)
def test_truncated_anywhere(tmp_path, kind):
    whole = BYTES[kind]
    file = tmp_path / "cut.pt"
    near = [*range(0, 100), *range(len(whole) - 30, len(whole))]
    for length in sorted({*near, *range(100, len(whole), max(1, len(whole) // 100))}):
        assert reads_or_refuses(file, whole[:length]) is None, length
    assert reads_or_refuses(file, whole) is not None


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("kind", BYTES)
@settings(quick, max_examples=100)
@given(data=st.data())
def test_damaged_anywhere(tmp_path, kind, data):
    content = bytearray(BYTES[kind])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1) | st.integers(0, 200))
        content[place] = data.draw(st.integers(0, 255))
    reads_or_refuses(tmp_path / "hurt.pt", bytes(content))


@quick
@given(st.dictionaries(st.text(max_size=12) | st.sampled_from(sorted(GOOD)), st.sampled_from(sorted(GOOD)), max_size=8))
def test_any_keys_with_any_tensors(tmp_path, choice):
    content = io.BytesIO()
    torch.save({key: GOOD[source] for key, source in choice.items()}, content)
    assert reads_or_refuses(tmp_path / "mixed.pt", content.getvalue()) is None


@quick
@given(st.text(alphabet="blocks.0_selfattnqdiffusion_modellora_ABupdownweightalpha123", max_size=60))
@example("blocks.0.self_attn.q.lora_A.weight")
def test_any_text_is_a_name_or_none(text):
    name = lora.canonical_name(text)
    assert name is None or re.fullmatch(r"blocks\.\d+\.((self|cross)_attn\.[qkvo]|ffn\.[02])", name)
