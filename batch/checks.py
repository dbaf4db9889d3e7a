"""What can be told of jobs and models without opening either: keyframes that have no place, files that are none."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from pusa_core.frames import (
    TEMPORAL_STRIDE,
    fewest_latents,
    latent_length,
    parse_multipliers,
    parse_positions,
    pixel_length,
)
from pusa_core.keyframes import LEAD_IN, Keyframe, still_keyframe, video_keyframes
from pusa_core.lora import check_alpha, read_lora
from pusa_core.plan import place_keyframes, plan_clip
from pusa_core.schedule import pusa_sigmas
from pusa_core.video_files import frame_rate
from pusa_core.wan import PATCH

from .jobs import JOB, PIXELS, FramesOf, ImageAt, Job, StartOf
from .kinds import staircase_of
from .settings import DEMO, Models

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def check_job(job: Job, models: Models, lengths: Mapping[str, int]) -> None:
    """Checks a job as far as it goes without its pictures.

    Args:
        models: the command's.
        lengths: frames of the videos of other jobs, by their names; of one that is not named it is not known.

    Raises:
        ValueError: what is wrong with it.
    """
    if job.weights:
        check_models(models.override(job.weights))
    model = models.override(job.weights).model
    _check_size(job, model)
    if model == DEMO:
        from demo_model.text import encode

        for text in (job.prompt, job.negative_prompt, *(later.prompt for later in job.prompts)):
            encode(text)
    pusa_sigmas(job.steps, job.shift)
    staircase = staircase_of(job)
    for keyframe in job.keyframes:
        if isinstance(keyframe, ImageAt):
            _check_picture(Path(keyframe.image))
        elif not keyframe.source.startswith(JOB):
            _check_video(Path(keyframe.source))
    placed = [_placeholder(keyframe, job.length, lengths) for keyframe in job.keyframes]
    known = [keyframe for keyframe in placed if keyframe is not None]
    if job.kind == "long":
        place_keyframes(known, latent_length(job.length), _placeholder_latents)
    else:
        plan_clip(known, job.length, _placeholder_latents, staircase)


def _check_size(job: Job, model: str) -> None:
    step = _size_step(model)
    for what, size in (("width", job.width), ("height", job.height)):
        if size % step:
            raise ValueError(f'"{what}" is {size}; this model needs a multiple of {step}.')


@cache
def _size_step(model: str) -> int:
    """Pixels of a token, as far as they can be known without a download."""
    try:
        return int(_read_config(Path(model, "vae", "config.json"))["scale_factor_spatial"]) * PATCH
    except (KeyError, TypeError, ValueError):
        return PIXELS


def _read_config(path: Path) -> dict[str, Any]:
    """A model's config; empty where there is none that can be read, as of a repository."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


@cache
def _check_picture(path: Path) -> None:
    """Reads the beginning of a picture's file."""
    try:
        with Image.open(path):
            return
    except (OSError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is no picture that can be read ({error}): check the file.") from error


@cache
def _check_video(path: Path) -> None:
    frame_rate(path)


def _placeholder(keyframe: ImageAt | FramesOf | StartOf, length: int, lengths: Mapping[str, int]) -> Keyframe | None:
    """A keyframe with pictures of no size; None where it cannot be placed without its video."""
    if isinstance(keyframe, ImageAt):
        return still_keyframe(_pictures(1), keyframe.frame, keyframe.unit, keyframe.noise, keyframe.behaviour)
    frames = lengths.get(keyframe.source.removeprefix(JOB)) if keyframe.source.startswith(JOB) else None
    if isinstance(keyframe, StartOf):
        return _start_placeholder(keyframe, length, frames)
    if keyframe.take == "chosen" and frames is None:
        parse_multipliers(keyframe.noise, len(parse_positions(keyframe.chosen, "chosen frames")))
        return None
    needed = keyframe.count * (TEMPORAL_STRIDE if keyframe.unit == "latent" else 1)
    if keyframe.take != "chosen" and needed > pixel_length(latent_length(length) + 1):
        raise ValueError(f'"count" is {keyframe.count} {keyframe.unit} frames, more than the {length} frames of the clip.')
    return video_keyframes(
        _pictures(max(needed, 1) + LEAD_IN if frames is None else frames), keyframe.take, keyframe.count, keyframe.unit,
        keyframe.place, keyframe.frame, keyframe.noise, keyframe.behaviour, keyframe.chosen,
    )  # fmt: skip


def _start_placeholder(keyframe: StartOf, length: int, frames: int | None) -> Keyframe | None:
    if frames is None and keyframe.retime == "keep":
        fewest_latents(keyframe.noise)
        return None
    return keyframe.strength(length).keyframe(_pictures(frames or length))


def _pictures(count: int) -> Tensor:
    return torch.empty(count, 1, 1, 3, device="meta")


def _placeholder_latents(pictures: Tensor) -> Tensor:
    return torch.zeros(1, 1, latent_length(len(pictures)), 1, 1)


def check_models(models: Models) -> None:
    """Checks that a model and its LoRAs are there and are such; what lies in repositories is seen when it is opened.

    Raises:
        ValueError: what is wrong with them.
    """
    _check_model(models.model)
    for lora, alpha, low_noise in [*models.extra_loras, *models.loras]:
        check_alpha(lora, alpha)
        if low_noise and not _may_have_low_noise(models.model):
            raise ValueError(f"{lora} is for a low-noise model, which {models.model} does not have: it is for Wan2.2.")
    for lora, _, _ in models.extra_loras:
        check_extra(lora)
    for lora, _, _ in models.loras:
        _check_lora(lora)


def _check_model(model: str) -> None:
    folder = Path(model)
    known = model == DEMO or os.path.isfile(folder / "model_index.json")
    if not known and (os.path.exists(folder) or not REPOSITORY.fullmatch(model)):
        raise ValueError(
            f"{model} is no Diffusers folder of Wan text to video: give one, a repository's name (OWNER/NAME), or {DEMO}."
        )


def _may_have_low_noise(model: str) -> bool:
    if not os.path.exists(model):
        return model != DEMO
    return _read_config(Path(model, "model_index.json")).get("transformer_2", [None, None]) != [None, None]


def check_extra(lora: str) -> None:
    """Checks that another LoRA is a file, or could be a repository.

    Raises:
        ValueError: it is neither.
    """
    if not os.path.exists(lora) and (lora.endswith((".safetensors", ".pt")) or not REPOSITORY.fullmatch(lora)):
        raise ValueError(f"{lora} is not there: give the path of a LoRA file, or the name of a repository.")


@cache
def _check_lora(lora: str) -> None:
    read_lora(lora)
