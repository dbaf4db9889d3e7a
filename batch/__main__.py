"""python -m batch jobs.jsonl --output videos: see README.md."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import fields
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

HELP = {
    "model": 'Diffusers folder or repository of Wan text to video, or "demo" (default), the small model of the pack',
    "lora": "Pusa LoRA file",
    "alpha": "its strength (default 1.4; 1 for the demo model's own)",
    "low_noise_lora": "Pusa LoRA for Wan2.2's low-noise model",
    "low_noise_alpha": "its strength (default 1.4)",
    "extra_lora": "another LoRA beside it, as Lightning",
    "low_noise_extra_lora": "the same for Wan2.2's low-noise model",
    "extra_alpha": "strength of these (default 1)",
    "device": "default: cuda where there is one",
    "dtype": "default: bfloat16 on a GPU, float32 on a CPU",
    "offload": "less GPU memory, more time",
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
    top.add_argument("--defaults", default="{}", help='settings of jobs that do not have them, as \'{"steps": 4, "cfg": 1}\'')
    top.add_argument("--check", action="store_true", help="only say which lines are no jobs")
    for option in fields(Models):
        flag, shown, hint = "--" + option.name.replace("_", "-"), HELP[option.name], get_type_hints(Models)[option.name]
        if isinstance(option.default, bool):
            top.add_argument(flag, action="store_true", help=shown)
        elif get_origin(hint) is Literal:
            top.add_argument(flag, choices=get_args(hint), default=option.default, help=shown)
        else:
            kind = next(iter(get_args(hint)), hint)  # the first of "float | None"
            top.add_argument(flag, type=kind, default=option.default, help=shown)
    return top


def main() -> int:
    try:
        from .jobs import read_jobs
        from .make import Models, is_writer
        from .run import run
    except ImportError as error:
        sys.exit(f'error: {error}. The batch needs what pip install ".[diffusers]" brings.')
    args = parser().parse_args()
    try:
        jobs, faults = read_jobs(args.jobs, defaults(args.defaults))
        for fault in faults if is_writer() else ():
            print(f"{fault.name}: {fault.reason}", file=sys.stderr)
        if args.check:
            print(f"{len(jobs)} jobs, {len(faults)} bad lines.")
            return 1 if faults else 0
        models = Models(**{option.name: getattr(args, option.name) for option in fields(Models)}).found()
        report = run(jobs, faults, models, args.output, args.workers, args.gpus)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("Stopped. The same command goes on with what is missing.", file=sys.stderr)
        return 130
    if is_writer():
        print(report)
        print(f"They are in {args.output.resolve()}.")
    return 1 if report.faults else 0


def defaults(text: str) -> dict:
    """The settings of --defaults.

    Raises:
        ValueError: they are no JSON object.
    """
    try:
        given = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"--defaults is not JSON ({error}): give an object, as '{{\"steps\": 4}}'.") from error
    if not isinstance(given, dict):
        raise ValueError(f"--defaults is a {type(given).__name__}: give an object, as '{{\"steps\": 4}}'.")
    return given


if __name__ == "__main__":
    sys.exit(main())
