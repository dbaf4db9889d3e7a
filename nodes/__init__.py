"""The pack's nodes. A new node is one class in one of these files, added to the list at its foot."""

from __future__ import annotations

import folder_paths
from comfy_api.latest import ComfyExtension, io
from comfyui_version import __version__ as comfyui_version
from packaging.version import Version

from ..demo_model import MODELS
from ..pusa_core.messages import follow, say
from . import (
    demo,
    evaluations,
    files,
    forcing,
    keyframes,
    language,
    loaders,
    long_video,
    loop,
    sampling,
    schedule,
    timeline,
)

OLDEST_COMFYUI = Version("0.8.0")  # older ones do not slice a schedule with their context windows


class PusaExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        modules = loaders, keyframes, schedule, timeline, sampling, long_video, loop, forcing, evaluations, files, demo
        return [language.speaking(node) for module in modules for node in module.NODES]


async def comfy_entrypoint() -> PusaExtension:
    if Version(comfyui_version) < OLDEST_COMFYUI:
        raise RuntimeError(
            say(
                "Pusa needs ComfyUI {oldest} or newer, but this is {version}: update ComfyUI.",
                oldest=OLDEST_COMFYUI,
                version=comfyui_version,
            )
        )
    for folder in ("diffusion_models", "loras", "vae"):  # here, because 0.8.0 never calls on_load
        folder_paths.add_model_folder_path(folder, str(MODELS / folder))
    follow(language.users_language)
    timeline.add_routes()
    language.add_routes()
    return PusaExtension()
