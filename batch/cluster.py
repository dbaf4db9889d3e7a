"""Workers on a Ray cluster: each opens the models once, and gets the jobs that fit what it has open."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pusa_core.devices import AUTO, accelerator

from .folder import RunStopped, open_folder
from .jobs import Job
from .make import GPU_FAILURE, Maker, Sources
from .queue import Queue
from .settings import Models

PACK = Path(__file__).resolve().parents[1]
SENT = ("batch", "pusa_core", "demo_model")  # to the cluster's machines; the job's files and the models are to be there
RETRIES = 2  # of a job whose worker died
RESTARTS = 10  # of a worker
PATIENCE = 60  # seconds between two lines about waiting
STARTED: set[str] = set()  # addresses of Ray on this machine alone


class _Worker:
    """A process of the cluster.

    Args:
        address: of the folder for the videos.
        opens: whether the command's models are to be open before any job.
        has_gpu: whether Ray gave it one.
    """

    def __init__(self, models: Models, address: str, opens: bool, has_gpu: bool):
        self.models, self.address, self.opens, self.has_gpu = models, address, opens, has_gpu
        self.maker: Maker | None = None

    def prepared(self) -> Maker:
        if self.maker is None:
            folder = open_folder(self.address)
            folder.create()
            self.maker = Maker(self._models(), folder)
            if self.opens:
                self.maker.pipeline(self.maker.models)
        return self.maker

    def _models(self) -> Models:
        if not self.has_gpu or self.models.device != AUTO:
            return self.models
        device = accelerator()
        if device is None:
            raise ValueError(
                f"Ray gave a worker on {platform.node()} a GPU that torch cannot use there: install a torch for it, "
                "or give --device cpu."
            )
        return replace(self.models, device=device.type)

    def check(self) -> str:
        """Why nothing can be made here; empty if it can."""
        try:
            self.prepared()
        except (RunStopped, ValueError) as error:
            return str(error)
        return ""

    def make(self, job: Job, sources: Sources) -> tuple[str, bool]:
        """Why a job failed, and whether every other would; a worker that was started again opens its models first."""
        try:
            return self.prepared().attempt(job, sources), False
        except (RunStopped, ValueError) as error:
            return str(error), True
        except GPU_FAILURE:
            os._exit(1)  # Ray starts another worker, and gives it the job


def make_on_ray(queue: Queue, workers: int, gpus: float) -> Iterator[tuple[Job, str]]:
    """Each job as it ends, and why it failed; empty if it did not.

    On a cluster, workers begin as it gets GPUs for them, however many it has at first; a machine alone must have them all.

    Args:
        gpus: of each worker.

    Raises:
        ValueError: there is no Ray, or there are not the GPUs.
        RunStopped: no worker can make anything.
    """
    try:
        import ray
    except ImportError as error:
        raise ValueError('Workers need Ray, which is not installed: pip install ".[cluster]"') from error
    if not queue.left:
        return
    alone, workers = _connect(ray), min(workers, queue.left)
    existing = ray.cluster_resources().get("GPU", 0)
    gpus = _share(queue.models, gpus, alone and not existing)
    if alone and workers * gpus > existing:
        raise ValueError(
            f"{workers} workers with {gpus:g} GPUs each need {workers * gpus:g} GPUs, but there are {existing:g}: "
            "use fewer --workers, or a smaller share of --gpus."
        )
    crew = _Crew(ray, queue, workers * gpus)
    try:
        crew.start(workers, gpus)
        yield from crew.results()
    finally:
        crew.end()


def _connect(ray: Any) -> bool:
    """Whether Ray is this machine alone, which gets no more GPUs than it has. A cluster is one that RAY_ADDRESS names."""
    address = os.environ.get("RAY_ADDRESS", "local")
    if not ray.is_initialized():
        modules = [str(PACK / name) for name in SENT]
        ray.init(address, runtime_env={"py_modules": modules}, log_to_driver=False)
        if address == "local":
            STARTED.add(ray.get_runtime_context().gcs_address)
    return ray.get_runtime_context().gcs_address in STARTED


def _share(models: Models, gpus: float, none_here: bool) -> float:
    """How many GPUs to ask for each worker; videos are never made on a CPU where a GPU was meant and nobody told.

    Args:
        none_here: whether Ray is this machine alone, and finds no GPU in it.
    """
    if models.device == "cpu":
        return 0
    if models.device != AUTO:
        return gpus
    if not gpus:
        raise ValueError("--gpus 0 gives the workers no GPU: add --device cpu if they are to compute on the CPU.")
    if none_here:
        _tell(f"RAY FINDS NO GPU ON THIS MACHINE: the workers compute on its {accelerator() or 'CPU'}.")
        return 0
    return gpus


def _tell(line: str) -> None:
    tqdm.write(line, file=sys.stderr)


@dataclass
class _Crew:
    """The workers and what each is at.

    Attributes:
        gpus: of all workers.
        opening: workers by what their check will give.
        running: worker and job by what its making will give.
        opened: what each worker made last.
    """

    ray: Any
    queue: Queue
    gpus: float
    actors: list[Any] = field(default_factory=list)
    opening: dict[Any, Any] = field(default_factory=dict)
    running: dict[Any, tuple[Any, Job]] = field(default_factory=dict)
    idle: list[Any] = field(default_factory=list)
    opened: dict[Any, Models] = field(default_factory=dict)

    def start(self, workers: int, gpus: float) -> None:
        queue = self.queue
        actor = self.ray.remote(num_gpus=gpus, max_restarts=RESTARTS, max_task_retries=RETRIES)(_Worker)
        opens = queue.models in queue.ready
        for _ in range(workers):
            self.actors.append(actor.remote(queue.models, queue.folder.address, opens, gpus > 0))
        self.opening = {actor.check.remote(): actor for actor in self.actors}

    def end(self) -> None:
        for actor in self.actors:
            self.ray.kill(actor)

    def results(self) -> Iterator[tuple[Job, str]]:
        while self.queue.left:
            self._hand_out()
            refs = [*self.opening, *self.running]
            if not refs:
                yield from self._abandoned()
                return
            if not self.opened:
                self._tell_waiting()
            done, _ = self.ray.wait(refs, timeout=None if self.opened else PATIENCE)
            for ref in done:
                if ref in self.opening:
                    self._begin(ref)
                else:
                    yield self._result(ref)

    def _tell_waiting(self) -> None:
        existing = self.ray.cluster_resources().get("GPU", 0)
        if self.gpus > existing:
            _tell(
                f"Waiting for {self.gpus:g} GPUs, the cluster has {existing:g} now. A worker begins when it has its own; "
                "--device cpu computes without."
            )

    def _hand_out(self) -> None:
        for actor in list(self.idle):
            if taken := self.queue.take(self.opened.get(actor)):
                job, sources = taken
                self.idle.remove(actor)
                self.running[actor.make.remote(job, sources)] = actor, job

    def _begin(self, ref: Any) -> None:
        """A worker that is ready, for the first time or after it died."""
        actor = self.opening.pop(ref)
        try:
            reason = self.ray.get(ref)
        except self.ray.exceptions.RayError as error:
            if actor in self.opened:
                return  # it is not started again
            raise RunStopped(
                f"A worker died while it opened the models, for lack of memory perhaps ({_first_line(error)})."
            ) from error
        if reason:
            raise RunStopped(reason)
        self.opened[actor] = self.queue.models
        self.idle.append(actor)

    def _result(self, ref: Any) -> tuple[Job, str]:
        actor, job = self.running.pop(ref)
        try:
            reason, stops = self.ray.get(ref)
        except self.ray.exceptions.RayError as error:
            self.opening[actor.check.remote()] = actor
            return job, f"Its worker died again and again, for lack of memory perhaps ({_first_line(error)})."
        if stops:
            raise RunStopped(reason)
        self.opened[actor] = self.queue.models_of(job)
        self.idle.append(actor)
        return job, reason

    def _abandoned(self) -> Iterator[tuple[Job, str]]:
        while taken := self.queue.take():
            yield taken[0], "All workers died again and again, for lack of memory perhaps: use fewer, or --offload."


def _first_line(error: Exception) -> str:
    return str(error).split("\n")[0]
