"""What is said of LoRAs that are on a pipeline's models twice, in a checkpoint already, or exchanged."""

import logging

import pytest
import torch

from pusa_core.bake import LoraFile, bake
from pusa_core.hosts.diffusers import PusaScheduler, PusaWanPipeline, open_wan
from pusa_core.lora import read_lora
from pusa_core.lora_compress import Limit, compress_lora
from tests import tiny

HIGH, LOW = "Wan22_PusaV1_lora_HIGH_resized_bf16.safetensors", "low_noise_pusa.safetensors"


@pytest.fixture
def files(tmp_path):
    for seed, (lora, expert) in enumerate(((HIGH, "high"), (LOW, "low"))):
        tiny.write_lora(tmp_path / lora, seed=seed)
        tiny.write_wan(tmp_path / f"wan_{expert}_noise.safetensors", seed=seed)
    return tmp_path


def pipeline(*checkpoints, dtype=torch.float32):
    wans = [open_wan(path, dtype) for path in checkpoints]
    parts = dict(zip(("transformer", "transformer_2"), wans))
    return PusaWanPipeline(None, None, None, scheduler=PusaScheduler(), **parts)


def load(caplog, pipe, path, alpha=1.4, **more):
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        report = pipe.load_pusa_lora(path, alpha, **more)
    said = [record.message for record in caplog.records if record.message.startswith("Warning: ")]
    assert list(report.warnings) == said and str(report).count("Warning: ") == len(said)
    return said


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_lora_that_is_on_the_model_already(caplog, files, dtype):
    pipe = pipeline(files / "wan_high_noise.safetensors", dtype=dtype)
    assert load(caplog, pipe, files / HIGH) == []
    assert load(caplog, pipe, tiny.write_lora(files / "other.safetensors", seed=8), adapter_name="other") == []
    (warning,) = load(caplog, pipe, files / HIGH, 0.5, adapter_name="again")
    assert f"{HIGH} is on this model 2 times, with strengths 1.4 and 0.5" in warning
    pipe.delete_adapters(["pusa", "again"])
    assert load(caplog, pipe, files / HIGH) == []


def test_it_is_known_again_where_diffusers_own_loader_put_it_on_and_where_it_has_fewer_ranks(caplog, files):
    pipe = pipeline(files / "wan_high_noise.safetensors")
    pipe.load_lora_weights(str(files), weight_name=HIGH, adapter_name="stock")
    compress_lora(read_lora(files / HIGH), files / "smaller.safetensors", Limit(2))
    assert len(load(caplog, pipe, files / HIGH)) == 1
    assert "is on this model 3 times" in load(caplog, pipe, files / "smaller.safetensors", adapter_name="smaller")[0]


def test_a_lora_that_the_checkpoint_holds(caplog, files):
    bake(files / "wan_high_noise.safetensors", [LoraFile(files / HIGH, 1.4)], files / "baked.safetensors")
    pipe = pipeline(files / "baked.safetensors")
    (warning,) = load(caplog, pipe, files / HIGH)
    assert f"{HIGH} was merged into baked.safetensors already, with alpha 1.4" in warning
    assert load(caplog, pipe, tiny.write_lora(files / "other.safetensors", seed=8), adapter_name="other") == []


def test_high_and_low_exchanged(caplog, files):
    def both():
        return pipeline(files / "wan_high_noise.safetensors", files / "wan_low_noise.safetensors")

    pipe = both()
    assert load(caplog, pipe, files / HIGH) == load(caplog, pipe, files / LOW, low_noise=True) == []
    pipe = both()
    (warning,) = load(caplog, pipe, files / LOW)
    assert f"the name of {LOW} says low noise, but transformer is for high noise" in warning
    exchanged = pipeline(files / "wan_low_noise.safetensors", files / "wan_high_noise.safetensors")
    assert "the name of wan_low_noise.safetensors says low noise" in load(caplog, exchanged, files / HIGH)[0]
    pipe = both()
    load(caplog, pipe, files / HIGH)
    assert "both models got the same LoRA" in load(caplog, pipe, files / HIGH, low_noise=True)[-1]
    alone = pipeline(files / "wan_low_noise.safetensors")
    assert "wan_low_noise.safetensors is for low noise" in load(caplog, alone, files / HIGH)[0]
    assert load(caplog, pipeline(files / "wan_low_noise.safetensors"), files / LOW) == []
