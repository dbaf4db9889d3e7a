"""What Pusa costs on a GPU at real size: seconds, peak memory and host synchronisations per step, in one command.

Wan models of real width with random weights that are made on the card, on ComfyUI, its own euler at cfg 1: plain; with a Pusa
schedule; with a frame's modulation expanded to all its tokens; and with a timestep for every token, as the authors' own code
has it. Where not all blocks are taken, a step's time is theirs alone. In bf16, fp8, fp8 scaled and GGUF Q8_0; resident,
offloaded as --novram, and where ComfyUI has less than the weights need; with a LoRA that is merged when the weights are
resident and added in every forward when they are not (a baked one costs what none costs); with and without torch.compile.
Each group of these is a process of its own; groups are taken in the order of their worth until the minutes are over, and what
was left out is named. The peak is what a step takes over what the card held before.

On a machine without a GPU: --cpu --small takes every way once through a small model, to see that the command works.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import bench

from environment.pack import import_pack

GIB = 2**30
GOALS = "Goals: time and peak at most 1.01 times those of plain, no synchronisation more than plain."
PLAIN, PUSA = "plain", "Pusa schedule"
EXPANDED, TOKENS = "modulation expanded to tokens", "a timestep for every token"
ALL = (PLAIN, PUSA, EXPANDED, TOKENS)
SETTINGS = ["model", "blocks", "size", "weights", "placement", "LoRA", "compiled"]
COLUMNS = [*SETTINGS, "way", "s per step", "ratio", "peak", "ratio", "waits"]
MARK = "measured: "  # before every line of JSON that a group's process prints


@dataclass(frozen=True)
class Group:
    """What one process measures: ways to sample with one model.

    Attributes:
        blocks: of the model; None for all.
        precision: bf16, fp8, fp8 scaled or GGUF.
        placement: resident, novram, or lowvram, which leaves ComfyUI half of what the weights need.
        lora: rank of a LoRA; 0 for none.
    """

    model: str
    size: str
    blocks: int | None = 10
    precision: str = "bf16"
    placement: str = "resident"
    lora: int = 0
    compiled: bool = False
    ways: tuple[str, ...] = (PLAIN, PUSA)

    @property
    def cells(self) -> list[str]:
        lora = f"rank {self.lora}" if self.lora else "-"
        compiled = "compiled" if self.compiled else "-"
        return [self.model, str(self.blocks or "all"), self.size, self.precision, self.placement, lora, compiled]

    @property
    def name(self) -> str:
        return " ".join(cell for cell in self.cells if cell != "-")


GROUPS = (
    Group("14B", "480p", None, ways=ALL),
    Group("1.3B", "480p", None, ways=ALL),
    Group("14B", "720p", ways=ALL),
    Group("14B", "480p", precision="fp8 scaled"),
    Group("14B", "480p", precision="GGUF"),
    Group("14B", "480p", placement="novram"),
    Group("14B", "480p", compiled=True),
    Group("14B", "480p", lora=128),
    Group("14B", "480p", placement="novram", lora=128),
    Group("14B", "480p", placement="lowvram"),
    Group("14B", "480p", precision="fp8 scaled", placement="novram"),
    Group("14B", "480p", precision="GGUF", placement="novram"),
    Group("14B", "480p", precision="fp8"),
    Group("1.3B", "720p", None),
    Group("14B", "720p", None),
    Group("14B", "480p", None, precision="fp8 scaled"),
)


def main() -> None:
    parser = bench.parser(__doc__, threads=1)
    parser.add_argument("--minutes", type=float, default=10, help="for everything")
    parser.add_argument("--rounds", type=int, default=2, help="steps of each way that are timed, in turns")
    parser.add_argument("--first", type=int, default=len(GROUPS), help="so many groups")
    parser.add_argument("--small", action="store_true", help="narrow models of two blocks and a small clip")
    parser.add_argument("--json", type=Path, help="write what was measured here, too")
    parser.add_argument("--group", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.group is not None:
        measure(GROUPS[options.group], options)
        return
    results, left_out = run_groups(options)
    place = next((result["place"] for result in results), "Nothing was measured")
    if options.json:
        options.json.write_text(json.dumps({"place": place, "results": results, "left_out": left_out}, indent=1))
    text = f"{GOALS}\n\n{result_table(results)}"
    if left_out:
        text += "\n\nLeft out: " + "; ".join(f"{name} ({why})" for name, why in left_out.items()) + "."
    bench.publish("gpu", text, options.write, place)


# --- in turns, within the minutes ------------------------------------------------------------------------------------


def run_groups(options: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """What was measured, and what was not by its name, with why."""
    end = time.monotonic() + 60 * options.minutes
    results: list[dict[str, Any]] = []
    left_out = {}
    for number, group in enumerate(GROUPS[: options.first]):
        seconds = end - time.monotonic()
        found, why = run_group(number, options, seconds) if seconds > 0 else ([], "no time left")
        results += found
        if not found:
            left_out[group.name] = why
    return results, left_out


def run_group(number: int, options: argparse.Namespace, seconds: float) -> tuple[list[dict[str, Any]], str]:
    """A process that measures one group: what it printed, or why it printed nothing."""
    flags = [f"--{flag}" for flag in ("cpu", "small") if getattr(options, flag)]
    numbers = {"group": number, "rounds": options.rounds, "threads": options.threads}
    command = [sys.executable, __file__, *flags, *(f"--{name}={value}" for name, value in numbers.items())]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return [], "no time left"
    lines = [line.removeprefix(MARK) for line in done.stdout.splitlines() if line.startswith(MARK)]
    last = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
    return [json.loads(line) for line in lines], last[:200]


def result_table(results: list[dict[str, Any]]) -> str:
    rows = []
    for result in results:
        group = Group(**{**result["group"], "ways": tuple(result["group"]["ways"])})
        base = next(r for r in results if r["group"] == result["group"])  # plain comes first
        rows.append([*group.cells, result["way"], *figures(result, base)])
    return bench.table(COLUMNS, rows)


def figures(result: dict[str, Any], base: dict[str, Any]) -> list[str]:
    """Seconds, peak and waits of one way, with their ratios to plain's."""
    seconds, peak, waits = result["seconds"], result["peak"], result["waits"]
    cells = [f"{statistics.median(seconds):.3f}", f"{statistics.median(a / b for a, b in zip(seconds, base['seconds'])):.3f}"]
    cells += ["-", "-"] if peak is None else [f"{peak / GIB:.2f} GiB", f"{peak / base['peak']:.3f}"]
    return [*cells, "-" if waits is None else str(waits)]


# --- one group, in a process of its own ------------------------------------------------------------------------------


def measure(group: Group, options: argparse.Namespace) -> None:
    """Prints a line for every way."""
    bench.use_comfyui(options)
    import torch

    from tests import real_wan

    width, size = real_wan.WIDTHS[group.model], real_wan.SIZES[group.size]
    if options.small:
        width, size = real_wan.SMALL, (32, 32)
    blocks = min(group.blocks or width.layers, width.layers)
    with torch.inference_mode():
        limit_memory(group, width)
        model = open_model(group, width, blocks)
        plan = real_wan.clip_plan(import_pack(), size)
        runs = {way: runner(way, model, plan, group, options) for way in group.ways}
        for way, figures in measured(runs, options.rounds).items():
            line = {"way": way, "group": asdict(group), "place": bench.where(), **figures}
            print(MARK + json.dumps(line), flush=True)


def limit_memory(group: Group, width: Any) -> None:
    """Tells ComfyUI how much of the card it has, as its options do."""
    import comfy.model_management as management

    if group.placement == "novram":
        management.vram_state = management.VRAMState.NO_VRAM
    elif group.placement == "lowvram":
        management.vram_state = management.VRAMState.LOW_VRAM
        device = management.get_torch_device()
        needed = 2 * sum(map(math.prod, width.shapes(group.blocks).values()))
        management.EXTRA_RESERVED_VRAM = max(management.get_total_memory(device) - needed // 2 - 6 * GIB, 0)


def open_model(group: Group, width: Any, blocks: int):
    import comfy.model_management as management

    from tests import real_wan

    card = management.get_torch_device()
    home = card if group.placement == "resident" else management.unet_offload_device()
    make = random_on(card, home)
    if group.precision == "GGUF":
        model = real_wan.open_gguf(width, blocks, make)
    else:
        model = real_wan.open_wan(width, group.precision, blocks, make)
    return with_lora(model, group.lora) if group.lora else model


def random_on(card: Any, home: Any) -> Callable:
    """Makes random weights on the card, and puts them where they stay."""
    import torch

    def make(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        if dtype == torch.uint8:
            return torch.randint(0, 128, shape, dtype=dtype, device=card).to(home)
        made = torch.empty(shape, dtype=torch.bfloat16, device=card).normal_(std=0.02)
        return made.to(dtype).to(home)

    return make


def runner(way: str, model: Any, plan: Any, group: Group, options: argparse.Namespace) -> Callable[[int], None]:
    """run(steps), of one way to sample."""
    from functools import partial

    from tests import real_wan

    others = {EXPANDED: real_wan.with_expanded_modulation, TOKENS: real_wan.with_token_timesteps}
    if way == PUSA:
        model = import_pack().pusa_core.hosts.comfyui.apply_schedule(model, plan)
    elif way in others:
        model = others[way](model, plan)
    if group.compiled:
        from comfy_api.torch_helpers import set_torch_compile_wrapper

        model = model.clone()
        set_torch_compile_wrapper(model=model, backend="eager" if options.small else "inductor")
    return partial(real_wan.sample, model, plan.clean)


def with_lora(model: Any, rank: int):
    """With random Pusa-like LoRA weights on the modules that Pusa's has."""
    import comfy.sd
    import torch

    from tests import tiny

    wan = model.model.diffusion_model
    weights = {}
    for module, (rows, columns) in tiny.lora_modules(wan.dim, len(wan.blocks), wan.blocks[0].ffn_dim).items():
        key = f"diffusion_model.{module}"
        weights[f"{key}.lora_A.weight"] = 0.02 * torch.randn(rank, columns).bfloat16()
        weights[f"{key}.lora_B.weight"] = 0.02 * torch.randn(rows, 1).bfloat16().expand(rows, rank)
    return comfy.sd.load_lora_for_models(model, None, weights, 1.4, 0)[0]


# --- measuring -------------------------------------------------------------------------------------------------------


def measured(runs: dict[str, Callable[[int], None]], rounds: int) -> dict[str, dict[str, Any]]:
    """Of every way: a step's seconds in every round, in turns; its bytes of the card; how often the host waits in it."""
    for run in runs.values():
        run(1)  # loads, compiles and warms up
    steps: dict[str, list[tuple[float, int | None]]] = {way: [] for way in runs}
    for number in range(rounds):
        for way in list(runs)[:: -1 if number % 2 else 1]:
            steps[way].append(timed(runs[way], 1))
    figures = {}
    for way, run in runs.items():
        peak, waits = peak_and_waits(run)
        before = steps[way][-1][1]
        more = None if waits is None or before is None else waits - before
        figures[way] = {"seconds": [seconds for seconds, _ in steps[way]], "peak": peak, "waits": more}
    return figures


def timed(run: Callable[[int], None], steps: int) -> tuple[float, int | None]:
    """Seconds, and how often the host waited."""
    import comfy.model_management as management

    from pusa_core.devices import synchronize

    device = management.get_torch_device()
    synchronize(device)
    begin = time.perf_counter()
    waits = counted_waits(run, steps)
    synchronize(device)
    return time.perf_counter() - begin, waits


def peak_and_waits(run: Callable[[int], None]) -> tuple[float | None, int | None]:
    """Of two steps: bytes of the card at most, None on a CPU, and how often the host waited."""
    import comfy.model_management as management

    from pusa_core.devices import peak_memory

    device, waits = management.get_torch_device(), []
    peak = peak_memory(device, lambda: waits.append(counted_waits(run, 2)))
    return None if device.type == "cpu" else peak, waits[0]


def counted_waits(run: Callable[[int], None], steps: int) -> int | None:
    """Runs so many steps; how often the host waited for the card, None where CUDA does not tell."""
    import warnings

    import torch

    if not torch.cuda.is_available():
        run(steps)
        return None
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run(steps)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(warning.message) for warning in caught)


if __name__ == "__main__":
    main()
