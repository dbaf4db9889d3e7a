"""Diffusion models for programs beside ComfyUI, reached after `environment.comfyui.import_comfyui`."""

from __future__ import annotations

from pathlib import Path

import comfy.sd
from comfy.model_patcher import ModelPatcher


def open_model(path: Path) -> ModelPatcher:
    """A diffusion model's file as ComfyUI's loader opens it."""
    return comfy.sd.load_diffusion_model(str(path))
