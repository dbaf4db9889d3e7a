"""The training loop: frame-aware flow matching on Accelerate.

What a step trains on follows from its number alone: clip, sigmas and noise of the n-th sample are drawn from the seed and n.
So a run that was killed goes on as if it had not been, and any number of processes computes the same gradients.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import set_seed
from torch import Tensor
from tqdm import tqdm

from pusa_core import devices
from pusa_core.hosts.diffusers import WanTransformer3DModel, open_wan, velocity
from pusa_core.training import add_noise, clip_losses, draw_sigmas

from .checkpoints import check_settings, resume, save_checkpoint, save_only_lora
from .data import Clip, ClipCache
from .lora import add_lora, lora_state, save_lora
from .preview import Preview
from .settings import Settings

PRECISION = {"bfloat16": "bf16", "float32": "no"}
PATIENCE = timedelta(hours=6)  # that the other processes have while one makes sample clips


def train(settings: Settings) -> Path:
    """Trains a LoRA, going on from the newest checkpoint in the output folder, and returns its file.

    Raises:
        ValueError: the settings, the cache or the model cannot be used, or differ from those of the run to go on with.
    """
    run = _begin(settings)
    accelerator, first = run.accelerator, run.first
    bar = tqdm(range(first, settings.steps), initial=first, total=settings.steps, disable=not accelerator.is_main_process)
    for step in bar:
        loss = train_step(accelerator, run.wan, run.optimizer, run.clips, settings, step)
        if not math.isfinite(loss):
            raise ValueError(f"The loss of step {step + 1} is {loss}: start again in another --output with a lower --lr.")
        bar.set_postfix(loss=f"{loss:.4f}")
        accelerator.log({"loss": loss, "lr": settings.lr}, step=step + 1)
        _after_step(run, settings, step + 1)
    if first >= settings.steps and accelerator.is_main_process:
        _write_lora(run, settings)
    accelerator.end_training()
    return _lora_path(settings)


@dataclass(frozen=True)
class Run:
    """What a run works with.

    Attributes:
        first: the step to go on from.
        preview: None where no sample clips are made, or another process makes them.
    """

    accelerator: Accelerator
    clips: ClipCache
    wan: Any
    optimizer: Any
    preview: Preview | None
    first: int


def _begin(settings: Settings) -> Run:
    settings.output.mkdir(parents=True, exist_ok=True)
    clips = ClipCache(settings.cache)
    accelerator = _accelerator(settings)
    set_seed(settings.seed)
    wan = open_wan(settings.model, getattr(torch, settings.dtype))
    _check_fit(wan, clips)
    check_settings(accelerator, settings, clips)
    preview = None
    if settings.sample_every and settings.vae is not None and accelerator.is_main_process:
        preview = Preview(settings, settings.vae, clips)
    weights = add_lora(wan, settings.rank, settings.seed)
    if settings.checkpointing:
        wan.enable_gradient_checkpointing()
    optimizer = torch.optim.AdamW(weights, lr=settings.lr, weight_decay=settings.weight_decay)
    wan, optimizer = accelerator.prepare(wan, optimizer)
    save_only_lora(accelerator)
    first = resume(accelerator, settings)
    accelerator.init_trackers("log", config={k: v for k, v in settings.as_plain().items() if v is not None})
    return Run(accelerator, clips, wan, optimizer, preview, first)


def _after_step(run: Run, settings: Settings, done: int) -> None:
    """Checkpoint, LoRA and sample clips, where they are due after `done` steps."""
    accelerator, ended = run.accelerator, done == settings.steps
    if done % settings.checkpoint_every == 0 or ended:
        save_checkpoint(accelerator, settings, done)
    if ended and accelerator.is_main_process:
        _write_lora(run, settings)
    if run.preview and (done % settings.sample_every == 0 or ended):
        run.preview.make(accelerator, accelerator.unwrap_model(run.wan), done)
    accelerator.wait_for_everyone()


def _lora_path(settings: Settings) -> Path:
    return settings.output / f"{settings.name}.safetensors"


def _write_lora(run: Run, settings: Settings) -> None:
    metadata = {"training": json.dumps(settings.as_plain())}
    save_lora(lora_state(run.accelerator.unwrap_model(run.wan)), _lora_path(settings), metadata=metadata)


def _accelerator(settings: Settings) -> Accelerator:
    cpu = devices.accelerator() is None
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
    """The mean loss of the samples with these numbers, which are of one step and so of one shape."""
    drawn = [_draw(clips.sample(number, settings.batch, settings.seed), settings, number) for number in numbers]
    clean, noise, sigmas, text = (torch.stack(parts).to(accelerator.device) for parts in zip(*drawn))
    dtype = getattr(torch, settings.dtype)
    v = velocity(wan, add_noise(clean, noise, sigmas).to(dtype), sigmas, text.to(dtype))
    return clip_losses(v, clean, noise, sigmas, settings.shift).mean()


def _draw(clip: Clip, settings: Settings, number: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(clean latent, noise, sigmas, text) of the sample with this number."""
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + number)
    sigmas = draw_sigmas(clip.latent.shape[1], generator, settings.rule, settings.shift)
    return clip.latent, torch.randn(clip.latent.shape, generator=generator), sigmas, clip.text


def _check_fit(wan: WanTransformer3DModel, clips: ClipCache) -> None:
    odd = next((shape for shape in clips.groups if shape[2] % 2 or shape[3] % 2), None)
    if odd:
        raise ValueError(
            f"A cached latent is {odd[3]}x{odd[2]}, but the model takes even sizes: cache the clips at another size."
        )
    if clips.channels != wan.config.in_channels:
        raise ValueError(
            f"The cached latents have {clips.channels} channels, but the model takes {wan.config.in_channels}: "
            "cache the clips with the VAE that belongs to this model."
        )
    if clips.text_width != wan.config.text_dim:
        raise ValueError(
            f"The cached captions have width {clips.text_width}, but the model takes {wan.config.text_dim}: "
            "cache the clips with the text encoder that belongs to this model."
        )
