"""One job -> a video and a sidecar that says everything that made it."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from datetime import datetime, timezone
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

import av  # noqa: F401  # missing, it is to be told now and not when the first video is written
import torch
from torch import Tensor

from pusa_core.frames import TEMPORAL_STRIDE
from pusa_core.hosts.diffusers import LongVideo, PusaScheduler, PusaWanPipeline
from pusa_core.keyframes import LEAD_IN, Keyframe, still_keyframe, video_keyframes
from pusa_core.media import read_media
from pusa_core.plan import Plan
from pusa_core.provenance import package_versions
from pusa_core.resize import fit_images
from pusa_core.schedule import pusa_sigmas
from pusa_core.video_files import count_frames, read_frames, write_video

from .folder import Folder, RunStopped
from .jobs import JOB, FramesOf, ImageAt, Job, StartOf
from .kinds import staircase_of
from .models import OpenModels
from .settings import WEIGHTS, Models

GPU_FAILURE = getattr(torch, "AcceleratorError", RunStopped)  # after one, everything on that GPU fails until the process ends
PACKAGES = ("torch", "diffusers", "transformers", "peft", "safetensors")
Sources = Mapping[str, str]  # names of jobs -> what tells one making of their videos from another, see `sidecar_digest`


def is_writer() -> bool:
    """Whether this process writes and tells; the others of a split video do not."""
    return int(os.environ.get("RANK", 0)) == 0


class Maker:
    """Makes one video after another, with models that stay open.

    Args:
        models: the command's; a job's own go over them.

    Raises:
        ValueError: the device or the number of processes cannot be used.
    """

    def __init__(self, models: Models, folder: Folder):
        self.models, self.folder = models, folder
        self.open = OpenModels(models)

    @property
    def opened(self) -> Models | None:
        return self.open.opened

    def pipeline(self, models: Models) -> PusaWanPipeline:
        """The pipeline of a job's models.

        Raises:
            ValueError: they cannot be opened.
            RunStopped: they are the command's, so that this job is not the last to fail.
        """
        try:
            return self.open.get(models)
        except ValueError as error:
            if models == self.models:
                raise RunStopped(str(error)) from error
            raise

    def attempt(self, job: Job, sources: Sources) -> str:
        """Makes a job's video, see `make`; why it failed, in a sentence, and nothing if it did not.

        Raises:
            RunStopped: see `make`.
            torch.AcceleratorError: the GPU broke.
        """
        try:
            self.make(job, sources)
        except (RunStopped, GPU_FAILURE):
            raise
        except Exception as error:  # whatever it is, the other jobs go on
            return str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        return ""

    def make(self, job: Job, sources: Sources) -> None:
        """Makes a job's video; what was there under its name is replaced only when the new one is whole.

        Args:
            sources: of the jobs that it needs.

        Raises:
            ValueError: the job cannot be made; the message says why.
            RunStopped: no job can: the command's models cannot be opened, or the folder not be written to.
        """
        start, models = time.monotonic(), self.models.override(job.weights)
        made_from, pipe = key(job, models, sources), self.pipeline(models)
        with ExitStack() as local:
            paths = {f"{JOB}{need}": local.enter_context(self.folder.local(video_name(need))) for need in job.needs}
            inputs = {name: digest(path) for name, path in paths.items()}
            pictures, about = self._sampled(pipe, job, paths, models.processes == 1)
        files = [path for path in [*job.inputs, *models.files] if path.is_file()]
        metadata = {
            "key": made_from, "job": job.settings(), "models": asdict(models),
            "inputs": inputs | {str(path): digest(path) for path in files}, **about, "versions": package_versions(PACKAGES),
            "machine": platform.node(),
        }  # fmt: skip
        if is_writer():  # every process of a split video has all of it
            save(self.folder, job, pictures, metadata, start)
        else:
            deque(pictures, 0)
        shutil.rmtree(self.folder.on_the_way(job.name), ignore_errors=True)
        if models.processes > 1:
            torch.distributed.barrier()  # the others are to see it when they ask what is there

    def _sampled(
        self, pipe: PusaWanPipeline, job: Job, paths: Mapping[str, Path], goes_on: bool
    ) -> tuple[Iterable[Tensor], dict[str, Any]]:
        """A job's pictures, (T, H, W, 3) at a time, and what the sidecar says of how they were made.

        Args:
            goes_on: keep what a long video needs to be gone on with.
        """
        if job.kind == "long":
            video = long_video(pipe, job, paths, self.folder.on_the_way(job.name) if goes_on else None)
            return map(_finite, video), {
                "notes": video.notes,
                "sigmas": pusa_sigmas(job.steps * job.moving_frames, job.shift).tolist(),
            }
        pictures, plan = sample(pipe, job, paths)
        sigmas = pipe.scheduler.sigmas if plan.grid is None else plan.grid
        about = {"schedule": json.loads(plan.schedule.to_json()), "notes": plan.notes, "sigmas": [float(s) for s in sigmas]}
        return [pictures], about


def sample(pipe: PusaWanPipeline, job: Job, videos: Mapping[str, Path]) -> tuple[Tensor, Plan]:
    """A job's pictures, (T, H, W, 3), and the plan that they were made by.

    Args:
        videos: where those lie that other jobs have made, by their names in keyframes.

    Raises:
        ValueError: the job cannot be made; the message says why.
    """
    pipe.scheduler = PusaScheduler(shift=job.shift)
    plan = pipe.plan(read_keyframes(job, videos), job.height, job.width, job.length, staircase_of(job))
    pipe.set_progress_bar_config(desc=job.name, leave=False, disable=not is_writer())
    frames = pipe(
        prompt=job.prompt, negative_prompt=job.negative_prompt, keyframes=plan, height=job.height, width=job.width,
        num_frames=job.length, num_inference_steps=job.steps, guidance_scale=job.cfg, output_type="pt",
        generator=torch.Generator().manual_seed(job.seed),
    ).frames[0]  # fmt: skip
    return _finite(frames.float().cpu().permute(0, 2, 3, 1)), plan


def long_video(pipe: PusaWanPipeline, job: Job, videos: Mapping[str, Path], folder: Path | None) -> LongVideo:
    """A job's long video, made while it is iterated over.

    Args:
        videos: as of `sample`.
        folder: for what it needs to be gone on with.

    Raises:
        ValueError: the job cannot be made; the message says why.
    """
    pipe.set_progress_bar_config(desc=job.name, leave=False, disable=not is_writer())
    return pipe.long_video(
        prompt={0: job.prompt} | {later.frame: later.prompt for later in job.prompts}, negative_prompt=job.negative_prompt,
        keyframes=read_keyframes(job, videos), height=job.height, width=job.width, num_frames=job.length,
        guidance_scale=job.cfg, generator=torch.Generator().manual_seed(job.seed), moving_frames=job.moving_frames,
        steps=job.steps, shift=job.shift, blend=job.blend, anchor_distance=job.anchor_distance,
        keyframes_beside=job.keyframes_beside, folder=folder,
    )  # fmt: skip


def _finite(pictures: Tensor) -> Tensor:
    if not torch.isfinite(pictures).all():
        raise ValueError("The model made numbers that are not finite: use --dtype bfloat16 or float32, or another LoRA.")
    return pictures


def read_keyframes(job: Job, videos: Mapping[str, Path]) -> list[Keyframe]:
    """A job's keyframes with their pictures, of its video's size."""
    fitted = partial(fit_images, width=job.width, height=job.height, method=job.fit)
    return [read_keyframe(k, videos.get(k.source, Path(k.source)), fitted, job.length) for k in job.keyframes]


def read_keyframe(
    keyframe: ImageAt | FramesOf | StartOf, path: Path, fitted: Callable[[Tensor], Tensor], length: int = 0
) -> Keyframe:
    """A job's keyframe with its pictures.

    Args:
        path: the picture or video.
        fitted: pictures of any size -> of the video's.
        length: pixel frames of the video; only what fills all of it looks at it.

    Raises:
        ValueError: the file cannot be read, or its frames do not fit.
    """
    if isinstance(keyframe, ImageAt):
        picture = fitted(next(read_media(path)))
        return still_keyframe(picture, keyframe.frame, keyframe.unit, keyframe.noise, keyframe.behaviour)
    frames: Iterator[Tensor] = map(fitted, read_frames(path))
    if isinstance(keyframe, StartOf):
        return keyframe.strength(length).keyframe_of(frames, count_frames(path))
    needed = keyframe.count * (TEMPORAL_STRIDE if keyframe.unit == "latent" else 1) + LEAD_IN
    if keyframe.take == "first":
        frames = islice(frames, needed)
    pictures = deque(frames, needed if keyframe.take == "last" else None)
    if not pictures:
        raise ValueError(f"{path.name} has no pictures: check the file.")
    return video_keyframes(
        torch.cat(list(pictures)), keyframe.take, keyframe.count, keyframe.unit, keyframe.place, keyframe.frame,
        keyframe.noise, keyframe.behaviour, keyframe.chosen,
    )  # fmt: skip


def key(job: Job, models: Models, sources: Sources) -> str:
    """What a job's video follows from: the same key, the same video.

    Args:
        models: the command's and the job's own.
        sources: of the jobs that it needs.
    """
    files = [path for path in [*job.inputs, *models.files] if path.is_file()]
    stamps = [f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in files]
    settings = {name: value for name, value in job.settings().items() if name not in WEIGHTS}
    made_from = [settings, {**asdict(models), "device": "", "offload": ""}, stamps, *([dict(sources)] if sources else [])]
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()


def video_name(name: str) -> str:
    """A job's name -> its video's file."""
    return f"{name}.mp4"


def sidecar_name(name: str) -> str:
    return f"{name}.json"


def sidecar_key(sidecar: bytes) -> str | None:
    """The key of the video that a sidecar tells of; None if it is no sidecar."""
    try:
        metadata = json.loads(sidecar)
    except ValueError:
        return None
    return metadata.get("key") if isinstance(metadata, dict) else None


def sidecar_digest(sidecar: bytes) -> str:
    """Another one for every video, also of the same job made again: the sidecar says when it was made."""
    return hashlib.sha256(sidecar).hexdigest()


def save(folder: Folder, job: Job, pictures: Iterable[Tensor], metadata: dict[str, Any], start: float) -> None:
    """Writes the video, and its sidecar last: a job that was cut off has none, and is made again.

    Args:
        start: when its making began, by the monotonic clock.

    Raises:
        RunStopped: the folder cannot be written to.
    """
    with folder.new(video_name(job.name), sidecar_name(job.name)) as file:
        write_video(file, pictures, job.fps)
        video = digest(file)
    made, seconds = datetime.now(timezone.utc).isoformat(), round(time.monotonic() - start, 2)
    metadata = {**metadata, "made": made, "seconds": seconds, "video": video}
    folder.write(sidecar_name(job.name), json.dumps(metadata, indent=1).encode())


def digest(path: Path) -> str:
    """SHA-256 of a file; of one that has not changed it is computed once."""
    return _digest(path, path.stat().st_mtime_ns)


@cache
def _digest(path: Path, changed: int) -> str:
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            sha.update(block)
    return sha.hexdigest()
