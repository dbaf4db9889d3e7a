"""Calls and plans for pipelines without a VAE, whose plans are latents as the model sees them."""

from __future__ import annotations

import torch

from pusa_core.plan import Plan
from pusa_core.schedule import FrameMap, FrameSchedule
from tests import tiny

FRAMES, SIDE = 6, 8  # latent
LENGTH = 4 * FRAMES - 3  # pixel frames
MODE = {0: FrameMap.line(0.0), 2: FrameMap.line(0.4), 5: FrameMap.line(0.3, "hold")}
HELD = [0, 5]  # the frames of MODE that end on their pictures


def clean_latents(clips=1, seed=3):
    return torch.randn(clips, 16, FRAMES, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def make_plan(maps=None, clean=None):
    schedule = FrameSchedule.build(FRAMES, MODE if maps is None else maps)
    return Plan((schedule,), clean_latents() if clean is None else clean)


def make_call(clips=1, steps=3, **changed):
    """A call without keyframes."""
    g = torch.Generator().manual_seed(0)
    text = [torch.randn(clips, 8, tiny.TEXT_DIM, generator=g) for _ in range(2)]
    call = {
        "prompt_embeds": text[0], "negative_prompt_embeds": text[1], "num_frames": LENGTH, "height": 8 * SIDE,
        "width": 8 * SIDE, "latents": torch.randn(clips, 16, FRAMES, SIDE, SIDE, generator=g),
        "num_inference_steps": steps, "guidance_scale": 3.0, "output_type": "latent",
    }  # fmt: skip
    return {**call, **changed}
