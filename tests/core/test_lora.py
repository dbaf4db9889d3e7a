"""Every LoRA spelling and container gives the same update, and a LoRA that does not fit gives one sentence."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from pusa_core import lora
from tests.core.loras import (
    BLOCKS,
    CONTAINERS,
    DELTAS,
    GOOD,
    HIDDEN,
    KEY_DOWN,
    KEY_UP,
    KINDS,
    NUMBERS,
    PATHS,
    RANKS,
    SHAPES,
    SUFFIXES,
    WIDTH,
    R,
    diffusers_name,
    quick,
    refusal,
    refused_file,
    refused_fit,
    same_update,
    spelled,
    write_legacy,
    write_safetensors,
    write_zip,
    written,
)

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
