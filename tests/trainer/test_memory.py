"""What training takes: options that make it less change nothing that is learned, and what is computed is what is measured."""

from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch.profiler import ProfilerActivity, profile, record_function

from pusa_core.hosts.diffusers import open_wan
from tests.trainer.test_train import same
from trainer.lora import train_lora
from trainer.memory import empty_sample, model_config, open_empty, training_memory
from trainer.optimiser import make_optimizer
from trainer.savings import frozen_layers, save_memory
from trainer.settings import Settings
from trainer.train import PRECISION, batch_loss, train

SMALL = {"num_attention_heads": 4, "ffn_dim": 1024, "num_layers": 2, "text_dim": 64}
SIZE = 17, 96, 96
CASES = [{}, {"fp8": True, "optimizer": "adamw8bit", "rank": 64}, {"full": True, "checkpointing": False, "dtype": "float32"}]


@pytest.fixture
def uncompiled(monkeypatch):
    """torchao compiles its step, which takes long for tiny models."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)


def measured(settings, config):
    """The most memory that the second of two real steps takes, by PyTorch's own profiler of allocations."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        accelerator = Accelerator(cpu=True, mixed_precision=PRECISION[settings.dtype])
        wan = open_empty(config, torch.float32 if settings.full else getattr(torch, settings.dtype))
        trained = list(wan.parameters()) if settings.full else train_lora(wan, settings)
        save_memory(wan, settings, accelerator.device)
        optimizer = make_optimizer(trained, settings)
        model = accelerator.prepare_model(wan)
        for step in range(2):
            with record_function(f"step {step}"):
                batch_loss(model, [empty_sample(config, SIZE)], settings, accelerator).backward()
                optimizer.step()
    events = sorted(profiler.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    names = [event.name() for event in events]
    live = list(accumulate(event.nbytes() if event.name() == "[memory]" else 0 for event in events))
    return max(live[names.index("step 1") :])


@pytest.mark.parametrize("options", CASES)
def test_what_is_computed_is_what_is_measured(options, uncompiled):
    if options.get("optimizer") == "adamw8bit":
        pytest.importorskip("torchao")
    settings = Settings(Path(), Path(), Path(), **{"rank": 16, **options})
    config = {**SMALL, "num_layers": 1 if settings.fp8 else 2}  # torchao's step is slow where it is not compiled
    computed = training_memory(settings, config, SIZE, card=False).total
    assert computed == pytest.approx(measured(settings, config), rel=0.1)


def test_the_cpu_keeps_weights_and_activations_and_nothing_that_is_learned_changes(settings, tmp_path):
    plain = train(replace(settings, steps=2, output=tmp_path / "plain"))
    saved = train(replace(settings, steps=2, offload_activations=True, offload_weights=True))
    same(plain, saved, rtol=0, atol=0)


def test_frozen_weights_in_fp8(settings):
    wan = open_wan(settings.model, torch.bfloat16)
    trained = train_lora(wan, settings)
    begins = [weight.clone() for weight in trained]
    save_memory(wan, replace(settings, fp8=True, dtype="bfloat16"), torch.device("cpu"))
    assert all(weight.dtype == torch.float8_e4m3fn for layer in frozen_layers(wan.blocks) for weight in layer.parameters())
    assert all(weight.dtype == torch.float32 and weight.equal(begin) for weight, begin in zip(trained, begins))
    assert wan.patch_embedding.weight.dtype == torch.bfloat16 and wan.blocks[0].norm2.weight.dtype == torch.float32


def test_what_the_cpu_keeps_is_not_on_the_card():
    settings = Settings(Path(), Path(), Path(), rank=16, offload_activations=True, offload_weights=True, fp8=True)
    one = {**SMALL, "num_layers": 1}
    memory = training_memory(settings, one, SIZE)
    layers = 8 * 512 * 512 + 2 * 512 * 1024 + 9 * 512 + 1024  # of a block, in fp8
    tokens = 5 * 6 * 6
    assert memory.host >= layers + 2 * tokens * 512  # and the checkpoint of a block, in bf16
    assert layers <= memory.weights < layers + 2**23  # what is no linear layer of a block stays


@pytest.mark.parametrize("model", ["2B", "nowhere.safetensors"])
def test_models_that_are_none(model):
    with pytest.raises(ValueError, match="neither 1.3B, 5B, 14B nor a safetensors file"):
        model_config(model)
