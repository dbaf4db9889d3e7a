"""Wan2.2-TI2V-5B as it is, without a LoRA: a clean first frame is ComfyUI's own image to video for it."""

import logging

import comfy.sample
import pytest
import torch
from comfy_extras.nodes_model_advanced import ModelSamplingSD3
from comfy_extras.nodes_wan import Wan22ImageToVideoLatent

from tests.comfy.conftest import FRAMES, LENGTH

pytestmark = pytest.mark.usefixtures("inference_mode")
SEED, STEPS, SHIFT = 5, 6, 5.0


class _Vae:
    """As much of a VAE as a still needs: 48 channels, 16 times smaller, its latent follows from the picture's mean."""

    latent_channels = 48

    @staticmethod
    def spacial_compression_encode():
        return 16

    @staticmethod
    def encode(pictures):
        random = torch.Generator().manual_seed(int(1000 * pictures[..., :3].mean()))
        return torch.randn(1, 48, 1, pictures.shape[1] // 16, pictures.shape[2] // 16, generator=random)


@pytest.fixture
def picture():
    return torch.rand(1, 128, 128, 3, generator=torch.Generator().manual_seed(0))


def own_latent(picture):
    """What ComfyUI's node for this model gives."""
    output = Wan22ImageToVideoLatent.execute(_Vae, 128, 128, LENGTH, 1, picture)
    return output.args[0]


def stock_sampler(model, text, latent, sampler, scheduler, cfg):
    model = ModelSamplingSD3().patch(model, SHIFT)[0]
    noise = comfy.sample.prepare_noise(latent["samples"], SEED)
    return comfy.sample.sample(
        model, noise, STEPS, cfg, sampler, scheduler, text.positive, text.negative, latent["samples"],
        noise_mask=latent.get("noise_mask"), seed=SEED, disable_pbar=True,
    )  # fmt: skip


def planned(pack, picture, noise=0.0, index=0):
    core = pack.pusa_core
    keyframe = core.keyframes.still_keyframe(picture, index, "pixel", noise)
    plan = core.plan.plan_clip([keyframe], LENGTH, _Vae.encode)
    return pack.pusa_core.hosts.comfyui.plan_latent(_Vae, plan, 128, 128, LENGTH, 1), plan


def distance(a, b):
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("cfg", [1.0, 5.0])
@pytest.mark.parametrize("sampler, goal", [("euler", 1e-5), ("dpmpp_2m", 1e-5), ("uni_pc", 2e-3)])
def test_a_clean_first_frame_is_comfyuis_own_image_to_video(pack, wan_5b, text, picture, sampler, goal, cfg):
    """ComfyUI's uni_pc stops at 0.001 instead of 0 and scales what it gives by 1.001, which a schedule undoes."""
    expected = stock_sampler(wan_5b, text, own_latent(picture), sampler, "simple", cfg)
    latent, plan = planned(pack, picture)
    node = pack.nodes.sampling.PusaKSampler
    made = node.execute(wan_5b, text.positive, text.negative, latent, SEED, STEPS, cfg, sampler, "simple", SHIFT, 1.0)
    made = made.args[0]["samples"]
    assert made.shape == expected.shape == (1, 48, FRAMES, 8, 8)
    assert distance(made, expected) < goal
    patched = pack.nodes.schedule.PusaApplySchedule.execute(wan_5b, plan).args[0]
    stock = stock_sampler(patched, text, {"samples": latent["samples"]}, sampler, "simple", cfg)
    assert distance(stock, expected) < goal
    torch.testing.assert_close(made[:, :, :1], plan.clean[:, :, :1], rtol=0, atol=1e-5)


def test_the_first_frame_matters(pack, wan_5b, text, picture):
    """What the test above compares would differ without it."""
    expected = stock_sampler(wan_5b, text, own_latent(picture), "euler", "simple", 1.0)
    plain = stock_sampler(wan_5b, text, {"samples": own_latent(picture)["samples"]}, "euler", "simple", 1.0)
    assert distance(plain[:, :, 1:], expected[:, :, 1:]) > 1e-2


@pytest.mark.parametrize(
    "noise, index, warned", [(0.0, 0, False), (0.2, 0, True), (0.0, -1, True)], ids=["first frame", "noise", "last frame"]
)
def test_more_is_said_to_be_beyond_its_training(pack, wan_5b, text, picture, caplog, noise, index, warned):
    latent, plan = planned(pack, picture, noise, index)
    node = pack.nodes.sampling.PusaKSampler
    with caplog.at_level(logging.WARNING):
        node.execute(wan_5b, text.positive, text.negative, latent, SEED, 1, 1.0, "euler", "pusa", SHIFT, 1.0)
        pack.nodes.schedule.PusaApplySchedule.execute(wan_5b, plan)
    said = [
        record.message for record in caplog.records if "was trained with one picture as its first frame" in record.message
    ]
    assert len(said) == 2 * warned


def test_nothing_is_said_with_a_lora(pack, wan_5b, picture, caplog):
    _, plan = planned(pack, picture, 0.2)
    patched = wan_5b.clone()
    patched.add_patches({"diffusion_model.head.head.bias": (torch.zeros(192),)})
    with caplog.at_level(logging.WARNING):
        pack.nodes.schedule.PusaApplySchedule.execute(patched, plan)
    assert "was trained with" not in caplog.text
