"""Small models and clips for the tests that run inside ComfyUI."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from tests import tiny
from tests.forked import Forked

FRAMES, HEIGHT, WIDTH = 6, 8, 8  # latent
LENGTH = 21  # pixel frames


@pytest.fixture(scope="session")
def beside_a_card(comfyui):
    """Runs programs of tests/pretend that need ComfyUI."""
    with Forked("tests.pretend.comfyui") as forked:
        yield forked


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def wan(comfyui, folder):
    """A small Wan text-to-video MODEL."""
    return tiny.load_wan(tiny.write_wan(folder / "wan.safetensors", seed=1))


@pytest.fixture(scope="session")
def low_noise_wan(comfyui, folder):
    """Another one, to stand for Wan2.2's low-noise expert."""
    return tiny.load_wan(tiny.write_wan(folder / "low.safetensors", seed=2))


@pytest.fixture(scope="session")
def wan_5b(comfyui, folder):
    """A small Wan2.2-TI2V-5B: 48 latent channels."""
    return tiny.load_wan(tiny.write_wan(folder / "5b.safetensors", channels=48, seed=3))


@pytest.fixture(scope="session")
def text():
    return SimpleNamespace(positive=tiny.conditioning(seed=1), negative=tiny.conditioning(seed=2))


@pytest.fixture(scope="session")
def host(pack):
    return pack.pusa_core.hosts.comfyui


@pytest.fixture(scope="session")
def make_clip(pack):
    """make_clip(model, {latent frame: multiplier or (multiplier, behaviour)}) -> a clip with its plan and latent."""
    core = pack.pusa_core

    def make(model, keyframes, frames=FRAMES, batch=1, seed=0, size=(HEIGHT, WIDTH)):
        pairs = {i: k if isinstance(k, tuple) else (k, "evolve") for i, k in keyframes.items()}
        schedule = core.schedule.FrameSchedule.build(
            frames, {i: core.schedule.FrameMap.line(*pair) for i, pair in pairs.items()}
        )
        form = model.model.latent_format
        clean = torch.randn(1, form.latent_channels, frames, *size, generator=torch.Generator().manual_seed(seed))
        keyed = torch.zeros(1, 1, frames, 1, 1, dtype=torch.bool)
        keyed[:, :, list(pairs)] = True
        clean = torch.where(keyed, clean, 0.0)  # as the model sees it
        plan = core.plan.Plan((schedule,), form.process_out(clean) if pairs else None)
        latent = {"samples": form.process_out(clean).repeat(batch, 1, 1, 1, 1)}
        return SimpleNamespace(plan=plan, latent=latent, clean=clean, pairs=pairs)

    return make


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """Small random Wans by name: high, low, 5b."""
    folder = tmp_path_factory.mktemp("wans")
    names = {"high": {"seed": 1}, "low": {"seed": 2}, "5b": {"seed": 3, "channels": 48}}
    return {name: tiny.write_wan(folder / f"{name}.safetensors", **options) for name, options in names.items()}


@pytest.fixture(scope="session")
def plain(files):
    """A pipeline of Diffusers with the first of them."""
    from tests.comfy.pipelines import random_pipe

    return random_pipe(files["high"])
