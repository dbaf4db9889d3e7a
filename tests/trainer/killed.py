"""Trains until it kills itself, as kill -9 does: python -m tests.trainer.killed MOMENT SETTINGS (JSON).

MOMENT is "checkpoint N", when half of its optimiser's states are written, "step N", before it, or "result", when half of the
file that the run is for is written.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch

from trainer import lora, train
from trainer.settings import Settings


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def cut_short(write, *parts_of_path):
    """A function that writes half of such a file, and ends the process."""

    def changed(content, file, *args, **kwargs):
        write(content, file, *args, **kwargs)
        if all(part in str(file) for part in parts_of_path):
            os.truncate(file, os.path.getsize(file) // 2)
            kill()

    return changed


kind, _, number = sys.argv[1].partition(" ")
given = {key: tuple(value) if type(value) is list else value for key, value in json.loads(sys.argv[2]).items()}
settings = Settings(**{**given, **{key: Path(given[key]) for key in ("model", "cache", "output", "held_out_cache")}})
torch.compile = lambda function, **_: function  # torchao's step, which takes long for a small model
train_step = train.train_step
if kind == "checkpoint":
    torch.save = cut_short(torch.save, f"checkpoint-{int(number):06}.partial", "optimizer")
elif kind == "step":
    train.train_step = lambda run, settings, step: kill() if step + 1 == int(number) else train_step(run, settings, step)
else:
    lora.save_file = cut_short(lora.save_file, f"{settings.name}.partial")
train.train(settings)
