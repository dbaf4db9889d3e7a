"""What ComfyUI may bring that Pusa cannot work with, each told in a sentence."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import comfy.latent_formats
import comfy.model_base
import torch
from comfy.model_patcher import ModelPatcher
from safetensors import safe_open
from torch import Tensor

from ...capabilities import (
    EXTRA_FRAMES,
    IMAGE_CHANNELS,
    OWN_TIMESTEPS,
    VAES,
    beyond_training,
    check_text_to_video,
    checkpoints_of,
)
from ...messages import either, fault, mark, say
from ...plan import Plan
from .files import safetensors_file
from .lora_warnings import warn_loras

LATENT_FORMATS = {16: comfy.latent_formats.Wan21, 48: comfy.latent_formats.Wan22}

_OTHER = {
    IMAGE_CHANNELS: mark(
        "This is the {variant} variant of Wan, which takes its image as extra input channels: load a plain Wan "
        "text-to-video (T2V) checkpoint."
    ),
    OWN_TIMESTEPS: mark(
        "This is the {variant} variant of Wan, which handles timesteps in its own way: load a plain Wan text-to-video "
        "(T2V) checkpoint."
    ),
}
_UNKNOWN = mark(
    "This is the {variant} variant of Wan, the pack does not know: load a plain Wan text-to-video (T2V) checkpoint."
)

RATE_EMBEDDING, RATE_PATCH = "fps_embedding.weight", "diffusion_model.time_projection.1.bias"  # of SkyReels-V2-DF-1.3B
FROM_FRAME = "pusa_from_frame"  # of an entry of a CONDITIONING: the pixel frame at which it begins to hold

# Euler's method, under all its names: the only one that the slopes of a bent map are right for.
EULER = {"sample_euler"}
SAME_GRID = 1e-5


def check_model(model: ModelPatcher) -> None:
    """Refuses anything but a plain Wan text-to-video model.

    Raises:
        ValueError: what the model is instead, and which to load.
    """
    base = model.model
    name = type(base).__name__
    if not isinstance(base, comfy.model_base.WAN21):
        raise fault("This model is {name}, not Wan: Pusa needs a Wan2.1 or Wan2.2 text-to-video checkpoint.", name=name)
    kind = next(iter(checkpoints_of(name)), None)
    if kind is None or not kind.works:
        template = _UNKNOWN if kind is None else _OTHER[kind.obstacle]
        raise fault(template, variant=name if kind is None else kind.name)
    check_text_to_video(base.diffusion_model.in_dim, base.diffusion_model.out_dim)


def warn_beyond_training(model: ModelPatcher, plan: Plan) -> None:
    """Says in the log what a plan asks of a model without a LoRA that it was not trained for, as far as that can be known.

    And where a model was not told the frame rate that it was trained with, or has a LoRA more than once.
    """
    warn_loras(model)
    if lacks_frame_rate(model):
        logging.warning(
            say(
                "This model was trained with its frame rate, which it was not told: put Pusa Forcing Frame Rate behind its "
                "loader."
            )
        )
    for kind in checkpoints_of(type(model.model).__name__)[:1]:
        if not model.patches and (warning := beyond_training(kind, plan)):
            logging.warning(warning)


def lacks_frame_rate(model: ModelPatcher) -> bool:
    """Whether a model's file has a frame-rate embedding that is not on it, if ComfyUI remembers the file (0.8.0: no)."""
    path = safetensors_file(model)
    if path is None or RATE_PATCH in model.patches:
        return False
    with safe_open(path, "numpy") as file:
        return any(name.endswith(RATE_EMBEDDING) for name in file.keys())  # noqa: SIM118  # no mapping


def check_channels(model: ModelPatcher, channels: int) -> None:
    """Refuses latents of another model's VAE."""
    wanted = model.model.latent_format.latent_channels
    if channels != wanted:
        raise fault(
            "The latent has {channels} channels, but this model takes {wanted}: use {vae}.",
            channels=channels,
            wanted=wanted,
            vae=say(VAES.get(wanted, mark("its own VAE"))),
        )


def check_vae(vae, width: int, height: int) -> None:
    """Refuses a VAE that is not Wan's, and a size that it cannot encode.

    Raises:
        ValueError: what is wrong with it.
    """
    coder = vae.first_stage_model
    hunyuan = getattr(coder, "latent_format", None) is not None  # a TAEHV of Wan's has none
    if vae.latent_channels not in LATENT_FORMATS or type(coder).__name__ not in ("WanVAE", "TAEHV") or hunyuan:
        raise fault("This is not a Wan video VAE: load {vaes}.", vaes=either(*map(say, VAES.values())))
    stride = vae.spacial_compression_encode()
    if width % stride or height % stride:
        raise fault(
            "A size of {width}x{height} was given; with this VAE both must be multiples of {stride}.",
            width=width,
            height=height,
            stride=stride,
        )


def check_single_rank() -> None:
    """Sequence parallelism shards the tokens but not the per-frame timesteps: frames would silently swap theirs."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        return
    xfuser = sys.modules.get("xfuser.core.distributed")
    if xfuser is None or xfuser.get_sequence_parallel_world_size() > 1:
        raise RuntimeError(
            say(
                "This worker splits the clip's tokens over several GPUs (sequence parallelism), which "
                "mixes up Pusa's per-frame timesteps: turn it off (CFG or data parallelism is fine)."
            )
        )


def check_prompts(*conditionings: Iterable[Mapping[str, Any]]) -> None:
    """Refuses prompts by frame where a clip is sampled at once, which would mix them all.

    Args:
        conditionings: the options of their entries.
    """
    frames = sorted({cond.get(FROM_FRAME, 0) for conds in conditionings for cond in conds})
    if frames not in ([], [0]):
        raise fault(
            "The conditioning has prompts that begin to hold at frames {frames} (Pusa Prompt From Frame), which only Pusa "
            "Long Video takes one after another: connect one prompt without that node.",
            frames=frames,
        )


def check_conds(conds: dict[str, list[dict[str, Any]]]) -> None:
    """Refuses conditionings that add frames, and prompts by frame."""
    check_prompts(*conds.values())
    for cond in (c for cs in conds.values() for c in cs):
        for key, what in EXTRA_FRAMES.items():
            if key in cond.get("model_conds", {}):
                raise fault(
                    "The conditioning brings {what} ({key}), which adds frames that a Pusa schedule has "
                    "no sigma for: take that node out and give the picture as a keyframe.",
                    what=say(what),
                    key=key,
                )


def check_sampler(plan: Plan, sampler: Any) -> None:
    """Refuses samplers that cannot follow a frame whose sigma bends: all but Euler without added noise."""
    name = getattr(getattr(sampler, "sampler_function", None), "__name__", type(sampler).__name__)
    churns = bool(getattr(sampler, "extra_options", {}).get("s_churn", 0))
    if not plan.is_straight and (churns or name not in EULER):
        called = name.removeprefix("sample_")
        called = say("{sampler} with s_churn", sampler=called) if churns else called
        raise fault(
            "The schedule bends a frame's sigma, which the sampler {called} cannot follow, because it "
            "would leave noise in the frame: use euler.",
            called=called,
        )


def check_grid(plan: Plan, sigmas: Tensor) -> None:
    """Refuses sigmas that are no flow model's, or not a part of the grid that a plan was made for.

    Raises:
        ValueError: what to connect instead.
    """
    highest = float(sigmas.max())
    if not highest <= 1 + SAME_GRID:  # or is none
        raise fault(
            "Sigmas of up to {highest} were given, but those of a Wan model lie between 0 and 1: connect Pusa Sigmas or "
            "BasicScheduler.",
            highest=f"{highest:.3g}",
        )
    if plan.grid is None:
        return
    apart = (sigmas[:, None].cpu() - plan.grid[None]).abs().amin(1) > SAME_GRID
    if bool(apart.any()):
        raise fault(
            "The schedule's frames take their steps one after another, on {count} sigmas of its own, but the sampler has "
            "{others} others: use the Pusa KSampler, or connect the sigmas that come with the schedule.",
            count=len(plan.grid) - 1,
            others=len(sigmas) - 1,
        )
