"""Samplers and grids of ComfyUI, compared with a fine run on the user's own model, prompt and latent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_model_advanced import ModelSamplingSD3
from torch import Tensor

from ...evaluations import Candidate, Comparison, Settings, Trials, Way, compare, frame_kinds
from ...messages import fault, shorten
from ...plan import Plan
from ...schedule import FrameSchedule
from .checks import check_sampler
from .latents import plan_for
from .sampling import SAMPLERS, SCHEDULERS, Sampling, sample_clip, sigma_grid, stages
from .schedule import applied_plan

KEY = "pusa_evaluations"
OWN_STEPS = ("dpm_fast", "dpm_adaptive")  # they choose their steps themselves and stop a sigma early


class _Model:
    """Stands for a guider where only the calls are of interest: to it every latent is half noise, whatever sigma."""

    cfg = 1.0

    def __init__(self, model: ModelPatcher):
        self.inner_model, self.model_patcher, self.calls = model.model, model, 0

    def __call__(
        self, x: Tensor, sigma: Tensor, model_options: dict[str, Any] | None = None, seed: int | None = None
    ) -> Tensor:
        self.calls += 1
        for hook in (model_options or {}).get("sampler_post_cfg_function", ()):
            hook({"denoised": x / 2, "uncond_denoised": x / 2})
        return x / 2

    def sampled(self, solver: comfy.samplers.Sampler, sigmas: Tensor, seed: int) -> Tensor:
        noise = torch.ones(1, 1, 1, 2, 2)
        extra = {"model_options": {"transformer_options": {}}, "seed": seed}
        return solver.sample(self, sigmas.clone(), extra, None, noise, torch.zeros_like(noise), None, True)


def count_evaluations(model: ModelPatcher, sampler: str, sigmas: Tensor) -> int:
    """How often a sampler asks the model along sigmas, (steps + 1,); the model is not asked."""
    stand_in = _Model(model)
    stand_in.sampled(comfy.samplers.sampler_object(sampler), sigmas, 0)
    return stand_in.calls


def adds_noise(model: ModelPatcher, sampler: str) -> bool:
    """Whether a sampler goes another way with another seed, from the same start noise."""
    solver, sigmas = comfy.samplers.sampler_object(sampler), torch.tensor([1.0, 0.8, 0.5, 0.2, 0.0])
    one, other = (_Model(model).sampled(solver, sigmas, seed) for seed in (1, 2))
    return not torch.equal(one, other)


def check_ways(model: ModelPatcher, ways: Sequence[Way], plan: Plan | None) -> None:
    """Refuses names that ComfyUI does not know, and samplers whose runs do not come closer to a fine one.

    Raises:
        ValueError: which, and what to do.
    """
    for sampler in {way.sampler: None for way in ways}:
        if sampler not in SAMPLERS:
            raise fault('There is no sampler "{name}": use names as the Pusa KSampler lists them.', name=shorten(sampler))
        if sampler in OWN_STEPS:
            raise fault("The sampler {name} chooses its steps itself: take it out of the list.", name=sampler)
        if sampler.endswith("_cfg_pp"):
            raise fault("The sampler {name} guides in another way, to another video: take it out of the list.", name=sampler)
        if adds_noise(model, sampler):
            raise fault(
                "The sampler {name} adds noise on the way, so that each number of steps makes another video: take it out of "
                "the list.",
                name=sampler,
            )
        if plan is not None:
            check_sampler(plan, comfy.samplers.sampler_object(sampler))
    for scheduler in {way.scheduler: None for way in ways}:
        if scheduler not in SCHEDULERS:
            raise fault('There is no scheduler "{name}": use names as the Pusa KSampler lists them.', name=shorten(scheduler))


class Comparer:
    """Compares samplers on one or two models; nothing is left on them, whether it ends or is stopped.

    Args:
        latent: ComfyUI's LATENT, (B, C, F, H, W), with the plan that it carries, or with `plan`.
        evaluated: is called at each model evaluation.

    Raises:
        ValueError: a way cannot be compared, see `check_ways`; the plan has a grid of its own; or nothing changes.
    """

    def __init__(
        self,
        models: Sequence[ModelPatcher],
        prompts: tuple[Any, Any],
        latent: dict[str, Any],
        settings: Settings,
        cfg: float,
        boundary: float,
        plan: Plan | None = None,
        evaluated: Callable[[], None] = lambda: None,
    ):
        self.latent, self.prompts, self.cfg, self.boundary = latent, prompts, cfg, boundary
        self.plan = plan_for(latent, plan or applied_plan(models[0]), False)
        if self.plan is not None and self.plan.grid is not None:
            raise fault(
                "The schedule has a sigma grid of its own, which leaves no choice: compare samplers on a schedule of Pusa "
                "Timeline or Pusa Schedule."
            )
        check_ways(models[0], [*settings.ways, settings.fine], self.plan)
        self.kinds = frame_kinds(self._schedules())
        self.models = [_counted(model, evaluated) for model in models]
        self.fine: dict[str, Any] | None = None
        cost = lru_cache(lambda sampler, sigmas: count_evaluations(models[0], sampler, torch.tensor(sigmas)))
        self.trials = Trials.of(settings, self._grid, lambda way, sigmas: self._cost(cost, way, sigmas))

    def run(self, seeds: Sequence[int]) -> Comparison:
        """Samples all; afterwards `fine` is the LATENT of the fine run of the first seed."""
        return compare(self.trials, self.kinds, self._sample, seeds)

    def _schedules(self) -> tuple[FrameSchedule, ...]:
        return (FrameSchedule.build(self.latent["samples"].shape[2]),) if self.plan is None else self.plan.schedules

    def _grid(self, way: Way, steps: int) -> Tensor:
        model = ModelSamplingSD3().patch(self.models[0], way.shift)[0]
        return sigma_grid(model, way.scheduler, way.sampler, steps, way.shift, 1.0)

    def _cost(self, cost: Callable[[str, tuple[float, ...]], int], way: Way, sigmas: Tensor) -> int:
        parts = stages(self.models, sigmas, self.boundary)
        return sum(cost(way.sampler, tuple(part.tolist())) for _, part in parts)

    def made(self, candidate: Candidate, seed: int) -> dict[str, Any]:
        """The LATENT of one run."""
        way, steps = candidate.way, len(candidate.sigmas) - 1
        sampling = Sampling(
            seed, steps, self.cfg, way.sampler, way.scheduler, way.shift, boundary=self.boundary, grid=candidate.sigmas
        )
        model, low = self.models[0], self.models[1] if len(self.models) > 1 else None
        return sample_clip(model, *self.prompts, self.latent, sampling, self.plan, low, lambda *_: None)

    def _sample(self, candidate: Candidate, seed: int) -> Tensor:
        sampled = self.made(candidate, seed)
        if self.fine is None:
            self.fine = sampled
        return self.models[0].model.process_latent_in(sampled["samples"].cpu().float())


def _counted(model: ModelPatcher, evaluated: Callable[[], None]) -> ModelPatcher:
    """A clone that reports its evaluations."""

    def predict(executor, *args, **kwargs):
        evaluated()
        return executor(*args, **kwargs)

    clone = model.clone()
    clone.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, predict)
    return clone
