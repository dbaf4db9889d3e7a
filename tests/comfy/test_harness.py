"""The tiny models open in the stock loaders and behave enough like real ones to test with."""

import sys

import pytest
import torch

from tests import tiny

pytestmark = pytest.mark.usefixtures("inference_mode")

FRAMES = 5


@pytest.fixture(scope="module")
def wan(tmp_path_factory):
    return tiny.load_wan(tiny.write_wan(tmp_path_factory.mktemp("wan") / "wan.safetensors"))


def velocity(model, x, timesteps, text):
    """The bare diffusion model's output for x (1, C, F, H, W)."""
    return model.model.diffusion_model(x, timesteps, text, transformer_options={})


def noise(channels=16, seed=0):
    return torch.randn(1, channels, FRAMES, 8, 8, generator=torch.Generator().manual_seed(seed))


def change(a, b):
    """How far b is from a, in a's standard deviations."""
    return ((a - b).std() / a.std()).item()


TEXT = tiny.conditioning()[0][0]
T = torch.tensor([700.0])


def test_comfyui_comes_first(comfyui):
    import comfy.cli_args

    import nodes

    assert nodes.__file__ == str(comfyui / "nodes.py")
    assert comfy.cli_args.args.cpu
    assert sys.modules["tests"].__path__[0] != str(comfyui / "tests")


def test_wan_output_has_unit_scale(wan):
    out = velocity(wan, noise(), T, TEXT)
    assert out.shape == noise().shape
    assert 0.5 < out.std() < 3


def test_wan_depends_on_time_smoothly(wan):
    out = velocity(wan, noise(), T, TEXT)
    assert change(out, velocity(wan, noise(), T - 10, TEXT)) < 0.05
    assert change(out, velocity(wan, noise(), T - 400, TEXT)) > 0.1


def test_wan_depends_on_text(wan):
    out = velocity(wan, noise(), T, TEXT)
    assert change(out, velocity(wan, noise(), T, tiny.conditioning(seed=1)[0][0])) > 0.1


def test_wan_frames_see_each_other(wan):
    other = noise()
    other[:, :, 0] = noise(seed=1)[:, :, 0]
    before, after = velocity(wan, noise(), T, TEXT), velocity(wan, other, T, TEXT)
    assert change(before[:, :, 4], after[:, :, 4]) > 0.03


def test_wan_takes_a_timestep_per_frame(wan):
    timesteps = T.repeat(1, FRAMES)
    out = velocity(wan, noise(), timesteps, TEXT)
    torch.testing.assert_close(out, velocity(wan, noise(), T, TEXT), atol=1e-4, rtol=1e-4)
    timesteps[:, 0] = 0
    clean_first = velocity(wan, noise(), timesteps, TEXT)
    assert change(out[:, :, 0], clean_first[:, :, 0]) > 0.1
    assert change(out[:, :, 4], clean_first[:, :, 4]) > 0.01


def test_wan_files_are_reproducible(tmp_path):
    a, b, c = (tiny.write_wan(tmp_path / f"{i}.safetensors", seed=seed) for i, seed in enumerate((3, 3, 4)))
    assert a.read_bytes() == b.read_bytes() != c.read_bytes()


@pytest.mark.parametrize(
    ("options", "model", "in_channels"),
    [
        ({"channels": 48}, "WAN22", 48),
        ({"in_channels": 36}, "WAN21", 36),
        ({"variant": "i2v"}, "WAN21", 36),
        ({"variant": "vace"}, "WAN21_Vace", 16),
        ({"variant": "camera"}, "WAN21_Camera", 32),
        ({"variant": "camera_2.2"}, "WAN21_Camera", 36),
        ({"variant": "ref_conv"}, "WAN21", 16),
    ],
)
def test_wan_variants_are_detected(tmp_path, caplog, options, model, in_channels):
    patcher = tiny.load_wan(tiny.write_wan(tmp_path / "wan.safetensors", **options))
    assert type(patcher.model).__name__ == model
    assert patcher.model.diffusion_model.patch_embedding.weight.shape[1] == in_channels
    assert "missing" not in caplog.text


@pytest.mark.parametrize(
    ("name", "channels", "scale"),
    [("vae16.safetensors", 16, 8), ("vae48.pt", 48, 16)],
)
def test_vae_round_trip(tmp_path, caplog, name, channels, scale):
    vae = tiny.load_vae(tiny.write_vae(tmp_path / name, channels))
    pixels = torch.rand(5, 32, 64, 3, generator=torch.Generator().manual_seed(0))
    latent = vae.encode(pixels)
    assert latent.shape == (1, channels, 2, 32 // scale, 64 // scale)
    assert 0.5 < latent.std() < 5
    decoded = vae.decode(latent)
    assert decoded.shape == (1, *pixels.shape)
    assert decoded.isfinite().all()
    assert decoded.std() > 0.05
    still = vae.encode(pixels[:1])
    torch.testing.assert_close(still, latent[:, :, :1], atol=1e-3, rtol=1e-3)  # the VAE is causal
    assert "Missing" not in caplog.text


@pytest.mark.parametrize(
    ("options", "patches"),
    [({}, 20), ({"spelling": "kohya", "alpha": 2}, 20), ({"spelling": "bare"}, 0)],
)
def test_lora_keys_match_in_the_stock_loader(tmp_path, wan, options, patches):
    import comfy.sd
    import comfy.utils

    lora = comfy.utils.load_torch_file(str(tiny.write_lora(tmp_path / "lora.safetensors", **options)))
    patched, _ = comfy.sd.load_lora_for_models(wan, None, lora, 1.0, 0.0)
    assert len(patched.patches) == patches
