"""Diffusers' pipeline on small random models without a VAE, whose plans are latents as the model sees them."""

import torch
from diffusers import WanPipeline

from pusa_core.hosts.diffusers import PusaWanPipeline, open_wan
from pusa_core.plan import Plan
from tests import tiny


def random_pipe(*files, **config):
    pipe = PusaWanPipeline.from_wan(
        WanPipeline(None, None, None, None, *(open_wan(f, torch.float32) for f in files), **config)
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


MODE = {0: 0.0, 2: 0.4, 5: (0.3, "hold")}


def random_call(clip, **changed):
    """A call on a clip of the fixture `make_clip`, with its clean latents as the model sees them."""
    start = torch.randn(clip.clean.shape, generator=torch.Generator().manual_seed(3))
    call = {
        "keyframes": Plan(clip.plan.schedules, clip.clean), "num_frames": 21, "latents": start, "output_type": "latent",
        "prompt_embeds": tiny.conditioning(seed=1)[0][0], "negative_prompt_embeds": tiny.conditioning(seed=2)[0][0],
    }  # fmt: skip
    return {**call, **changed}


def sampled_by_comfyui(host, models, text, clip):
    """The clip that `random_call` makes, as the model sees it."""
    samples = host.sample_clip(
        models[0], text.positive, text.negative, clip.latent, host.Sampling(3, 10, 3.0, "euler", "pusa", 5.0), clip.plan,
        *models[1:],
    )["samples"]  # fmt: skip
    return models[0].model.process_latent_in(samples)
