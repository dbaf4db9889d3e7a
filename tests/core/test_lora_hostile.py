"""LoRA files and configs made to keep a reader busy or to fill its memory: one short sentence each, soon."""

import collections
import io
import json
import pickle
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from pusa_core import lora
from pusa_core.module_patterns import MAX_PATTERN
from pusa_core.pickle_scan import MAX_OPCODES

DOWN, UP = (f"diffusion_model.blocks.0.self_attn.q.lora_{side}.weight" for side in "AB")
PAIR = {DOWN: torch.ones(4, 16), UP: torch.ones(16, 4)}
NINES = "9" * 5000
DEEP = "[" * 100_000


def refused(path, *words):
    with pytest.raises(lora.LoraError) as caught:
        lora.read_lora(path)
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message and len(message) < 450, message
    for word in words:
        assert word in message, message


# --- PEFT configs -----------------------------------------------------------------------------------------------------

GOOD = '{"r": 4, "lora_alpha": 6, %s}'
CONFIGS = {
    "empty": ("{}", '"r" is missing'),
    "empty text": ("", "not valid JSON"),
    "no object": ("[1]", "must be a JSON object, not [1]"),
    "a number": ("4", "must be a JSON object, not 4"),
    "5000 digits": (f'{{"r": {NINES}, "lora_alpha": 4}}', "the number 9999", "is too large"),
    "5000 digits elsewhere": (GOOD % f'"x": {NINES}', "the number 9999", "is too large"),
    "out of range": ('{"r": 4, "lora_alpha": 1e400}', "the number 1e400 is too large"),
    "no number": ('{"r": 4, "lora_alpha": NaN}', '"lora_alpha" is nan', "must be a number"),
    "infinite": ('{"r": 4, "lora_alpha": Infinity}', '"lora_alpha" is inf', "must be a number"),
    "text": ('{"r": "4", "lora_alpha": 4}', "\"r\" is '4'", "must be a number"),
    "long text": (f'{{"r": "{NINES}", "lora_alpha": 4}}', '"r" is', "must be a number"),
    "truth": ('{"r": true, "lora_alpha": 4}', '"r" is True', "must be a number"),
    "half a rank": ('{"r": 4.5, "lora_alpha": 4}', '"r" is 4.5', "a whole number"),
    "other rank": ('{"r": 123456789012345678, "lora_alpha": 4}', "rank 123456789012345678", "has rank 4"),
    "nested": (DEEP, "nested too deeply"),
    "nested inside": (GOOD % f'"alpha_pattern": {DEEP}', "nested too deeply"),
    "less nested": (GOOD % f'"alpha_pattern": {"[" * 900}{"]" * 900}', '"alpha_pattern" is', "must be an object"),
    "rslora a text": (GOOD % '"use_rslora": "false"', "\"use_rslora\" is 'false'", "true or false"),
    "pattern a list": (GOOD % '"rank_pattern": [1]', '"rank_pattern" is [1]', "must be an object"),
    "pattern value": (GOOD % '"alpha_pattern": {"q": "x"}', "\"alpha_pattern\" is 'x'", "must be a number"),
    "pattern null": (GOOD % '"rank_pattern": {"q": null}', '"rank_pattern" is missing', "must be a number"),
    "not understood": (GOOD % '"alpha_pattern": {"(a+)+{2}$": 1}', 'the pattern "(a+)+{2}$" is not understood'),
    "long pattern": (GOOD % f'"alpha_pattern": {{"{"(a+)" * 9999}": 1}}', "is not understood"),
    "long config": ('"' + "x" * 2**20 + '"', "which is more than the 1048576 that are read"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_configs_beside_a_file(tmp_path, name):
    config, *words = CONFIGS[name]
    save_file(PAIR, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(config)
    refused(tmp_path, "adapter config of adapter_model.safetensors is damaged", *words)


@pytest.mark.parametrize("name", ["empty", "empty text", "no object", "5000 digits", "out of range", "nested", "long config"])
def test_configs_in_the_metadata(tmp_path, name):
    config, *words = CONFIGS[name]
    save_file(PAIR, tmp_path / "a.safetensors", metadata={"lora_adapter_metadata": config})
    refused(tmp_path / "a.safetensors", "adapter config of a.safetensors is damaged", *words)


def test_a_config_that_is_no_text(tmp_path):
    save_file(PAIR, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_bytes(b"\xff\xfe{}")
    refused(tmp_path, "is damaged", "can't decode")


def test_a_pattern_that_runs_for_ever_in_re_is_soon_matched(tmp_path):
    key = "a" * 150 + ".blocks.0.self_attn.q"
    save_file(
        {f"{key}.lora_A.weight": torch.ones(4, 16), f"{key}.lora_B.weight": torch.ones(16, 4)},
        tmp_path / "adapter_model.safetensors",
    )
    config = {"r": 4, "lora_alpha": 8, "alpha_pattern": {"(a+)+$": 1, "(a|a)*x": 2, ".*q": 4}, "rank_pattern": {"(a*)*b": 3}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    assert lora.read_lora(tmp_path).modules["blocks.0.self_attn.q"].scale == 1.0


def test_patterns_that_take_too_long(tmp_path):
    kinds = [f"a.a.a.a.a.a.a.a.blocks.{i}.{kind}" for i in range(400) for kind in lora.MODULE_KINDS]
    save_file(
        {f"{key}.lora_{side}.weight": torch.ones(1, 1) for key in kinds for side in "AB"},
        tmp_path / "adapter_model.safetensors",
    )
    tangled = {"(.*.*)*" * (MAX_PATTERN // 8) + f"[{i}]": 1 for i in range(10)}
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 1, "lora_alpha": 1, "alpha_pattern": tangled}))
    refused(tmp_path, "is damaged, its patterns of module names take too long")


# --- pickles ------------------------------------------------------------------------------------------------------------


def legacy(pickled):
    """A torch file without a zip, whose content is a pickle given as bytes."""
    buffer = io.BytesIO()
    torch.save({}, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue().replace(pickle.dumps({}, 2), pickled, 1)


def zipped(pickled, compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    torch.save({}, buffer)
    other = io.BytesIO()
    with zipfile.ZipFile(buffer) as archive, zipfile.ZipFile(other, "w", compression) as copy:
        for entry in archive.infolist():
            content = archive.read(entry)
            copy.writestr(entry.filename, pickled if entry.filename.endswith("data.pkl") else content)
    return other.getvalue()


def put(number):
    return b"r" + number.to_bytes(4, "little")


def get(number):
    return b"j" + number.to_bytes(4, "little")


DOUBLED = b"\x80\x02})" + put(0) + b"".join(b"0" + get(i) + get(i) + b"\x86" + put(i + 1) for i in range(40))
ORDERED = b"ccollections\nOrderedDict\n"
TERABYTE = b"\x80\x02c__builtin__\nbytearray\n\x8a\x06" + (10**12).to_bytes(6, "little") + b"\x85R."
HASHED = b"\x80\x02" + ORDERED + b"]" + DOUBLED[3:] + b"K\x01\x86a\x85R."
PICKLES = {
    "a key whose hash takes for ever": (DOUBLED + b"K\x01s.", "nested too deeply"),
    "a pair whose hash takes for ever": (HASHED, "nested too deeply"),
    "a set": (b"\x80\x02c__builtin__\nset\n]\x85R.", "code or objects"),
    "a terabyte of zeros": (TERABYTE, "code or objects"),
    "doubled bytes": (b"\x80\x02c_codecs\nencode\nX\x01\0\0\0aX\x03\0\0\0hex\x86R.", "code or objects"),
    "copies": (b"\x80\x02" + ORDERED + b"}\x85R.", "is copied"),
    "copies of lists": (b"\x80\x02ctorch\nSize\n]\x85R.", "is copied"),
    "copied attributes": (b"\x80\x02" + b"".join(ORDERED + b")R}b0" for _ in range(17)) + b"}.", "attributes"),
    "a long pickle": (b"\x80\x02}" + b"N0" * (MAX_OPCODES // 2) + b".", "is too long"),
    "nested lists": (b"\x80\x02" + b"]" * (MAX_OPCODES // 2) + b"a" * (MAX_OPCODES // 2 - 1) + b".", "is too long"),
    "a new code opcode": (b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02ls\x85R.", "code or objects"),
    "an empty stack": (b"\x80\x02R.", "damaged"),
    "a forgotten memo": (b"\x80\x02h\x07.", "damaged"),
}  # fmt: skip


@pytest.mark.parametrize("container", [legacy, zipped])
@pytest.mark.parametrize("name", PICKLES)
def test_pickles_that_are_more_than_a_state_dict(tmp_path, monkeypatch, name, container):
    def unpickled(*args, **kwargs):
        pytest.fail("it was opened")

    monkeypatch.setattr(torch, "load", unpickled)
    pickled, words = PICKLES[name]
    (tmp_path / "evil.pt").write_bytes(container(pickled))
    refused(tmp_path / "evil.pt", "evil.pt", words)


def test_compressed_zeros_are_not_unpacked(tmp_path):
    content = zipped(b"\x80\x02}" + b"N0" * 2**20 + b".", zipfile.ZIP_DEFLATED)
    assert len(content) < 20_000
    (tmp_path / "evil.pt").write_bytes(content)
    refused(tmp_path / "evil.pt", "is compressed", "safetensors form")


def test_a_pickle_of_many_megabytes_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("pusa_core.pickle_scan.MAX_BYTES", 100)
    torch.save(PAIR, tmp_path / "pair.pt")
    refused(tmp_path / "pair.pt", "is too long")


@pytest.mark.parametrize("new", [True, False])
def test_a_view_that_is_larger_than_its_file(tmp_path, new):
    """3 million rows of one stored number."""
    wide = {DOWN: torch.ones(1, 1).expand(3_000_000, 16), UP: torch.ones(1, 1).expand(16, 3_000_000)}
    torch.save(wide, tmp_path / "wide.pt", _use_new_zipfile_serialization=new)
    assert (tmp_path / "wide.pt").stat().st_size < 13_000
    refused(tmp_path / "wide.pt", "384000000 bytes in a file of", "copies")


@pytest.mark.parametrize("new", [True, False])
def test_a_tensor_of_more_numbers_than_its_storage(tmp_path, new):
    class Claim:
        def __reduce__(self):
            storage = torch.ones(1)._typed_storage()
            return torch._utils._rebuild_tensor_v2, (storage, 0, (30_000, 16), (16, 1), False, collections.OrderedDict())

    torch.save({DOWN: Claim()}, tmp_path / "claim.pt", _use_new_zipfile_serialization=new)
    refused(tmp_path / "claim.pt", "claim.pt")


def test_views_that_share_what_is_stored_are_fine(tmp_path):
    whole = torch.randn(4, 3 * 64)
    parts = {f"blocks.0.self_attn.{name}.lora_A.weight": whole[:, 64 * i : 64 * i + 64] for i, name in enumerate("qkv")}
    ups = {f"blocks.0.self_attn.{name}.lora_B.weight": torch.randn(4, 64).T for name in "qkv"}
    torch.save({**parts, **ups}, tmp_path / "views.pt")
    modules = lora.read_lora(tmp_path / "views.pt").modules
    assert torch.equal(modules["blocks.0.self_attn.k"].down, whole[:, 64:128])


def test_checkpoints_with_what_training_leaves_in_them(tmp_path):
    model = torch.nn.Linear(16, 4, bias=False)
    content = {
        "state_dict": collections.OrderedDict({**PAIR, "x": torch.nn.Parameter(torch.ones(2))}),
        "optimizer": torch.optim.AdamW(model.parameters()).state_dict(),
        "shape": torch.Size([3, 4]), "dtype": torch.bfloat16, "device": torch.device("cpu"),
        "epoch": 3, "lr": 1e-5, "args": {"name": "pusa", "sizes": [1, (2, 3)], "none": None, "yes": True},
        "module_state": model.state_dict(), "big": 2**70,
    }  # fmt: skip
    for new in (True, False):
        torch.save(content, tmp_path / "last.pt", _use_new_zipfile_serialization=new)
        assert list(lora.read_lora(tmp_path / "last.pt").modules) == ["blocks.0.self_attn.q"]


def test_a_rank_beyond_the_modules_size(tmp_path):
    save_file({DOWN: torch.ones(17, 16), UP: torch.ones(16, 17)}, tmp_path / "wide.safetensors")
    with pytest.raises(lora.LoraError, match="pairs of a larger rank than the module's own size"):
        lora.fit(lora.read_lora(tmp_path / "wide.safetensors"), {"blocks.0.self_attn.q": (16, 16)})


# --- names ----------------------------------------------------------------------------------------------------------------

LONG = "x" * 300


@pytest.mark.parametrize("path", [LONG, f"{LONG}.safetensors", f"folder/{LONG}/{LONG}", "a\0b"])
def test_names_that_no_disk_has(tmp_path, path):
    refused(tmp_path / path, "is not there")


def test_a_long_name_of_a_file_is_shortened(tmp_path):
    path = tmp_path / ("x" * 240 + ".pt")
    contents = {
        b"": "is empty",
        b"\x80\x02.": "damaged",
        b"PK\x03\x04": "zip archive",
        b"<html>": "web page",
        b"\x10" + b"\0" * 7 + b"{": "damaged",
    }
    for content, words in contents.items():
        path.write_bytes(content)
        refused(path, "x" * 97 + "...", words)
    torch.save({}, path)
    refused(path, "x" * 97 + "...", "no tensors")
    torch.save(PAIR, path)
    assert lora.read_lora(path).name == "x" * 97 + "..."
    folder = tmp_path / ("y" * 240)
    folder.mkdir()
    refused(folder, "y" * 97 + "...", "no PEFT adapter")


@pytest.mark.parametrize("length", [300, 100_000])
def test_long_names_of_tensors_are_shortened(tmp_path, length):
    def spelled(prefix):
        return {f"{prefix}.{key}": tensor.clone() for key, tensor in PAIR.items()}

    file = tmp_path / "long.safetensors"
    save_file(spelled("x" * length), file)
    with pytest.raises(lora.LoraError, match=r"only keys of another model's modules \(xxxx.*\.\.\.") as caught:
        lora.fit(lora.read_lora(file), {"blocks.0.self_attn.q": (16, 16)})
    assert len(str(caught.value)) < 400
    for tensors, words in [
        ({**PAIR, **spelled("x" * 120)}, "more than one LoRA"),
        ({**PAIR, **{f"{'x' * 120}.blocks.0.self_attn.q.alpha": torch.ones(2)}}, "must be one number"),
        ({"x" * length: torch.ones(1)}, "whole model"),
    ]:
        save_file(tensors, file)
        refused(file, words)
    save_file(spelled("x" * 120), file)
    assert len(lora.read_lora(file).spelling) <= 100


def test_names_that_are_no_text(tmp_path):
    torch.save({**PAIR, 10**30: 1, (1, 2): torch.ones(1), 5: 2}, tmp_path / "odd.pt")
    strays = lora.read_lora(tmp_path / "odd.pt").strays
    assert set(strays) == {"1" + "0" * 30, "(1, 2)", "5"}
