"""A small model, cached clips and settings for the trainer's tests."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

pytest.importorskip("accelerate", reason="the trainer's packages are not installed: pip install .[train]")
pytest.importorskip("diffusers", reason="the trainer's packages are not installed: pip install .[train]")

import torch  # noqa: E402

from tests import tiny  # noqa: E402
from trainer.data import NEGATIVE, PackedText, save_clip  # noqa: E402

OPTIMIZER = "adamw8bit" if find_spec("torchao") else "adamw"  # which is not in every environment, for it warns on import
SHAPES = (16, 3, 4, 4), (16, 3, 4, 6)
TEXT = (8, 64)


@pytest.fixture(scope="session")
def wan_file(tmp_path_factory):
    """A Wan checkpoint of 0.3 M weights."""
    return tiny.write_wan(tmp_path_factory.mktemp("model") / "wan.safetensors", dim=64, heads=2, ffn=96, text_dim=TEXT[1])


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """Six cached clips of two shapes, which the first two steps of a run with seed 0 take turns in."""
    folder = tmp_path_factory.mktemp("cache")
    generator = torch.Generator().manual_seed(0)
    for i in range(6):
        latent, text = (torch.randn(shape, generator=generator) for shape in (SHAPES[i % 2], TEXT))
        save_clip(folder / f"clip{i}.safetensors", latent, PackedText.pack(text), {"caption": f"clip {i}"})
    save_clip(folder / NEGATIVE, None, PackedText.pack(torch.zeros(TEXT)), {"caption": ""})
    return folder


@pytest.fixture(autouse=True)
def forget_accelerate():
    """Accelerate keeps one state for a process, whose precision cannot change."""
    from accelerate.state import AcceleratorState

    yield AcceleratorState._reset_state
    AcceleratorState._reset_state(True)


@pytest.fixture
def uncompiled(monkeypatch):
    """torchao compiles its step, which takes long for tiny models."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)


def small_run(wan_file, cache, output):
    from trainer.settings import Settings

    return Settings(
        wan_file, cache, output, steps=4, batch=4, micro_batch=2, rank=4, lr=1e-2, dtype="float32", checkpoint_every=2,
        sample_every=0,
    )  # fmt: skip


def losses_of(settings, steps=15):
    """Of a training on the same clips, sigmas and noise in every step: what is learned shows at once."""
    from accelerate import Accelerator

    from pusa_core.hosts.diffusers import open_wan
    from trainer.data import ClipCache
    from trainer.lora import train_lora
    from trainer.optimiser import make_optimizer
    from trainer.savings import save_memory
    from trainer.train import PRECISION, samples_loss

    accelerator = Accelerator(cpu=True, mixed_precision=PRECISION[settings.dtype])
    wan, clips = open_wan(settings.model, getattr(torch, settings.dtype)), ClipCache(settings.cache)
    optimizer = make_optimizer(train_lora(wan, settings), settings)
    save_memory(wan, settings, accelerator.device)
    losses = []
    for _ in range(steps):
        loss = samples_loss(wan, clips, settings, range(settings.batch), accelerator)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


@pytest.fixture
def settings(wan_file, cache, tmp_path):
    return small_run(wan_file, cache, tmp_path / "run")


@pytest.fixture(scope="session")
def finished(wan_file, cache, tmp_path_factory):
    """The file of a run of such settings; tests leave it as it is."""
    from trainer.train import train

    return train(small_run(wan_file, cache, tmp_path_factory.mktemp("finished")))
