"""What a sampler node shows while it samples: all latent frames, where ComfyUI shows the first one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import comfy.utils
import latent_preview
from comfy.model_patcher import ModelPatcher
from PIL import Image
from torch import Tensor

from ...plan import Plan
from ...preview_sheet import PreviewSheet

Colours = tuple[list[list[float]], list[float]]
Callback = Callable[[int, Tensor, Tensor, int], None]
COLOURS = "pusa_preview_colours"
DECODED_CELLS = 2**12  # with its margins no more than the one frame of 832x480 that ComfyUI decodes


def with_preview_colours(model: ModelPatcher, colours: Colours | None) -> ModelPatcher:
    """A clone that is previewed with (factors (C, 3), bias (3)), for latents that ComfyUI's own do not fit."""
    if colours is None:
        return model
    clone = model.clone()
    clone.model_options["transformer_options"][COLOURS] = colours
    return clone


def preview_callback(model: ModelPatcher, plan: Plan | None, latent: Tensor, steps: int) -> Callback:
    """A sampler's callback that reports progress with a sheet of the first video's latent frames.

    Args:
        plan: says which frames were given; they get a border.
        latent: what will be sampled, (B, C, F, h, w).
    """
    previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)  # None where none is wanted
    bar = comfy.utils.ProgressBar(steps)
    if previewer is None:
        return lambda step, x0, x, total: bar.update_absolute(step + 1, total)
    draw = _drawn(previewer, plan, latent, model.model_options["transformer_options"])
    return lambda step, x0, x, total: bar.update_absolute(step + 1, total, draw(x0))


def show_sheet(callback: Callback, plan: Plan, latent: Tensor, options: dict[str, Any]) -> None:
    """Has the callback of a stock sampler node show that sheet as well; any other callback stays as it is.

    Such a callback has a previewer of its own, made for this run, which is all that is changed.

    Args:
        options: the model's transformer_options.
    """
    variables = inspect.getclosurevars(callback).nonlocals if inspect.isfunction(callback) else {}
    previewer = variables.get("previewer")
    if isinstance(previewer, (latent_preview.Latent2RGBPreviewer, latent_preview.TAESDPreviewerImpl)):
        draw = _drawn(previewer, plan, latent, options)
        previewer.decode_latent_to_preview_image = lambda _, x0: draw(x0)


def _drawn(
    previewer: latent_preview.LatentPreviewer, plan: Plan | None, latent: Tensor, options: dict[str, Any]
) -> Callable[[Tensor], tuple[str, Image.Image, int]]:
    """From latents to a preview as ComfyUI sends it: (format, sheet, its longer side)."""
    if COLOURS in options:
        previewer = latent_preview.Latent2RGBPreviewer(*options[COLOURS])
    is_matrix = isinstance(previewer, latent_preview.Latent2RGBPreviewer)
    bound = {} if is_matrix else {"most_cells": DECODED_CELLS}
    given = [] if plan is None else [i for i, needed in enumerate(plan.schedules[0].needs_clean_latent) if needed]
    sheet = PreviewSheet.of(*latent.shape[2:], given=given, side=latent_preview.MAX_PREVIEW_RESOLUTION, **bound)

    def draw(x0: Tensor) -> tuple[str, Image.Image, int]:
        picture = sheet.draw(previewer.decode_latent_to_preview(sheet.fold(x0)))
        return "JPEG", picture, max(picture.size)

    return draw
