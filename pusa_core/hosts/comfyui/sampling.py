"""Sampling a clip: the exact grid, one model or Wan2.2's two, the plan that the latent carries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.sample
import comfy.samplers
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from comfy_extras.nodes_model_advanced import ModelSamplingSD3
from torch import Tensor

from ...messages import fault
from ...plan import Plan
from ...schedule import pusa_sigmas
from ...virtual_latent import per_frame
from ...wan import EXPERT_BOUNDARY
from .checks import check_channels, check_prompts, warn_beyond_training
from .latents import PLAN, Planned, plan_for
from .lora_warnings import warn_loras
from .previews import Callback, preview_callback
from .schedule import CARRIED, applied_plan, apply_schedule, clean_latents

PUSA_SCHEDULER = "pusa"
SCHEDULERS = [PUSA_SCHEDULER, *comfy.samplers.SCHEDULER_NAMES]
SAMPLERS = comfy.samplers.SAMPLER_NAMES


@dataclass(frozen=True)
class Sampling:
    """The settings of a sampler node.

    Attributes:
        boundary: sigma below which a low-noise model takes over.
        start_step, end_step: the part of the sigma grid to sample, as in KSampler (Advanced).
        leftover_noise: keep the noise of the last sigma where `end_step` stops early.
        grid: sigmas (steps + 1,) to sample instead of the scheduler's.
        solver: a SAMPLER of ComfyUI's to sample with instead of the named one.
    """

    seed: int
    steps: int
    cfg: float
    sampler: str
    scheduler: str
    shift: float
    denoise: float = 1.0
    boundary: float = EXPERT_BOUNDARY
    add_noise: bool = True
    start_step: int = 0
    end_step: int | None = None
    leftover_noise: bool = False
    grid: Tensor | None = None
    solver: comfy.samplers.Sampler | None = None

    def sigmas(self, model: ModelPatcher, plan: Plan | None = None) -> Tensor:
        """The grid to sample: the given one or the plan's own, else Pusa's exact one or a scheduler's on a shifted model."""
        if self.grid is not None:
            sigmas = self.grid
        elif plan is not None and plan.grid is not None:
            sigmas = plan.grid
        else:
            sigmas = sigma_grid(model, self.scheduler, self.sampler, self.steps, self.shift, self.denoise)
        if self.end_step is not None and self.end_step < len(sigmas) - 1:
            sigmas = sigmas[: self.end_step + 1].clone()
            if not self.leftover_noise:
                sigmas[-1] = 0
        return sigmas[self.start_step :]


def sigma_grid(model: ModelPatcher, scheduler: str, sampler: str, steps: int, shift: float, denoise: float) -> Tensor:
    """The sigmas of Pusa's exact grid, or of one of ComfyUI's schedulers on a model with its shift. (steps + 1,)"""
    if scheduler == PUSA_SCHEDULER:
        return pusa_sigmas(steps, shift, denoise)
    stock = comfy.samplers.KSampler(model, steps, "cpu", sampler, scheduler, denoise, model.model_options)
    return stock.sigmas


def sample_clip(
    model: ModelPatcher,
    positive,
    negative,
    latent: dict[str, Any],
    sampling: Sampling,
    plan: Plan | None = None,
    low_noise_model: ModelPatcher | None = None,
    progress: Callback | None = None,
) -> dict[str, Any]:
    """Samples a clip, switching to the low-noise model where sigma falls below the boundary.

    Args:
        latent: ComfyUI's LATENT, samples (B, C, F, H, W).
        plan: to apply to the models; by default the one that is on the model, else the one that the latent carries.
        progress: is called after each step; by default the node's bar with a preview.

    Returns:
        The LATENT with new samples, which carries the plan on.

    Raises:
        ValueError: the latent is another model's, or was spoilt on its way, see `plan_for`; or there are prompts by frame.
    """
    check_prompts(*([options for _, options in conditioning] for conditioning in (positive, negative)))
    models = [model] if low_noise_model is None else [model, low_noise_model]
    plan = plan_for(latent, plan or applied_plan(model), not sampling.add_noise)
    if plan is not None and plan.grid is not None:
        _check_own_grid(sampling, low_noise_model)
    if plan is not None:
        warn_beyond_training(model, plan)
        for other in models[1:]:
            warn_loras(other)
        models = [apply_schedule(m, plan) for m in models]
    models = [ModelSamplingSD3().patch(m, sampling.shift)[0] for m in models]
    ratios = {key: value for key, value in latent.items() if key.startswith("downscale_ratio")}
    start = samples = comfy.sample.fix_empty_latent_channels(models[0], latent["samples"], **ratios)
    check_channels(models[0], start.shape[1])
    noise = torch.zeros_like(start, device="cpu")
    if sampling.add_noise:
        noise = comfy.sample.prepare_noise(start, sampling.seed, latent.get("batch_index"))
    sigmas, done = sampling.sigmas(models[0], plan), 0
    progress = progress or preview_callback(models[0], plan, start, max(len(sigmas) - 1, 1))
    for number, (expert, part) in enumerate(stages(models, sigmas, sampling.boundary)):
        if number > 0:
            noise = _carried_noise(expert, start, samples, float(part[0]))
            expert = expert.clone()
            expert.model_options["transformer_options"][CARRIED] = True
        samples = comfy.sample.sample_custom(
            expert,
            noise,
            sampling.cfg,
            sampling.solver or comfy.samplers.sampler_object(sampling.sampler),
            part,
            positive,
            negative,
            start,
            noise_mask=latent.get("noise_mask"),
            callback=_continued(progress, done, len(sigmas) - 1),
            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
            seed=(sampling.seed + number) % 2**64,  # stochastic samplers must not repeat the noise of the stage before
        )
        done += len(part) - 1
    kept = {key: value for key, value in latent.items() if key != PLAN and key not in ratios}
    carried = {} if plan is None else {PLAN: Planned(plan, samples, float(sigmas[-1]) if len(sigmas) > 1 else None)}
    return {**kept, "samples": samples, **carried}


def _check_own_grid(sampling: Sampling, low_noise_model: ModelPatcher | None) -> None:
    if sampling.denoise < 1:
        raise fault(
            "A denoise of {denoise} was given with a schedule that has a sigma grid of its own: set it to 1, and give frames "
            "that should keep something of a clip their own noise in the schedule.",
            denoise=f"{sampling.denoise:g}",
        )
    if low_noise_model is not None:
        raise fault(
            "The schedule has frames at high and at low noise in one evaluation, which needs one model for both, but a "
            "low-noise model is connected: use a model that is one (Wan2.1, SkyReels-V2), or a schedule without a delay."
        )


def stages(models: list[ModelPatcher], sigmas: Tensor, boundary: float) -> list[tuple[ModelPatcher, Tensor]]:
    """Which model samples which part of the grid: the high-noise one every step that starts at the boundary or above."""
    if len(models) == 1:
        return [(models[0], sigmas)] if len(sigmas) > 1 else []
    split = int((sigmas[:-1] >= boundary).sum())
    parts = zip(models, (sigmas[: split + 1], sigmas[split:]))
    return [(model, part) for model, part in parts if len(part) > 1]


def _carried_noise(model: ModelPatcher, start: Tensor, samples: Tensor, sigma: float) -> Tensor:
    """The noise that takes the latent a run started from to what an earlier stage left at `sigma`.

    With it a later stage starts like the first, so that a noise mask still keeps the latent's own content.
    """
    base, plan = model.model, applied_plan(model)
    start = start.to(samples.device)  # with --gpu-only, samples stay on the GPU
    origin = base.process_latent_in(start) if torch.count_nonzero(start) > 0 else start  # as ComfyUI does
    reached = base.process_latent_in(samples) * (1 - sigma)
    if plan is not None:
        clean = clean_latents(base, plan, start)
        keyed = per_frame(plan.keyframed.to(clean.device))
        origin = torch.where(keyed, clean, origin)
        reached = plan.table.to(clean.device).at(sigma).to_virtual(reached, clean)
    return (reached - (1 - sigma) * origin) / sigma


def _continued(progress: Callback, done: int, total: int) -> Callback:
    """A progress callback that counts on over several stages."""
    return lambda step, x0, x, _: progress(done + step, x0, x, total)
