"""Small random Wans in pipelines of Diffusers, without a VAE and a text encoder."""

from __future__ import annotations

import pytest

pytest.importorskip("diffusers", reason="the trainer's packages are not installed: pip install .[train]")

import torch  # noqa: E402

from pusa_core.hosts.diffusers import PusaScheduler, PusaWanPipeline, open_wan  # noqa: E402
from tests import tiny  # noqa: E402


@pytest.fixture(scope="session")
def wan_file(tmp_path_factory):
    return tiny.write_wan(tmp_path_factory.mktemp("wan") / "wan.safetensors", seed=1)


@pytest.fixture(scope="session")
def vae_file(tmp_path_factory):
    return tiny.write_vae(tmp_path_factory.mktemp("vae") / "vae.safetensors")


@pytest.fixture(scope="session")
def make_pipe(wan_file):
    """make_pipe(another pipeline class, **parts) -> a pipeline with a transformer of its own."""

    def make(cls=PusaWanPipeline, **parts):
        parts = {"tokenizer": None, "text_encoder": None, "vae": None, "scheduler": PusaScheduler(), **parts}
        pipe = cls(transformer=open_wan(wan_file, torch.float32), **parts)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return make
