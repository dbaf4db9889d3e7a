"""Jobs -> videos: here, or on a Ray cluster. One bad job never stops the rest; what is made is not made again."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from .jobs import REPORT, Fault, Job
from .make import Maker, Models, is_made, is_writer, video_path

PACK = Path(__file__).resolve().parents[1]
SENT = ("batch", "pusa_core", "demo_model")  # to the cluster's machines; the job's files and the models are to be there
RETRIES = 2  # of a job whose worker died
RESTARTS = 10  # of a worker
GPU_FAILURE = getattr(torch, "AcceleratorError", ())  # after one, everything on that GPU fails until the process ends


@dataclass
class Report:
    """How a run went, by jobs' names."""

    made: list[str] = field(default_factory=list)
    there: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{len(self.made)} videos made, {len(self.there)} were there already, {len(self.faults)} failed."]
        return "\n".join([*lines, *(f"{fault.name}: {fault.reason}" for fault in self.faults)])

    def write(self, folder: Path) -> None:
        part = folder / f"{REPORT}.part"
        part.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")
        part.replace(folder / f"{REPORT}.json")


def run(
    jobs: Sequence[Job], faults: Sequence[Fault], models: Models, folder: Path, workers: int = 0, gpus: float = 1
) -> Report:
    """Makes every job's video that is not there yet, and leaves report.json beside them.

    Args:
        faults: jobs that could not be read, for the report.
        workers: how many Ray workers; 0 makes the videos in this process.
        gpus: of each worker.

    Raises:
        ValueError: the models cannot be opened, or the workers not be had.
    """
    if workers < 0 or (workers and models.ulysses * models.ring > 1):
        raise ValueError(f"{workers} workers were asked for: give 0 or more, and none when a video is split over processes.")
    folder.mkdir(parents=True, exist_ok=True)
    report = Report(faults=list(faults))
    todo, given = [], {path for job in jobs for path in job.inputs}
    for job in jobs:
        if video_path(folder, job).resolve() in given:
            reason = f"{video_path(folder, job)} is a keyframe's file: give the job another name, or choose another folder."
            report.faults.append(Fault(job.name, reason))
        elif is_made(folder, job, models):
            report.there.append(job.name)
        else:
            todo.append(job)
    results = _on_ray(todo, models, folder, workers, gpus) if workers else _here(todo, models, folder)
    for name, reason in tqdm(results, total=len(todo), desc="videos", unit="video", disable=not (todo and is_writer())):
        if reason:
            report.faults.append(Fault(name, reason))
            tqdm.write(f"{name}: {reason}")
        else:
            report.made.append(name)
        if is_writer():
            report.write(folder)
    if is_writer():
        report.write(folder)
    return report


def _here(jobs: Sequence[Job], models: Models, folder: Path) -> Iterator[tuple[str, str]]:
    """(name, why it failed or "") of each job as it ends."""
    if jobs:
        maker = Maker(models, folder)
        for job in jobs:
            yield job.name, _make(maker, job)


def _make(maker: Maker, job: Job) -> str:
    """Why a job failed, in a sentence; empty if it did not."""
    try:
        maker.make(job)
    except GPU_FAILURE:
        raise
    except Exception as error:  # whatever it is, the other jobs go on
        return str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
    return ""


class _Worker:
    """A process of the cluster that opens the models once."""

    def __init__(self, models: Models, folder: Path):
        self.models, self.folder = models, folder
        self.maker: Maker | None = None

    def opened(self) -> Maker:
        self.maker = self.maker or Maker(self.models, self.folder)
        return self.maker

    def check(self) -> str:
        """Why the models cannot be opened; empty if they can."""
        try:
            self.opened()
        except ValueError as error:
            return str(error)
        return ""

    def make(self, job: Job) -> tuple[str, str]:
        """As `_here`; a worker that was started again opens its models first."""
        try:
            return job.name, _make(self.opened(), job)
        except GPU_FAILURE:
            os._exit(1)  # Ray starts another worker, and gives it the job


def _on_ray(jobs: Sequence[Job], models: Models, folder: Path, workers: int, gpus: float) -> Iterator[tuple[str, str]]:
    """As `_here`. Ray starts a worker that died again, and gives it its job again."""
    try:
        import ray
        from ray.util import ActorPool
    except ImportError as error:
        raise ValueError('Workers need Ray, which is not installed: pip install ".[cluster]"') from error
    if not jobs:
        return
    if not ray.is_initialized():
        ray.init(runtime_env={"py_modules": [str(PACK / name) for name in SENT]}, log_to_driver=False)
    workers, there = min(workers, len(jobs)), ray.cluster_resources().get("GPU", 0)
    gpus = 0 if models.device == "cpu" or (models.device == "auto" and not there) else gpus
    if workers * gpus > there:
        raise ValueError(
            f"{workers} workers with {gpus:g} GPUs each need {workers * gpus:g} GPUs, but there are {there:g}: "
            "use fewer --workers, or a smaller share of --gpus."
        )
    actor: Any = ray.remote(num_gpus=gpus, max_restarts=RESTARTS, max_task_retries=RETRIES)(_Worker)
    actors = [actor.remote(models, folder.resolve()) for _ in range(workers)]
    try:
        reasons = ray.get([worker.check.remote() for worker in actors])
    except ray.exceptions.RayError as error:
        raise ValueError(f"A worker died while it opened the models, for lack of memory perhaps ({_line(error)}).") from error
    if any(reasons):
        raise ValueError(max(reasons))
    pool = ActorPool(actors)
    for job in jobs:
        pool.submit(lambda worker, job: worker.make.remote(job), job)
    left, lost = {job.name for job in jobs}, ""
    while pool.has_next():
        try:
            result = pool.get_next_unordered()
        except ray.exceptions.RayError as error:
            lost = _line(error)
            continue
        left.discard(result[0])
        yield result
    for name in sorted(left):
        yield name, f"Its worker died again and again, for lack of memory perhaps ({lost})."


def _line(error: Exception) -> str:
    return str(error).split("\n")[0]
