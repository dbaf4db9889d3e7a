"""The pack's own types on wires, and inputs that several nodes share."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy.samplers import Sampler
from comfy_api.latest import io

from ..pusa_core.messages import fault, mark, say
from ..pusa_core.plan import Plan as ClipPlan
from ..pusa_core.schedule import BEHAVIOURS

CATEGORY = "Pusa"
Keyframes = io.Custom("PUSA_KEYFRAMES")  # list[pusa_core.keyframes.Keyframe]
Plan = io.Custom("PUSA_SCHEDULE")  # pusa_core.plan.Plan; saved workflows know it by this id


def search_aliases(*aliases: str) -> dict[str, Any]:
    """For `io.Schema`: more names that the page's search finds a node by, where ComfyUI (0.8.0 does not) knows them."""
    known = "search_aliases" in {field.name for field in fields(io.Schema)}
    return {"search_aliases": list(aliases)} if known else {}


def unit_input(what: str, default: str = "pixel") -> io.Combo.Input:
    return io.Combo.Input(
        "unit",
        options=["pixel", "latent"],
        default=default,
        tooltip=f"What {what} counts: frames of the video (pixel), or the model's latent frames, each of which holds 4 "
        "frames but for the first, which holds one. The schedule's picture shows what an index resolved to.",
    )


def multiplier_input() -> io.Float.Input:
    return io.Float.Input(
        "noise_multiplier",
        default=0.2,
        min=0.0,
        max=1.0,
        step=0.01,
        tooltip="How much noise the keyframe starts with, as a share of the other frames' noise: 0 keeps the picture "
        "exactly, 1 gives it no say (with evolve). Recommended: 0.2 for a first image, 0.5 for an end image. More noise "
        "gives more motion.",
    )


def behaviour_input() -> io.Combo.Input:
    return io.Combo.Input(
        "behaviour",
        options=list(BEHAVIOURS),
        default="evolve",
        tooltip="evolve: noised once and then denoised with the rest, Pusa's published rule; the keyframe adapts to the "
        "clip. hold: kept on its picture at every step and ends exactly on it. Recommended: hold; on the demo model it kept "
        "pictures better, by 0.7 to 1.9 dB, with about the same motion.",
    )


def previous_input() -> io.Input:
    return Keyframes.Input("previous", optional=True, tooltip="Keyframes that this node adds to. Chain as many as needed.")


def latent_input() -> io.Input:
    return io.Latent.Input(
        "latent",
        optional=True,
        tooltip="From Pusa Timeline or Pusa Schedule, in place of keyframes: its pictures, size, length and batch are taken "
        "instead of those here.",
    )


def check_one_source(keyframes: Any) -> None:
    """Refuses keyframes beside a latent that has its own."""
    if keyframes:
        raise fault(
            "Both a latent and keyframes are connected, but the latent brings its own: connect the keyframes to the node "
            "that it comes from."
        )


# What may come in by a wire: an API prompt can have a constant there, which ComfyUI does not look at. Keyframes have
# `pusa_core.keyframes.check_keyframes`.
WIRES = {
    mark("a model"): (("model", "high_noise_model", "low_noise_model"), lambda v: isinstance(v, ModelPatcher)),
    mark("a latent"): (
        ("latent", "latent1", "latent2"),
        lambda v: isinstance(v, dict) and isinstance(v.get("samples"), torch.Tensor),
    ),
    mark("a VAE"): (("vae",), lambda v: hasattr(v, "first_stage_model")),
    mark("images"): (("image", "images", "video"), lambda v: isinstance(v, torch.Tensor)),
    mark("sigmas"): (("sigmas",), lambda v: isinstance(v, torch.Tensor) and v.ndim == 1),
    mark("a sampler"): (("custom_sampler",), lambda v: isinstance(v, Sampler)),
    mark("what the Pusa Schedule node gives"): (("schedule",), lambda v: isinstance(v, ClipPlan)),
}


def check_wires(**wires: Any) -> None:
    """Refuses values that are not what an input of this name takes; None is an input that was left open.

    Raises:
        ValueError: which input, what it got, and what to connect.
    """
    for name, value in wires.items():
        what, fits = next((what, fits) for what, (names, fits) in WIRES.items() if name in names)
        if value is not None and not fits(value):
            raise fault(
                "The input {name} got {value}, but takes {what}: connect a node that gives that.",
                name=name,
                value=_described(value),
                what=say(what),
            )


def _described(value: Any) -> str:
    if isinstance(value, (str, int, float, bool)):
        return f"{str(value)[:40]!r}"
    return say("a {kind}", kind=type(value).__name__)


def experts(model, low_noise_model) -> list:
    """One model, or Wan2.2's two."""
    return [m for m in (model, low_noise_model) if m is not None]
