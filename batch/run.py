"""Jobs -> videos: here, or on a Ray cluster. One bad job never stops the rest; what is made is not made again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .jobs import Fault, Job
from .make import Maker, Models, is_made

PACK = Path(__file__).resolve().parents[1]
SENT = ("batch", "pusa_core", "demo_model")  # to the cluster's machines; the job's files and the models are to be there
RETRIES = 2  # of a job whose worker died


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
        (folder / "report.json").write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")


def run(
    jobs: Sequence[Job], faults: Sequence[Fault], models: Models, folder: Path, workers: int = 0, gpus: float = 1
) -> Report:
    """Makes every job's video that is not there yet, and leaves report.json beside them.

    Args:
        faults: jobs that could not be read, for the report.
        workers: how many Ray workers; 0 makes the videos in this process.
        gpus: of each worker.

    Raises:
        ValueError: the models cannot be opened.
    """
    folder.mkdir(parents=True, exist_ok=True)
    report = Report(faults=list(faults))
    todo = []
    for job in jobs:
        if is_made(folder, job, models):
            report.there.append(job.name)
        else:
            todo.append(job)
    results = _on_ray(todo, models, folder, workers, gpus) if workers else _here(todo, models, folder)
    for name, reason in tqdm(results, total=len(todo), desc="videos", unit="video", disable=not todo):
        if reason:
            report.faults.append(Fault(name, reason))
        else:
            report.made.append(name)
        report.write(folder)
    report.write(folder)
    return report


def _here(jobs: Sequence[Job], models: Models, folder: Path) -> Iterator[tuple[str, str]]:
    """(name, why it failed or "") of each job as it ends."""
    maker = Maker(models, folder) if jobs else None
    for job in jobs:
        yield job.name, _make(maker, job)


def _make(maker: Any, job: Job) -> str:
    """Why a job failed, in a sentence; empty if it did not."""
    try:
        maker.make(job)
    except Exception as error:  # whatever it is, the other jobs go on
        return str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
    return ""


class _Worker:
    """A process of the cluster with the models open."""

    def __init__(self, models: Models, folder: Path):
        self.maker = Maker(models, folder)

    def make(self, job: Job) -> tuple[str, str]:
        return job.name, _make(self.maker, job)


def _on_ray(jobs: Sequence[Job], models: Models, folder: Path, workers: int, gpus: float) -> Iterator[tuple[str, str]]:
    """As `_here`. Ray starts a worker that died again, and gives it its job again."""
    import ray
    from ray.util import ActorPool

    if not jobs:
        return
    if not ray.is_initialized():
        ray.init(runtime_env={"py_modules": [str(PACK / name) for name in SENT]}, log_to_driver=False)
    gpus = gpus if models.device.startswith("cuda") else 0
    actor = ray.remote(num_gpus=gpus, max_restarts=-1, max_task_retries=RETRIES)(_Worker)
    pool = ActorPool([actor.remote(models, folder.resolve()) for _ in range(min(workers, len(jobs)))])
    for job in jobs:
        pool.submit(lambda worker, job: worker.make.remote(job), job)
    left = {job.name for job in jobs}
    while pool.has_next():
        try:
            result = pool.get_next_unordered()
        except ray.exceptions.RayActorError as error:
            lost = error
            continue
        left.discard(result[0])
        yield result
    for name in sorted(left):
        yield name, f"Its worker died {RETRIES + 1} times, for lack of memory perhaps ({str(lost).splitlines()[0]})."
