"""The training loop: frame-aware flow matching on Accelerate.

What a step trains on follows from its number alone: clip, sigmas and noise of the n-th sample are drawn from the seed and n.
So a run that was killed goes on as if it had not been, and any number of processes computes the same gradients.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedDataParallelKwargs, set_seed
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy
from tqdm import tqdm

from pusa_core import devices
from pusa_core.hosts.diffusers import WanTransformer3DModel, open_wan, velocity
from pusa_core.training import add_noise, clip_losses, draw_sigmas

from .checkpoints import check_settings, finished, resume, save_checkpoint, save_only_lora
from .data import Clip, ClipCache
from .held_out import SEED as HELD_OUT_SEED
from .held_out import held_out_loss, split_clips
from .lora import train_lora
from .optimiser import Average, make_optimizer, make_schedule, set_rates
from .output import make_folder
from .preview import Preview
from .publish import result_path, write_result
from .savings import save_memory, saved_for_backward
from .settings import Settings
from .sharing import Groups, group_processes, send_only_trained, split_by_tokens
from .trackers import check_trackers, start_trackers

PRECISION = {"bfloat16": "bf16", "float32": "no"}
PATIENCE = timedelta(hours=6)  # that the other processes have while one makes sample clips


def train_experts(settings: Settings) -> list[Path]:
    """Trains what the settings ask for, see `Settings.experts`, one after another; those that are done are left."""
    for part in settings.experts():
        if not finished(part) or part is settings:
            train(part)
    PartialState().destroy_process_group()
    return [result_path(part) for part in settings.experts()]


def train(settings: Settings) -> Path:
    """Trains a LoRA, going on from the newest checkpoint in the output folder, and returns its file.

    Raises:
        ValueError: the settings, the cache or the model cannot be used, or differ from those of the run to go on with.
    """
    run = _begin(settings)
    accelerator, first = run.accelerator, run.first
    bar = tqdm(range(first, settings.steps), initial=first, total=settings.steps, disable=not accelerator.is_main_process)
    for step in bar:
        values = {"lr": float(run.optimizer.param_groups[0]["lr"]), **train_step(run, settings, step)}
        if not math.isfinite(values["loss"]):
            raise ValueError(
                f"The loss of step {step + 1} is {values['loss']}: start again in another --output with a lower --lr."
            )
        bar.set_postfix(loss=f"{values['loss']:.4f}")
        accelerator.log(values, step=step + 1)
        _after_step(run, settings, step + 1)
    if first >= settings.steps:
        _finish(run, settings)
    for tracker in accelerator.trackers:
        tracker.finish()
    accelerator.free_memory()
    return result_path(settings)


@dataclass(frozen=True)
class Run:
    """What a run works with.

    Attributes:
        groups: of processes, each of which computes a sample together.
        weights: those that are trained.
        schedule: None where the learning rate stays.
        held_out: clips that are not trained on.
        first: the step to go on from.
        preview: None where no sample clips are made.
    """

    accelerator: Accelerator
    groups: Groups
    clips: ClipCache
    held_out: ClipCache | None
    wan: Any
    weights: list[nn.Parameter]
    optimizer: Any
    schedule: Any
    average: Average
    preview: Preview | None
    first: int


def _begin(settings: Settings) -> Run:
    check_trackers(settings.trackers)
    clips, held_out = split_clips(settings)
    make_folder(settings.output)
    groups = group_processes(PartialState(cpu=devices.accelerator() is None, timeout=PATIENCE), settings)
    accelerator = _accelerator(settings, groups)
    set_seed(settings.seed)
    wan = open_wan(settings.model, torch.float32 if settings.full else getattr(torch, settings.dtype))
    _check_fit(wan, clips)
    check_settings(accelerator, settings, clips)
    preview = None
    if settings.sample_every and settings.vae is not None:
        preview = Preview(settings, settings.vae if accelerator.is_main_process else None, clips)
    weights = list(wan.requires_grad_(True).parameters()) if settings.full else train_lora(wan, settings)
    save_memory(wan, settings, accelerator.device)
    shapes = {*clips.groups, *(held_out.groups if held_out else ()), *(preview.shapes if preview else ())}
    split_by_tokens(wan, groups, shapes)
    send_only_trained(wan)
    optimizer = make_optimizer(weights, settings)
    schedule = make_schedule(optimizer, settings)
    placement = {"device_placement": [False, True]} if settings.offload_weights else {}
    wan, optimizer = accelerator.prepare(wan, optimizer, **placement)
    weights = [weight for weight in wan.parameters() if weight.requires_grad]
    average = Average(weights, settings.ema)
    states = (schedule, average if settings.ema is not None else None)
    accelerator.register_for_checkpointing(*(state for state in states if state is not None))
    if not settings.full:
        save_only_lora(accelerator)
    first = resume(accelerator, settings)
    if schedule is not None:
        set_rates(optimizer, schedule)
    average.to(accelerator.device)
    start_trackers(accelerator, settings)
    return Run(accelerator, groups, clips, held_out, wan, weights, optimizer, schedule, average, preview, first)


def _after_step(run: Run, settings: Settings, done: int) -> None:
    """Checkpoint, held-out loss, LoRA and sample clips, where they are due after `done` steps."""
    accelerator, ended = run.accelerator, done == settings.steps
    if done % settings.checkpoint_every == 0 or ended:
        save_checkpoint(accelerator, settings, done)
    if ended:
        _finish(run, settings)
    elif run.held_out is not None and done % settings.held_out_every == 0:
        accelerator.log({"held_out_loss": _measure(run, settings)}, step=done)
    if run.preview and (done % settings.sample_every == 0 or ended):
        with run.average.applied():
            run.preview.make(accelerator, accelerator.unwrap_model(run.wan), done)
    accelerator.wait_for_everyone()


def _finish(run: Run, settings: Settings) -> None:
    """Measures the last held-out loss and writes the file."""
    measured = _measure(run, settings)
    if measured is not None:
        run.accelerator.log({"held_out_loss": measured}, step=settings.steps)
    with run.average.applied():
        write_result(run.accelerator, run.wan, settings, run.clips, measured)


def _measure(run: Run, settings: Settings) -> float | None:
    """The held-out loss; None where no clips are held out."""
    if run.held_out is None:
        return None

    def loss_of(number: int, clips: ClipCache) -> Tensor:
        drawn = _draw(clips[number % len(clips)], settings, HELD_OUT_SEED + number)
        return batch_loss(run.wan, [drawn], settings, run.accelerator)

    with run.average.applied():
        return held_out_loss(run.accelerator, run.groups, settings.held_out_samples, run.held_out, loss_of)


def _accelerator(settings: Settings, groups: Groups) -> Accelerator:
    if settings.offload_weights and groups.processes > 1:
        raise ValueError(
            f"--offload-weights was given with {groups.processes} processes, but it is for one: divide the weights with "
            "trainer/fsdp2.yaml."
        )
    accelerator = Accelerator(
        mixed_precision=PRECISION[settings.dtype],
        log_with=list(settings.trackers) or None,
        project_dir=settings.output,
        kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],  # else gradients are there twice
    )
    if accelerator.is_fsdp2:  # as in one process: weights in the dtypes that they have, timesteps and gradients in fp32
        accelerator.state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy()
    plugin = accelerator.state.deepspeed_plugin
    if settings.ema is not None and plugin is not None and plugin.zero_stage == 3:
        raise ValueError("--ema was given with ZeRO-3, which leaves no weights to average: take trainer/fsdp2.yaml.")
    share = settings.batch // (groups.count * settings.micro_batch)
    accelerator.gradient_accumulation_steps = share  # after a launcher's environment, which would win
    if plugin is not None:  # has no data loader to read the sizes off
        plugin.deepspeed_config |= {
            "train_micro_batch_size_per_gpu": settings.micro_batch,
            "gradient_accumulation_steps": share,
            "gradient_clipping": settings.max_grad_norm or 0.0,
        }
    return accelerator


def train_step(run: Run, settings: Settings, step: int) -> dict[str, float]:
    """One optimiser step on this group's share of the step's batch; returns the whole batch's loss, and the norm of its
    gradients where they are clipped."""
    accelerator, groups = run.accelerator, run.groups
    total = torch.zeros((), device=accelerator.device)
    norm = None
    share = settings.batch // groups.count
    start = step * settings.batch + groups.index * share
    for first in range(start, start + share, settings.micro_batch):
        numbers = range(first, first + settings.micro_batch)
        with accelerator.accumulate(run.wan):
            loss = samples_loss(run.wan, run.clips, settings, numbers, accelerator)
            accelerator.backward(loss * groups.size)  # of whose processes each adds its tokens' part to what is averaged
            if settings.max_grad_norm is not None and accelerator.sync_gradients:
                norm = accelerator.clip_grad_norm_(run.weights, settings.max_grad_norm)
            run.optimizer.step()
            run.optimizer.zero_grad()
        total += loss.detach() * settings.micro_batch / share
    if run.schedule is not None:
        run.schedule.step()
    run.average.step()
    values = {"loss": float(accelerator.reduce(total, "mean"))}
    return values if norm is None else {**values, "grad_norm": float(norm)}


def samples_loss(wan: Any, clips: ClipCache, settings: Settings, numbers: range, accelerator: Accelerator) -> Tensor:
    """The mean loss of the samples with these numbers, which are of one step and so of one shape."""
    seed = settings.seed * 1_000_003
    drawn = [_draw(clips.sample(number, settings.batch, settings.seed), settings, seed + number) for number in numbers]
    return batch_loss(wan, drawn, settings, accelerator)


Sample = tuple[Tensor, Tensor, Tensor, Tensor]  # clean latent, noise, sigmas, text


def batch_loss(wan: Any, drawn: list[Sample], settings: Settings, accelerator: Accelerator) -> Tensor:
    """The mean loss of samples of one shape."""
    clean, noise, sigmas, text = (torch.stack(parts).to(accelerator.device) for parts in zip(*drawn))
    dtype = getattr(torch, settings.dtype)
    with (
        accelerator.autocast(),
        saved_for_backward(settings, accelerator.device),
    ):  # Accelerate's models have it but for FSDP2
        v = velocity(wan, add_noise(clean, noise, sigmas).to(dtype), sigmas, text.to(dtype))
    return clip_losses(v, clean, noise, sigmas, settings.shift).mean()


def _draw(clip: Clip, settings: Settings, seed: int) -> Sample:
    """A clip with the sigmas and the noise that follow from a seed."""
    generator = torch.Generator().manual_seed(seed)
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
