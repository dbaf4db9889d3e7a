"""python -m batch jobs.jsonl --output videos: see README.md."""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from pathlib import Path

import torch

HELP = {
    "model": 'Diffusers folder or repository of Wan text to video, or "demo" (default), the small model of the pack',
    "lora": "Pusa LoRA file",
    "alpha": "its strength (default 1.4)",
    "low_noise_lora": "Pusa LoRA for Wan2.2's low-noise model",
    "low_noise_alpha": "its strength (default 1.4)",
    "extra_lora": "another LoRA beside it, as Lightning",
    "low_noise_extra_lora": "the same for Wan2.2's low-noise model",
    "extra_alpha": "strength of these (default 1)",
    "device": "default: cuda where there is one",
    "dtype": "bfloat16 (default), float16 or float32",
    "offload": "none (default), model or group: less GPU memory, more time",
    "vae_tiling": "decode in tiles",
    "ulysses": "split each video over so many processes; start with torchrun, see README.md",
    "ring": "the same by ring attention",
}


def parser() -> argparse.ArgumentParser:
    from .make import Models

    top = argparse.ArgumentParser(prog="python -m batch", description="Makes a video for each line of a JSONL file.")
    top.add_argument("jobs", type=Path, help="one JSON object on each line, see README.md")
    top.add_argument("--output", type=Path, required=True, help="folder for videos, sidecars and report.json")
    top.add_argument("--workers", type=int, default=0, help="Ray workers; 0 (default) makes the videos in this process")
    top.add_argument("--gpus", type=float, default=1, help="of each Ray worker (default 1)")
    for option in fields(Models):
        flag, shown = "--" + option.name.replace("_", "-"), HELP[option.name]
        if option.name == "device":
            top.add_argument(flag, default="cuda" if torch.cuda.is_available() else "cpu", help=shown)
        elif isinstance(option.default, bool):
            top.add_argument(flag, action="store_true", help=shown)
        else:
            kind = str if option.default is None else type(option.default)
            top.add_argument(flag, type=kind, default=option.default, help=shown)
    return top


def main() -> int:
    try:
        from .jobs import read_jobs
        from .make import Models
        from .run import run
    except ImportError as error:
        sys.exit(f"error: {error.name or error} is not installed: pip install accelerate av diffusers peft transformers")
    args = parser().parse_args()
    try:
        jobs, faults = read_jobs(args.jobs)
        models = Models(**{option.name: getattr(args, option.name) for option in fields(Models)})
        report = run(jobs, faults, models, args.output, args.workers, args.gpus)
    except ValueError as error:
        sys.exit(f"error: {error}")
    print(report)
    print(f"They are in {args.output.resolve()}.")
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
