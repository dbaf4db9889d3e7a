"""What serious runs turn on, and that they go on as exactly as plain ones."""

import json
import signal
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from environment.comfyui import PACK
from pusa_core.hosts.diffusers import open_wan
from pusa_core.lora import MODULE_KINDS, read_lora
from tests import tiny
from tests.trainer.conftest import OPTIMIZER
from tests.trainer.test_train import same
from trainer.checkpoints import checkpoints
from trainer.lora import lora_state, train_lora
from trainer.optimiser import make_schedule
from trainer.publish import result_path
from trainer.train import train, train_experts


@pytest.fixture
def everything(settings, cache):
    """A run with every option that changes what is learned or kept; with rank 64 moments are quantised."""
    return replace(
        settings, rank=64, optimizer=OPTIMIZER, schedule="cosine", warmup=1, max_grad_norm=0.5, ema=0.9, fp8=True,
        offload_activations=True, offload_weights=True, held_out_cache=cache, held_out_every=2, held_out_samples=2,
        repeats={"clip0": 2}, rank_pattern={"cross_attn.q": 128},
    )  # fmt: skip


def metadata(path):
    with safe_open(path, framework="pt") as file:
        return file.metadata()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_a_killed_run_with_everything_goes_on_as_if_it_had_not_been(everything, tmp_path, uncompiled, forked):
    """Killed amid a checkpoint, between two, and amid the file that the run is for."""
    everything = replace(everything, checkpoint_every=1)
    whole = train(replace(everything, output=tmp_path / "whole"))
    for moment, left in (("checkpoint 3", 2), ("step 4", 3), ("result", 4)):
        done = forked.run("tests.trainer.killed", moment, json.dumps(everything.as_plain()))
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert checkpoints(everything.output)[-1].name == f"checkpoint-{left:06}"
        assert not result_path(everything).exists()
        assert list(everything.output.glob("*.partial")) or moment == "step 4", "it was not amid"
    resumed = train(everything)
    same(whole, resumed, rtol=0, atol=0)
    losses = [json.loads(metadata(path)["training_data"])["held_out_loss"] for path in (whole, resumed)]
    assert losses[0] == losses[1] > 0
    averaged, last = (load_file(path) for path in (resumed, checkpoints(everything.output)[-1] / "lora.safetensors"))
    assert not all(torch.equal(averaged[key], last[key].bfloat16()) for key in averaged)


def test_the_moments_of_8_bits_are(everything, uncompiled):
    pytest.importorskip("torchao")
    run = train(replace(everything, steps=1, offload_weights=False))
    state = torch.load(checkpoints(run.parent)[-1] / "optimizer.bin", weights_only=True)["state"]
    assert {type(entry["exp_avg"]).__name__ for entry in state.values()} == {"OptimState8bit"}


@pytest.mark.parametrize(
    "options, expected",
    [
        ({"schedule": "linear"}, [1, 0.75, 0.5, 0.25]),
        ({"schedule": "cosine", "warmup": 2}, [0, 0.5, 1, 0.5]),
        ({"warmup": 2}, [0, 0.5, 1, 1]),
    ],
)
def test_learning_rates(settings, options, expected):
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1)
    schedule = make_schedule(optimizer, replace(settings, **options))
    rates = []
    for _ in range(settings.steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx(expected)


def test_a_run_of_more_steps_goes_on_at_its_own_rates(settings):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = replace(settings, schedule="linear")
    train(replace(settings, steps=2))
    train(settings)
    events = EventAccumulator(str(settings.output / "log"))
    events.Reload()
    rates = sorted((event.step, event.value) for event in events.Scalars("lr"))  # the files of one second are in no order
    assert [rate for _, rate in rates] == pytest.approx([1e-2, 0.5e-2, 0.5e-2, 0.25e-2])


def test_gradients_are_clipped_before_the_optimiser_sees_them(settings):
    run = train(replace(settings, steps=1, max_grad_norm=1e-3))
    state = torch.load(checkpoints(run.parent)[-1] / "optimizer.bin", weights_only=True)["state"]
    norm = torch.stack([entry["exp_avg"].norm() for entry in state.values()]).norm() / 0.1
    assert norm == pytest.approx(1e-3, rel=1e-2)


# --- which weights -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_a_run_begins_as_a_published_lora(settings, tmp_path, prefix):
    """In two spellings, with ranks that differ from module to module, a scale, and modules that it does not have."""
    generator = torch.Generator().manual_seed(1)
    shapes, tensors = tiny.lora_modules(64, tiny.LAYERS, 96), {}
    for number, (name, (rows, columns)) in enumerate(shapes.items()):
        if name.endswith("ffn.2"):
            continue
        rank = 2 + number % 3
        tensors[f"{prefix}{name}.lora_down.weight"] = torch.randn(rank, columns, generator=generator)
        tensors[f"{prefix}{name}.lora_up.weight"] = torch.randn(rows, rank, generator=generator)
        tensors[f"{prefix}{name}.alpha"] = torch.tensor(2.0 * rank)
    save_file(tensors, tmp_path / "published.safetensors")
    wan = open_wan(settings.model, torch.float32)
    train_lora(wan, replace(settings, lora=tmp_path / "published.safetensors"))
    save_file(lora_state(wan), tmp_path / "begun.safetensors")
    published, begun = (read_lora(tmp_path / f"{name}.safetensors").modules for name in ("published", "begun"))
    for name, part in published.items():
        assert begun[name].rank == part.rank and begun[name].scale == 1
        torch.testing.assert_close(begun[name].up @ begun[name].down, 2.0 * part.up @ part.down)
    new = [begun[f"blocks.{i}.ffn.2"] for i in range(tiny.LAYERS)]
    assert all(part.rank == settings.rank and not part.up.any() for part in new)


def test_a_lora_of_another_model_is_refused(settings, tmp_path):
    tiny.write_lora(tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="other.safetensors"):
        train(replace(settings, lora=tmp_path / "other.safetensors"))


def test_chosen_modules_and_ranks(settings):
    lora = read_lora(
        train(replace(settings, steps=1, target_modules=("self_attn.q", "to_v"), rank_pattern={"attn2.to_v": 2}))
    )
    kinds = {"self_attn.q": 4, "self_attn.v": 4, "cross_attn.v": 2}
    assert {name: module.rank for name, module in lora.modules.items()} == {
        f"blocks.{i}.{kind}": rank for i in range(tiny.LAYERS) for kind, rank in kinds.items()
    }


def test_modules_that_pusa_is_not_for(settings):
    with pytest.raises(ValueError, match='"proj_out" was given for modules of the LoRA, but Pusa\'s is for self_attn.q'):
        train(replace(settings, target_modules=("proj_out",)))


def test_all_weights_are_trained(settings, tmp_path):
    settings = replace(settings, full=True, lr=1e-3, ema=0.5)
    whole = train(replace(settings, output=tmp_path / "whole"))
    train(replace(settings, steps=2))
    same(whole, train(settings), rtol=0, atol=0)
    before, after = load_file(settings.model), load_file(whole)
    assert before.keys() == after.keys()
    changed = [key for key in before if not torch.equal(before[key].bfloat16(), after[key])]
    assert len(changed) > 0.9 * len(before)
    open_wan(whole, torch.float32)
    assert metadata(whole)["modelspec.architecture"] == "wan"


@pytest.mark.parametrize("wrong", [{"fp8": True}, {"offload_weights": True}, {"target_modules": ("to_q",)}])
def test_a_full_fine_tune_has_no_lora(settings, wrong):
    with pytest.raises(
        ValueError, match=f"--full was given with --{next(iter(wrong)).replace('_', '-')}, which is for a LoRA"
    ):
        replace(settings, full=True, **wrong)


def test_two_experts_in_one_run(settings, tmp_path):
    low = tiny.write_wan(tmp_path / "low.safetensors", dim=64, heads=1, ffn=96, text_dim=64, seed=1)
    both = replace(settings, steps=1, low_noise_model=low)
    paths = train_experts(both)
    assert [path.name for path in paths] == ["pusa_lora_high_noise.safetensors", "pusa_lora_low_noise.safetensors"]
    assert [metadata(path)["base_model"] for path in paths] == ["wan.safetensors", "low.safetensors"]
    assert set(read_lora(paths[1]).modules) == {f"blocks.{i}.{kind}" for i in range(tiny.LAYERS) for kind in MODULE_KINDS}
    times = [path.stat().st_mtime_ns for path in paths]
    train_experts(both)  # both are done
    assert times == [path.stat().st_mtime_ns for path in paths]


# --- what is measured and told -------------------------------------------------------------------------------------------


def test_the_held_out_loss_is_the_same_for_the_same_weights(settings, tmp_path):
    """Whatever the seed, and nothing of it is trained on."""
    settings = replace(settings, held_out=0.4, lr=1e-12, steps=1)
    runs = [train(replace(settings, output=tmp_path / f"{seed}", seed=seed)) for seed in (0, 1)]
    data = [json.loads(metadata(path)["training_data"]) for path in runs]
    assert data[0]["held_out_loss"] == pytest.approx(data[1]["held_out_loss"], rel=1e-5)
    assert data[0]["clips"] == 4


def test_the_file_says_how_it_was_made(settings):
    found = metadata(train(replace(settings, steps=1, title="Waves", author="A. N. Author", license="apache-2.0")))
    assert found["modelspec.title"] == "Waves" and found["modelspec.author"] == "A. N. Author"
    assert found["base_model"] == "wan.safetensors" and json.loads(found["training"])["rank"] == 4
    assert json.loads(found["training_data"])["latents"] == {"16x3x4x4": 3, "16x3x4x6": 3}
    assert "torch" in json.loads(found["training_packages"])


def test_trackers_that_are_not_installed(settings):
    with pytest.raises(ValueError, match="--trackers nothing was given, but .*tensorboard"):
        train(replace(settings, trackers=("nothing",)))


def test_no_tracker_at_all(settings):
    train(replace(settings, steps=1, trackers=()))
    assert not (settings.output / "log").exists()


def test_zero3_is_a_configuration_that_accelerate_reads():
    from accelerate.commands.config.config_args import load_config_from_file

    read = load_config_from_file(str(PACK / "trainer" / "zero3.yaml"))
    assert read.distributed_type.value == "DEEPSPEED" and read.deepspeed_config["zero_stage"] == 3


def test_an_average_is_refused_where_no_process_has_weights(settings, monkeypatch):
    plugin = SimpleNamespace(zero_stage=3, enable_msamp=False)
    monkeypatch.setattr(AcceleratorState, "deepspeed_plugin", plugin, raising=False)
    with pytest.raises(ValueError, match="--ema was given with ZeRO-3"):
        train(replace(settings, ema=0.5))
