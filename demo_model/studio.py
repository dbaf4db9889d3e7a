"""The demo model on a real ComfyUI: tasks with known answers, sampled through the pack, many clips at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pusa_core.hosts.comfyui_folder import import_comfyui
from pusa_core.keyframes import ClipPlan, plan_clip, still_keyframe, video_keyframes

from . import BASE, LORA, VAE
from .measure import follows, look_for, motion_error
from .text import encode
from .world import LENGTH, SIZE, Scene, draw

Keyframes = Callable[[Tensor, Sequence[float]], list]


def _start(pictures: Tensor, m: Sequence[float]) -> list:
    return [still_keyframe(pictures[:1], 0, "pixel", m[0])]


def _start_end(pictures: Tensor, m: Sequence[float]) -> list:
    return [*_start(pictures, m), still_keyframe(pictures[-1:], -1, "pixel", m[-1])]


def _extension(pictures: Tensor, m: Sequence[float]) -> list:
    values = ", ".join(map(str, [m[0], m[-1]]))
    return [video_keyframes(pictures, "first", 5, "pixel", "start", 0, values)]


# name -> (keyframes from the true clip and noise multipliers, first frame that the model has to paint itself)
TASKS: dict[str, tuple[Keyframes, slice]] = {
    "text to video": (lambda pictures, m: [], slice(0, LENGTH)),
    "image to video": (_start, slice(1, LENGTH)),
    "start-end": (_start_end, slice(1, LENGTH - 4)),
    "extension": (_extension, slice(5, LENGTH)),
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


@dataclass
class Studio:
    """The demo model's files, opened by ComfyUI."""

    base: Path = BASE
    vae_file: Path = VAE
    _models: dict[Any, Any] = field(default_factory=dict)

    @cached_property
    def vae(self):
        import_comfyui()
        import comfy.sd
        import comfy.utils

        return comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(self.vae_file)))

    def model(self, lora: Path | None, alpha: float):
        import_comfyui()
        import comfy.sd

        from pusa_core.hosts.comfyui import load_pusa_lora

        if None not in self._models:
            self._models[None] = comfy.sd.load_diffusion_model(str(self.base))
        if lora is None:
            return self._models[None]
        return load_pusa_lora(self._models[None], str(lora), alpha)[0]

    def encode(self, pictures: Tensor) -> Tensor:
        return self.vae.encode(pictures)

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, F, h, w) -> (B, T, H, W, 3)."""
        return torch.stack([self.vae.decode(latent[None])[0] for latent in latents]).cpu()

    def plan(self, scenes: Sequence[Scene], take: Take) -> ClipPlan:
        """The keyframes of all scenes as one plan, whose clean latents have a batch of clips."""
        keyframes, _ = TASKS[take.task]
        plans = [plan_clip(keyframes(clip, take.m), LENGTH, self.encode) for clip in draw(scenes)]
        clean = None if plans[0].clean is None else torch.cat([p.clean for p in plans])
        return replace(plans[0], clean=clean)

    def latents(self, scenes: Sequence[Scene], take: Take, apply: Callable | None = None) -> tuple[Tensor, ClipPlan]:
        """Sampled clips (B, C, F, h, w) and their plan. apply: what puts a plan on a model, the pack's own by default."""
        from pusa_core.hosts.comfyui import Sampling, apply_schedule, plan_latent, sample_clip

        model = self.model(take.lora, take.alpha)
        plan = self.plan(scenes, take)
        latent = plan_latent(self.vae, plan, SIZE, SIZE, LENGTH, len(scenes))
        latent.pop("pusa_keyframed", None)
        if take.inpaint:
            keyed = torch.tensor(plan.schedule.needs_clean_latent)
            latent["noise_mask"] = (
                (~keyed).float()[None, None, :, None, None].expand(len(scenes), 1, -1, *latent["samples"].shape[3:])
            )
        else:
            model = (apply or apply_schedule)(model, plan)
        text = torch.cat([encode(s.caption) for s in scenes])
        sampling = Sampling(take.seed, take.steps, take.cfg, take.sampler, "pusa", take.shift)
        conds = [[[text, {}]], [[torch.zeros_like(text), {}]]]
        return sample_clip(model, *conds, latent, sampling)["samples"], plan

    def film(self, scenes: Sequence[Scene], take: Take) -> Tensor:
        """Clips as pictures, (B, T, H, W, 3)."""
        with torch.inference_mode():
            return self.decode(self.latents(scenes, take)[0])


# --- what clips are worth ------------------------------------------------------------------------------------------------


def mean_motion_error(frames: Tensor, scenes: Sequence[Scene], task: str) -> float:
    """Pixels between objects and where the law of motion has them, in the frames that the model painted."""
    return sum(motion_error(f, s, TASKS[task][1]) for f, s in zip(frames, scenes)) / len(scenes)


def permanence(frames: Tensor, scenes: Sequence[Scene]) -> float:
    """Share of frames in which every object is there with at least half of its true area, or hidden as it should be."""
    kept = []
    for clip, s, truth in zip(frames, scenes, draw(scenes)):
        for actor in s.actors:
            true, seen = look_for(truth, actor.colour).area, look_for(clip, actor.colour).area
            kept.append((seen >= 0.5 * true).float().mean())
    return float(torch.stack(kept).mean())


def colour_drift(frames: Tensor, scenes: Sequence[Scene]) -> float:
    """Mean change of an object's colour from the first frame to the last, in levels of 255."""
    drifts = []
    for clip, s in zip(frames, scenes):
        for actor in s.actors:
            masks = look_for(clip, actor.colour).masks
            if masks[0].any() and masks[-1].any():
                first, last = (clip[i][masks[i]].median(0).values for i in (0, -1))
                drifts.append(255 * (first - last).abs().mean())
    return float(torch.stack(drifts).mean()) if drifts else float("nan")


def fidelity(frames: Tensor, given: Tensor, keyed: list[bool]) -> float:
    """Decibels of the decoded keyframes against the clip that they were taken from."""
    pixels = [i for k, is_key in enumerate(keyed) if is_key for i in ([0] if k == 0 else range(4 * k - 3, 4 * k + 1))]
    return float(-10 * (frames[:, pixels] - given[:, pixels]).square().mean().log10())


def caption_share(frames: Tensor, scenes: Sequence[Scene]) -> dict[str, float]:
    """Share of objects whose colour, shape, direction, and all three, are as their caption says."""
    verdicts = [v for clip, s in zip(frames, scenes) for v in follows(clip, s)]
    return {what: sum(getattr(v, what) for v in verdicts) / len(verdicts) for what in ("colour", "shape", "direction", "all")}
