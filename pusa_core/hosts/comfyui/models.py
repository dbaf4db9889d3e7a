"""ComfyUI's own loaders for programs beside ComfyUI, reached after `environment.comfyui.import_comfyui`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.sd
import comfy.utils
from comfy.model_patcher import ModelPatcher


def open_model(path: Path) -> ModelPatcher:
    """A diffusion model's file as ComfyUI's loader opens it."""
    return comfy.sd.load_diffusion_model(str(path))


def open_vae(path: Path) -> Any:
    """A VAE's file as ComfyUI's loader opens it."""
    return comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(path)))
