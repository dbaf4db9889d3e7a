"""Sample clips while training, decoded by ComfyUI's VAE."""

import pytest

pytest.importorskip("accelerate", reason="the trainer's packages are not installed: pip install .[train]")

import torch  # noqa: E402
from PIL import Image  # noqa: E402

from demo_model import VAE  # noqa: E402
from demo_model.text import encode  # noqa: E402
from tests import tiny  # noqa: E402
from trainer.data import NEGATIVE, PackedText, save_clip  # noqa: E402
from trainer.settings import Settings  # noqa: E402


@pytest.fixture
def settings(tmp_path, comfyui):
    from accelerate.state import AcceleratorState

    for i in range(2):
        latent, text = torch.randn(16, 3, 8, 8), PackedText.pack(encode("a red circle moves left")[0])
        save_clip(tmp_path / "cache" / f"{i}.safetensors", latent, text, {})
    save_clip(tmp_path / "cache" / NEGATIVE, None, PackedText.pack(encode("")[0]), {})
    wan = tiny.write_wan(tmp_path / "wan.safetensors")
    yield Settings(
        wan, tmp_path / "cache", tmp_path / "run", VAE, steps=2, batch=1, rank=2, dtype="float32", sample_every=2, samples=1
    )
    AcceleratorState._reset_state(True)


def test_samples_are_animations_and_in_tensorboard(settings):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from trainer.train import train

    train(settings)
    [path] = (settings.output / "samples").iterdir()
    with Image.open(path) as animation:
        assert path.name == "000002_0.webp" and animation.n_frames == 9 and animation.size == (64, 64)
    events = EventAccumulator(str(settings.output / "log"))
    events.Reload()
    assert [image.step for image in events.Images("sample 0")] == [2]


def test_a_vae_for_other_latents_is_refused_before_training(settings, tmp_path):
    from dataclasses import replace

    from trainer.train import train

    for path in (tmp_path / "cache").glob("[0-9]*"):
        save_clip(path, torch.randn(48, 3, 8, 8), PackedText.pack(encode("")[0]), {})
    wan = tiny.write_wan(tmp_path / "5b.safetensors", channels=48)
    with pytest.raises(
        ValueError, match="pusa_demo_vae.safetensors is for latents of 16 channels, but the cached ones have 48"
    ):
        train(replace(settings, model=wan))
    with pytest.raises(ValueError, match="nowhere.safetensors is not there"):
        train(replace(settings, model=wan, vae=tmp_path / "nowhere.safetensors"))
