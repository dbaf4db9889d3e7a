"""What Pusa costs: one sampling step's time and memory on ComfyUI and on Diffusers, building a schedule, a step's preview,
and the pack's share of ComfyUI's start.

The step is one model evaluation by ComfyUI's own guider and euler at cfg 1, on a random Wan of real width with few layers:
unpatched; with a Pusa schedule (m = 0.2 on the first latent frame, 0.5 on the last); and, to tell ComfyUI's share of the
difference from ours, unpatched but given those frames' timesteps directly. The same step on Diffusers is a whole call of
its pipeline with one step, without a text encoder and a VAE. All in one run, in turns.

On the CPU, whose cores are rarely ours alone, a step's time is the CPU time of the process on one thread, which waiting
for a core does not count into. On an accelerator it is the wall clock. The ratio is the median of those within each round.
Peak memory is what torch's tensors take at most during the step over what they take before it: on the CPU from the
allocations that torch's profiler records, on an accelerator from max_memory_allocated.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bench

from pusa_core.devices import default_dtype, peak_memory, synchronize

WIDTHS: dict[str, dict[str, Any]] = {
    "1.3B": {"dim": 1536, "heads": 12, "ffn": 8960},
    "14B": {"dim": 5120, "heads": 40, "ffn": 13824},
}
GOALS = {"ComfyUI": "time at most 1.02 times", "Diffusers": "time at most 1.02, memory at most 1.01 times"}
BY_SIZE = ("1.3B", (208, 128, 61)), ("1.3B", (416, 240, 61)), ("14B", (208, 128, 61))  # one layer of each
LIMITS = {"schedule": 50, "start": 100}  # ms


def main() -> None:
    parser = bench.parser(__doc__, threads=1)
    parser.add_argument("--model", choices=WIDTHS, help="width of the model; 14B, or 1.3B on a CPU")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--size", type=int, nargs=3, metavar=("W", "H", "LENGTH"), help="832 480 81, or 416 240 61 on a CPU")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--hosts", nargs="+", choices=GOALS, default=list(GOALS))
    parser.add_argument("--skip-step", action="store_true", help="only the schedule and the start-up")
    parser.add_argument("--by-size", action="store_true", help="only the step on ComfyUI, of one layer of several sizes")
    options = parser.parse_args()
    if options.by_size:
        bench.use_comfyui(options)
        return bench.publish("step, by size", size_report(options.rounds), options.write)
    start = startup()
    bench.use_comfyui(options)
    import torch

    parts = []
    with torch.inference_mode():
        if not options.skip_step:
            parts.append(step_report(options))
        parts.append(preview_report())
    parts.append(schedule_report())
    parts.append(start)
    bench.publish("step", "\n\n".join(parts), options.write)


# --- one step --------------------------------------------------------------------------------------------------------


def step_report(options) -> str:
    import comfy.model_management

    from tests import tiny

    device = comfy.model_management.get_torch_device()
    on_cpu = device.type == "cpu"
    name = options.model or ("1.3B" if on_cpu else "14B")
    width, height, length = options.size or ((416, 240, 61) if on_cpu else (832, 480, 81))
    plan, tokens = plan_of(width, height, length)
    lines = [
        f"Wan {name} width, {options.layers} layers, {width}x{height}x{length} = {tokens:,} tokens, {options.rounds} rounds."
    ]
    with tempfile.TemporaryDirectory() as folder:
        dtype = default_dtype(device)
        file = tiny.write_wan(Path(folder) / "wan.safetensors", **WIDTHS[name], layers=options.layers, dtype=dtype)
        for host in options.hosts:
            runs = {"ComfyUI": on_comfyui, "Diffusers": on_diffusers}[host](file, plan, device)
            times = in_turns(runs, options.rounds, device)
            peaks = {key: peak_on_cpu(run) if on_cpu else peak_memory(device, run) / 2**20 for key, run in runs.items()}
            lines += [f"{host}; goal: {GOALS[host]} those of the unpatched step.", step_table(times, peaks)]
    return "\n\n".join(lines)


def plan_of(width: int, height: int, length: int) -> tuple[Any, int]:
    """A clip with noisy keyframes at its ends, and how many tokens it has."""
    frames = (length - 1) // 4 + 1
    plan = bench.clip_plan(frames, {0: (0.2,), frames - 1: (0.5,)}, height // 8, width // 8)
    return plan, frames * (height // 16) * (width // 16)


def size_report(rounds: int) -> str:
    """What a schedule adds to one layer, whose own time grows with width and tokens in square."""
    import comfy.model_management
    import torch

    from tests import tiny

    device, rows = comfy.model_management.get_torch_device(), []
    for name, size in BY_SIZE:
        plan, tokens = plan_of(*size)
        with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
            wan = Path(folder) / "wan.safetensors"
            tiny.write_wan(wan, **WIDTHS[name], layers=1, dtype=default_dtype(device))
            times = in_turns(on_comfyui(wan, plan, device), rounds, device)
        base, *others = times.values()
        ratios = [f"{statistics.median(a / b for a, b in zip(taken, base)):.3f}" for taken in others]
        rows.append([f"{name} width", f"{tokens:,}", f"{statistics.median(base):.2f} s", *ratios])
    return bench.table(["one layer of", "tokens", "unpatched", "Pusa schedule", "ComfyUI given (B, F) timesteps"], rows)


def on_comfyui(file: Path, plan, device) -> dict:
    """What to compare: one step each, of clones that share their weights."""
    from pusa_core.hosts.comfyui import apply_schedule
    from pusa_core.schedule import pusa_sigmas
    from tests import tiny
    from tests.real_wan import with_frame_timesteps

    model = tiny.load_wan(file)
    given = with_frame_timesteps(model, plan)
    models = {"unpatched": model, "Pusa schedule": apply_schedule(model, plan), "ComfyUI given (B, F) timesteps": given}
    text = [tiny.conditioning(tokens=512)] * 2
    return {key: partial(bench.sample, m, plan, text, "euler", pusa_sigmas(10)[:2]) for key, m in models.items()}


def on_diffusers(file: Path, plan, device) -> dict:
    """The same for Diffusers' pipeline and ours, which share a transformer."""
    from diffusers import WanPipeline

    from pusa_core.frames import pixel_length
    from pusa_core.hosts.diffusers import PusaScheduler, PusaWanPipeline, open_wan
    from tests import tiny

    wan = open_wan(file, default_dtype(device)).to(device)
    stock = WanPipeline(None, None, None, PusaScheduler(), wan)
    pusa = PusaWanPipeline.from_wan(stock)
    for pipe in (stock, pusa):
        pipe.set_progress_bar_config(disable=True)
    frames, height, width = plan.clean.shape[2:]
    call = {
        "prompt_embeds": tiny.conditioning(tokens=512)[0][0].to(wan.device), "guidance_scale": 1.0, "num_inference_steps": 1,
        "num_frames": pixel_length(frames), "height": 8 * height, "width": 8 * width, "output_type": "latent",
    }  # fmt: skip
    return {"WanPipeline": partial(stock, **call), "with Pusa's keyframes": partial(pusa, keyframes=plan, **call)}


def seconds(run, device) -> float:
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    begin = clock()
    run()
    synchronize(device)
    return clock() - begin


def in_turns(runs: dict, rounds: int, device) -> dict[str, list[float]]:
    """Seconds of every run in every round; the order turns round each time."""
    times: dict[str, list[float]] = {key: [] for key in runs}
    for run in runs.values():
        run()  # warms up
    for number in range(rounds):
        for key in list(runs)[:: -1 if number % 2 else 1]:
            times[key].append(seconds(runs[key], device))
    return times


def peak_on_cpu(run) -> float:
    import torch

    cpu = torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[cpu], profile_memory=True, acc_events=True) as profile:
        run()
    changes = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    taken = peak = 0
    for event in sorted(changes, key=lambda e: e.start_ns()):
        taken += event.nbytes()
        peak = max(peak, taken)
    return peak / 2**20


def step_table(times: dict[str, list[float]], peaks: dict[str, float]) -> str:
    rows, (base, *_) = [], times
    for key, taken in times.items():
        ratio = statistics.median(a / b for a, b in zip(taken, times[base]))
        row = [key, f"{statistics.median(taken):.3f} s", f"{min(taken):.3f} s", f"{ratio:.3f}"]
        rows.append([*row, f"{peaks[key]:.0f} MiB", f"{peaks[key] / peaks[base]:.3f}"])
    return bench.table(["model", "step: median", "fastest", "ratio", "peak memory", "ratio"], rows)


# --- previews --------------------------------------------------------------------------------------------------------

FAST_STEP = 261 / 50  # seconds: the fastest published Wan, 1.3B at 832x480x81 with cfg on an RTX 4090 (Wan2.1's README)


def preview_report() -> str:
    """The sheet that the Pusa samplers show after every step, beside ComfyUI's preview of the first latent frame."""
    import comfy.latent_formats
    import comfy.taesd.taehv
    import latent_preview
    import torch

    from pusa_core.hosts.comfyui.previews import DECODED_CELLS
    from pusa_core.preview_sheet import PreviewSheet

    form = comfy.latent_formats.Wan21()
    matrix = latent_preview.Latent2RGBPreviewer(form.latent_rgb_factors, form.latent_rgb_factors_bias)
    net = comfy.taesd.taehv.TAEHV(16)
    small = latent_preview.TAEHVPreviewerImpl(SimpleNamespace(decode=lambda x: net.decode(x).movedim(1, -1)))
    cases = [("latent2rgb", matrix, 2**18, (480, 832)), ("latent2rgb", matrix, 2**18, (720, 1280))]
    rows = []
    for name, previewer, cells, (height, width) in [*cases, ("taesd (TAEHV)", small, DECODED_CELLS, (480, 832))]:
        clip = torch.randn(1, 16, 21, height // 8, width // 8)
        sheet, decode = PreviewSheet.of(*clip.shape[2:], most_cells=cells), previewer.decode_latent_to_preview
        rounds = 15 if previewer is matrix else 3
        ours = milliseconds(partial(draw_preview, sheet, decode, clip), rounds)
        stock = milliseconds(partial(decode, clip), rounds)
        share = f"{(ours - stock) / FAST_STEP / 10:.2f} %" if (height, previewer) == (480, matrix) else "-"
        rows.append([name, f"{width}x{height}x81", f"{ours:.0f} ms", f"{stock:.0f} ms", share])
    head = f"A step's preview; goal: 1 % of a step, and the fastest published one takes {FAST_STEP:.1f} s, on an RTX 4090."
    return f"{head}\n\n{bench.table(['method', 'size', 'sheet', 'first frame alone', 'more, of that step'], rows)}"


def draw_preview(sheet, decode, clip):
    return sheet.draw(decode(sheet.fold(clip)))


# --- building a schedule ---------------------------------------------------------------------------------------------


def schedule_report(count: int = 1000) -> str:
    import torch

    from pusa_core.keyframes import still_keyframe
    from pusa_core.plan import plan_clip
    from pusa_core.schedule import FrameSchedule, pusa_sigmas
    from pusa_core.virtual_latent import ScheduleTable

    def encode(pictures):
        return torch.zeros(1, 16, 1, 2, 2)

    length = 4 * (count - 1) + 1
    pictures = torch.zeros(count, 16, 16, 3)
    keyframes = [still_keyframe(pictures[i : i + 1], i, "latent", 0.2) for i in range(count)]
    schedule = plan_clip(keyframes, length, encode).schedule
    table, grid = ScheduleTable.of([schedule]), pusa_sigmas(10)
    text = schedule.to_json()
    parts = {
        "`plan_clip` (an encoder that gives zeros)": lambda: plan_clip(keyframes, length, encode),
        "`FrameSchedule.build`": lambda: FrameSchedule.build(count, schedule.keyframes),
        "to JSON": schedule.to_json,
        "from JSON": lambda: FrameSchedule.from_json(text),
        "the table of its maps, once a run": lambda: ScheduleTable.of([schedule]),
        "`at` a sigma, once a model evaluation": lambda: table.at(0.5, grid),
    }
    times = {key: milliseconds(part) for key, part in parts.items()}
    rows = [[key, f"{ms:.1f} ms"] for key, ms in {**times, "all": sum(times.values())}.items()]
    what = f"Schedule of {count} latent frames, all keyframes; limit {LIMITS['schedule']} ms"
    return f"{what}.\n\n{bench.table(['part', 'time'], rows)}"


def milliseconds(part, rounds: int = 15) -> float:
    """CPU time, the median."""
    times = []
    for _ in range(rounds):
        begin = time.process_time()
        part()
        times.append(time.process_time() - begin)
    return 1000 * statistics.median(times)


# --- start-up --------------------------------------------------------------------------------------------------------

CHILD = """
import asyncio, importlib.util, json, logging, sys, time
from comfy.cli_args import args
args.cpu = True
import utils.extra_config, execution, server, nodes
asyncio.run(nodes.init_builtin_extra_nodes())
logging.disable()
print("PACK", file=sys.stderr, flush=True)
root = sys.argv[1]
name = root.replace(".", "_x_")
begin = time.perf_counter()
spec = importlib.util.spec_from_file_location(name, root + "/__init__.py", submodule_search_locations=[root])
module = sys.modules[name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
imported = time.perf_counter() - begin
for node in asyncio.run(asyncio.run(module.comfy_entrypoint()).get_node_list()):
    node.GET_SCHEMA()
print(json.dumps([imported, time.perf_counter() - begin]))
"""


def startup(rounds: int = 3) -> str:
    """Imports the pack as ComfyUI does, after all that ComfyUI imports before it, in fresh processes."""
    times = [json.loads(start_child().stdout.splitlines()[-1]) for _ in range(rounds)]
    imported, ready = (1000 * statistics.median(column) for column in zip(*times))
    costs = ", ".join(f"{module} {ms:.1f} ms" for module, ms in costly_imports(start_child("-X", "importtime").stderr))
    return (
        f"Import of the pack in a started ComfyUI, median of {rounds} processes: {imported:.0f} ms, "
        f"{ready:.0f} ms with its nodes' schemas; limit {LIMITS['start']} ms. Most goes to: {costs}."
    )


def start_child(*flags: str) -> subprocess.CompletedProcess:
    command = [sys.executable, *flags, "-c", CHILD, str(bench.ROOT)]
    from environment.comfyui import require_comfyui

    return subprocess.run(command, cwd=require_comfyui(), capture_output=True, text=True, check=True)


def costly_imports(log: str, count: int = 4) -> list[tuple[str, float]]:
    """The modules that took longest themselves among those imported with the pack, from `-X importtime`."""
    lines = [line.removeprefix("import time:").split("|") for line in log.partition("\nPACK\n")[2].splitlines()]
    own = [(line[2].strip(), int(line[0]) / 1000) for line in lines if len(line) == 3 and line[0].strip().isdigit()]
    package = str(bench.ROOT).replace(".", "_x_") + "."
    return [(name.removeprefix(package), ms) for name, ms in sorted(own, key=lambda pair: -pair[1])[:count]]


if __name__ == "__main__":
    main()
