"""The pack's nodes. A new node is one class in one of these files, added to the list at its foot."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io
from comfyui_version import __version__ as comfyui_version

from . import keyframes, loaders, sampling, schedule

OLDEST_COMFYUI = (0, 8, 0)  # older ones do not slice a schedule with their context windows


class PusaExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [*loaders.NODES, *keyframes.NODES, *schedule.NODES, *sampling.NODES]


async def comfy_entrypoint() -> PusaExtension:
    if tuple(int(part) for part in comfyui_version.split(".")[:3]) < OLDEST_COMFYUI:
        needed = ".".join(map(str, OLDEST_COMFYUI))
        raise RuntimeError(f"Pusa needs ComfyUI {needed} or newer, but this is {comfyui_version}: update ComfyUI.")
    return PusaExtension()
