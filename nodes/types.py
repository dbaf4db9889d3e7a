"""The pack's own types on wires, and inputs that several nodes share."""

from __future__ import annotations

from comfy_api.latest import io

from ..pusa_core.schedule import BEHAVIOURS

CATEGORY = "Pusa"
Keyframes = io.Custom("PUSA_KEYFRAMES")  # list[pusa_core.keyframes.Keyframe]
Plan = io.Custom("PUSA_SCHEDULE")  # pusa_core.plan.Plan; saved workflows know it by this id


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
        "clip. hold: kept on its picture at every step and ends exactly on it; keeps colours. Recommended: evolve.",
    )


def previous_input() -> io.Input:
    return Keyframes.Input("previous", optional=True, tooltip="Keyframes that this node adds to. Chain as many as needed.")
