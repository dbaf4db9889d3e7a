"""A run's checkpoints: the LoRA, the optimiser's moments and the random states, each written whole or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from .data import ClipCache
from .lora import load_lora, lora_state, save_weights
from .output import OutputError, whole_file, writing
from .publish import result_path
from .settings import Settings

CHECKPOINT = "checkpoint-{:06d}"
SETTINGS = "settings.json"


def checkpoints(output: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return sorted(path for path in output.glob("checkpoint-[0-9]*") if path.is_dir() and path.suffix == "")


def finished(settings: Settings) -> bool:
    """Whether a run has made all its steps and written its file."""
    existing = checkpoints(settings.output)
    return bool(existing) and _step(existing[-1]) >= settings.steps and result_path(settings).is_file()


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def check_settings(accelerator: Accelerator, settings: Settings, clips: ClipCache) -> None:
    """Notes what a run is made of; it goes on only with the settings and clips that it began with.

    Raises:
        OutputError: they cannot be noted.
        ValueError: what differs.
    """
    path = settings.output / SETTINGS
    if path.is_file() and checkpoints(settings.output):
        _check_existing(json.loads(path.read_text(encoding="utf-8")), settings, clips)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        with whole_file(path) as partial:
            partial.write_text(json.dumps({**settings.as_plain(), "clips": clips.digest}, indent=2), encoding="utf-8")


def _check_existing(existing: dict[str, Any], settings: Settings, clips: ClipCache) -> None:
    key = settings.changed(existing)
    if key is not None:
        raise ValueError(
            f"{settings.output} holds a run with {key} = {existing[key]}, but {settings.as_plain()[key]} was given: "
            "give the same settings to go on with it, or another --output."
        )
    if existing.get("clips", clips.digest) != clips.digest:
        raise ValueError(
            f"{settings.output} holds a run on other clips than {settings.cache} has now: give another --output, "
            "or put the clips back."
        )
    steps = _step(checkpoints(settings.output)[-1])
    if steps > settings.steps:
        raise ValueError(
            f"{settings.output} holds a run of {steps} steps, but --steps {settings.steps} was given: give as many or more, "
            "or another --output."
        )


def save_only_lora(accelerator: Accelerator) -> None:
    """Makes Accelerate's checkpoints hold the LoRA instead of the whole model."""

    def save(models: list[Any], weights: list[Any], folder: str) -> None:
        state = lora_state(accelerator.unwrap_model(models[0]))
        if accelerator.is_main_process:
            save_weights(state, Path(folder) / "lora.safetensors", torch.float32)
        weights.clear()

    def load(models: list[Any], folder: str) -> None:
        if models:  # DeepSpeed has read its own checkpoint by then
            load_lora(accelerator.unwrap_model(models.pop()), Path(folder) / "lora.safetensors")

    accelerator.register_save_state_pre_hook(save)
    accelerator.register_load_state_pre_hook(load)


def save_checkpoint(accelerator: Accelerator, settings: Settings, step: int) -> None:
    """Writes a checkpoint under another name first, so that one with its right name is always whole.

    Raises:
        OutputError: it cannot be written.
    """
    final = settings.output / CHECKPOINT.format(step)
    partial = final.with_suffix(".partial")
    if accelerator.is_main_process:
        shutil.rmtree(partial, ignore_errors=True)
    accelerator.wait_for_everyone()
    try:
        with writing(settings.output):
            accelerator.save_state(str(partial), **({"exclude_frozen_parameters": True} if _deepspeed(accelerator) else {}))
    except OutputError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        for old in checkpoints(settings.output)[: -settings.keep]:
            shutil.rmtree(old)


def resume(accelerator: Accelerator, settings: Settings) -> int:
    """Loads the newest checkpoint, if there is one, and returns the step to go on from.

    Raises:
        ValueError: the processes do not see the same one.
    """
    existing = checkpoints(settings.output)
    newest = existing[-1].name if existing else ""
    if len(set(gather_object([newest]))) > 1:
        raise ValueError(f"Not all processes see the same checkpoints: --output {settings.output} must be on a shared disk.")
    if not existing:
        return 0
    accelerator.load_state(str(existing[-1]), **({"load_module_strict": False} if _deepspeed(accelerator) else {}))
    accelerator.print(f"Going on from {newest}.")
    return _step(existing[-1])


def _deepspeed(accelerator: Accelerator) -> bool:
    return accelerator.distributed_type.value == "DEEPSPEED"
