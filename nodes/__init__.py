"""The pack's nodes. A new node is one class in one of these files, added to the list at its foot."""

from __future__ import annotations

import folder_paths
from comfy_api.latest import ComfyExtension, io
from comfyui_version import __version__ as comfyui_version
from packaging.version import Version

from ..demo_model import MODELS
from . import demo, forcing, keyframes, loaders, long_video, sampling, schedule, timeline

OLDEST_COMFYUI = Version("0.8.0")  # older ones do not slice a schedule with their context windows


class PusaExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        groups = (loaders, keyframes, schedule, timeline, sampling, long_video, forcing, demo)
        return [node for group in groups for node in group.NODES]


async def comfy_entrypoint() -> PusaExtension:
    if Version(comfyui_version) < OLDEST_COMFYUI:
        raise RuntimeError(f"Pusa needs ComfyUI {OLDEST_COMFYUI} or newer, but this is {comfyui_version}: update ComfyUI.")
    for folder in ("diffusion_models", "loras", "vae"):  # here, because 0.8.0 never calls on_load
        folder_paths.add_model_folder_path(folder, str(MODELS / folder))
    timeline.add_routes()
    return PusaExtension()
