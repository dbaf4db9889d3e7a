"""The trainer's commands; README.md beside this file explains them."""

from __future__ import annotations

import argparse
import sys
from dataclasses import MISSING, fields
from pathlib import Path

from pusa_core.training import RULES

from .settings import DTYPES, Settings

HELP = {
    "model": "Wan text-to-video checkpoint: an original or ComfyUI .safetensors file, or a Diffusers folder",
    "cache": "folder that `cache` filled",
    "output": "folder for the LoRA, checkpoints, samples and logs; a run that is there already goes on",
    "vae": "Wan VAE file, to make sample clips while training",
    "steps": "optimiser steps",
    "batch": "clips for each step, over all processes",
    "micro_batch": "clips at once on a device",
    "rank": "of the LoRA",
    "lr": "learning rate of AdamW",
    "weight_decay": "of AdamW",
    "shift": "flow shift of the sigma grid",
    "rule": "how sigmas are drawn: " + "; ".join(f"{name}, {what}" for name, what in RULES.items()),
    "seed": "of the LoRA's first weights, the order of clips, sigmas and noise",
    "dtype": "of the model; the LoRA is float32",
    "checkpointing": "gradient checkpointing: less memory, a third more time",
    "checkpoint_every": "steps between checkpoints",
    "sample_every": "steps between sample clips; 0 for none",
    "samples": "how many sample clips",
    "keep": "how many checkpoints stay",
    "name": "of the LoRA's file",
}
NEEDED = ("accelerate", "diffusers", "peft", "tensorboard")
CHOICES: dict[str, list[str]] = {"rule": list(RULES), "dtype": list(DTYPES)}


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m trainer", description="Trains Pusa LoRAs for Wan text-to-video models.")
    commands = top.add_subparsers(dest="command", required=True)
    cache = commands.add_parser("cache", help="encode clips and captions once, with ComfyUI's VAE and text encoder")
    cache.add_argument("clips", type=Path, help="folder of videos, each with NAME.txt beside it, or a metadata.jsonl")
    cache.add_argument("--vae", type=Path, required=True, help="Wan VAE file")
    cache.add_argument("--text-encoder", type=Path, required=True, help="UMT5 text encoder file")
    cache.add_argument("--output", type=Path, required=True, help="folder for the cached clips")
    cache.add_argument("--length", type=int, default=81, help="frames of each clip, 4n+1 (default 81)")
    cache.add_argument("--width", type=int, default=832)
    cache.add_argument("--height", type=int, default=480)
    cache.add_argument("--fps", type=float, help="take frames at this rate; default: as they are")
    cache.add_argument("--negative", default="", help="negative prompt of the sample clips")
    train = commands.add_parser("train", help="train a LoRA on cached clips")
    _add_settings(train)
    return top


def _add_settings(command: argparse.ArgumentParser) -> None:
    for option in fields(Settings):
        flag = "--" + option.name.replace("_", "-")
        if option.type == "bool":
            command.add_argument(flag, action=argparse.BooleanOptionalAction, default=option.default, help=HELP[option.name])
            continue
        kind = {"int": int, "float": float}.get(str(option.type), Path if "Path" in str(option.type) else str)
        required = option.default is MISSING
        default = None if required else option.default
        shown = HELP[option.name] + ("" if default is None else f" (default {default})")
        command.add_argument(
            flag, type=kind, required=required, default=default, choices=CHOICES.get(option.name), help=shown
        )


def main() -> None:
    args = parser().parse_args()
    try:
        if args.command == "cache":
            from .cache import main as cache

            cache(args)
        else:
            from .train import train

            settings = Settings(**{option.name: getattr(args, option.name) for option in fields(Settings)})
            path = train(settings)
            print(f"The LoRA is in {path}.")
    except ImportError as error:
        sys.exit(f"error: {error.name or error} is not installed: pip install {' '.join(NEEDED)}")
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
