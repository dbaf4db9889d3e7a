"""ComfyUI's LATENT with the plan that it was made for: one wire from the schedule to the sampler."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...frames import latent_length
from ...messages import fault
from ...plan import Plan, join_plans, retimed, same_plan
from ...resize import fit_images
from ...staircase import Staircase
from ...virtual_latent import per_frame
from .checks import LATENT_FORMATS

PLAN = "pusa_plan"  # of a LATENT; ComfyUI's nodes copy what they do not know
SAME_LATENT = 1e-3  # latent units; resampled empty latents are no further apart


@dataclass(frozen=True)
class Planned:
    """What a LATENT was when it left this pack.

    Attributes:
        samples: its samples then; other ones now mean that another node changed them.
        sigma: where sampling stopped; None before it began.
    """

    plan: Plan
    samples: Tensor
    sigma: float | None = None

    @property
    def is_midway(self) -> bool:
        return bool(self.sigma)

    def describes(self, samples: Tensor) -> bool:
        """Whether the samples are still the ones that left."""
        if samples is self.samples:
            return True
        return samples.shape == self.samples.shape and torch.equal(samples.to(self.samples), self.samples)


def image_encoder(vae: Any, width: int, height: int, method: str):
    """A function from images (N, H, W, C) to their clean latents (1, C, (N-1)/4+1, h, w)."""
    return lambda images: vae.encode(fit_images(images, width, height, method))


def plan_latent(vae: Any, plan: Plan, width: int, height: int, length: int, batch_size: int) -> dict[str, Any]:
    """The LATENT of a plan: clean latents at its keyframes, nothing elsewhere. (B, C, F, h, w)"""
    stride = vae.spacial_compression_encode()
    shape = (batch_size, vae.latent_channels, latent_length(length), height // stride, width // stride)
    samples = _empty(vae.latent_channels).expand(shape).clone()
    if plan.clean is not None:
        samples = torch.where(per_frame(plan.keyframed), plan.clean.to(samples), samples)
    return {"samples": samples, PLAN: Planned(plan, samples)}


def retimed_latent(latent: dict[str, Any], staircase: Staircase) -> tuple[dict[str, Any], Plan]:
    """A LATENT of a plan, whose frames take their steps along a staircase, and its plan.

    Raises:
        ValueError: it does not come straight from a node that plans; see `planned`.
    """
    plan = retimed(planned(latent), staircase)
    return {**latent, PLAN: Planned(plan, latent["samples"])}, plan


def planned(latent: dict[str, Any]) -> Plan:
    """The plan of a LATENT that has not been sampled.

    Raises:
        ValueError: it has none, has been sampled or changed.
    """
    carried: Planned | None = latent.get(PLAN)
    if carried is None or carried.sigma is not None or not carried.describes(latent["samples"]):
        raise fault(
            "The latent does not come straight from Pusa Timeline or Pusa Schedule: connect that node's latent, or keyframes "
            "instead."
        )
    return carried.plan


def join_latents(latents: list[dict[str, Any]]) -> tuple[dict[str, Any], Plan]:
    """Several planned LATENTs as one batch, each clip with its own keyframes, and their plan.

    Raises:
        ValueError: one comes from another node, has been sampled or changed, or they are of different lengths or sizes.
    """
    for number, latent in enumerate(latents, 1):
        planned = latent.get(PLAN)
        if planned is None or planned.sigma is not None or not planned.describes(latent["samples"]):
            raise fault(
                "Latent {number} does not come straight from a Pusa Schedule node: connect that node's "
                "latent, join first and sample then.",
                number=number,
            )
    shapes = sorted({tuple(latent["samples"].shape[1:]) for latent in latents})
    if len(shapes) > 1:
        raise fault("The latents have different shapes, {shapes}: give all videos one size, length and VAE.", shapes=shapes)
    samples = torch.cat([latent["samples"] for latent in latents])
    plan = join_plans([latent[PLAN].plan for latent in latents], [len(latent["samples"]) for latent in latents])
    return {"samples": samples, PLAN: Planned(plan, samples)}, plan


def plan_for(latent: dict[str, Any], given: Plan | None, goes_on: bool) -> Plan | None:
    """The plan to sample a LATENT by: the given one, else the one that it carries.

    Where another node changed the latent (flipped it, batched it, enlarged it), its keyframes are those in it now.

    Args:
        goes_on: the latent is taken as it is, without new noise.

    Raises:
        ValueError: it is halfway through a run with another plan, or was changed so that its keyframes are lost.
    """
    carried: Planned | None = latent.get(PLAN)
    if carried is None:
        return given
    is_own = given is None or same_plan(given, carried.plan)
    if carried.is_midway and not is_own:
        raise fault(
            "This latent is halfway through a run with another schedule, which would spoil its "
            "keyframes: connect the same schedule to all stages, or none, since the latent carries it."
        )
    if not is_own:
        return given
    if carried.describes(latent["samples"]):
        return carried.plan
    if carried.is_midway:
        raise fault(
            "This latent was changed by another node between two stages of one run, which would spoil "
            "its keyframes: take that node out, or put it before the first or behind the last stage."
        )
    return carried.plan if goes_on else _with_images_of(latent["samples"], carried)


def _with_images_of(samples: Tensor, carried: Planned) -> Plan:
    """The plan with the keyframes that the samples hold now."""
    plan, frames = carried.plan, samples.shape[2] if samples.ndim == 5 else 0
    fits = frames == len(plan) and len(plan.schedules) in (1, len(samples))
    if plan.clean is None or not fits or samples.shape[1] != plan.clean.shape[1]:
        return plan  # whoever samples it says what does not fit
    empty = ((samples - _empty(samples.shape[1]).to(samples)).abs() < SAME_LATENT).all(dim=4).all(dim=3).all(dim=1)  # (B, F)
    wanted = plan.keyframed.to(empty.device).expand_as(empty)
    if carried.sigma is None and bool(empty.any()) and not torch.equal(empty, ~wanted):
        clip = int((empty == wanted).any(1).nonzero()[0])
        here, kept = ((~empty[clip]).nonzero().flatten().tolist(), wanted[clip].nonzero().flatten().tolist())
        raise fault(
            "Video {number} of this batch has its pictures at latent frames {here}, but the schedule "
            "keeps {kept}: join latents of different keyframes with Pusa Batch Latents.",
            number=clip + 1,
            here=here,
            kept=kept,
        )
    return replace(plan, clean=torch.where(per_frame(wanted), samples, torch.zeros_like(samples)))


def _empty(channels: int) -> Tensor:
    """What an empty latent is in the VAE's scale: (1, C, 1, 1, 1)."""
    return LATENT_FORMATS[channels]().process_out(torch.zeros(1, channels, 1, 1, 1))
