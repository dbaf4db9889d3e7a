"""Every LoRA spelling and container gives the same update; every bad file gives one sentence."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from pusa_core import lora

WIDTH, HIDDEN, BLOCKS = 16, 24, 2
KINDS = [f"{a}_attn.{p}" for a in ("self", "cross") for p in "qkvo"] + ["ffn.0", "ffn.2"]
SHAPES = {
    f"blocks.{block}.{kind}": {"ffn.0": (HIDDEN, WIDTH), "ffn.2": (WIDTH, HIDDEN)}.get(kind, (WIDTH, WIDTH))
    for block in range(BLOCKS)
    for kind in KINDS
}
RANKS = {name: 2 + index % 3 for index, name in enumerate(SHAPES)}
quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def numbers(shapes=SHAPES, ranks=RANKS):
    """{module: (down (rank, in), up (out, rank))} in numpy."""
    rng = np.random.default_rng(0)
    return {
        name: (rng.normal(size=(ranks[name], into)).astype("f4"), rng.normal(size=(out, ranks[name])).astype("f4"))
        for name, (out, into) in shapes.items()
    }


NUMBERS = numbers()
DELTAS = {name: up.astype("f8") @ down.astype("f8") for name, (down, up) in NUMBERS.items()}


def diffusers_name(name):
    _, block, module = name.split(".", 2)
    module = module.replace("self_attn.o", "attn1.to_out.0").replace("cross_attn.o", "attn2.to_out.0")
    module = re.sub(r"self_attn\.(\w)", r"attn1.to_\1", module)
    module = re.sub(r"cross_attn\.(\w)", r"attn2.to_\1", module)
    module = {"ffn.0": "ffn.net.0.proj", "ffn.2": "ffn.net.2"}.get(module, module)
    return f"blocks.{block}.{module}"


PREFIXES = [
    "",
    "diffusion_model.",
    "model.diffusion_model.",
    "pipe.dit.",
    "dit.",
    "base_model.model.",
    "base_model.model.diffusion_model.",
    "transformer.",
    "transformer_2.",
]
PATHS = {
    **{f"wan {prefix}": lambda name, prefix=prefix: prefix + name for prefix in PREFIXES},
    "kohya": lambda name: "lora_unet_" + name.replace(".", "_"),
    "diffusers bare": diffusers_name,
    "diffusers": lambda name: "transformer." + diffusers_name(name),
    "diffusers peft": lambda name: "base_model.model." + diffusers_name(name),
    "diffusers kohya": lambda name: "lora_unet_" + diffusers_name(name).replace(".", "_"),
}
SUFFIXES = [
    (".lora_A.weight", ".lora_B.weight"),
    (".lora_A.default.weight", ".lora_B.default.weight"),
    (".lora_A.high_noise.weight", ".lora_B.high_noise.weight"),
    (".lora_A", ".lora_B"),
    (".lora_down.weight", ".lora_up.weight"),
]


def spelled(path=PATHS["wan diffusion_model."], suffixes=SUFFIXES[0], alpha=None, values=NUMBERS):
    tensors = {}
    for name, (down, up) in values.items():
        tensors[path(name) + suffixes[0]] = torch.from_numpy(down)
        tensors[path(name) + suffixes[1]] = torch.from_numpy(up)
        if alpha is not None:
            tensors[path(name) + ".alpha"] = torch.tensor(float(alpha))
    return tensors


GOOD = spelled()


def write_safetensors(file, tensors):
    save_file(tensors, file)


def write_zip(file, tensors):
    torch.save(tensors, file)


def write_legacy(file, tensors):
    torch.save(tensors, file, _use_new_zipfile_serialization=False)


def nested(*names, write=write_zip):
    def write_nested(file, tensors):
        for name in names:
            tensors = {"epoch": 3, name: tensors}
        write(file, tensors)

    return write_nested


CONTAINERS = {
    "safetensors": write_safetensors,
    "zip": write_zip,
    "legacy": write_legacy,
    "state_dict": nested("state_dict"),
    "module": nested("module"),
    "model": nested("model"),
    "legacy state_dict": nested("state_dict", write=write_legacy),
    "module in state_dict": nested("module", "state_dict"),
}


def written(tmp_path, tensors, write=write_safetensors, name="pusa.safetensors"):
    file = tmp_path / name
    write(file, tensors)
    return file


def same_update(read, scales=None, deltas=DELTAS, atol=1e-9):
    assert set(read.modules) == set(deltas)
    for name, module in read.modules.items():
        want = deltas[name] * (scales[name] if scales else 1.0)
        got = module.scale * (module.up.double().numpy() @ module.down.double().numpy())
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=atol)


def refusal(call, *words):
    """The one sentence with which a call refuses; it has every word."""
    with pytest.raises(lora.LoraError) as caught:
        call()
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message and len(message) < 700, message
    for word in words:
        assert word in message, message
    return message


def refused_file(file, *words):
    return refusal(lambda: lora.read_lora(file), Path(file).name, *words)


def refused_fit(tensors, *words, shapes=SHAPES, path=None):
    file = path / "odd.safetensors"
    save_file(tensors, file)
    return refusal(lambda: lora.fit(lora.read_lora(file), shapes), "odd.safetensors", *words)


# --- Spellings and containers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("path", PATHS)
def test_every_spelling_in_every_container_is_the_same_update(tmp_path, path, container):
    for index, suffixes in enumerate(SUFFIXES):
        tensors = spelled(PATHS[path], suffixes)
        read = lora.read_lora(written(tmp_path, tensors, CONTAINERS[container], f"{index}.any"))
        same_update(read)
        assert read.strays == read.halves == ()
        assert lora.fit(read, SHAPES).matched == len(SHAPES)


@pytest.mark.parametrize("extension", ["pt", "pth", "bin", "ckpt", "safetensors", "txt"])
@pytest.mark.parametrize("write", [write_safetensors, write_zip, write_legacy])
def test_content_counts_not_extension(tmp_path, write, extension):
    same_update(lora.read_lora(written(tmp_path, GOOD, write, f"pusa.{extension}")))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("write", [write_safetensors, write_zip])
def test_stored_alpha_is_divided_by_rank(tmp_path, path, write):
    file = written(tmp_path, spelled(PATHS[path], SUFFIXES[-1], alpha=3), write)
    same_update(lora.read_lora(file), {name: 3 / rank for name, rank in RANKS.items()})


@pytest.mark.parametrize("alpha", [torch.tensor([4.0]), torch.tensor(4), torch.tensor(4.0, dtype=torch.bfloat16)])
def test_alpha_in_any_type_for_one_module_only(tmp_path, alpha):
    file = written(tmp_path, GOOD | {"diffusion_model.blocks.1.ffn.2.alpha": alpha})
    scales = dict.fromkeys(SHAPES, 1.0) | {"blocks.1.ffn.2": 4 / RANKS["blocks.1.ffn.2"]}
    same_update(lora.read_lora(file), scales)


def test_published_names_are_wan_names():
    assert set(lora.MODULE_KINDS) == set(KINDS)
    assert all(lora.canonical_name(name) == name for name in SHAPES)


@pytest.mark.parametrize(
    "other",
    [
        "transformer_blocks.0.attn1.to_q",
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q",
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
        "vace_blocks.0.self_attn.q",
        "blocks.0.cross_attn.k_img",
        "blocks.0.self_attn.norm_q",
        "blocks.x.self_attn.q",
        "blocks.0",
        "double_blocks.0.img_attn.qkv",
        "blocks." + "9" * 5000 + ".self_attn.q",
    ],
)
def test_modules_of_other_models_have_no_wan_name(other):
    assert lora.canonical_name(other) is None


@quick
@given(st.randoms(use_true_random=False), st.sampled_from(sorted(PATHS)), st.sampled_from(SUFFIXES))
def test_order_of_keys_does_not_matter(tmp_path, rng: random.Random, path, suffixes):
    items = list(spelled(PATHS[path], suffixes, alpha=6).items())
    rng.shuffle(items)
    read = lora.read_lora(written(tmp_path, dict(items), write_zip))
    same_update(read, {name: 6 / rank for name, rank in RANKS.items()})


@quick
@given(st.lists(st.sampled_from(sorted(SHAPES)), min_size=1, max_size=5, unique=True), st.sampled_from(sorted(PATHS)))
def test_a_second_spelling_of_the_same_module_is_refused(tmp_path, again, path):
    first = "diffusion_model." if path == "wan " else ""
    tensors = spelled(lambda name: first + name)
    extra = spelled(PATHS[path], SUFFIXES[1], values={name: NUMBERS[name] for name in again})
    refused_file(written(tmp_path, tensors | extra, write_zip), "more than one LoRA", "split")


def test_both_wan22_adapters_in_one_file_must_be_split(tmp_path):
    both = {**spelled(PATHS["diffusers"]), **spelled(lambda name: "transformer_2." + diffusers_name(name))}
    refused_file(written(tmp_path, both, write_zip), "transformer.", "transformer_2.", "split", "low-noise")


# --- Canonical tensors -----------------------------------------------------------------------------------------------


def stock_update(tensors, prefix):
    """What a stock loader adds at strength 1, by the common convention: alpha / rank, or 1 without an alpha."""
    updates = {}
    for key, up in tensors.items():
        if key.endswith(".lora_up.weight"):
            module = key.removesuffix(".lora_up.weight")
            down = tensors[f"{module}.lora_down.weight"].double().numpy()
            alpha = float(tensors[f"{module}.alpha"]) if f"{module}.alpha" in tensors else down.shape[0]
            updates[module.removeprefix(prefix)] = alpha / down.shape[0] * (up.double().numpy() @ down)
    return updates


@pytest.mark.parametrize("prefix", ["diffusion_model.", "", "transformer."])
@pytest.mark.parametrize("alpha", [None, 3, 1.4 * 3])
def test_state_dict_is_what_a_stock_loader_applies(tmp_path, alpha, prefix):
    read = lora.read_lora(written(tmp_path, spelled(alpha=alpha)))
    tensors = read.state_dict(prefix) if prefix != "diffusion_model." else read.state_dict()
    assert all(key.startswith(prefix) for key in tensors)
    updates = stock_update(tensors, prefix)
    assert set(updates) == set(SHAPES)
    for name, update in updates.items():
        scale = 1 if alpha is None else alpha / RANKS[name]
        np.testing.assert_allclose(update, scale * DELTAS[name], rtol=1e-6, atol=1e-9)


def test_alpha_is_written_only_where_it_says_something(tmp_path):
    plain = lora.read_lora(written(tmp_path, GOOD)).state_dict()
    assert not [key for key in plain if key.endswith(".alpha")]
    by_rank = lora.read_lora(written(tmp_path, spelled(alpha=3))).state_dict()
    assert len([key for key in by_rank if key.endswith(".alpha")]) == sum(rank != 3 for rank in RANKS.values())


def test_state_dict_comes_back(tmp_path):
    once = lora.read_lora(written(tmp_path, spelled(PATHS["diffusers"], alpha=5)))
    again = lora.read_lora(written(tmp_path, once.state_dict(), name="again.safetensors"))
    same_update(again, {name: 5 / rank for name, rank in RANKS.items()})


# --- PEFT ------------------------------------------------------------------------------------------------------------


def peft_folder(tmp_path, config, tensors=None, file="adapter_model.safetensors"):
    folder = tmp_path / "adapter"
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    tensors = spelled(PATHS["wan base_model.model."], values=EVEN) if tensors is None else tensors
    (write_safetensors if file.endswith("safetensors") else write_zip)(folder / file, tensors)
    return folder


EVEN = numbers(ranks=dict.fromkeys(SHAPES, 4))
EVEN_DELTAS = {name: up.astype("f8") @ down.astype("f8") for name, (down, up) in EVEN.items()}


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "adapter_model.bin"])
@pytest.mark.parametrize("given_as", ["folder", "file", "str"])
def test_peft_folder_or_its_file(tmp_path, file, given_as):
    folder = peft_folder(tmp_path, {"r": 4, "lora_alpha": 6}, file=file)
    path = {"folder": folder, "file": folder / file, "str": str(folder)}[given_as]
    same_update(lora.read_lora(path), dict.fromkeys(SHAPES, 1.5), EVEN_DELTAS)


def test_rslora_divides_by_the_root_of_the_rank(tmp_path):
    folder = peft_folder(tmp_path, {"r": 4, "lora_alpha": 6, "use_rslora": True})
    same_update(lora.read_lora(folder), dict.fromkeys(SHAPES, 3.0), EVEN_DELTAS)


def test_a_config_beside_another_file_is_not_its_own(tmp_path):
    peft_folder(tmp_path, {"r": 4, "lora_alpha": 6})
    same_update(lora.read_lora(written(tmp_path / "adapter", GOOD)))


def test_alpha_pattern_is_a_regex_on_the_end_of_the_name(tmp_path):
    pattern = {"self_attn.q": 8, "elf_attn.k": 100, r"blocks\.1\.ffn\.[02]": 2, "ffn.0": 12}
    read = lora.read_lora(peft_folder(tmp_path, {"r": 4, "lora_alpha": 4, "alpha_pattern": pattern}))
    scales = dict.fromkeys(SHAPES, 1.0)
    for name in scales:
        if name.endswith("self_attn.q"):
            scales[name] = 2.0
    scales |= {"blocks.1.ffn.0": 0.5, "blocks.1.ffn.2": 0.5, "blocks.0.ffn.0": 3.0}
    same_update(read, scales, EVEN_DELTAS)


@pytest.mark.parametrize(
    "config",
    [
        "",
        "[1]",
        "{",
        "null",
        {"r": 4},
        {"lora_alpha": 4},
        {"r": "x", "lora_alpha": 4},
        {"r": 4, "lora_alpha": 4, "alpha_pattern": {"(": 1}},
        {"r": 4, "lora_alpha": 4, "alpha_pattern": [1]},
        {"r": 4, "lora_alpha": [4]},
    ],
)
def test_damaged_config(tmp_path, config):
    refusal(lambda: lora.read_lora(peft_folder(tmp_path, config)), "adapter", "config", "damaged")


def test_config_of_another_rank(tmp_path):
    refused_file(peft_folder(tmp_path, {"r": 8, "lora_alpha": 8}), "rank 8", "rank 4")


def test_diffusers_metadata_gives_the_scale(tmp_path):
    config = {"transformer.r": 4, "transformer.lora_alpha": 6, "transformer.alpha_pattern": {"attn1.to_q": 12}}
    tensors = spelled(PATHS["diffusers"], values=EVEN)
    save_file(tensors, tmp_path / "w.safetensors", metadata={"lora_adapter_metadata": json.dumps(config)})
    scales = {name: 3.0 if name.endswith("self_attn.q") else 1.5 for name in SHAPES}
    same_update(lora.read_lora(tmp_path / "w.safetensors"), scales, EVEN_DELTAS)
    save_file(tensors, tmp_path / "x.safetensors", metadata={"lora_adapter_metadata": "7"})
    refused_file(tmp_path / "x.safetensors", "config", "damaged")


class TinyAttention(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.o = (torch.nn.Linear(WIDTH, WIDTH) for _ in range(4))


class TinyBlock(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.self_attn, self.cross_attn = TinyAttention(), TinyAttention()
        linears = torch.nn.Linear(WIDTH, HIDDEN), torch.nn.GELU(), torch.nn.Linear(HIDDEN, WIDTH)
        self.ffn = torch.nn.Sequential(*linears)


class TinyWan(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = torch.nn.ModuleList(TinyBlock() for _ in range(BLOCKS))


PEFT_PATTERNS = [
    {},
    {"alpha_pattern": {"self_attn.q": 11, "blocks.1.ffn.0": 3}, "rank_pattern": {"ffn.2": 5, "cross_attn.k": 7}},
    {"alpha_pattern": {r"blocks\.\d+\.(self|cross)_attn\.[qk]": 9}, "rank_pattern": {"^blocks.0.ffn.0": 2, "ffn.0": 3}},
]


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("patterns", PEFT_PATTERNS)
def test_agrees_with_peft(tmp_path, patterns, rslora):
    peft = pytest.importorskip("peft")
    targets = ["q", "k", "v", "o", "ffn.0", "ffn.2"]
    config = peft.LoraConfig(r=4, lora_alpha=6, use_rslora=rslora, target_modules=targets, **patterns)
    model = peft.get_peft_model(TinyWan(), config)
    layers = {name: layer for name, layer in model.base_model.model.named_modules() if hasattr(layer, "lora_B")}
    for layer in layers.values():
        torch.nn.init.normal_(layer.lora_B["default"].weight)
    model.save_pretrained(tmp_path)
    read = lora.read_lora(tmp_path)
    lora.fit(read, SHAPES)
    deltas = {name: layer.get_delta_weight("default").detach().numpy() for name, layer in layers.items()}
    same_update(read, deltas=deltas, atol=1e-5)  # PEFT multiplies in fp32


# --- The report ------------------------------------------------------------------------------------------------------


def test_report_of_a_whole_lora(tmp_path):
    report = lora.fit(lora.read_lora(written(tmp_path, spelled(alpha=3))), SHAPES)
    ranks, count = RANKS.values(), sum(d.size + u.size for d, u in NUMBERS.values())
    assert (report.matched, report.total, report.unmatched) == (20, 20, {})
    assert (report.rank_min, report.rank_max) == (2, 4)
    assert report.rank_mean == pytest.approx(sum(ranks) / 20)
    assert (report.parameters, report.size_bytes, report.dtypes) == (count, 4 * count, ("float32",))
    assert (report.scale_min, report.scale_max) == (0.75, 1.5)
    assert report.spelling in GOOD
    for words in ("pusa.safetensors: 20 of 20 modules", "rank 2 to 4 (mean 3.0)", "float32", "0.75 to 1.5"):
        assert words in str(report)


def test_attention_only_is_fine_and_says_what_is_left(tmp_path):
    attention = {key: tensor for key, tensor in GOOD.items() if "attn" in key}
    report = lora.fit(lora.read_lora(written(tmp_path, attention)), SHAPES)
    assert (report.matched, report.unmatched) == (16, {"ffn.0": 2, "ffn.2": 2})
    assert "16 of 20" in str(report) and "2 ffn.0" in str(report)


def test_the_published_lora_in_words():
    """400 modules of rank 512 in bf16 on the 14B model; tensors of one element seen many times."""
    full = {"ffn.0": (13824, 5120), "ffn.2": (5120, 13824)}
    shapes = {f"blocks.{block}.{kind}": full.get(kind, (5120, 5120)) for block in range(40) for kind in KINDS}
    one = torch.ones(1, 1, dtype=torch.bfloat16)
    modules = {n: lora.LoraModule(one.expand(512, i), one.expand(o, 512), 1.0) for n, (o, i) in shapes.items()}
    report = str(lora.fit(lora.PusaLora(modules, "pusa_v1.pt"), shapes))
    assert "pusa_v1.pt: 400 of 400 modules\nrank 512, bfloat16, 2.45 G parameters, 4.91 GB\n" in report


@pytest.mark.parametrize("write", [write_safetensors, write_zip])
def test_reading_maps_the_file(tmp_path, write):
    """A 14B LoRA must not be copied into memory by looking at it."""
    file = written(tmp_path, {"blocks.0.self_attn.q.lora_A.weight": torch.zeros(2**12, 2**12)}, write)
    before = resident_bytes()
    read = lora.read_lora(file)
    assert resident_bytes() - before < 2**24
    assert len(read.halves) == 1


def resident_bytes():
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        pytest.skip("needs /proc")


# --- LoRAs that do not fit -------------------------------------------------------------------------------------------


def test_another_models_lora(tmp_path):
    flux = {f"transformer.transformer_blocks.{i}.attn.to_q.lora_{s}.weight": torch.ones(2, 2) for i in range(4) for s in "AB"}
    message = refused_fit(flux, "another model", "and 5 more", path=tmp_path)
    assert message.count("transformer_blocks") == 3


@pytest.mark.parametrize("made_for, words", [(5120, "width 5120 (14B)"), (3072, "width 3072 (5B)"), (20, "width 20,")])
@pytest.mark.parametrize("kind", ["self_attn.q", "ffn.0", "ffn.2"])
def test_another_width(tmp_path, made_for, words, kind):
    name = f"blocks.0.{kind}"
    out, into = {"ffn.0": (64, made_for), "ffn.2": (made_for, 64)}.get(kind, (made_for, made_for))
    tensors = spelled(values={name: (np.ones((2, into), "f4"), np.ones((out, 2), "f4"))})
    shapes = {f"blocks.0.{k}": {"ffn.0": (8960, 1536), "ffn.2": (1536, 8960)}.get(k, (1536, 1536)) for k in KINDS}
    refused_fit(tensors, words, "width 1536 (1.3B)", shapes=shapes, path=tmp_path)


def test_one_module_of_another_shape(tmp_path):
    odd = {"diffusion_model.blocks.1.ffn.0.lora_B.weight": torch.ones(HIDDEN + 1, RANKS["blocks.1.ffn.0"])}
    refused_fit(GOOD | odd, "another shape", "blocks.1.ffn.0", path=tmp_path)


def test_more_blocks_than_the_model(tmp_path):
    fewer = {name: shape for name, shape in SHAPES.items() if name.startswith("blocks.0.")}
    refused_fit(GOOD, "lacks", "(blocks.1.", "and 7 more", shapes=fewer, path=tmp_path)


@pytest.mark.parametrize(
    "stray",
    [
        "blocks.0.self_attn.q.diff_b",
        "blocks.0.self_attn.norm_q.diff",
        "blocks.0.norm3.diff",
        "blocks.0.self_attn.q.bias",
        "blocks.0.self_attn.q.lora_B.bias",
        "blocks.0.self_attn.q.lora_magnitude_vector",
        "blocks.0.cross_attn.k_img.lora_A.weight",
        "head.head.lora_A.weight",
        "time_embedding.0.lora_down.weight",
    ],
)
def test_keys_that_pusa_does_not_have(tmp_path, stray):
    key = "diffusion_model." + stray
    refused_fit(GOOD | {key: torch.ones(2, 2)}, "not look like a Pusa LoRA", "ComfyUI's own", key, path=tmp_path)


@quick
@given(st.sampled_from(sorted(GOOD)))
def test_half_a_pair(tmp_path, gone):
    rest = {key: tensor for key, tensor in GOOD.items() if key != gone}
    other = gone.replace("lora_A", "*").replace("lora_B", "lora_A").replace("*", "lora_B")
    refused_fit(rest, "counterpart", other, path=tmp_path)


@quick
@given(st.sets(st.sampled_from(sorted(SHAPES)), min_size=1))
def test_whole_kinds_may_be_absent_but_not_some_blocks(tmp_path, gone):
    rest = {name: pair for name, pair in NUMBERS.items() if name not in gone}
    kinds = [{name.split(".", 2)[2] for name in rest if name.startswith(f"blocks.{b}.")} for b in range(BLOCKS)]
    if not rest:
        return
    if all(kind == kinds[0] for kind in kinds):
        save_file(spelled(values=rest), tmp_path / "some.safetensors")
        assert lora.fit(lora.read_lora(tmp_path / "some.safetensors"), SHAPES).matched == len(rest)
    else:
        refused_fit(spelled(values=rest), "some blocks", path=tmp_path)


def test_alpha_without_its_pair(tmp_path):
    attention = {key: tensor for key, tensor in GOOD.items() if "attn" in key}
    key = "diffusion_model.blocks.0.ffn.0.alpha"
    refused_fit(attention | {key: torch.tensor(1.0)}, "counterpart", key, path=tmp_path)


KEY_DOWN, KEY_UP = (f"diffusion_model.blocks.1.self_attn.k.lora_{side}.weight" for side in "AB")
R = RANKS["blocks.1.self_attn.k"]


@pytest.mark.parametrize(
    "key, tensor, words",
    [
        (KEY_UP, torch.ones(WIDTH, R + 1), "ranks disagree"),
        (KEY_DOWN, torch.ones(0, WIDTH), "ranks disagree or are zero"),
        (KEY_DOWN, torch.ones(R, WIDTH, 1, 1), "2 dimensions"),
        (KEY_UP, torch.ones(WIDTH), "2 dimensions"),
        (KEY_DOWN, torch.tensor(1.0), "2 dimensions"),
        (KEY_UP, torch.ones(WIDTH, R, dtype=torch.int8), "not floating point"),
        (KEY_UP, torch.ones(WIDTH, R, dtype=torch.complex64), "not floating point"),
        (KEY_UP, torch.full((WIDTH, R), float("inf")), "infinite"),
        (KEY_DOWN, torch.full((R, WIDTH), float("nan")), "infinite"),
    ],
)
def test_damaged_tensors(tmp_path, key, tensor, words):
    refused_fit(GOOD | {key: tensor}, words, "blocks.1.self_attn.k", path=tmp_path)


@quick
@given(st.sampled_from(sorted(GOOD)), st.sampled_from([float("nan"), float("inf"), -float("inf")]), st.data())
def test_one_bad_number_in_a_small_tensor(tmp_path, key, number, data):
    tensor = GOOD[key].clone()
    tensor.view(-1)[data.draw(st.integers(0, tensor.numel() - 1))] = number
    refused_fit(GOOD | {key: tensor}, "infinite", path=tmp_path)


def test_a_diverged_large_tensor(tmp_path):
    bad = lora.LoraModule(torch.ones(512, 5120), torch.full((5120, 512), float("nan")), 1.0)
    shapes = {"blocks.0.self_attn.q": (5120, 5120)}
    refusal(lambda: lora.fit(lora.PusaLora({"blocks.0.self_attn.q": bad}), shapes), "infinite")


@pytest.mark.parametrize("alpha, words", [(float("nan"), "infinite"), (float("inf"), "infinite")])
def test_bad_alpha(tmp_path, alpha, words):
    refused_fit(spelled(alpha=alpha), words, path=tmp_path)


def test_alpha_must_be_one_number(tmp_path):
    odd = {"diffusion_model.blocks.0.ffn.0.alpha": torch.ones(2)}
    refused_file(written(tmp_path, GOOD | odd), "one number", "blocks.0.ffn.0.alpha")


def test_a_model_without_wan_blocks(tmp_path):
    refused_fit(GOOD, "Wan model", shapes={}, path=tmp_path)


# --- Files that are no LoRA ------------------------------------------------------------------------------------------

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
