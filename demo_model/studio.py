"""The demo model on a real ComfyUI: tasks with known answers, sampled through the pack, many clips at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from environment.comfyui import import_comfyui
from pusa_core.keyframes import Keyframe, still_keyframe, video_keyframes
from pusa_core.plan import Plan, plan_clip

from . import BASE, LORA, VAE
from .text import encode
from .world import LENGTH, SIZE, Scene, draw


@dataclass(frozen=True)
class Task:
    """What is given of a true clip.

    Attributes:
        keyframes: (true clip, noise multipliers) -> keyframes.
        given: the true clip's frames that are.
        painted: the frames that the model has to paint itself.
    """

    keyframes: Callable[[Tensor, Sequence[float]], list[Keyframe]]
    given: tuple[int, ...]
    painted: slice


def _start(pictures: Tensor, m: Sequence[float]) -> list[Keyframe]:
    return [still_keyframe(pictures[:1], 0, "pixel", m[0])]


def _start_end(pictures: Tensor, m: Sequence[float]) -> list[Keyframe]:
    return [*_start(pictures, m), still_keyframe(pictures[-1:], -1, "pixel", m[-1])]


def _extension(pictures: Tensor, m: Sequence[float]) -> list[Keyframe]:
    return [video_keyframes(pictures, "first", 5, "pixel", "start", 0, f"{m[0]}, {m[-1]}")]


TASKS = {
    "text to video": Task(lambda pictures, m: [], (), slice(0, LENGTH)),
    "image to video": Task(_start, (0,), slice(1, LENGTH)),
    "start-end": Task(_start_end, (0, LENGTH - 1), slice(1, LENGTH - 4)),
    "extension": Task(_extension, tuple(range(5)), slice(5, LENGTH)),
}


@dataclass(frozen=True)
class Take:
    """How clips are sampled.

    Attributes:
        m: noise multipliers; the first keyframe gets the first, the last the last.
        inpaint: ComfyUI's noise mask on the keyframes instead of a Pusa schedule.
        lora: None for the bare base model.
    """

    task: str
    lora: Path | None = LORA
    alpha: float = 1.0
    m: tuple[float, ...] = (0.0,)
    steps: int = 10
    cfg: float = 3.0
    shift: float = 5.0
    sampler: str = "euler"
    seed: int = 0
    inpaint: bool = False


class Studio:
    """The demo model's files, opened by ComfyUI as its own loaders do."""

    def __init__(self) -> None:
        import_comfyui()

    @cached_property
    def vae(self):
        import comfy.sd
        import comfy.utils

        return comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(VAE)))

    @cached_property
    def base(self):
        import comfy.sd

        return comfy.sd.load_diffusion_model(str(BASE))

    def model(self, lora: Path | None, alpha: float):
        """The base model, with a LoRA on it if one is named."""
        from pusa_core.hosts.comfyui import load_pusa_lora

        return self.base if lora is None else load_pusa_lora(self.base, str(lora), alpha)[0]

    def encode(self, pictures: Tensor) -> Tensor:
        return self.vae.encode(pictures)

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, F, h, w) -> (B, T, H, W, 3)."""
        return torch.stack([self.vae.decode(latent[None])[0] for latent in latents]).cpu()

    def plan(self, scenes: Sequence[Scene], take: Take) -> Plan:
        """The keyframes of all scenes as one plan, whose clean latents have a batch of clips."""
        keyframes = TASKS[take.task].keyframes
        plans = [plan_clip(keyframes(clip, take.m), LENGTH, self.encode) for clip in draw(scenes)]
        clean = None if plans[0].clean is None else torch.cat([p.clean for p in plans])
        return replace(plans[0], clean=clean)

    def latents(self, scenes: Sequence[Scene], take: Take) -> Tensor:
        """Sampled clips, (B, C, F, h, w)."""
        from pusa_core.hosts.comfyui import Sampling, plan_latent, sample_clip

        plan = self.plan(scenes, take)
        samples = plan_latent(self.vae, plan, SIZE, SIZE, LENGTH, len(scenes))["samples"]
        latent = {"samples": samples}
        if take.inpaint:
            painted = ~plan.keyframed[0]
            shape = (len(scenes), 1, *samples.shape[2:])
            latent["noise_mask"] = painted.float()[None, None, :, None, None].expand(shape)
        text = torch.cat([encode(s.caption) for s in scenes])
        conds = [[[text, {}]], [[torch.zeros_like(text), {}]]]
        sampling = Sampling(take.seed, take.steps, take.cfg, take.sampler, "pusa", take.shift)
        model = self.model(take.lora, take.alpha)
        return sample_clip(model, *conds, latent, sampling, None if take.inpaint else plan)["samples"]

    def film(self, scenes: Sequence[Scene], take: Take) -> Tensor:
        """Clips as pictures, (B, T, H, W, 3)."""
        with torch.inference_mode():
            return self.decode(self.latents(scenes, take))
