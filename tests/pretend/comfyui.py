"""ComfyUI as it runs on a card: its model management with the pretend card in the place of a GPU.

Importing this imports ComfyUI.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import tests.tiny  # noqa: F401  before ComfyUI, which has a package called tests, too
from environment.comfyui import import_comfyui

from . import dynamic

dynamic.load_library()
import_comfyui(cpu=True)  # it looks for a real card where it is imported otherwise

import comfy.model_management as management  # noqa: E402
from comfy.cli_args import args  # noqa: E402

from environment.pack import import_pack  # noqa: E402

from .device import CPU, DEVICE, card  # noqa: E402
from .report import examine, waits_by_step  # noqa: E402
from .scenarios import FAULTS, SCENARIOS, Scenario, Studio  # noqa: E402

MARGIN = 2**20  # bytes that ComfyUI keeps free for what it computes with; the real margin is larger than these cards
LARGE, SMALL = 2**30, 6 * 2**20  # bytes; the small one has no room for a model's weights beside the margin


@dataclass(frozen=True)
class Mode:
    """A way to start ComfyUI: its option, what that makes of it, and the card it runs on.

    Attributes:
        flag: the option's name in ComfyUI's arguments.
        state: the name of ComfyUI's VRAMState.
        budget: bytes of the card.
        dynamic: those that dynamic VRAM gives weights; None without it.
    """

    flag: str | None
    state: str
    budget: int
    dynamic: int | None = None


MODES = {
    "default": Mode(None, "NORMAL_VRAM", LARGE),
    "--gpu-only": Mode("gpu_only", "HIGH_VRAM", LARGE),
    "--lowvram": Mode("lowvram", "LOW_VRAM", SMALL),
    "--novram": Mode("novram", "NO_VRAM", SMALL),
    "dynamic": Mode(None, "NORMAL_VRAM", 8 * 2**20, dynamic=2 * 2**20),
}


def run_on_card(mode: Mode) -> None:
    """Makes the card ComfyUI's GPU: one of no known maker, without half precision."""
    card.budget = mode.budget
    args.cpu = False
    if mode.flag is not None:
        setattr(args, mode.flag, True)
    management.cpu_state = management.CPUState.GPU
    management.vram_state = management.VRAMState[mode.state]
    management.total_vram = mode.budget / 2**20
    management.minimum_inference_memory = lambda: MARGIN
    management.extra_reserved_memory = lambda: 0
    management.get_torch_device = lambda: DEVICE
    management.get_total_memory = _of_card(management.get_total_memory, lambda: card.budget)
    management.get_free_memory = _of_card(management.get_free_memory, lambda: card.free)
    management.is_nvidia = lambda: False
    management.should_use_fp16 = management.should_use_bf16 = lambda *_, **__: False
    if mode.dynamic is not None:
        dynamic.use_dynamic_vram(mode.dynamic)


def _of_card(of_host, of_card):
    """ComfyUI's question for memory: of the host, or the card's."""

    def memory(dev=None, torch_too=False, **options):
        if dev == CPU:
            return of_host(dev, torch_too, **options)
        both = torch_too or any(options.values())
        return (of_card(), 0) if both else of_card()

    return memory


def run_all(mode: str, folder: Path) -> tuple[dict[str, dict[str, Any]], dict[str, Tensor]]:
    """Every scenario's report and result; and in the default mode those of runs with faults, which the reports must show."""
    run_on_card(MODES[mode])
    scenarios = SCENARIOS | (FAULTS if mode == "default" else {})
    reports, results = {}, {}
    with torch.inference_mode():
        studio, plain = Studio(import_pack(), folder), _Plain()
        gc.freeze()  # what is there now need not be looked through for garbage before and after every scenario
        for name, scenario in scenarios.items():
            report, result = examine(
                lambda steps, scenario=scenario: scenario.run(studio, steps), lambda: chain(studio.weights(), dynamic.pages())
            )
            reports[name] = {**report.as_json(), "models": _models(studio), "plain_growth": plain.growth(studio, scenario)}
            if result is not None:
                results[name] = result
            studio.kept.clear()
    return reports, results


class _Plain(dict):
    """What the host waits for in ComfyUI alone, measured once for every way to sample."""

    def growth(self, studio: Studio, scenario: Scenario) -> dict[str, int]:
        run = scenario.plain
        if run is None:
            return {}
        if run not in self:
            self[run] = waits_by_step(lambda steps: run(studio, steps))[1]
        return self[run]


def _models(studio: Studio) -> list[dict[str, int]]:
    """The models of the last run: bytes of weights, those of them that are on the card, weights patched in every forward."""
    return [
        {
            "size": model.model_size(),
            "on_card": card.bytes_of([*model.model.parameters(), *dynamic.pages()]),
            "patched_in_forward": model.lowvram_patch_counter(),
        }
        for model in studio.runs
    ]
