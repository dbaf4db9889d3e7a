"""What the benchmarks share: a real ComfyUI, clips to sample, and where their tables go."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).with_name("results.md")
sys.path.insert(0, str(ROOT))

from environment.comfyui import import_comfyui  # noqa: E402


def parser(description: str, threads: int) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the tables into benchmarks/results.md, too")
    parser.add_argument("--cpu", action="store_true", help="leave a GPU alone")
    parser.add_argument("--threads", type=int, default=threads, help="CPU threads")
    return parser


def use_comfyui(options: argparse.Namespace) -> None:
    """Makes `import comfy` give a real ComfyUI, on the GPU where there is one."""
    import torch

    from tests import tiny  # noqa: F401 - before ComfyUI's folder is on the path: it has a package of that name

    import_comfyui(cpu=options.cpu or None)
    from comfy.cli_args import args

    args.use_pytorch_cross_attention = True  # the default on CUDA; on the CPU the fastest, which favours no overhead
    torch.set_num_threads(options.threads)


def sample(model, plan, text, sampler: str, sigmas, *, cfg: float = 1.0, seed: int = 0, **more):
    """One run of ComfyUI's own sampling on a clip whose keyframes are those of `plan`. (1, C, F, H, W)"""
    import comfy.sample
    import comfy.samplers
    import torch

    noise = torch.randn(plan.clean.shape, generator=torch.Generator().manual_seed(7))
    solver = comfy.samplers.sampler_object(sampler)
    latent = torch.zeros_like(plan.clean)
    return comfy.sample.sample_custom(model, noise, cfg, solver, sigmas, *text, latent, disable_pbar=True, seed=seed, **more)


def clip_plan(frames: int, keyframes: dict, height: int, width: int):
    """A plan with random pictures: keyframes {latent frame: (multiplier, behaviour)}, sizes in latent units."""
    import torch

    from pusa_core.plan import Plan
    from pusa_core.schedule import FrameMap, FrameSchedule

    maps = {i: FrameMap.line(*keyframe) for i, keyframe in keyframes.items()}
    clean = torch.randn(1, 16, frames, height, width, generator=torch.Generator().manual_seed(3))
    return Plan((FrameSchedule.build(frames, maps),), clean)


def usage_of(command: list[str], threads: int) -> Any:
    """Runs a command to its end: what it used, as the system counts it. Ends this process, too, where it fails."""
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": str(threads)})
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(process.returncode)
    return usage


# --- tables ----------------------------------------------------------------------------------------------------------


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def computed() -> str:
    """In the place of a device, where nothing was measured."""
    return f"Computed, without a card; {versions()}"


def versions() -> str:
    import torch
    from comfyui_version import __version__ as comfyui

    return f"ComfyUI {comfyui}, torch {torch.__version__}"


def where() -> str:
    """The device and the versions."""
    import comfy.model_management
    import torch

    from pusa_core.devices import device_name

    device = comfy.model_management.get_torch_device()
    name = f"CPU ({processor()}, {torch.get_num_threads()} threads)" if device.type == "cpu" else device_name(device)
    return f"{name}; {versions()}"


def processor() -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    return f"{found[1] if found else 'unknown'}, {os.cpu_count()} cores"


def publish(name: str, text: str, write: bool, place: str | None = None) -> None:
    """Prints a benchmark's Markdown and, if asked to, puts it between its markers in results.md."""
    command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    text = f"{place or where()}; `{command}`\n\n{text}"
    print(text)
    if not write:
        return
    begin, end = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
    before, begun, rest = RESULTS.read_text(encoding="utf-8").partition(begin)
    _, ended, after = rest.partition(end)
    if not (begun and ended):
        sys.exit(f"{RESULTS.name} has no place between {begin.strip()} and {end.strip()}.")
    RESULTS.write_text(f"{before}{begin}{text}{end}{after}", encoding="utf-8")
