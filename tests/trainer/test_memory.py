"""What training takes: options that make it less change nothing that is learned, and what is computed is what is measured."""

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from environment.comfyui import PACK
from pusa_core.hosts.diffusers import open_wan
from tests.trainer.conftest import losses_of, small_run
from tests.trainer.measured import SIZE
from tests.trainer.test_processes import free_port
from tests.trainer.test_train import same
from trainer.lora import train_lora
from trainer.memory import COLUMNS, ROWS, model_config, report_memory, training_memory
from trainer.savings import frozen_layers, save_memory
from trainer.settings import MemorySettings, Settings
from trainer.train import train

SMALL = {"num_attention_heads": 4, "ffn_dim": 1024, "num_layers": 2, "text_dim": 64}
SINGLE = [({"rank": 16}, SMALL), ({"full": True, "checkpointing": False, "dtype": "float32"}, SMALL)]
if find_spec("torchao"):  # its step is slow where it is not compiled
    SINGLE.append(({"rank": 64, "fp8": True, "optimizer": "adamw8bit"}, {**SMALL, "num_layers": 1}))
DEEPER = {**SMALL, "num_layers": 4}
FSDP2 = "accelerate.commands.launch", "--config_file", PACK / "trainer" / "fsdp2.yaml", "--num_processes", 2
MEASURED = PACK / "tests" / "trainer" / "measured.py"
TORCHRUN = "torch.distributed.run", "--nproc_per_node", 2


def computed(options, config, cards=1):
    settings = Settings(Path(), Path(), Path(), **options)
    return training_memory(settings, config, SIZE, card=False).divided(cards).total


def measured(forked, launcher, *trainings):
    done = forked.run(*launcher, json.dumps(trainings))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def taken(forked):
    """By each training of one process, one after another in one."""
    return measured(forked, ["tests.trainer.measured"], *SINGLE)


@pytest.mark.parametrize("number", range(len(SINGLE)))
def test_what_is_computed_is_what_is_measured(number, taken):
    assert computed(*SINGLE[number]) == pytest.approx(taken[number], rel=0.1)


@pytest.mark.parametrize(
    "launcher, port, cards, options",
    [(FSDP2, "--main_process_port", 2, {}), (TORCHRUN, "--master_port", 1, {"context_parallel": 2})],
)
def test_what_is_computed_of_two_processes_is_what_is_measured(forked, launcher, port, cards, options):
    training = {"rank": 16, **options}, DEEPER
    (taken,) = measured(forked, (*launcher, port, free_port(), MEASURED), training)
    assert computed(*training, cards) == pytest.approx(taken, rel=0.1)


def test_the_cpu_keeps_weights_and_activations_and_nothing_that_is_learned_changes(settings, tmp_path):
    plain = train(replace(settings, steps=2, output=tmp_path / "plain"))
    saved = train(replace(settings, steps=2, offload_activations=True, offload_weights=True))
    same(plain, saved, rtol=0, atol=0)


@pytest.fixture(scope="module")
def bfloat16(wan_file, cache):
    """Settings whose moments are large enough to be of 8 bits, and the losses in bfloat16 alone. Of seed 1 they are hardly
    others on another CPU's instructions, which of seed 0 they are."""
    settings = replace(small_run(wan_file, cache, Path()), rank=64, dtype="bfloat16", seed=1)
    return settings, losses_of(settings)


@pytest.mark.parametrize("options, bound", [({"fp8": True}, 0.025), ({"optimizer": "adamw8bit"}, 0.01)])
def test_fp8_and_moments_of_8_bits_learn_as_bfloat16_does(bfloat16, options, bound, uncompiled):
    """At every step, in parts of what is learned; fp8 with a bit less, or moments of 4 bits, are off by more."""
    if "optimizer" in options:
        pytest.importorskip("torchao")
    settings, reference = bfloat16
    losses = losses_of(replace(settings, **options))
    apart = max(abs(loss - other) for loss, other in zip(losses, reference))
    assert 0 < apart < bound * (reference[0] - reference[-1])


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


def test_the_clips_of_the_table_can_be_shared_by_its_cards():
    sizes = [(model_config(model), savings.get("context_parallel", 1)) for model, _ in COLUMNS for _, _, savings in ROWS]
    assert not [size for config, size in sizes if config["num_attention_heads"] % size]


@pytest.mark.parametrize(
    "given, said",
    [
        ({"width": 840}, "840x480 was given.* multiples of 16: use 832x480"),
        ({"width": 840, "table": True}, "multiples of 16"),
        ({"model": "5B", "height": 464}, "multiples of 32: use 832x448"),
        ({"offload_weights": True, "shards": 2}, "--offload-weights was given for several cards"),
        ({"offload_weights": True, "context_parallel": 4}, "--offload-weights was given for several cards"),
    ],
)
def test_runs_that_cannot_be(given, said):
    with pytest.raises(ValueError, match=said):
        report_memory(MemorySettings(**given))


@pytest.mark.parametrize("model", ["2B", "nowhere.safetensors"])
def test_models_that_are_none(model):
    with pytest.raises(ValueError, match="neither 1.3B, 5B, 14B nor a safetensors file"):
        model_config(model)
