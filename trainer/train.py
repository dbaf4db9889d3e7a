"""The training loop: frame-aware flow matching on Accelerate.

What a step trains on follows from its number alone: clip, sigmas and noise of the n-th sample are drawn from the seed and n.
So a run that was killed goes on as if it had not been, and any number of processes computes the same gradients.
"""

from __future__ import annotations

import json
import math
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import gather_object, set_seed
from torch import Tensor
from tqdm import tqdm

from pusa_core.hosts.diffusers import WanTransformer3DModel, open_wan, velocity
from pusa_core.training import add_noise, clip_losses, draw_sigmas

from .data import ClipCache, sample_index
from .lora import add_lora, load_lora, lora_state, save_lora
from .preview import Preview
from .settings import Settings

CHECKPOINT = "checkpoint-{:06d}"
SETTINGS = "settings.json"
PRECISION = {"bfloat16": "bf16", "float32": "no"}
PATIENCE = timedelta(hours=6)  # that the other processes have while one makes sample clips


def train(settings: Settings) -> Path:
    """Trains a LoRA, going on from the newest checkpoint in the output folder, and returns its file.

    Raises:
        ValueError: the settings, the cache or the model cannot be used, or differ from those of the run to go on with.
    """
    settings.output.mkdir(parents=True, exist_ok=True)
    clips = ClipCache(settings.cache)
    accelerator = _accelerator(settings)
    set_seed(settings.seed)
    wan = open_wan(settings.model, getattr(torch, settings.dtype))
    _check_fit(wan, clips)
    _check_settings(accelerator, settings, clips)
    preview = None
    if settings.sample_every and settings.vae is not None and accelerator.is_main_process:
        preview = Preview(settings, settings.vae, clips)
    weights = add_lora(wan, settings.rank, settings.seed)
    if settings.checkpointing:
        wan.enable_gradient_checkpointing()
    optimizer = torch.optim.AdamW(weights, lr=settings.lr, weight_decay=settings.weight_decay)
    wan, optimizer = accelerator.prepare(wan, optimizer)
    _save_only_lora(accelerator)
    first = _resume(accelerator, settings)
    accelerator.init_trackers("log", config={k: v for k, v in settings.told().items() if v is not None})
    bar = tqdm(range(first, settings.steps), initial=first, total=settings.steps, disable=not accelerator.is_main_process)
    for step in bar:
        loss = train_step(accelerator, wan, optimizer, clips, settings, step)
        if not math.isfinite(loss):
            raise ValueError(f"The loss of step {step + 1} is {loss}: start again in another --output with a lower --lr.")
        bar.set_postfix(loss=f"{loss:.4f}")
        accelerator.log({"loss": loss, "lr": settings.lr}, step=step + 1)
        done = step + 1
        if done % settings.checkpoint_every == 0 or done == settings.steps:
            _save(accelerator, wan, settings, done)
        if done == settings.steps and accelerator.is_main_process:
            _write_lora(accelerator, wan, settings)
        if preview and (done % settings.sample_every == 0 or done == settings.steps):
            preview.make(accelerator, accelerator.unwrap_model(wan), done)
        accelerator.wait_for_everyone()
    if first >= settings.steps and accelerator.is_main_process:
        _write_lora(accelerator, wan, settings)
    accelerator.end_training()
    return _lora_path(settings)


def _lora_path(settings: Settings) -> Path:
    return settings.output / f"{settings.name}.safetensors"


def _write_lora(accelerator: Accelerator, wan: Any, settings: Settings) -> None:
    told = {"training": json.dumps(settings.told())}
    save_lora(lora_state(accelerator.unwrap_model(wan)), _lora_path(settings), told=told)


def _accelerator(settings: Settings) -> Accelerator:
    cpu = not torch.accelerator.is_available()
    processes = PartialState(cpu=cpu, timeout=PATIENCE).num_processes
    share, rest = divmod(settings.batch, processes * settings.micro_batch)
    if rest or share == 0:
        raise ValueError(
            f"A batch of {settings.batch} clips cannot be shared by {processes} processes in micro-batches of "
            f"{settings.micro_batch}: make --batch a multiple of {processes * settings.micro_batch}."
        )
    accelerator = Accelerator(mixed_precision=PRECISION[settings.dtype], log_with="tensorboard", project_dir=settings.output)
    accelerator.gradient_accumulation_steps = share  # after a launcher's environment, which would win
    if accelerator.state.deepspeed_plugin is not None:  # has no data loader to read the sizes off
        accelerator.state.deepspeed_plugin.deepspeed_config |= {
            "train_micro_batch_size_per_gpu": settings.micro_batch,
            "gradient_accumulation_steps": share,
        }
    return accelerator


def train_step(accelerator: Accelerator, wan: Any, optimizer: Any, clips: ClipCache, settings: Settings, step: int) -> float:
    """One optimiser step on this process's share of the step's batch; returns the whole batch's loss."""
    total = torch.zeros((), device=accelerator.device)
    share = settings.batch // accelerator.num_processes
    start = step * settings.batch + accelerator.process_index * share
    for first in range(start, start + share, settings.micro_batch):
        numbers = range(first, first + settings.micro_batch)
        with accelerator.accumulate(wan):
            loss = samples_loss(wan, clips, settings, numbers, accelerator)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        total += loss.detach() * settings.micro_batch / share
    return float(accelerator.reduce(total, "mean"))


def samples_loss(wan: Any, clips: ClipCache, settings: Settings, numbers: range, accelerator: Accelerator) -> Tensor:
    """The mean loss of the samples with these numbers."""
    drawn = [_draw(clips, settings, number) for number in numbers]
    clean, noise, sigmas, text = (torch.stack(parts).to(accelerator.device) for parts in zip(*drawn))
    dtype = getattr(torch, settings.dtype)
    v = velocity(wan, add_noise(clean, noise, sigmas).to(dtype), sigmas, text.to(dtype))
    return clip_losses(v, clean, noise, sigmas, settings.shift).mean()


def _draw(clips: ClipCache, settings: Settings, number: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(clean latent, noise, sigmas, text) of the sample with this number."""
    clip = clips[sample_index(number, len(clips), settings.seed)]
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + number)
    sigmas = draw_sigmas(clip.latent.shape[1], generator, settings.rule, settings.shift)
    return clip.latent, torch.randn(clip.latent.shape, generator=generator), sigmas, clip.text


def _check_fit(wan: WanTransformer3DModel, clips: ClipCache) -> None:
    text = clips[0].text.shape[1]
    if clips.shape[2] % 2 or clips.shape[3] % 2:
        raise ValueError(
            f"The cached latents are {clips.shape[3]}x{clips.shape[2]}, but the model takes even sizes: "
            "cache the clips at another size."
        )
    if clips.shape[0] != wan.config.in_channels:
        raise ValueError(
            f"The cached latents have {clips.shape[0]} channels, but the model takes {wan.config.in_channels}: "
            "cache the clips with the VAE that belongs to this model."
        )
    if text != wan.config.text_dim:
        raise ValueError(
            f"The cached captions have width {text}, but the model takes {wan.config.text_dim}: "
            "cache the clips with the text encoder that belongs to this model."
        )


# --- checkpoints ---------------------------------------------------------------------------------------------------------


def _check_settings(accelerator: Accelerator, settings: Settings, clips: ClipCache) -> None:
    """A run goes on only with the settings and clips that it began with."""
    path = settings.output / SETTINGS
    if path.is_file() and checkpoints(settings.output):
        before = json.loads(path.read_text(encoding="utf-8"))
        key = settings.changed(before)
        if key is not None:
            raise ValueError(
                f"{settings.output} holds a run with {key} = {before[key]}, but {settings.told()[key]} was given: "
                "give the same settings to go on with it, or another --output."
            )
        if before.get("clips", clips.digest) != clips.digest:
            raise ValueError(
                f"{settings.output} holds a run on other clips than {settings.cache} has now: give another --output, "
                "or put the clips back."
            )
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        path.write_text(json.dumps({**settings.told(), "clips": clips.digest}, indent=2), encoding="utf-8")


def checkpoints(output: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return sorted(path for path in output.glob("checkpoint-[0-9]*") if path.is_dir() and path.suffix == "")


def _save_only_lora(accelerator: Accelerator) -> None:
    """Makes Accelerate's checkpoints hold the LoRA instead of the whole model."""

    def save(models: list[Any], weights: list[Any], folder: str) -> None:
        if accelerator.is_main_process:
            save_lora(lora_state(accelerator.unwrap_model(models[0])), Path(folder) / "lora.safetensors", torch.float32)
        weights.clear()

    def load(models: list[Any], folder: str) -> None:
        if models:  # DeepSpeed has read its own checkpoint by then
            load_lora(accelerator.unwrap_model(models.pop()), Path(folder) / "lora.safetensors")

    accelerator.register_save_state_pre_hook(save)
    accelerator.register_load_state_pre_hook(load)


def _save(accelerator: Accelerator, wan: Any, settings: Settings, step: int) -> None:
    """Writes a checkpoint under another name first, so that one with its right name is always whole."""
    final = settings.output / CHECKPOINT.format(step)
    partial = final.with_suffix(".partial")
    if accelerator.is_main_process:
        shutil.rmtree(partial, ignore_errors=True)
    accelerator.wait_for_everyone()
    deepspeed = accelerator.distributed_type.value == "DEEPSPEED"
    accelerator.save_state(str(partial), **({"exclude_frozen_parameters": True} if deepspeed else {}))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        for old in checkpoints(settings.output)[: -settings.keep]:
            shutil.rmtree(old)


def _resume(accelerator: Accelerator, settings: Settings) -> int:
    """Loads the newest checkpoint, if there is one, and returns the step to go on from.

    Raises:
        ValueError: the processes do not see the same one.
    """
    found = checkpoints(settings.output)
    newest = found[-1].name if found else ""
    if len(set(gather_object([newest]))) > 1:
        raise ValueError(f"Not all processes see the same checkpoints: --output {settings.output} must be on a shared disk.")
    if not found:
        return 0
    deepspeed = accelerator.distributed_type.value == "DEEPSPEED"
    accelerator.load_state(str(found[-1]), **({"load_module_strict": False} if deepspeed else {}))
    accelerator.print(f"Going on from {newest}.")
    return int(newest.rpartition("-")[2])
