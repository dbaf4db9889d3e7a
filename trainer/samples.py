"""The sample clips of a run: the user's own, cached with the clips, or image to video from the first clips."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from batch.jobs import Job
from pusa_core.frames import latent_length
from pusa_core.plan import plan_clip
from pusa_core.schedule import FrameMap, FrameSchedule

from .data import SAMPLES, ClipCache, PackedText, read_text, save_clip
from .settings import CacheSettings


@dataclass(frozen=True)
class Sample:
    """A clip to be made.

    Attributes:
        clean: (C, F, H, W), the keyframes where the schedule has some.
        text: (L, text width).
        seed: of its noise.
    """

    clean: Tensor
    text: Tensor
    schedule: FrameSchedule
    seed: int


def read_samples(settings: CacheSettings) -> list[Job]:
    """The jobs of the file of samples, none without one.

    Raises:
        ValueError: the file cannot be read, or a line of it is no sample.
    """
    if settings.samples is None:
        return []
    from batch.jobs_file import read_jobs

    size = {"width": settings.width, "height": settings.height, "length": settings.length}
    jobs, faults = read_jobs(settings.samples, size)
    if faults:
        raise ValueError(f"{settings.samples}, {faults[0].name}: {faults[0].reason}")
    other = next((job for job in jobs if job.kind != "clip" or job.needs), None)
    if other is not None:
        raise ValueError(f'"{other.name}" of {settings.samples} is no clip of its own, as samples have to be: take it out.')
    return jobs


def cache_samples(
    jobs: Sequence[Job],
    folder: Path,
    channels: int,
    scale: int,
    encode: Callable[[Tensor], Tensor],
    text_of: Callable[[str], PackedText],
) -> None:
    """Encodes samples into a cache, in place of those that it has, which stay where one cannot be read.

    Args:
        channels: of latents.
        scale: pixels of a latent's side.
        encode: pictures (T, H, W, 3) -> the latent as the model sees it (C, F, h, w).
        text_of: a caption's embedding.
    """
    from batch.make import read_keyframes

    plans = [plan_clip(read_keyframes(job, {}), job.length, lambda pictures: encode(pictures)[None]) for job in jobs]
    shutil.rmtree(folder / SAMPLES, ignore_errors=True)
    for job, plan in zip(jobs, plans):
        empty = torch.zeros(channels, latent_length(job.length), job.height // scale, job.width // scale)
        clean = empty if plan.clean is None else plan.clean[0]
        metadata = {"caption": job.prompt, "schedule": plan.schedules[0].to_json(), "seed": str(job.seed)}
        save_clip(folder / SAMPLES / f"{job.name}.safetensors", clean, text_of(job.prompt), metadata)


def samples_of(clips: ClipCache, count: int) -> list[Sample]:
    """The user's own samples in a cache; without any, image to video from the first `count` clips."""
    own = sorted((clips.folder / SAMPLES).glob("*.safetensors"))
    return [_read(path) for path in own] or [_of_clip(clips, index) for index in range(min(count, len(clips)))]


def _read(path: Path) -> Sample:
    with safe_open(path, framework="pt") as file:
        clean, metadata = file.get_tensor("latent").float(), file.metadata()
    return Sample(clean, read_text(path), FrameSchedule.from_json(metadata["schedule"]), int(metadata["seed"]))


def _of_clip(clips: ClipCache, index: int) -> Sample:
    clip = clips[index]
    return Sample(clip.latent, clip.text, FrameSchedule.build(clip.latent.shape[1], {0: FrameMap.line(0.0)}), index)
