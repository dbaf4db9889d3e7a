"""Training: the objective, resuming, many processes, and the files that come out."""

import json
import re
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from pusa_core.hosts.diffusers import open_wan
from pusa_core.lora import MODULE_KINDS, fit, read_lora
from tests import tiny
from tests.trainer.conftest import losses_of
from trainer.checkpoints import checkpoints
from trainer.train import train


def same(one, other, **tolerance):
    a, b = load_file(one), load_file(other)
    assert a.keys() == b.keys()
    for key in a:
        torch.testing.assert_close(a[key], b[key], **tolerance)


def test_the_loss_falls_on_one_clip(settings):
    losses = losses_of(replace(settings, rank=8))
    assert losses[-1] < 0.8 * losses[0]


def test_a_step_is_of_one_shape_and_the_next_of_another(settings, cache):
    """So the tests below, of resuming, many processes and micro-batches, are about both."""
    from trainer.data import ClipCache

    clips, batch = ClipCache(cache), settings.batch
    drawn = [clips.sample(number, batch, settings.seed).latent.shape for number in range(2 * batch)]
    steps = [set(map(tuple, part)) for part in (drawn[:batch], drawn[batch:])]
    assert [len(shapes) for shapes in steps] == [1, 1] and steps[0] != steps[1]
    assert set.union(*steps) == set(clips.groups)


def test_sizes_that_the_model_cannot_take(settings, cache, tmp_path):
    import shutil

    from trainer.data import PackedText, save_clip

    shutil.copytree(cache, tmp_path / "cache")
    save_clip(tmp_path / "cache" / "odd.safetensors", torch.zeros(16, 3, 4, 5), PackedText.pack(torch.ones(8, 64)), {})
    with pytest.raises(ValueError, match="A cached latent is 5x4, but the model takes even sizes"):
        train(replace(settings, cache=tmp_path / "cache"))


def test_only_the_lora_is_trained(settings, cache, monkeypatch):
    from trainer import train as module

    opened = []

    def remember(*args):
        opened.append(open_wan(*args))
        return opened[0]

    monkeypatch.setattr(module, "open_wan", remember)
    before = open_wan(settings.model, torch.float32).state_dict()
    lora = read_lora(train(settings))
    after = {
        key.replace(".base_layer.", "."): tensor for key, tensor in opened[0].state_dict().items() if ".lora_" not in key
    }
    assert after.keys() == before.keys()
    assert all(after[key].equal(before[key]) for key in before)
    assert set(lora.modules) == {f"blocks.{i}.{kind}" for i in range(tiny.LAYERS) for kind in MODULE_KINDS}
    assert all(module.up.float().abs().max() > 0 for module in lora.modules.values())
    assert all(module.rank == 4 and module.scale == 1 for module in lora.modules.values())


def test_the_usual_precision(settings, forget_accelerate):
    """bf16 with a fp32 LoRA, which is what runs on cards."""
    settings = replace(settings, dtype="bfloat16", lr=1e-3)
    path = train(settings)
    assert all(
        tensor.dtype == torch.float32 for tensor in load_file(checkpoints(path.parent)[-1] / "lora.safetensors").values()
    )
    forget_accelerate(True)
    exact = train(replace(settings, dtype="float32", output=settings.output.parent / "exact"))
    a, b = (torch.cat([t.float().flatten() for t in load_file(p).values()]) for p in (path, exact))
    assert torch.corrcoef(torch.stack([a, b]))[0, 1] > 0.99


def test_the_file_is_spelled_as_stock_loaders_want(finished):
    keys = set(load_file(finished))
    names = {"diffusion_model.blocks.0.self_attn.q.lora_A.weight", "diffusion_model.blocks.1.ffn.2.lora_B.weight"}
    assert names <= keys
    assert len(keys) == 2 * len(MODULE_KINDS) * tiny.LAYERS
    report = fit(read_lora(finished), tiny.lora_modules(64, tiny.LAYERS, 96))
    assert report.matched == report.total


def test_a_run_goes_on_as_if_it_had_not_been_stopped(settings, finished):
    train(replace(settings, steps=2))
    resumed = train(settings)
    same(finished, resumed, rtol=0, atol=0)


def test_a_checkpoint_that_was_not_finished_is_not_used(settings):
    train(replace(settings, steps=2))
    (settings.output / "checkpoint-000003.partial").mkdir()
    assert [path.name for path in checkpoints(settings.output)] == ["checkpoint-000002"]
    train(settings)
    assert [path.name for path in checkpoints(settings.output)] == ["checkpoint-000002", "checkpoint-000004"]


def test_checkpoints_hold_the_lora_and_not_the_model(finished):
    size = sum(path.stat().st_size for path in checkpoints(finished.parent)[-1].rglob("*"))
    lora = 4 * sum(p.numel() for p in load_file(finished).values())
    assert size < 3 * lora + 60_000  # the LoRA, AdamW's two moments, and headers


def test_another_setting_is_refused_when_going_on(settings):
    train(replace(settings, steps=2))
    with pytest.raises(ValueError, match=r"holds a run with rank = 4, but 8 was given"):
        train(replace(settings, rank=8))


def test_fewer_steps_than_a_run_has_are_refused(settings, finished):
    made = replace(settings, output=finished.parent)
    with pytest.raises(ValueError, match="holds a run of 4 steps, but --steps 2 was given"):
        train(replace(made, steps=2))
    same(finished, train(made), rtol=0, atol=0)


def test_a_batch_that_cannot_be_shared(settings):
    with pytest.raises(ValueError, match="make --batch a multiple of 3"):
        train(replace(settings, micro_batch=3))


def test_other_clips_are_refused_when_going_on(settings, cache, tmp_path):
    import shutil

    fewer = tmp_path / "cache"
    shutil.copytree(cache, fewer)
    train(replace(settings, steps=2, cache=fewer))
    (fewer / "clip0.safetensors").unlink()
    with pytest.raises(ValueError, match="holds a run on other clips"):
        train(replace(settings, cache=fewer))


def test_a_run_that_was_moved_goes_on(settings, tmp_path):
    train(replace(settings, steps=2))
    settings.output.rename(tmp_path / "moved")
    train(replace(settings, output=tmp_path / "moved"))


@pytest.mark.parametrize("wrong", [{"micro_batch": 0}, {"checkpoint_every": 0}, {"rank": -1}, {"lr": float("nan")}])
def test_numbers_that_must_be_positive(settings, wrong):
    with pytest.raises(ValueError, match="must be greater than 0"):
        replace(settings, **wrong)


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"seed": -1}, "--seed -1 was given; give a whole number from 0 to 4294967295"),
        ({"seed": 2**32}, "--seed 4294967296 was given"),
        ({"weight_decay": -0.1}, "--weight-decay -0.1 was given; it must be 0 or more"),
        ({"warmup": -1}, "--warmup -1 was given"),
        ({"sample_every": -1}, "--sample-every -1 was given"),
        ({"samples": -2}, "--samples -2 was given"),
    ],
)
def test_numbers_out_of_range(settings, wrong, said):
    with pytest.raises(ValueError, match=said):
        replace(settings, **wrong)


def test_a_run_that_diverges_stops_and_says_so(settings):
    with pytest.raises(ValueError, match="start again in another --output with a lower --lr"):
        train(replace(settings, lr=1e30, steps=20))


def test_diffusers_folders(settings, tmp_path):
    wan = open_wan(settings.model, torch.float32)
    wan.save_pretrained(tmp_path / "pipeline" / "transformer")
    (tmp_path / "pipeline" / "model_index.json").write_text("{}")
    for folder in (tmp_path / "pipeline", tmp_path / "pipeline" / "transformer"):
        again = open_wan(folder, torch.float32)
        assert all(tensor.equal(again.state_dict()[key]) for key, tensor in wan.state_dict().items())
    with pytest.raises(ValueError, match="not a folder of Diffusers' Wan"):
        open_wan(tmp_path)


def test_a_cut_off_file_is_named(settings, tmp_path):
    (tmp_path / "cut.safetensors").write_bytes(settings.model.read_bytes()[:5000])
    with pytest.raises(ValueError, match="cut.safetensors is damaged or cut off"):
        open_wan(tmp_path / "cut.safetensors")


MAPPED = "unable to mmap 28577105935 bytes from file <wan (12).safetensors>: "  # as torch says it


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(f"{MAPPED}Cannot allocate memory (12)"),
        MemoryError("Cannot allocate memory (os error 12)"),
        OSError("The paging file is too small for this operation to complete. (os error 1455)"),
        RuntimeError("Couldn't open file mapping: <wan.safetensors>, error code: <1455>"),
    ],
)
def test_a_file_larger_than_memory_is_named(settings, monkeypatch, error):
    monkeypatch.setattr("pusa_core.hosts.diffusers.files.safe_open", refusal(error))
    with pytest.raises(ValueError, match=rf"wan.safetensors has .* memory cannot hold \({re.escape(str(error))}\): choose a"):
        open_wan(settings.model)


@pytest.mark.parametrize("error", [RuntimeError(f"{MAPPED}No such device (19)"), OSError("Permission denied (os error 13)")])
def test_other_faults_of_a_file_say_what_they_are(settings, monkeypatch, error):
    monkeypatch.setattr("pusa_core.hosts.diffusers.files.safe_open", refusal(error))
    with pytest.raises(type(error), match=re.escape(str(error))):
        open_wan(settings.model)


def refusal(error):
    def refuse(*_, **__):
        raise error

    return refuse


def test_clips_of_another_vae_are_refused(settings, tmp_path):
    wan = tiny.write_wan(tmp_path / "5b.safetensors", channels=48, dim=64, heads=1, ffn=96, text_dim=64)
    with pytest.raises(ValueError, match="16 channels, but the model takes 48"):
        train(replace(settings, model=wan))


def test_captions_of_another_encoder_are_refused(settings, tmp_path):
    wan = tiny.write_wan(tmp_path / "wan.safetensors", dim=64, heads=1, ffn=96, text_dim=32)
    with pytest.raises(ValueError, match="captions have width 64, but the model takes 32"):
        train(replace(settings, model=wan))


def test_the_size_of_micro_batches_and_checkpointing_change_nothing(settings, tmp_path):
    settings = replace(settings, steps=2, lr=1e-4)  # small steps, so that AdamW does not blow up rounding
    one = train(replace(settings, output=tmp_path / "one", micro_batch=1, checkpointing=False))
    four = train(replace(settings, output=tmp_path / "four", micro_batch=4))
    same_gradients(one.parent, four.parent)


def same_gradients(one, other):
    """Compares the gradients of a run's first two steps, which AdamW's first moments are made of.

    In the first step only lora_B has any, because it starts at zero.
    """
    a, b = (torch.load(checkpoints(run)[-1] / "optimizer.bin", weights_only=True)["state"] for run in (one, other))
    assert a.keys() == b.keys() and len(a) == 2 * len(MODULE_KINDS) * tiny.LAYERS
    for key in a:
        one_moment, other_moment = a[key]["exp_avg"], b[key]["exp_avg"]
        assert one_moment.norm() > 1e-7
        assert (one_moment - other_moment).norm() < 1e-3 * one_moment.norm()


def test_loss_curves_are_written(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(finished.parent / "log"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4]
    assert all(event.value > 0 for event in events.Scalars("loss"))


def test_image_to_video_models_are_refused(settings, tmp_path):
    wan = tiny.write_wan(tmp_path / "i2v.safetensors", in_channels=36, dim=64, heads=1, ffn=96, text_dim=64)
    with pytest.raises(ValueError, match="takes 36 input channels"):
        train(replace(settings, model=wan, output=tmp_path / "run"))


def test_settings_are_kept_with_the_lora(finished):
    with safe_open(finished, framework="pt") as file:
        assert json.loads(file.metadata()["training"])["rank"] == 4
