"""The model in the box, opened by ComfyUI's own loaders: its files, and what its clips are worth."""

import pytest
import torch

from demo_model import BASE, LORA, MODELS, VAE
from demo_model.measure import decibels
from demo_model.studio import Studio
from demo_model.world import TEST_SEEDS, draw, scene

TEST = TEST_SEEDS + 500


@pytest.fixture(scope="module")
def studio(comfyui):
    return Studio()


def test_the_files_are_small():
    files = [path for path in MODELS.rglob("*") if path.is_file()]
    assert {BASE, LORA, VAE} <= set(files)
    assert sum(path.stat().st_size for path in files) < 20_000_000


def test_the_vae_keeps_pictures(studio, inference_mode):
    clips = draw([scene(TEST + i, held_out=i % 2 == 0) for i in range(8)])
    latents = torch.cat([studio.encode(clip) for clip in clips])
    assert latents.shape == (8, 16, 5, 8, 8)
    back = studio.decode(latents)
    assert decibels(back, clips).mean() > 30
    by_frame = decibels(back.transpose(0, 1), clips.transpose(0, 1))
    assert by_frame.min() > by_frame.mean() - 1.5  # no frame is worse: no seams, no drift


def test_the_model_sees_latents_of_unit_variance(studio, inference_mode):
    model = studio.model(None, 1.0).model
    latents = torch.cat([studio.encode(clip) for clip in draw([scene(TEST + i) for i in range(16)])])
    std, mean = torch.std_mean(model.process_latent_in(latents), dim=(0, 2, 3, 4))
    assert (std - 1).abs().max() < 0.2 and mean.abs().max() < 0.2


def test_whole_clips_are_what_streamed_ones_are(studio, inference_mode):
    """Training takes whole clips at once; ComfyUI streams them through its caches."""
    from demo_model import vae as whole

    try:
        network = whole.open_vae()
    except SystemExit as reason:
        pytest.skip(str(reason))
    clip = draw([scene(TEST)])
    latent = whole.encode(network, clip.permute(0, 4, 1, 2, 3) * 2 - 1)[0]
    torch.testing.assert_close(latent, studio.encode(clip[0]).float(), rtol=1e-3, atol=1e-2)
    back = whole.decode(network, latent).permute(0, 2, 3, 4, 1) / 2 + 0.5
    torch.testing.assert_close(back.clamp(0, 1), studio.decode(latent), rtol=0, atol=2e-3)
