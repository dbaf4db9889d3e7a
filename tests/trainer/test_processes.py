"""One process and several train the same, also where these have a part of the weights or of a clip's tokens each."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from environment.comfyui import PACK
from pusa_core.hosts.diffusers import open_wan
from tests.trainer.conftest import OPTIMIZER
from tests.trainer.test_train import same, same_gradients
from trainer.checkpoints import checkpoints
from trainer.sharing import Groups, group_processes, split_by_tokens
from trainer.train import _accelerator, train


def launch(*arguments, **variables):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(PACK), **variables}
    return subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        cwd=PACK, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def options(settings, output, **more):
    values = {**settings.as_plain(), "output": output, **more}
    return [part for key, value in values.items() if value not in (None, [], {}) for part in flag(key, value)]


def flag(key, value):
    name = key.replace("_", "-")
    if type(value) is bool:
        return [f"--{name}" if value else f"--no-{name}"]
    if isinstance(value, dict):
        return [f"--{name}", *(part for entry in value.items() for part in entry)]
    return [f"--{name}", *value] if isinstance(value, list) else [f"--{name}", value]


def held_out_loss(path):
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["training_data"])["held_out_loss"]


def apart(one, other):
    """How far a file's weights are from another's, in parts of their norm."""
    a, b = (torch.cat([weight.float().flatten() for _, weight in sorted(load_file(path).items())]) for path in (one, other))
    return float((a - b).norm() / a.norm())


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def launch_runs(launch, launcher, *runs):
    """Trains one run after another in processes that a launcher starts, see sharded.py."""
    script = PACK / "tests" / "trainer" / "sharded.py"
    done = launch(*launcher, script, json.dumps([run.as_plain() for run in runs]))
    assert done.returncode == 0, done.stderr
    return done.stdout


def stopped_and_gone_on_with(settings):
    return replace(settings, steps=1), settings


def test_two_processes_train_as_one_does(settings, cache, tmp_path, forked, uncompiled):
    """With all that they can have at once, stopped and gone on with: rates of two steps are those of three."""
    settings = replace(
        settings, steps=3, micro_batch=1, rank=128, rank_pattern={"cross_attn.q": 256}, optimizer=OPTIMIZER, warmup=1,
        schedule="cosine", max_grad_norm=0.1, ema=0.5, fp8=True, offload_activations=True, repeats={"clip0": 2},
        held_out_cache=cache, held_out_every=2, held_out_samples=3, checkpoint_every=1,
    )  # fmt: skip
    one = train(replace(settings, output=tmp_path / "one"))
    launcher = ("torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(free_port()))
    stopped = options(replace(settings, steps=2), tmp_path / "two")
    done = launch(*launcher, "-m", "trainer", "train", *stopped, TORCHDYNAMO_DISABLE="1")  # see `uncompiled`
    assert done.returncode == 0, done.stderr
    two = replace(settings, output=tmp_path / "two", vae=tmp_path)
    assert "Going on from checkpoint-000002" in launch_runs(forked.run, launcher, two)
    newest = checkpoints(two.output)[-1]
    assert len(list(newest.glob("random_states_*.pkl"))) == 2, "they did not train together"
    moments = torch.load(newest / "optimizer.bin", weights_only=True)["state"].values()
    assert OPTIMIZER == "adamw" or {type(each["exp_avg"]).__name__ for each in moments} == {"OptimState8bit"}
    assert apart(one.parent / newest.name / "lora.safetensors", newest / "lora.safetensors") < 1e-5
    assert apart(one, two.output / one.name) < 1e-4  # in bfloat16
    assert held_out_loss(one) == pytest.approx(held_out_loss(two.output / one.name), rel=1e-5)


def test_weights_are_on_the_cpu_for_one_process_alone(settings):
    with pytest.raises(ValueError, match="--offload-weights was given with 2 processes, but it is for one"):
        _accelerator(replace(settings, offload_weights=True), Groups(2, 0, 1))


def test_processes_that_compute_a_clip_together_train_as_one_does(settings, cache, tmp_path, forked):
    """Two groups of two, which part within a frame; with frozen weights in fp8, sample clips, and stopped and gone on with
    after a step."""
    settings = replace(
        settings, steps=2, lr=1e-4, micro_batch=1, ema=0.5, fp8=True, offload_activations=True, checkpoint_every=1,
        held_out_cache=cache, held_out_samples=3, trackers=(),
    )  # fmt: skip
    one = train(replace(settings, output=tmp_path / "one"))
    shared = replace(settings, output=tmp_path / "shared", context_parallel=2, sample_every=2, samples=2, vae=tmp_path)
    launcher = ("torch.distributed.run", "--nproc_per_node", "4", "--master_port", str(free_port()))
    assert "Going on from checkpoint-000001" in launch_runs(forked.run, launcher, *stopped_and_gone_on_with(shared))
    assert (shared.output / "samples" / "000002_1.webp").is_file()
    same_gradients(one.parent, shared.output)
    same(one, shared.output / one.name, rtol=0.02, atol=1e-5)
    assert held_out_loss(one) == pytest.approx(held_out_loss(shared.output / one.name), rel=1e-4)


def test_weights_divided_by_fsdp2_train_as_whole_ones_do(settings, cache, tmp_path, forget_accelerate, uncompiled):
    """By the configuration file that users get, in bfloat16, with sample clips, and stopped and gone on with after a step;
    in float32 also where the processes compute a clip together, or have moments of 8 bits, which are quantised in blocks of
    256 within a process's part: with rank 128 each has at least the 4,096 values from which torchao does so."""
    settings = replace(
        settings, steps=2, lr=1e-3, micro_batch=1, rank=16, dtype="bfloat16", max_grad_norm=0.1, ema=0.5, checkpoint_every=1,
        held_out_cache=cache, held_out_samples=3, trackers=(),
    )  # fmt: skip
    exact = replace(settings, lr=1e-4, dtype="float32")
    one = train(replace(settings, output=tmp_path / "one"))
    forget_accelerate(True)
    train(replace(exact, output=tmp_path / "exact"))
    eight = replace(exact, lr=1e-2, rank=128, optimizer=OPTIMIZER, vae=tmp_path)
    quantised = train(replace(eight, output=tmp_path / "quantised"))
    divided = replace(settings, output=tmp_path / "divided", sample_every=2, samples=1, vae=tmp_path)
    together = replace(exact, output=tmp_path / "together", context_parallel=2)
    config = ("--config_file", PACK / "trainer" / "fsdp2.yaml", "--num_processes", 2, "--main_process_port", free_port())
    launcher = ("accelerate.commands.launch", *config)
    parts = replace(eight, output=tmp_path / "parts")
    runs = (*stopped_and_gone_on_with(divided), replace(together, vae=tmp_path), *stopped_and_gone_on_with(parts))
    said = launch_runs(launch, launcher, *runs)
    newest = checkpoints(divided.output)[-1]
    assert "Going on from checkpoint-000001" in said and (newest / "optimizer_0").is_dir(), "it was not divided"
    assert (divided.output / "samples" / "000002_0.webp").is_file()
    for name in (one.name, f"{newest.name}/lora.safetensors"):
        same(one.parent / name, divided.output / name, rtol=0.02, atol=1e-5)
        same(tmp_path / "exact" / name, together.output / name, rtol=0.02, atol=1e-5)
    assert apart(quantised, parts.output / quantised.name) < 1e-4
    assert held_out_loss(quantised) == pytest.approx(held_out_loss(parts.output / quantised.name), rel=1e-5)


@pytest.mark.parametrize(
    "size, processes, batch, said",
    [
        (4, 6, 4, "--context-parallel 4 was given with 6 processes, which it does not divide"),
        (2, 4, 3, "3 clips cannot be shared by 4 processes in groups of 2 .* a multiple of 2"),
    ],
)
def test_processes_that_cannot_be_grouped(settings, size, processes, batch, said):
    settings = replace(settings, context_parallel=size, batch=batch, micro_batch=1)
    with pytest.raises(ValueError, match=said):
        group_processes(SimpleNamespace(num_processes=processes, process_index=0), settings)


@pytest.mark.parametrize(
    "size, said",
    [
        (3, "the model's 2 heads cannot be divided by that"),
        (2, "a clip of 3 latent frames of 6x2 has 9 tokens, which cannot be divided"),
    ],
)
def test_clips_that_cannot_be_shared(settings, size, said):
    wan = open_wan(settings.model, torch.float32)
    with pytest.raises(ValueError, match=said):
        split_by_tokens(wan, Groups(1, 0, size), [(16, 3, 4, 4), (16, 3, 2, 6)])


def test_clips_are_shared_by_cards(settings):
    if torch.accelerator.is_available():
        pytest.skip("this machine has a card")
    with pytest.raises(ValueError, match="there are no cards here, which Diffusers needs for it"):
        split_by_tokens(open_wan(settings.model, torch.float32), Groups(1, 0, 2), [(16, 3, 4, 4)])


def test_a_users_mistake_is_one_sentence(settings, tmp_path, forked):
    done = forked.run("trainer", "train", *options(settings, tmp_path / "run", cache=tmp_path))
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith(f"error: {tmp_path} holds no cached clips")
