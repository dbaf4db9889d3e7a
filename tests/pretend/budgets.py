"""python -m tests.pretend.budgets FOLDER: the pack on cards that hold all, half or a third of a model's weights, or none, and
by dynamic VRAM.

Prints a line of JSON: a report for each precision and card. Files go to FOLDER.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pusa_core.bake import LoraFile, bake
from tests import real_wan, tiny

from . import BUDGETS, dynamic
from .device import CPU, card

# Before ComfyUI, which looks for a card where it is imported.
from .comfyui import LARGE, Mode, import_pack, management, run_on_card  # isort: skip
import comfy.float
import comfy.sd
from comfy.ldm.wan.model import WanModel

from .gguf import use_gguf
from .real_size import parts
from .scenarios import Studio, ksampler, lora, plain_lora

LAYERS, TEXT_DIM, STEPS = 3, 256, 2
BUFFER = 2 * 4 * tiny.DIM * tiny.FFN  # bytes that ComfyUI keeps to fetch what is not on the card: two of the largest weights
RUNS = {"schedule": ksampler, "LoRA": lora}
Models = dict[str, Callable[[], Any]]


def open_studio(folder: Path) -> Studio:
    """With short texts, so that most weights are the blocks', as those of a real model."""
    defaults = WanModel.__init__.__defaults__
    WanModel.__init__.__defaults__ = tuple(TEXT_DIM if each == tiny.TEXT_DIM else each for each in defaults)
    tiny.TEXT_DIM = TEXT_DIM
    for name in ("high", "low"):
        write_wan(folder / f"{name}.safetensors", torch.bfloat16)
    tiny.write_vae(folder / "vae.safetensors")
    tiny.write_lora(folder / "lora.safetensors", layers=LAYERS)
    studio = Studio(import_pack(), folder)
    studio.positive, studio.negative = (tiny.conditioning(TEXT_DIM, seed=seed) for seed in (1, 2))
    return studio


def write_wan(path: Path, dtype: torch.dtype) -> Path:
    return tiny.write_wan(path, seed=1, layers=LAYERS, text_dim=TEXT_DIM, dtype=dtype)


def open_models(folder: Path) -> Models:
    """What opens a model anew, by its precision, which is its file's."""
    bf16, scaled = folder / "high.safetensors", folder / "scaled.safetensors"
    bake(bf16, [LoraFile(folder / "lora.safetensors", 0.0)], scaled, "fp8_scaled")
    return {
        "bf16": partial(_open, bf16, dtype=torch.bfloat16),
        "fp8": partial(_open, write_wan(folder / "fp8.safetensors", torch.float8_e4m3fn), dtype=torch.float8_e4m3fn),
        "fp8 scaled": partial(_open, scaled),
        **_gguf_models(),
    }


def _open(path: Path, **options: Any) -> Any:
    return comfy.sd.load_diffusion_model(str(path), model_options=options)


def _gguf_models() -> Models:
    """None where ComfyUI-GGUF is not installed."""
    try:
        use_gguf()
    except ModuleNotFoundError:
        return {}
    return {"GGUF": _open_gguf}


def _open_gguf() -> Any:
    generator = torch.Generator().manual_seed(1)

    def make(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        if dtype == torch.uint8:
            return torch.randint(256, shape, generator=generator, dtype=dtype)
        return torch.randn(shape, generator=generator) / shape[-1] ** 0.5

    return real_wan.open_gguf(real_wan.Width(tiny.DIM, tiny.HEADS, tiny.FFN, LAYERS), make=make)


# --- on a card -------------------------------------------------------------------------------------------------------


def round_on_the_host() -> None:
    """Random rounding of fp8 weights, for which the card has no number generator."""
    rounded = comfy.float.stochastic_rounding
    comfy.float.stochastic_rounding = lambda value, dtype, seed=0: rounded(value.to(CPU), dtype, seed).to(value.device)


Asked = list[tuple[float, float]]


@contextmanager
def asked_memory() -> Iterator[Asked]:
    """Bytes that ComfyUI asks for beside the weights when it loads models: what it would like, and the least."""
    load, asked = management.load_models_gpu, []

    def noting(models, memory_required=0, minimum_memory_required=None, **options):
        asked.append((memory_required, minimum_memory_required))
        return load(models, memory_required=memory_required, minimum_memory_required=minimum_memory_required, **options)

    management.load_models_gpu = noting
    try:
        yield asked
    finally:
        management.load_models_gpu = load


def examine(studio: Studio, wanted: dict[str, Tensor]) -> dict[str, Any]:
    """Runs a model on the card: its distances from the results on the CPU, and what it took."""
    asked: dict[str, Asked] = {}
    peaks: dict[str, int] = {}
    results: dict[str, Tensor] = {}
    for name, run in {"plain": plain_lora, **RUNS}.items():
        card.watch()
        with asked_memory() as asked[name]:
            results[name] = run(studio, STEPS).cpu()
        peaks[name] = card.peak
    gc.collect()
    return {
        "distances": {name: ((results[name] - wanted[name]).norm() / wanted[name].norm()).item() for name in RUNS},
        "asked": asked,
        "peaks": peaks,
        "latent": wanted["LoRA"].nbytes,
        "left": card.owners(chain(parts(studio.weights()), dynamic.pages())),
        **_placement(studio.runs[-1]),
    }


def _placement(model: Any) -> dict[str, Any]:
    """Where a model's weights are, and how many of which place the LoRA is computed for in every forward."""
    modules = dict(model.model.named_modules())
    patched = {modules[key.removesuffix(".weight")] for key in model.patches}
    offloaded = {module for module in patched if module.weight.device == CPU and not dynamic.is_held(module)}
    in_forward = {module for module in modules.values() if getattr(module, "weight_function", [])}
    return {
        "share": card.bytes_of(chain(parts(model.model.parameters()), dynamic.pages())) / model.model_size(),
        "loaded": len(patched - offloaded),
        "offloaded": len(offloaded),
        "patched_in_forward": {"loaded": len(in_forward - offloaded), "offloaded": len(in_forward & offloaded)},
    }


def cards() -> Iterator[tuple[str, float]]:
    """`BUDGETS`, each with ComfyUI started so for all models opened from then on; the last where it has dynamic VRAM."""
    for name, share in BUDGETS.items():
        management.vram_state = management.VRAMState.NO_VRAM if name == "--novram" else management.VRAMState.NORMAL_VRAM
        if name == "dynamic":
            if not dynamic.is_known():
                return
            dynamic.use_dynamic_vram(0)
        yield name, share


def main(folder: Path) -> None:
    reports = {}
    with torch.inference_mode():
        studio, models = open_studio(folder), open_models(folder)
        wanted: dict[str, dict[str, Tensor]] = {}
        for precision, open_model in models.items():
            studio.high = open_model()
            with asked_memory() as asked:
                wanted[precision] = {name: run(studio, STEPS) for name, run in RUNS.items()}
        gc.freeze()  # what is there now need not be looked through for garbage after every run
        run_on_card(Mode(None, "NORMAL_VRAM", LARGE))
        round_on_the_host()
        management.MIN_WEIGHT_MEMORY_RATIO = 0.0  # as with an NVIDIA card: all but the weights comes first
        for name, share in cards():
            for precision, open_model in models.items():
                studio.runs.clear()
                studio.high = open_model()
                dynamic.Pages.limit = int(share * studio.high.model_size())
                card.budget = int(asked[-1][1] + BUFFER + dynamic.Pages.limit)
                reports[f"{precision}, {name}"] = examine(studio, wanted[precision])
    print(json.dumps(reports))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
