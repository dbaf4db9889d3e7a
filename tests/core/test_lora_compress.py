"""LoRAs in fewer ranks."""

import json
import math

import pytest
import torch
from safetensors import safe_open

from pusa_core.lora import LoraError, LoraModule, read_lora
from pusa_core.lora_compress import Limit, compress_lora, compress_module, decompose
from pusa_core.provenance import KEY, identify
from tests.core.loras import DELTAS, RANKS, same_update, spelled, written


def pair(rank=6, rows=24, columns=16, scale=1.0, seed=0):
    random = torch.Generator().manual_seed(seed)
    return LoraModule(torch.randn(rank, columns, generator=random), torch.randn(rows, rank, generator=random), scale)


def update(module):
    return module.scale * module.up.double() @ module.down.double()


@pytest.mark.parametrize("module", [pair(), pair(scale=0.3), pair(rank=16), pair(rank=1), pair(rows=5)])
def test_the_decomposition_is_that_of_the_whole_update(module):
    u, s, v = decompose(module)
    dense = torch.linalg.svdvals(update(module))[: len(s)]
    torch.testing.assert_close(s.double(), dense, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close((u * s @ v).double(), update(module), rtol=1e-4, atol=1e-4)
    for side in (u.mT @ u, v @ v.mT):
        torch.testing.assert_close(side, torch.eye(len(s)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rank", [1, 3, 5, 6])
def test_the_error_said_is_the_error_made_and_the_least_possible(rank, dtype):
    module = pair(scale=0.7)
    made = compress_module(module, Limit(rank), dtype)
    whole = update(module)
    error = float((made.up.double() @ made.down.double() - whole).norm() / whole.norm())
    assert made.error == pytest.approx(error, rel=0.02, abs=1e-6)
    least = float(torch.linalg.svdvals(whole)[rank:].norm() / whole.norm())
    assert least - 1e-6 <= made.error <= math.hypot(least, 0.004)


def test_energy_gives_each_module_the_lowest_rank_that_keeps_it():
    module = pair(rank=8)
    squares = decompose(module)[1].square().double()
    for energy in (0.3, 0.5, 0.9, 0.99):
        rank = len(compress_module(module, Limit(energy=energy)).down)
        assert squares[:rank].sum() >= energy * squares.sum() > squares[: rank - 1].sum()
    assert len(compress_module(module, Limit(rank=2, energy=0.99)).down) == 2


def test_a_module_that_does_nothing_keeps_one_rank_and_has_no_error():
    made = compress_module(LoraModule(torch.ones(4, 8), torch.zeros(8, 4)), Limit(energy=0.9))
    assert made.up.shape == (8, 1) and made.error == 0.0 and not made.up.any()


@pytest.mark.parametrize("rank, energy", [(0, 1.0), (-1, 0.5), (4, 0.0), (4, 1.5), (4, float("nan"))])
def test_limits_that_mean_nothing_are_refused(rank, energy):
    with pytest.raises(ValueError, match="given"):
        Limit(rank, energy)


def test_a_file_keeps_what_the_lora_means_and_says_how_it_was_made(tmp_path):
    source = read_lora(written(tmp_path, spelled(alpha=0.5), name="source.safetensors"))
    seen = []
    report = compress_lora(
        source, tmp_path / "new.safetensors", Limit(energy=0.9999999), progress=lambda *at: seen.append(at)
    )
    made = read_lora(tmp_path / "new.safetensors")
    assert {module.scale for module in made.modules.values()} == {1.0}
    assert {name: module.rank for name, module in made.modules.items()} == RANKS == report.ranks
    same_update(made, {name: 0.5 / RANKS[name] for name in RANKS}, {name: rounded(made, name) for name in DELTAS})
    assert identify(made) == identify(source) and seen[-1] == (len(DELTAS), len(DELTAS))
    with safe_open(tmp_path / "new.safetensors", "pt") as file:
        about = json.loads(file.metadata()[KEY])
        keys = list(file.keys())
    assert all(
        key.startswith("diffusion_model.blocks.") and key.endswith((".lora_A.weight", ".lora_B.weight")) for key in keys
    )
    assert about["from"] == "source.safetensors" and about["errors"].keys() == DELTAS.keys()
    assert max(report.errors.values()) < 0.01 and report.table().count("\n") == len(DELTAS) - 1


def rounded(made, name):
    """The true update, if what was made is within a bfloat16's rounding of it."""
    module, scale = made.modules[name], 0.5 / RANKS[name]
    got, wanted = (module.up.double() @ module.down.double()).numpy(), scale * DELTAS[name]
    assert abs(got - wanted).max() < 0.02 * abs(wanted).max()
    return got / scale


def test_what_was_compressed_twice_is_still_known_as_the_first(tmp_path):
    source = read_lora(written(tmp_path, spelled()))
    compress_lora(source, tmp_path / "2.safetensors", Limit(2))
    compress_lora(read_lora(tmp_path / "2.safetensors"), tmp_path / "1.safetensors", Limit(1))
    assert identify(read_lora(tmp_path / "1.safetensors")) == identify(source)


def test_what_is_damaged_or_no_pusa_lora_is_refused_and_leaves_nothing(tmp_path):
    broken = {key: tensor.clone() for key, tensor in spelled().items()}
    broken["diffusion_model.blocks.1.ffn.2.lora_B.weight"][-1, -1] = float("nan")
    other = spelled() | {"diffusion_model.time_embedding.0.diff_b": torch.zeros(4)}
    half = {key: tensor for key, tensor in spelled().items() if not key.endswith("blocks.0.ffn.0.lora_A.weight")}
    for tensors, words in ((broken, "blocks.1.ffn.2"), (other, "time_embedding"), (half, "without their counterpart")):
        with pytest.raises(LoraError, match=words):
            compress_lora(read_lora(written(tmp_path, tensors)), tmp_path / "new.safetensors", Limit(2))
    assert [path.name for path in tmp_path.iterdir()] == ["pusa.safetensors"]
