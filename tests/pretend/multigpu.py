"""python -m tests.pretend.multigpu PACK FOLDER: loaders of ComfyUI-MultiGPU on two devices, the pretend card and the CPU.

Prints a line of JSON: for each loader and scenario the distance to ComfyUI's own loader, the devices that evaluated the
model, and those that its weights lie on. PACK is the other pack's folder, FOLDER holds the models.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import torch

from .device import DEVICE

# Before ComfyUI, which looks for a card where it is imported.
from .comfyui import MODES, management, run_on_card  # isort: skip
import folder_paths
from server import PromptServer

import nodes

from . import scenarios
from .two_cards import Rig

SCENARIOS = {
    "Pusa KSampler": scenarios.ksampler,
    "LoRA": scenarios.lora,
    "two experts": scenarios.two_experts,
    "stock sampler": scenarios.stock_sampler,
    "diffusion forcing": scenarios.forcing,
}


def main(pack: Path, folder: Path) -> None:
    run_on_card(MODES["default"])
    management.set_torch_device = lambda device: None  # which is a GPU's alone
    folder_paths.add_model_folder_path("diffusion_models", str(folder))
    PromptServer.instance = MagicMock()
    asyncio.run(nodes.init_builtin_extra_nodes())
    found = {}
    with torch.inference_mode():
        rig, kinds = Rig(folder), loaders(pack)
        alone = {name: rig.sampled(run) for name, run in SCENARIOS.items()}
        for kind, load in kinds.items():
            high, low = (rig.noted(load(name)) for name in ("high", "low"))
            for name, run in SCENARIOS.items():
                rig.used.clear()
                distance = ((rig.sampled(run, high, low) - alone[name]).norm() / alone[name].norm()).item()
                lies = sorted({weight.device.type for weight in high.model.parameters()})
                found[f"{kind}: {name}"] = {"distance": distance, "devices": sorted(rig.used), "weights": lies}
    print(json.dumps(found))


def loaders(pack: Path) -> dict[str, Callable[[str], Any]]:
    """By what they do: functions that load a model by its name."""
    mapping = imported(pack).NODE_CLASS_MAPPINGS
    card, size = str(DEVICE), 4 * 2**20

    def load(node: str, name: str, **values: Any) -> Any:
        device = values.pop("device", card)
        chosen = {"device" if node == "UNETLoaderMultiGPU" else "compute_device": device}
        return mapping[node]().override(unet_name=f"{name}.safetensors", weight_dtype="default", **chosen, **values)[0]

    def each_its_own(name: str) -> Any:
        return load("UNETLoaderMultiGPU", name, device=card if name == "high" else "cpu")

    parts = partial(load, "UNETLoaderDisTorch2MultiGPU")
    return {
        "an expert on each": each_its_own,
        "half in the computer's memory": partial(parts, virtual_vram_gb=size / 2 / 2**30),
        "divided by bytes": partial(parts, virtual_vram_gb=0.0, expert_mode_allocations=f"{card},{size // 3}b;cpu,*"),
        "divided by percent": partial(parts, virtual_vram_gb=0.0, expert_mode_allocations=f"{card},25%;cpu,75%"),
    }


def imported(pack: Path) -> Any:
    """The pack, told that the pretend card is one."""
    spec = importlib.util.spec_from_file_location("multigpu", pack / "__init__.py", submodule_search_locations=[str(pack)])
    assert spec is not None and spec.loader is not None
    sys.modules["multigpu"] = module = importlib.util.module_from_spec(spec)
    devices: Any = importlib.import_module("multigpu.device_utils")
    devices.get_device_list = lambda: ["cpu", str(DEVICE)]
    devices.is_accelerator_available = lambda: True
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
