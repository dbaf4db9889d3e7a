"""Models and LoRAs of the command and of jobs: what is opened, and that the order of jobs changes no video."""

import json
import os
import shutil
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from batch import make, models
from batch.folder import RunStopped
from batch.jobs import ImageAt, Job
from batch.make import key
from batch.run import run
from batch.settings import Models
from demo_model import BASE, FIRST_FRAME_LORA, LORA
from pusa_core.hosts.diffusers import PusaScheduler, PusaWanPipeline, open_wan
from tests import tiny

PACK = Path(__file__).resolve().parents[2]
MODELS = Models(device="cpu")
JOB = Job("a red circle moves right", "clip", width=64, height=64, length=5, steps=1)


def test_jobs_with_models_of_their_own(tmp_path, monkeypatch):
    """One model is opened, jobs are grouped, and what was open before changes nothing."""
    written, opened = {}, []
    original = models.open_model
    monkeypatch.setattr(
        make,
        "write_video",
        lambda path, pictures, fps: (written.update({path.name.split(".")[0]: torch.cat(list(pictures))}), path.touch()),
    )
    monkeypatch.setattr(models, "open_model", lambda *args: opened.append(args) or original(*args))
    weights = {
        "plain": {},
        "weak": {"alpha": 0.3},
        "none": {"lora": ""},
        "first": {"lora": str(FIRST_FRAME_LORA), "alpha": 0.7},
    }
    jobs = [replace(JOB, name=name, **changed) for name, changed in weights.items()]
    again = [replace(job, name=f"{job.name}_again") for job in reversed(jobs)]
    report = run([*jobs, *again], [], MODELS, tmp_path)
    names = [name for name in weights for name in (name, f"{name}_again")]
    assert report.made == names and len(opened) == 1
    together = dict(written)
    for name, job in zip(weights, jobs):
        run([job], [], MODELS, tmp_path / name)
        assert torch.equal(written[name], together[name]) and torch.equal(written[name], together[f"{name}_again"]), name
    assert all(not torch.equal(written[a], written[b]) for a in weights for b in weights if a != b)
    assert json.loads((tmp_path / "weak.json").read_text())["models"]["alpha"] == 0.3


def test_another_model_takes_the_place_of_the_one_that_is_open(tmp_path, monkeypatch):
    alive, most = weakref.WeakSet(), []
    original = models.open_model

    def watched(model, dtype):
        most.append(len(alive))
        pipe = original("demo", dtype)
        alive.add(pipe.transformer)
        return pipe

    monkeypatch.setattr(models, "open_model", watched)
    monkeypatch.setattr(make, "write_video", lambda path, pictures, fps: path.touch())
    jobs = [replace(JOB, name=f"{i}{model[0]}", model=model, lora=str(LORA)) for i in range(2) for model in ("one", "two")]
    assert run(jobs, [], MODELS, tmp_path).made == ["0o", "1o", "0t", "1t"]
    assert most == [0, 0]


def test_a_jobs_own_models_fail_alone(tmp_path):
    jobs = [replace(JOB, name="own", lora="none.safetensors"), replace(JOB, name="other", model="nowhere"), JOB]
    report = run(jobs, [], MODELS, tmp_path)
    assert report.made == ["clip"]
    said = {fault.name: fault.reason for fault in report.faults}
    assert "none.safetensors" in said["own"] and "nowhere is no Diffusers folder" in said["other"]


def test_models_of_the_command_and_of_a_job_make_the_same_video():
    models = replace(MODELS, alpha=0.5)
    assert key(JOB, models, {}) == key(replace(JOB, alpha=0.5), MODELS.override({"alpha": 0.5}), {})
    assert key(JOB, models, {}) != key(JOB, MODELS, {}) != key(JOB, MODELS, {"a": "1"}) != key(JOB, MODELS, {"a": "2"})


def test_videos_of_earlier_versions_are_not_made_again():
    job = Job("x", "clip", keyframes=(ImageAt("/none/a.png", 3),), seed=4)
    models = Models("Wan/none", lora="/none/pusa.pt", alpha=1.2)
    assert key(job, models, {}) == "3ad821c568ef517b1714ddf0e527784eea2a10b7819d9b5fa16b341f7fab6593"


def test_another_lora_is_another_video(tmp_path):
    """A changed file is noticed under the same name, and what was used is in the sidecar."""
    shutil.copyfile(LORA, tmp_path / "lora.safetensors")
    models = replace(MODELS, lora=str(tmp_path / "lora.safetensors"), alpha=1.0)
    run([JOB], [], models, tmp_path)
    assert json.loads((tmp_path / "clip.json").read_text())["inputs"] == {models.lora: make.digest(LORA)}
    assert run([JOB], [], models, tmp_path).existing == ["clip"]
    os.utime(models.lora, (1, 1))
    assert run([JOB], [], models, tmp_path).made == ["clip"]


@pytest.mark.parametrize(
    "changed, said",
    [
        ({"model": str(PACK)}, "no Diffusers folder"),
        ({"lora": "none.safetensors"}, "none.safetensors is not there"),
        ({"extra_lora": "none.safetensors"}, "none.safetensors is not there"),
        ({"low_noise_extra_lora": "none.safetensors"}, "is for Wan2.2"),
        ({"device": "cdua"}, '"cdua" is no device'),
        ({"ulysses": 2}, "need 2 processes, but there are 1"),
    ],
)
def test_models_that_cannot_be_opened_are_told(changed, said, tmp_path):
    with pytest.raises((ValueError, RunStopped), match=said):
        run([JOB], [], replace(MODELS, **changed), tmp_path)


@torch.no_grad()
def test_two_experts_and_loras_beside_pusas(tmp_path, monkeypatch):
    """Every change from one job's models to another's leaves what opening these alone gives."""
    extra = str(tiny.write_lora(tmp_path / "extra.safetensors", dim=256, layers=5, ffn=512))
    monkeypatch.setattr(models, "open_model", two_experts)
    g = torch.Generator().manual_seed(0)
    inputs = torch.randn(1, 16, 2, 4, 4, generator=g), torch.tensor([500]), torch.randn(1, 4, 4096, generator=g)

    def outputs(pipe):
        return torch.stack([wan(*inputs, return_dict=False)[0] for wan in pipe.transformers])

    given = (
        {},
        {"low_noise_lora": str(LORA)},
        {"low_noise_lora": str(LORA), "low_noise_alpha": 0.5, "alpha": 0.7},
        {"extra_lora": extra, "extra_alpha": 0.5},
        {"extra_lora": extra, "alpha": 0.3},
        {"low_noise_extra_lora": extra, "low_noise_lora": str(LORA)},
        {"lora": ""},
    )
    jobs = [replace(MODELS, **{"lora": str(LORA), **weights}) for weights in given]
    alone = [outputs(models.OpenModels(MODELS).get(job)) for job in jobs]
    together = models.OpenModels(MODELS)
    for job, expected in [*zip(jobs, alone), *reversed([*zip(jobs, alone)][:-1])]:
        assert torch.equal(outputs(together.get(job)), expected), job
    assert all(not torch.equal(a, b) for i, a in enumerate(alone) for b in alone[:i])


def two_experts(model, dtype):
    parts = {"tokenizer": None, "text_encoder": None, "vae": None, "scheduler": PusaScheduler(shift=5.0)}
    return PusaWanPipeline(
        **parts, transformer=open_wan(BASE, dtype), transformer_2=open_wan(BASE, dtype), boundary_ratio=0.9
    )
