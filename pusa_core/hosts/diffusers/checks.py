"""What a call of the pipeline may not be, each in one sentence that says what to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from ...frames import pixel_length
from ...plan import Plan
from ...virtual_latent import FrameCoefficients
from ...wan import PATCH

OUT_OF_STEP = 1e-4  # how far a frame's own sigma may be from the sampler's at the start, relative


def check_size(height: int, width: int, spatial_stride: int) -> None:
    stride = spatial_stride * PATCH
    for what, size in (("height", height), ("width", width)):
        if size < stride or size % stride:  # Diffusers would take a smaller one, which keyframes do not fit
            raise ValueError(f"A {what} of {size} is not divisible by {stride}: use {max(size // stride, 1) * stride}.")


def check_longest(num_frames: int, latents: int) -> None:
    """Whether the model has places for so many frames.

    Args:
        latents: latent frames that it has places for.
    """
    most = pixel_length(latents)
    if num_frames > most:
        raise ValueError(
            f"A clip of {num_frames} frames is longer than the model's {most}: make a long video, or a shorter one."
        )


def check_rolling(moving_frames: int, steps: int, blend: int, anchor_distance: int) -> None:
    given = {"moving_frames": moving_frames, "steps": steps, "blend": blend, "anchor_distance": anchor_distance}
    for what, value in given.items():
        least = 0 if what == "blend" else 1
        if value < least:
            raise ValueError(f"{what} is {value}: give {least} or more.")


def check_length(plan: Plan, num_frames: int) -> None:
    frames = pixel_length(len(plan))
    if frames != num_frames:
        raise ValueError(f"The plan is for {frames} frames, but num_frames is {num_frames}: give {frames}.")


def check_pictures(plan: Plan, height: int, width: int, spatial_stride: int) -> None:
    """Whether the plan's keyframes, latents of the pipeline's VAE, are of the clip's size."""
    if plan.clean is None:
        return
    made = (plan.clean.shape[3] * spatial_stride, plan.clean.shape[4] * spatial_stride)
    if made != (height, width):
        raise ValueError(
            f"The plan's keyframes are {made[1]}x{made[0]}, but the clip is to be {width}x{height}: make them the same."
        )


def check_scheduler(scheduler: Any, plan: Plan) -> None:
    """Bent maps are integrated with their slope over a step, which is right for Euler's method and for no other."""
    if plan.is_straight:
        return
    if not isinstance(scheduler, FlowMatchEulerDiscreteScheduler) or scheduler.config.get("stochastic_sampling"):
        how = " with stochastic_sampling" if isinstance(scheduler, FlowMatchEulerDiscreteScheduler) else ""
        raise ValueError(
            "This plan has frames that are denoised at a pace of their own, which only Euler's method gets right, but the "
            f"scheduler is {type(scheduler).__name__}{how}: use PusaScheduler, or keyframes with a plain noise multiplier."
        )


def check_single_transformer(transformers: Sequence[Any]) -> None:
    """Frames at high and at low noise in one evaluation need one model for both."""
    if len(transformers) > 1:
        raise ValueError(
            "The plan's frames take their steps one after another, at high and at low noise in one evaluation, but the "
            "pipeline has a transformer for each: use a model that is one (Wan2.1, SkyReels-V2), or a plan without a delay."
        )


def check_latents(plan: Plan, latents: Tensor) -> None:
    if plan.clips not in (1, len(latents)):
        raise ValueError(
            f"The plan is for {plan.clips} clips, but {len(latents)} are made: give one plan for all, or keyframes for each."
        )
    expected = tuple(latents.shape[1:]) if plan.clean is None else tuple(plan.clean.shape[1:])
    if latents.shape[2] != len(plan) or tuple(latents.shape[1:]) != expected:
        shape = (*expected[:1], len(plan), *expected[2:])
        raise ValueError(f"The latents are of shape {tuple(latents.shape[1:])}, but the plan's clip is {shape}.")


def check_start(scheduler: Any, plan: Plan, at: FrameCoefficients) -> None:
    """A frame that starts at another sigma than the sampler would need other noise than the pipeline's."""
    if plan.is_straight:
        return
    if bool(((at.own - 1).abs() > OUT_OF_STEP).any()):
        raise ValueError(
            f"{type(scheduler).__name__} starts at sigma {float(scheduler.sigmas[0]):.3g}, where frames of this plan have "
            "left the sampler's pace already: use a scheduler that starts at sigma 1, as PusaScheduler."
        )
