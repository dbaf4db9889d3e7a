"""Which job is next: those whose sources are made, and of these one for the models that are open."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path

from .folder import Folder, LocalFolder
from .jobs import JOB, Fault, Job
from .make import Sources, key, sidecar_digest, sidecar_key, sidecar_name, video_name
from .settings import Models


@dataclass
class Report:
    """How a run went, by jobs' names.

    Attributes:
        existing: were there already.
        stopped: why the run ended before its jobs did.
    """

    made: list[str] = field(default_factory=list)
    existing: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    stopped: str = ""

    def __str__(self) -> str:
        lines = [f"{len(self.made)} videos made, {len(self.existing)} were there already, {len(self.faults)} failed."]
        return "\n".join([*lines, *(f"{fault.name}: {fault.reason}" for fault in self.faults)])


class Queue:
    """The jobs of a run. What is there already is never given out, and what needs a video that failed has failed.

    Attributes:
        left: how many are neither made nor there nor failed.
    """

    def __init__(self, jobs: Sequence[Job], models: Models, folder: Folder, report: Report):
        self.jobs = {job.name: job for job in jobs}
        self.models, self.folder, self.report = models, folder, report
        self.left = len(self.jobs)
        self.inputs = {path for job in jobs for path in job.inputs}
        self.needed = {need for job in jobs for need in job.needs}
        self.digests: dict[str, str] = {}  # of the sidecars of those that are needed
        self.failed: set[str] = set()
        self.ready: dict[Models, deque[Job]] = {}
        self.videos = folder.existing(map(video_name, self.jobs))
        self.sidecars = folder.read(map(sidecar_name, self.jobs))
        self.order = TopologicalSorter({job.name: job.needs for job in jobs})
        self.order.prepare()
        self._refill()

    def take(self, opened: Models | None = None) -> tuple[Job, Sources] | None:
        """A job to make now, with its sources; None if there is none, or none before another has ended.

        Args:
            opened: what is open where it will be made: a job for the same models and LoRAs comes first, then one for
                the same model.
        """
        if not self.ready:
            return None
        first = next(iter(self.ready))
        near = next((models for models in self.ready if opened and models.model == opened.model), first)
        models = opened if opened in self.ready else near
        job = self.ready[models].popleft()
        if not self.ready[models]:
            del self.ready[models]
        return job, self.sources(job)

    def models_of(self, job: Job) -> Models:
        return self.models.override(job.weights)

    def sources(self, job: Job) -> Sources:
        return {need: self.digests[need] for need in job.needs}

    def end(self, job: Job, reason: str) -> None:
        """Tells how a job that was taken went.

        Args:
            reason: why it failed; empty if it did not.
        """
        if reason:
            self._fail(job, reason)
        else:
            self.report.made.append(job.name)
            sidecar = sidecar_name(job.name)
            self._settle(job, self.folder.read([sidecar]).get(sidecar, b"") if job.name in self.needed else b"")
        self._refill()

    def _fail(self, job: Job, reason: str) -> None:
        self.report.faults.append(Fault(job.name, reason))
        self.failed.add(job.name)
        self.left -= 1
        self.order.done(job.name)

    def _settle(self, job: Job, sidecar: bytes) -> None:
        self.digests[job.name] = sidecar_digest(sidecar)
        self.left -= 1
        self.order.done(job.name)

    def _refill(self) -> None:
        while names := self.order.get_ready():
            for name in names:
                self._admit(self.jobs[name])

    def _admit(self, job: Job) -> None:
        """A job whose sources are made, if they could be."""
        sidecar = self.sidecars.pop(sidecar_name(job.name), b"")
        if failed := [need for need in job.needs if need in self.failed]:
            self._fail(job, f'It needs the video of "{failed[0]}", which failed.')
        elif reason := self._conflict(job):
            self._fail(job, reason)
        elif video_name(job.name) in self.videos and sidecar_key(sidecar) == key(job, self.models_of(job), self.sources(job)):
            self.report.existing.append(job.name)
            self._settle(job, sidecar)
        else:
            self.ready.setdefault(self.models_of(job), deque()).append(job)

    def _conflict(self, job: Job) -> str:
        """Why a job may not be made where it would go; empty if it may."""
        path = Path(self.folder.address, video_name(job.name)).resolve()
        if not isinstance(self.folder, LocalFolder) or path not in self.inputs:
            return ""
        return (
            f'{path} is a keyframe\'s file: write "{JOB}{job.name}" there if this job is to make it, or give this job '
            "another name or another folder."
        )
