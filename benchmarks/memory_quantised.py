"""What quantised models take at real size: computed, without a card, as in `memory_modes.py`.

On Diffusers a linear layer is what its library stores of a matrix, and what it makes of it to compute. By their sources,
bitsandbytes' `Linear8bitLt` keeps a scale for each row and computes with inputs in int8 and sums in int32; its `Linear4bit`
keeps a scale in fp32 for 64 numbers. torchao's `Int8WeightOnlyConfig` keeps a scale and a zero for each row, a GGUF file what
its format says. All but the first make the matrix anew in bf16 for each use. What Diffusers keeps in fp32 stays so; of a GGUF
file the matrices of the blocks are quantised. On ComfyUI the layers are ComfyUI-GGUF's own, in Q8_0.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import bench
import memory
import memory_modes
import torch
from memory_modes import gib
from torch import Tensor, nn
from torch.nn.functional import linear

from environment.pack import import_pack

Part = tuple[tuple[int, ...], torch.dtype]


def of_8_bit(rows: int, columns: int) -> list[Part]:
    return [((rows, columns), torch.int8), ((rows,), torch.float32)]


def of_4_bit(rows: int, columns: int) -> list[Part]:
    return [((rows * columns // 2, 1), torch.uint8), ((rows * columns // 64,), torch.float32), ((16,), torch.float32)]


def of_int8_weight_only(rows: int, columns: int) -> list[Part]:
    return [((rows, columns), torch.int8), ((rows, 1), torch.float32), ((rows, 1), torch.int8)]


def of_gguf(kind: str, rows: int, columns: int) -> list[Part]:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    elements, size = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    return [((rows, columns // elements * size), torch.uint8)]


class Quantised(nn.Module):
    """In the place of a linear layer."""

    def __init__(self, layer: nn.Linear, parts: list[Part], make: Callable[..., Tensor]):
        super().__init__()
        self.rows, self.columns = layer.weight.shape
        self.stored = nn.ParameterList([nn.Parameter(make(*part), requires_grad=False) for part in parts])
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, x.new_empty(self.rows, self.columns), self.bias)


class WithInt8Inputs(Quantised):
    def forward(self, x: Tensor) -> Tensor:
        quantised = x.new_empty(x.shape, dtype=torch.int8)
        sums = x.new_empty(*x.shape[:-1], self.rows, dtype=torch.int32)
        del quantised
        return sums.to(x.dtype) + self.bias


def quantise(model: nn.Module, kind: type[Quantised], parts: Callable[[int, int], list[Part]], kept: Any) -> None:
    """Replaces a model's linear layers, but for those whose names `kept`, a pattern, finds."""
    from tests.real_wan import hollow

    for name, layer in list(model.named_modules()):
        if type(layer) is nn.Linear and not kept.search(name):
            model.set_submodule(name, kind(layer, parts(*layer.weight.shape), hollow))


# --- Diffusers -------------------------------------------------------------------------------------------------------

NOT_BLOCKS = re.compile(r"^(?!blocks\.)")


def stored_as(pipe: Any, parts: Callable, kind: type[Quantised] = Quantised, kept: re.Pattern | None = None) -> None:
    from pusa_core.hosts.diffusers.files import FP32_MODULES

    quantise(pipe.transformer, kind, parts, kept or FP32_MODULES)
    memory_modes.resident(pipe)


def gguf(pipe: Any, kind: str) -> None:
    stored_as(pipe, partial(of_gguf, kind), kept=NOT_BLOCKS)


SET_UPS: dict[str, Callable[[Any], None]] = {
    "layerwise fp8": memory_modes.cast_by_layers,
    "8 bit (bitsandbytes)": partial(stored_as, parts=of_8_bit, kind=WithInt8Inputs),
    "8 bit, weights only (torchao)": partial(stored_as, parts=of_int8_weight_only),
    "4 bit, NF4 (bitsandbytes)": partial(stored_as, parts=of_4_bit),
    "GGUF Q8_0": partial(gguf, kind="Q8_0"),
    "GGUF Q4_K": partial(gguf, kind="Q4_K"),
}


def diffusers_report(model: str) -> str:
    rows = []
    for what, set_up in SET_UPS.items():
        rows.append([what, *(gib(memory_modes.diffusers_peak(model, size, set_up)) for size in memory.SIZES.values())])
    what = f"Diffusers, Wan {model}, a step with Pusa's keyframes; peak, GiB."
    return f"{what}\n\n{bench.table(['mode', *memory.SIZES], rows)}"


# --- ComfyUI ---------------------------------------------------------------------------------------------------------

CARDS = (24, 12)  # GiB


def comfyui_report(model: str) -> str:
    from tests.pretend import gguf as on_card

    on_card.use_gguf()
    rows = []
    for card in CARDS:
        cells = [comfyui_cells(model, card, size) for size in memory.SIZES.values()]
        rows.append([str(card), *(cell for pair in cells for cell in pair)])
    header = ["card, GiB", *(f"{size}: {what}" for size in memory.SIZES for what in ("weights on it", "peak"))]
    return f"ComfyUI-GGUF, Wan {model} in Q8_0, a step with a Pusa schedule; GiB.\n\n{bench.table(header, rows)}"


def comfyui_cells(model: str, budget: int, size: tuple[int, int]) -> list[str]:
    from tests import real_wan
    from tests.pretend import real_size

    real_size.use_card(budget * memory_modes.GIB)
    pack = import_pack()
    plan = real_wan.clip_plan(pack, size)
    patched = pack.pusa_core.hosts.comfyui.apply_schedule(real_wan.open_gguf(real_wan.WIDTHS[model]), plan)
    try:
        use = real_size.measured(patched, partial(real_wan.sample, patched, plan.clean))
    except torch.OutOfMemoryError:
        return ["-", "does not fit"]
    return [gib(use.weights), gib(use.peak)]


HOSTS = {"Diffusers": diffusers_report, "ComfyUI": comfyui_report}


def main() -> None:
    parser = bench.parser(__doc__, threads=1)
    parser.add_argument("--model", choices=memory.MODELS, default="14B")
    parser.add_argument("--hosts", nargs="+", choices=HOSTS, default=list(HOSTS))
    options = parser.parse_args()
    bench.use_comfyui(options)
    for host in options.hosts:
        bench.publish(f"quantised on {host}", HOSTS[host](options.model), options.write, bench.computed())


if __name__ == "__main__":
    main()
