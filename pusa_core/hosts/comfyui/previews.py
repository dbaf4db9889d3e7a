"""What a sampler node shows while it samples: all latent frames, where ComfyUI shows the first one."""

from __future__ import annotations

from collections.abc import Callable

import comfy.utils
import latent_preview
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...plan import Plan
from ...preview_sheet import PreviewSheet

Colours = tuple[list[list[float]], list[float]]
Callback = Callable[[int, Tensor, Tensor, int], None]
DECODED_CELLS = 2**12  # with its margins no more than the one frame of 832x480 that ComfyUI decodes


def preview_callback(
    model: ModelPatcher, plan: Plan | None, latent: Tensor, steps: int, colours: Colours | None = None
) -> Callback:
    """A sampler's callback that reports progress with a sheet of the first video's latent frames.

    Args:
        plan: says which frames were given; they get a border.
        latent: what will be sampled, (B, C, F, h, w).
        colours: (factors (C, 3), bias (3)) to preview with, for a model whose latents ComfyUI's previewers do not fit.
    """
    previewer = _previewer(model, colours)
    bar = comfy.utils.ProgressBar(steps)
    if previewer is None:
        return lambda step, x0, x, total: bar.update_absolute(step + 1, total)
    is_matrix = isinstance(previewer, latent_preview.Latent2RGBPreviewer)
    bound = {} if is_matrix else {"most_cells": DECODED_CELLS}
    given = [] if plan is None else [i for i, needed in enumerate(plan.schedules[0].needs_clean_latent) if needed]
    sheet = PreviewSheet.of(*latent.shape[2:], given=given, side=latent_preview.MAX_PREVIEW_RESOLUTION, **bound)

    def callback(step: int, x0: Tensor, x: Tensor, total: int) -> None:
        picture = sheet.draw(previewer.decode_latent_to_preview(sheet.fold(x0)))
        bar.update_absolute(step + 1, total, ("JPEG", picture, max(picture.size)))

    return callback


def _previewer(model: ModelPatcher, colours: Colours | None) -> latent_preview.LatentPreviewer | None:
    """The previewer of the method that the user has set; None for none."""
    previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)
    if previewer is None or colours is None:
        return previewer
    return latent_preview.Latent2RGBPreviewer(*colours)
