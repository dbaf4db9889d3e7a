"""LoRAs whose strength a PEFT config says."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from pusa_core import lora
from tests.core.loras import (
    BLOCKS,
    GOOD,
    HIDDEN,
    PATHS,
    SHAPES,
    WIDTH,
    numbers,
    refusal,
    refused_file,
    same_update,
    spelled,
    write_safetensors,
    write_zip,
    written,
)


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
