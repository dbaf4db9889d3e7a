"""LoRAs in every spelling and container, and what tests ask of them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from safetensors.torch import save_file

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
KEY_DOWN, KEY_UP = (f"diffusion_model.blocks.1.self_attn.k.lora_{side}.weight" for side in "AB")
R = RANKS["blocks.1.self_attn.k"]


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
