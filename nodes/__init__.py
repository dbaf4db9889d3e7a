"""The pack's nodes. A new node is one class in one of these files, added to the list at its foot."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import keyframes, loaders, sampling, schedule


class PusaExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [*loaders.NODES, *keyframes.NODES, *schedule.NODES, *sampling.NODES]


async def comfy_entrypoint() -> PusaExtension:
    return PusaExtension()
