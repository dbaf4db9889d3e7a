"""A long video on ComfyUI: each step of a rolling window is a run of ComfyUI's own sampler."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import comfy.sample
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...plan import Plan
from ...prompts import mixed, prompts_at
from ...rolling import GRID, Studio, WindowStep, noise_by_frame
from ...streaming import StreamingDecoder
from ...virtual_latent import per_frame
from ...wan import EXPERT_BOUNDARY
from .checks import FROM_FRAME
from .schedule import apply_schedule

Conditioning = list[Any]  # ComfyUI's


@dataclass(frozen=True)
class Guidance:
    """What a step is guided by.

    Attributes:
        positive: of a pixel frame by number.
        boundary: sigma below which a frame is sampled by the low-noise model, where there is one.
    """

    positive: Callable[[int], Conditioning]
    negative: Conditioning
    cfg: float
    boundary: float = EXPERT_BOUNDARY


def prompts_by_frame(conditioning: Conditioning, blend: int) -> Callable[[int], Conditioning]:
    """The conditioning of a pixel frame, of one whose entries say from which frame on they hold.

    Args:
        blend: pixel frames over which one passes into the next, around the frame at which it begins.
    """
    parts: dict[int, Conditioning] = {}
    for entry in conditioning:
        options = dict(entry[1])
        parts.setdefault(options.pop(FROM_FRAME, 0), []).append([entry[0], options])
    begins = sorted(parts)

    def at(frame: int) -> Conditioning:
        first, second, share = prompts_at(begins, blend, frame)
        before, after = parts[begins[first]], parts[begins[second]]
        if first == second:
            return before
        return [[mixed(old[0], new[0], share), new[1]] for old, new in zip(before, after)]

    return at


def long_video_studio(
    model: ModelPatcher,
    vae: Any,
    guidance: Guidance,
    seed: int,
    shape: tuple[int, int, int, int],
    low_noise_model: ModelPatcher | None = None,
    progress: Callable[[], None] = lambda: None,
) -> Studio:
    """What ComfyUI can do for a long video.

    Args:
        shape: of its latents without frames, (B, C, h, w).
        low_noise_model: with it every evaluation is made by both models, for frames are at high and at low noise at once.
        progress: called after each evaluation.

    Raises:
        ValueError: the VAE decodes whole clips only.
    """
    form = model.model.latent_format
    decoder = StreamingDecoder(vae.first_stage_model.decoder, lambda latent: vae.decode(form.process_out(latent)))

    def encode(pictures: Tensor) -> Tensor:
        return torch.cat([form.process_in(vae.encode(picture[..., :3]).float().cpu()) for picture in pictures])

    def euler(step: WindowStep, plan: Plan, latents: Tensor) -> Tensor:
        clean = plan.clean
        plan = replace(plan, clean=None if clean is None else form.process_out(clean))
        sampler = _Sampler(guidance.positive(step.goes_on_from), guidance.negative, guidance.cfg, seed, progress)
        if low_noise_model is None:
            return sampler(model, plan, latents)
        high, low = (sampler(expert, plan, latents) for expert in (model, low_noise_model))
        return torch.where(per_frame(step.sigmas[None, 1]) >= guidance.boundary, high, low)

    return Studio(noise_by_frame(seed, shape), euler, lambda latent: decoder.push(latent).float().cpu(), encode)


@dataclass(frozen=True)
class _Sampler:
    positive: Conditioning
    negative: Conditioning
    cfg: float
    seed: int
    progress: Callable[[], None]

    def __call__(self, model: ModelPatcher, plan: Plan, latents: Tensor) -> Tensor:
        """Takes frames along a grid that neither begins at 1 nor ends at 0, as ComfyUI's stages do."""
        form = model.model.latent_format
        sampled = comfy.sample.sample_custom(
            apply_schedule(model, plan),
            torch.zeros_like(latents),
            self.cfg,
            comfy.samplers.sampler_object("euler"),
            GRID,
            self.positive,
            self.negative,
            form.process_out(latents / (1 - GRID[0])),
            callback=lambda *_: self.progress(),
            disable_pbar=True,
            seed=self.seed,
        )
        return form.process_in(sampled.cpu()) * (1 - GRID[-1])


def fingerprint(name: str, model: ModelPatcher) -> dict[str, Any]:
    """What tells a model from others, cheaply: a part of its weights and of its patches, and how strong these are."""
    weights = model.model.diffusion_model.head.head.weight
    patches = [patch for patches in model.patches.values() for patch in patches]
    parts = [part.flatten()[:8].float().cpu() for patch in patches for part in _tensors(patch[1])]
    strength = sum(float(patch[0]) for patch in patches)
    return {
        f"{name} weights": weights.detach().flatten()[:4096],
        f"{name} patches": [len(model.patches), strength],
        f"{name} patched with": torch.cat([*parts, torch.zeros(1)]),
    }


def _tensors(patch: Any) -> Iterator[Tensor]:
    """Those of a patch, which is a tensor, holds some, or is one of ComfyUI's adapters."""
    if isinstance(patch, Tensor):
        yield patch
    elif isinstance(patch, (tuple, list)):
        for part in patch:
            yield from _tensors(part)
    else:
        yield from _tensors(getattr(patch, "weights", ()))


def text_fingerprint(name: str, conditioning: Conditioning) -> dict[str, Any]:
    """The same for a conditioning."""
    return {f"{name} {i}, from {entry[1].get(FROM_FRAME, 0)}": entry[0] for i, entry in enumerate(conditioning)}
