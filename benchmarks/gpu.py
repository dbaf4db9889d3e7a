"""What Pusa costs on a GPU at real size: seconds, peak memory and host synchronisations per step, in one command.

Wan models of real width with random weights that are made on the card, on ComfyUI, its own euler at cfg 1: plain; with a
Pusa schedule; with a timestep for every frame, as ComfyUI itself does it; with a frame's modulation expanded to all its
tokens; and with a timestep for every token, as the authors' own code has it. Where not all blocks are taken, a step's time
is theirs alone. In bf16, fp8, fp8 scaled and GGUF Q8_0; resident, offloaded as --novram, where ComfyUI has less than the
weights need, and by its dynamic VRAM; with a LoRA that is merged when the weights are resident and added in every forward
when they are not (a baked one costs what none costs); with and without torch.compile. A step is what lies between two
callbacks of the sampler, so that nothing of a run's beginning counts. The peak is what PyTorch takes in a run over what it
held before; what dynamic VRAM holds of the weights is not PyTorch's.

Each group of these is a process of its own. Groups are taken in the order of their worth, and one that would take longer than
what is left of the minutes, as far as those before it tell, is left out; what was left out is named. --json is written after
every group, and a run that finds it there goes on with what is missing.

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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import bench
from gpu_groups import EXPANDED, FRAMES, GROUPS, PUSA, TOKENS, Group, Measured

from environment.pack import import_pack

GIB = 2**30
GOALS = "Goals: time and peak at most 1.01 times those of plain, no synchronisation more than plain."
SETTINGS = ["model", "blocks", "size", "weights", "placement", "LoRA", "compiled"]
COLUMNS = [*SETTINGS, "way", "s per step", "ratio", "peak", "ratio", "waits"]
MARK = "measured: "  # before every line of JSON that a group's process prints


def main() -> None:
    parser = bench.parser(__doc__, threads=1)
    parser.add_argument("--minutes", type=float, default=10, help="for everything")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each way, in turns")
    parser.add_argument("--first", type=int, default=len(GROUPS), help="so many groups")
    parser.add_argument("--small", action="store_true", help="narrow models of two blocks and a small clip")
    parser.add_argument("--json", type=Path, default=Path("gpu.json"), help="what was measured, and what to go on with")
    parser.add_argument("--group", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.group is not None:
        measure(GROUPS[options.group], options)
        return
    found = Measured.open(options.json, options.small)
    left_out = run_groups(found, options)
    found.write(left_out)
    text = f"{GOALS}\n\n{result_table(found.results)}"
    if left_out:
        text += "\n\nLeft out: " + "; ".join(f"{name} ({why})" for name, why in left_out.items()) + "."
    bench.publish("gpu", text, options.write, found.place or "Nothing was measured")


# --- in turns, within the minutes ------------------------------------------------------------------------------------


def run_groups(found: Measured, options: argparse.Namespace) -> dict[str, str]:
    """Measures what is missing; which groups were left out, and why."""
    end = time.monotonic() + 60 * options.minutes
    left_out = {}
    for number, group in enumerate(GROUPS[: options.first]):
        if group.name in found.seconds:
            continue
        left, needed = end - time.monotonic(), found.estimate(group)
        if needed > left or left <= 0:
            left_out[group.name] = f"takes about {needed:.0f} s, {max(left, 0):.0f} s left"
            continue
        begin = time.monotonic()
        rows, why = run_group(number, options, left)
        if rows:
            whole = time.monotonic() - begin
            found.add(group, rows, (whole - rows[0]["steps"], whole))
        else:
            left_out[group.name] = why
    return left_out


def run_group(number: int, options: argparse.Namespace, seconds: float) -> tuple[list[dict[str, Any]], str]:
    """A process that measures one group: what it printed, or why it printed nothing."""
    flags = [f"--{flag}" for flag in ("cpu", "small") if getattr(options, flag)]
    numbers = {"group": number, "rounds": options.rounds, "threads": options.threads}
    command = [sys.executable, __file__, *flags, *(f"--{name}={value}" for name, value in numbers.items())]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return [], f"stopped after {seconds:.0f} s, when the minutes were over"
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
    if group.placement.startswith("dynamic"):
        import comfy_aimdo.control

        comfy_aimdo.control.init()  # before PyTorch, as ComfyUI does
    bench.use_comfyui(options)
    import torch

    from tests import real_wan

    width, size = real_wan.WIDTHS[group.model], real_wan.SIZES[group.size]
    if options.small:
        width, size = real_wan.SMALL, (32, 32)
    blocks = min(group.blocks or width.layers, width.layers)
    with torch.inference_mode():
        limit_memory(group, 2 * sum(map(math.prod, width.shapes(blocks).values())))
        model = open_model(group, width, blocks)
        plan = real_wan.clip_plan(import_pack(), size)
        runs = {way: runner(way, model, plan, group, options) for way in group.ways}
        for run in runs.values():
            run(1)  # loads, compiles and warms up
        begin = time.monotonic()
        found = measured(runs, options.rounds)
        steps = time.monotonic() - begin
        for way, figures in found.items():
            line = {"way": way, "group": asdict(group), "place": bench.where(), **figures, "steps": steps}
            print(MARK + json.dumps(line), flush=True)


def limit_memory(group: Group, needed: int) -> None:
    """Tells ComfyUI how much of the card it has, as its options do.

    Args:
        needed: bytes of the weights in bf16.
    """
    import comfy.model_management as management

    half = max(management.get_total_memory(management.get_torch_device()) - needed // 2 - 6 * GIB, 0)
    if group.placement == "novram":
        management.vram_state = management.VRAMState.NO_VRAM
    elif group.placement == "lowvram":
        management.vram_state = management.VRAMState.LOW_VRAM
        management.EXTRA_RESERVED_VRAM = half
    elif group.placement.startswith("dynamic"):
        use_dynamic_vram(half if group.placement == "dynamic half" else 0)


def use_dynamic_vram(headroom: int) -> None:
    """What ComfyUI does at its start where it can: so many bytes of the card stay free."""
    import comfy.memory_management
    import comfy.model_management as management
    import comfy.model_patcher
    import comfy_aimdo.control

    device = management.get_torch_device()
    if device.type == "cpu" or not comfy_aimdo.control.init_devices([(device.index or 0, headroom)]):
        sys.exit(f"no dynamic VRAM on {device.type}")
    comfy.model_patcher.CoreModelPatcher = comfy.model_patcher.ModelPatcherDynamic
    comfy.memory_management.aimdo_enabled = True


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


def runner(way: str, model: Any, plan: Any, group: Group, options: argparse.Namespace) -> Callable[..., None]:
    """run(steps, callback), of one way to sample."""
    from functools import partial

    from tests import real_wan

    others = {
        FRAMES: real_wan.with_frame_timesteps,
        EXPANDED: real_wan.with_expanded_modulation,
        TOKENS: real_wan.with_token_timesteps,
    }
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

STEPS = 2  # of a run that is measured


def measured(runs: dict[str, Callable[..., None]], rounds: int) -> dict[str, dict[str, Any]]:
    """Of every way: a step's seconds in every round, in turns; its bytes of the card; how often the host waits in it."""
    found: dict[str, list[tuple[float, float | None, int | None]]] = {way: [] for way in runs}
    for number in range(rounds):
        for way in list(runs)[:: -1 if number % 2 else 1]:
            found[way].append(measured_run(runs[way]))
    figures = {}
    for way, rows in found.items():
        seconds, peaks, waits = zip(*rows)
        figures[way] = {"seconds": seconds, "peak": peaks[-1], "waits": waits[-1]}
    return figures


def measured_run(run: Callable[..., None]) -> tuple[float, float | None, int | None]:
    """Seconds of a step, bytes of the card that the run takes at most, how often the host waits for it in a step."""
    import comfy.model_management as management
    import torch

    from pusa_core.devices import peak_memory, synchronize

    device = management.get_torch_device()
    steps: list[tuple[float, int]] = []

    with synchronisations() as waits:

        def note(*_: Any) -> None:
            waited = len(waits)
            synchronize(device)
            steps.append((time.perf_counter(), waited))

        peak = peak_memory(device, lambda: run(STEPS, note))
    (begin, before), *_, (end, after) = steps
    counted = (after - before) // (STEPS - 1) if torch.cuda.is_available() else None
    return (end - begin) / (STEPS - 1), None if device.type == "cpu" else peak, counted


@contextmanager
def synchronisations() -> Iterator[Sequence[object]]:
    """What CUDA says of times when the host waited for it, as they come."""
    import warnings

    import torch

    if not torch.cuda.is_available():
        yield ()
        return
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("ignore")
            warnings.filterwarnings("always", message=".*synchronizing")
            yield caught
    finally:
        torch.cuda.set_sync_debug_mode("default")


if __name__ == "__main__":
    main()
