"""python -m tests.pretend.two_cards FOLDER: ComfyUI's nodes for several GPUs on two devices, the pretend card and the CPU.

Prints a line of JSON: for each scenario its distance to the same on one card, and the devices that evaluated the model.
FOLDER holds the models.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .device import CPU, DEVICE

# Before ComfyUI, which looks for a card where it is imported.
from .comfyui import MODES, import_pack, management, run_on_card  # isort: skip
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_multigpu import MultiGPUCFGSplitNode, SelectModelDeviceNode

from tests import tiny

from . import scenarios
from .scenarios import Studio

STEPS = 4
EXPERTS = ("high", "low")


class Rig:
    """Models that are fresh from their files for each scenario, since a device is chosen before a model is used."""

    def __init__(self, folder: Path):
        self.studio, self.folder, self.used = Studio(import_pack(), folder), folder, set[str]()

    def model(self, name: str = "high") -> Any:
        return self.noted(tiny.load_wan(self.folder / f"{name}.safetensors"))

    def noted(self, model: Any) -> Any:
        """The model, whose evaluations tell their device."""

        def note(executor, x, *args, **kwargs):
            self.used.add(x.device.type)
            return executor(x, *args, **kwargs)

        model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "devices", note)
        return model

    def sampled(self, run: Callable[[Studio, int], Tensor], high: Any = None, low: Any = None) -> Tensor:
        """A scenario with other models in the place of the studio's."""
        self.studio.high, self.studio.low = high or self.model(), low or self.model("low")
        return run(self.studio, STEPS).cpu()


def split(model: Any) -> Any:
    loaded = management.current_loaded_models  # at all of which the split looks, also where a scenario's are gone
    loaded[:] = [entry for entry in loaded if entry.model is not None]
    return MultiGPUCFGSplitNode.execute(model, 2).args[0]


def on_cpu(model: Any) -> Any:
    return SelectModelDeviceNode.execute(model, "cpu").args[0]


def lora_then_split(studio: Studio, steps: int) -> Tensor:
    return studio.ksampler(split(studio.with_lora()), steps)


# What is run on two devices, and what it is compared with on one.
RUNS: dict[str, tuple[Callable[[Rig], Tensor], Callable[[Studio, int], Tensor]]] = {
    "high-noise model on the other card": (
        lambda rig: rig.sampled(scenarios.two_experts, high=on_cpu(rig.model())),
        scenarios.two_experts,
    ),
    "low-noise model on the other card": (
        lambda rig: rig.sampled(scenarios.two_experts, low=on_cpu(rig.model("low"))),
        scenarios.two_experts,
    ),
    "split, then LoRA": (lambda rig: rig.sampled(scenarios.lora, split(rig.model())), scenarios.lora),
    "LoRA, then split": (lambda rig: rig.sampled(lora_then_split), scenarios.lora),
    **{
        f"split: {name}": (lambda rig, run=run: rig.sampled(run, split(rig.model())), run)
        for name, run in {
            "Pusa KSampler": scenarios.ksampler,
            "stock sampler": scenarios.stock_sampler,
            "bent map": scenarios.bent,
            "rolling window": scenarios.rolling,
            "batch": scenarios.batch,
            "two stages": scenarios.two_stages,
            "two experts": scenarios.two_experts,
            "context windows": scenarios.windows,
            "diffusion forcing": scenarios.forcing,
            "after an error": scenarios.error,
        }.items()
    },
}


def main(folder: Path) -> None:
    run_on_card(MODES["default"])
    management.get_all_torch_devices = lambda exclude_current=False: [DEVICE, CPU][exclude_current:]
    management.set_torch_device = lambda device: None  # which is a GPU's alone
    found = {}
    with torch.inference_mode():
        rig = Rig(folder)
        for name, (two, one) in RUNS.items():
            alone = rig.sampled(one)
            rig.used.clear()
            together = two(rig)
            distance = ((together - alone).norm() / alone.norm()).item()
            found[name] = {"distance": distance, "devices": sorted(rig.used)}
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
