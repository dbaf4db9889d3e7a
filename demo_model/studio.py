"""The demo model on a real ComfyUI: tasks with known answers, sampled through the pack, many clips at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from environment.comfyui import import_comfyui
from pusa_core.keyframes import Keyframe, still_keyframe, video_keyframes
from pusa_core.plan import Plan, plan_clip, retimed
from pusa_core.staircase import Staircase
from pusa_core.virtual_latent import per_frame

from . import BASE, LORA, VAE
from .text import encode
from .world import LENGTH, SIZE, Scene, draw

DECODED_AT_ONCE = 16  # clips; one by one takes twice as long


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
class SampleSettings:
    """How clips are sampled.

    Attributes:
        m: noise multipliers; the first keyframe gets the first, the last the last.
        inpaint: ComfyUI's noise mask on the keyframes instead of a Pusa schedule.
        lora: None for the bare base model.
        staircase: when frames take their steps; it has steps and a shift of its own.
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
    staircase: Staircase | None = None


class Studio:
    """The demo model's files, opened by ComfyUI as its own loaders do."""

    def __init__(self) -> None:
        import_comfyui()
        from pusa_core.hosts import comfyui
        from pusa_core.hosts.comfyui import models, vae

        self.host, self.models, self.vaes = comfyui, models, vae
        self._plan_of = lru_cache(maxsize=None)(self._encoded)  # the same clips come again with other settings

    @cached_property
    def vae(self) -> Any:
        vae = self.vaes.open_vae(VAE).vae
        for layer in vae.first_stage_model.modules():
            if isinstance(layer, torch.nn.Conv3d):
                layout = torch.channels_last_3d  # with it a CPU decodes the same in a little over half the time
                layer.weight.data = layer.weight.data.to(memory_format=layout)
        return vae

    @cached_property
    def base(self) -> Any:
        return self.models.open_model(BASE)

    def model(self, lora: Path | None, alpha: float) -> Any:
        """The base model, with a LoRA on it if one is named."""
        return self.base if lora is None else self.host.load_pusa_lora(self.base, str(lora), alpha)[0]

    def encode(self, pictures: Tensor) -> Tensor:
        """(T, H, W, 3) -> (1, C, F, h, w)."""
        return self.vae.encode(pictures)

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, F, h, w) -> (B, T, H, W, 3)."""
        return torch.cat([self.vae.decode(part) for part in latents.split(DECODED_AT_ONCE)]).cpu()

    def plan(self, scenes: Sequence[Scene], settings: SampleSettings) -> Plan:
        """The keyframes of all scenes as one plan, whose clean latents have a batch of clips."""
        plans = [self._plan_of(s, settings.task, settings.m) for s in scenes]
        clean = [plan.clean for plan in plans if plan.clean is not None]
        plan = replace(plans[0], clean=torch.cat(clean) if clean else None)
        return plan if settings.staircase is None else retimed(plan, settings.staircase)

    def _encoded(self, scene: Scene, task: str, m: tuple[float, ...]) -> Plan:
        return plan_clip(TASKS[task].keyframes(draw([scene])[0], m), LENGTH, self.encode)

    def latents(self, scenes: Sequence[Scene], settings: SampleSettings) -> Tensor:
        """Sampled clips, (B, C, F, h, w)."""
        return self._latents(self.plan(scenes, settings), scenes, settings)

    def _latents(self, plan: Plan, scenes: Sequence[Scene], settings: SampleSettings) -> Tensor:
        latent = self.host.plan_latent(self.vae, plan, SIZE, SIZE, LENGTH, len(scenes))
        if settings.inpaint:
            latent = {"samples": latent["samples"], "noise_mask": _painted_mask(plan, latent["samples"])}
        text = torch.cat([encode(s.caption) for s in scenes])
        conds = [[text, {}]], [[torch.zeros_like(text), {}]]
        sampling = self.host.Sampling(
            settings.seed, settings.steps, settings.cfg, settings.sampler, self.host.PUSA_SCHEDULER, settings.shift
        )
        return self.host.sample_clip(self.model(settings.lora, settings.alpha), *conds, latent, sampling)["samples"]

    def sample(self, scenes: Sequence[Scene], settings: SampleSettings) -> Tensor:
        """Sampled clips as pictures, (B, T, H, W, 3)."""
        with torch.inference_mode():
            return self.decode(self.latents(scenes, settings))

    def sample_from(self, keyframes: Sequence[list[Keyframe]], scenes: Sequence[Scene], settings: SampleSettings) -> Tensor:
        """The same from keyframes of each clip's own, in place of the task's; all at the same frames with the same noise."""
        plans = [plan_clip(of_clip, LENGTH, self.encode) for of_clip in keyframes]
        plan = replace(plans[0], clean=torch.cat([p.clean for p in plans if p.clean is not None]))
        with torch.inference_mode():
            return self.decode(self._latents(plan, scenes, settings))


def _painted_mask(plan: Plan, samples: Tensor) -> Tensor:
    """ComfyUI's noise mask: 1 on the latent frames that are no keyframes, (B, 1, F, h, w)."""
    painted = per_frame(~plan.keyframed).float()
    return painted.expand(len(samples), 1, *samples.shape[2:])
