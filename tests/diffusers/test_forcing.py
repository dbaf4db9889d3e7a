"""SkyReels-V2's transformers of Diffusers, as the Wans that they are, against their own class."""

import pytest
import torch
from diffusers import AutoencoderKLWan, SkyReelsV2DiffusionForcingPipeline, SkyReelsV2Transformer3DModel
from safetensors.torch import load_file, save_file

from pusa_core.hosts.diffusers import PusaWanPipeline, as_wan, open_wan, velocity
from pusa_core.hosts.diffusers.per_frame import per_frame_timesteps
from pusa_core.staircase import Staircase
from tests import tiny
from tests.diffusers.small import FRAMES, LENGTH, SIDE, make_call


def skyreels(has_rate, blocks=1):
    torch.manual_seed(0)
    return SkyReelsV2Transformer3DModel(
        num_attention_heads=1, attention_head_dim=128, text_dim=tiny.TEXT_DIM, ffn_dim=256, num_layers=2,
        inject_sample_info=has_rate, num_frame_per_block=blocks,
    ).eval()  # fmt: skip


def inputs():
    g = torch.Generator().manual_seed(0)
    sigmas = torch.rand(2, FRAMES, generator=g)
    return torch.randn(2, 16, FRAMES, SIDE, SIDE, generator=g), sigmas, torch.randn(2, 6, tiny.TEXT_DIM, generator=g)


def their_velocity(model, latents, sigmas, text, row=None):
    rate = None if row is None else [row]
    return model(latents, 1000 * sigmas, text, enable_diffusion_forcing=True, fps=rate, return_dict=False)[0]


def distance(a, b):
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("fps, row", [(None, None), (16, 0), (24, 1), (30, 1)])
def test_as_a_wan(fps, row, tmp_path, inference_mode):
    """In memory, and from the folder of a saved one."""
    with torch.inference_mode(False):
        model = skyreels(has_rate=fps is not None)
        model.save_pretrained(tmp_path)
    expected = their_velocity(model, *inputs(), row)
    for wan in (as_wan(model, fps or 24), open_wan(tmp_path, torch.float32, fps or 24)):
        assert distance(velocity(wan, *inputs()), expected) < 1e-5
    if row == 0:
        assert distance(velocity(as_wan(model, 24), *inputs()), expected) > 1e-3


@pytest.mark.parametrize("block", [2, 3])
def test_causal_attention(block, inference_mode):
    latents, sigmas, text = inputs()
    expected = their_velocity(skyreels(False, block), latents, sigmas, text)
    wan = as_wan(skyreels(False))
    with per_frame_timesteps(wan, [block] * (FRAMES // block)):
        made = wan(latents, (1000 * sigmas).flatten(), text, return_dict=False)[0]
    assert distance(made, expected) < 1e-5


@pytest.mark.parametrize("fps", [16, 24])
def test_the_original_file(tmp_path, fps, inference_mode):
    """With the names that Wan's own code gives its weights."""
    from pusa_core.wan import original_key

    model = skyreels(has_rate=True)
    names = {"net.0.proj": "0", "net.2": "2"}
    state = {}
    for key, tensor in model.state_dict().items():
        for theirs, original in names.items():
            key = key.replace(f"fps_projection.{theirs}", f"fps_projection.{original}")
        state[key if key.startswith("fps_") else original_key(key)] = tensor.contiguous()
    save_file(state, tmp_path / "skyreels.safetensors")
    assert "time_projection.1.bias" in load_file(tmp_path / "skyreels.safetensors")
    wan = open_wan(tmp_path / "skyreels.safetensors", torch.float32, fps)
    assert distance(velocity(wan, *inputs()), velocity(as_wan(model, fps), *inputs())) < 1e-6


def test_their_pipeline(make_pipe, vae_file, inference_mode):
    """Its models in ours, sampled along a staircase."""
    from pusa_core.hosts.diffusers import open_vae

    model = skyreels(has_rate=True)
    parts = {"tokenizer": None, "text_encoder": None, "vae": open_vae(vae_file)}
    pipe = PusaWanPipeline.from_wan(
        SkyReelsV2DiffusionForcingPipeline(**parts, transformer=model, scheduler=make_pipe().scheduler)
    )
    pipe.set_progress_bar_config(disable=True)
    assert isinstance(pipe.vae, AutoencoderKLWan)
    call = make_call(staircase=Staircase(4, 8.0, 1, 2, causal=True), guidance_scale=1.0)
    made = pipe(**call).frames
    assert made.shape == (1, 16, FRAMES, SIDE, SIDE)
    assert not torch.allclose(made, pipe(**{**call, "staircase": Staircase(4, 8.0, 1, 2)}).frames, atol=1e-2)
    picture = torch.rand(8 * SIDE, 8 * SIDE, 3)
    given = pipe(**{**call, "keyframes": [(picture, 0, 0.0)]}).frames
    plan = pipe.plan([(picture, 0, 0.0)], 8 * SIDE, 8 * SIDE, LENGTH, call["staircase"])
    torch.testing.assert_close(given[:, :, 0], pipe._normalised(plan.clean)[:, :, 0])
    assert pipe(**{**call, "keyframes": plan, "staircase": None}).frames.equal(given)
