"""A plan on a cloned model, as plain data in `transformer_options`, with three stateless wrappers.

- SAMPLER_SAMPLE hands the sampler virtual latents (see `pusa_core.virtual_latent`) and turns its result, and what it shows
  on the way, back into frames. It lays the number of every latent pixel into every cond as a noise-shaped tensor, so ComfyUI
  itself slices them with areas, context windows, batches and devices.
- APPLY_MODEL shows the model the frames instead of the virtual latents.
- DIFFUSION_MODEL gives every latent frame its own timestep; what the blocks make of that is in `per_frame.py`.

While the model runs, the pack holds the clean latents of keyframes alone, and what the model is shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.conds
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from einops import rearrange
from torch import Tensor

from ...frames import pixel_length
from ...messages import fault, say
from ...plan import Plan, ShownFrames
from ...virtual_latent import FrameCoefficients, ScheduleTable, per_frame
from .checks import check_channels, check_conds, check_grid, check_model, check_sampler, check_single_rank
from .per_frame import causal, frames_as_batch, positioned
from .previews import show_sheet

KEY = "pusa"
RUN = "pusa_run"
RATIO = "pusa_ratio"
CARRIED = "pusa_carried"  # the noise of this run was made of what an earlier stage left


@dataclass(frozen=True)
class _Run:
    """What one run's model evaluations need, on the run's device.

    Attributes:
        cells: the number of every latent pixel, counted through all clips, (1 or B, 1, F, H, W).
        clean: latents of the frames that start from them, as the model sees them, (C, pixels).
        first: where in `clean` each frame's pixels begin, (1 or B * F); anywhere for a frame without.
        table: the schedules.
        bends: whether steps need a slope.
        shown: the frames that the model sees; None for all.
    """

    cells: Tensor
    clean: Tensor
    first: Tensor
    table: ScheduleTable
    bends: bool
    shown: ShownFrames | None

    @classmethod
    def of(cls, plan: Plan, clean: Tensor) -> _Run:
        """Args: clean: (1 or B, C, F, H, W), on the run's device."""
        count, device, pixels = len(plan), clean.device, clean[0, 0, 0].numel()
        kept = plan.keyframed.any(0).nonzero()[:, 0].tolist() or [0]
        places = {frame: place for place, frame in enumerate(kept)}
        first = [
            (min(clip, len(clean) - 1) * len(kept) + places.get(frame, 0)) * pixels
            for clip in range(plan.clips)
            for frame in range(count)
        ]
        cells = torch.arange(plan.clips * count * pixels, dtype=torch.int32, device=device)
        return cls(
            cells.reshape(plan.clips, 1, count, *clean.shape[3:]),
            rearrange(torch.cat([clean[:, :, i : i + 1] for i in kept], dim=2), "b c f h w -> c (b f h w)"),
            torch.tensor(first, dtype=torch.int32).to(device),
            plan.table.to(device),
            not plan.is_straight,
            None if plan.shown is None else plan.shown.to(device),
        )

    def to(self, device: torch.device) -> _Run:
        shown = None if self.shown is None else self.shown.to(device)
        return _Run(self.cells, self.clean.to(device), self.first.to(device), self.table.to(device), self.bends, shown)

    def clean_at(self, cells: Tensor) -> Tensor:
        """Clean latents at pixels (B, 1, F', H', W'): (B, C, F', H', W'), of some other frame where a frame has none."""
        pixels = self._pixels
        place = self.first[cells // pixels] + cells % pixels
        clean = self.clean.index_select(1, place.flatten())
        return clean.unflatten(1, (len(cells), *cells.shape[2:])).transpose(0, 1).contiguous()

    def at(self, cells: Tensor, sigma: Tensor, grid: Tensor | None) -> FrameCoefficients:
        """The schedules of the frames of these pixels at the sampler's sigma, (B, F')."""
        number = cells[:, 0, :, 0, 0].long() // self._pixels
        return self.table.frames(number % self.table.pinned.numel()).at(sigma, grid)

    @property
    def _pixels(self) -> int:
        """Of a latent frame."""
        return self.cells[0, 0, 0].numel()


def apply_schedule(model: ModelPatcher, plan: Plan) -> ModelPatcher:
    """A clone of `model` that samples every latent frame on its own sigma; any sampler node can use it.

    A plan without keyframes leaves the clone as the model was. An earlier one is replaced.

    Raises:
        ValueError: the model is not a plain Wan text-to-video model, or the plan was made with another model's VAE.
    """
    check_model(model)
    if plan.clean is not None:
        check_channels(model, plan.clean.shape[1])
    clone = model.clone()
    options = clone.model_options["transformer_options"]
    options.pop(KEY, None)
    wrappers = (
        (WrappersMP.SAMPLER_SAMPLE, _sampler_sample),
        (WrappersMP.APPLY_MODEL, _apply_model),
        (WrappersMP.DIFFUSION_MODEL, _diffusion_model),
    )
    for kind, wrapper in wrappers:
        clone.remove_wrappers_with_key(kind, KEY)
        if not plan.is_ordinary:
            clone.add_wrapper_with_key(kind, KEY, wrapper)
    if not plan.is_ordinary:
        options[KEY] = plan
    return clone


def applied_plan(model: ModelPatcher) -> Plan | None:
    """The plan that `apply_schedule` put on a model."""
    return model.model_options["transformer_options"].get(KEY)


def _sampler_sample(executor, guider, sigmas, extra_args, callback, noise, latent_image, denoise_mask, disable_pbar):
    options = extra_args["model_options"]["transformer_options"]  # this run's own copy
    plan: Plan = options[KEY]
    check_single_rank()
    check_conds(guider.conds)
    check_sampler(plan, executor.class_obj)
    check_grid(plan, sigmas)
    clean = clean_latents(guider.inner_model, plan, latent_image)
    sigma_start, sigma_end = float(sigmas[0]), float(sigmas[-1])
    run = _Run.of(plan, clean)
    start, end = run.table.at(sigma_start), run.table.at(sigma_end)

    if torch.count_nonzero(noise) > 0:
        placed = torch.where(per_frame(plan.keyframed.to(clean.device)), clean, latent_image)
        latent_image = latent_image if torch.equal(placed, latent_image) else placed
        if run.bends and not options.get(CARRIED):
            noise, latent_image = start.start(noise, latent_image, sigma_start)
        del placed
    elif sigma_start < 1:  # goes on from an earlier stage, whose latents ComfyUI carries divided by 1 - sigma
        latent_image = start.to_virtual(latent_image * (1 - sigma_start), clean) / (1 - sigma_start)
    del clean

    options[RUN] = run
    options.update(frames_as_batch(guider.inner_model.diffusion_model, options))
    for cond in (c for cs in guider.conds.values() for c in cs):
        cond["model_conds"] = {**cond["model_conds"], KEY: comfy.conds.CONDNoiseShape(run.cells)}
    show = None
    if callback is not None:
        show_sheet(callback, plan, latent_image, options)

        def show(step, denoised, x, total_steps):
            clean = run.clean_at(run.cells)
            callback(step, start.to_frame(denoised, clean), start.to_frame(x, clean), total_steps)

    grid = sigmas.clone()  # uni_pc writes 0.001 over a last sigma of 0
    virtual = executor(guider, grid, extra_args, show, noise, latent_image, denoise_mask, disable_pbar)
    clean = run.clean_at(run.cells)
    frames = end.to_frame(virtual * (1 - float(grid[-1])), clean)
    if sigma_end == 0:  # dpm_fast and dpm_adaptive stop one sigma early
        frames = torch.where(per_frame(end.pinned), clean, frames)
    return frames / (1 - sigma_end)


def clean_latents(base: Any, plan: Plan, latent_image: Tensor) -> Tensor:
    """The plan's clean latents as the model sees them, on the device of the latent that is sampled; checked against it.

    Raises:
        ValueError: the latent is of another length, size, VAE or number of clips.
    """
    shape, clean = tuple(latent_image.shape), plan.clean
    if len(shape) != 5 or shape[2] != len(plan):
        given = say("{count} latent frames", count=shape[2]) if len(shape) == 5 else say("no video")
        raise fault(
            "The schedule is for {count} latent frames ({frames} frames), but the latent has "
            "{given}: connect the latent that comes out of the Pusa Schedule node.",
            count=len(plan),
            frames=pixel_length(len(plan)),
            given=given,
        )
    if plan.clips not in (1, shape[0]):
        raise fault(
            "The schedule tells {clips} videos apart, but the latent is a batch of {batch}: connect the "
            "latent that comes with it.",
            clips=plan.clips,
            batch=shape[0],
        )
    if clean is None:
        return torch.zeros_like(latent_image[:1])
    if (clean.shape[1], *clean.shape[3:]) != (shape[1], *shape[3:]):
        raise fault(
            "The keyframes were encoded to latents of shape {clean}, but the latent to sample is "
            "{given} (batch, channels, frames, height, width): use the same size and VAE, through one "
            "Pusa Schedule node.",
            clean=tuple(clean.shape),
            given=shape,
        )
    return base.process_latent_in(clean.to(latent_image.device, torch.float32))


def _apply_model(executor, x, t, c_concat, c_crossattn, control, transformer_options, **kwargs):
    run: _Run = transformer_options[RUN].to(x.device)
    cells = kwargs.pop(KEY, None)  # (B, 1, F, H, W) of this window, area and batch
    if cells is None:  # a cond that was encoded after the run began, as PerpNeg does
        cells = run.cells.to(x.device).repeat(max(len(x) // len(run.cells), 1), 1, 1, 1, 1)
    if cells.shape[2:] != x.shape[2:] or len(cells) != len(x):
        raise RuntimeError(
            say(
                "The model was given a latent of {given} (frames, height, width), but its part of the "
                "schedule is {part}: another node cuts or extends the clip while it is sampled; take it "
                "out.",
                given=tuple(x.shape[2:]),
                part=tuple(cells.shape[2:]),
            )
        )
    at = run.at(cells, t[0], transformer_options["sample_sigmas"].to(x.device) if run.bends else None)
    frame = at.to_frame(x, run.clean_at(cells))
    if run.shown is None:
        options = {**transformer_options, RATIO: at.ratio}
        denoised = executor(frame, t, c_concat, c_crossattn, control, options, **kwargs)
    else:  # a frame that is not shown stays as it is
        seen = run.shown.at(t[0])
        options = {**transformer_options, RATIO: at.ratio[:, seen]}
        window = executor(frame[:, :, seen], t, c_concat, c_crossattn, control, options, **kwargs)
        denoised = frame.index_copy(2, seen, window)
    return at.denoised(x, run.clean_at(cells), frame, denoised)


def _diffusion_model(executor, x, timestep, context, clip_fea, time_dim_concat, transformer_options, **kwargs):
    ratio = transformer_options[RATIO]  # (B, F)
    if ratio.shape != (x.shape[0], x.shape[2]):
        raise RuntimeError(
            say(
                "The model was given {frames} latent frames of {clips} clips, but the schedule has sigmas "
                "for {known} of {batch}: another node adds or drops frames; take it out.",
                frames=x.shape[2],
                clips=x.shape[0],
                known=ratio.shape[1],
                batch=ratio.shape[0],
            )
        )
    plan: Plan = transformer_options[KEY]
    if plan.blocks is not None:
        transformer_options = causal(plan.blocks, x, context, transformer_options)
    if plan.positions is not None:
        transformer_options = positioned(executor.class_obj, plan.positions, x, transformer_options)
    timestep = timestep.reshape(x.shape[0], -1) * ratio
    return executor(x, timestep, context, clip_fea, time_dim_concat, transformer_options, **kwargs)
