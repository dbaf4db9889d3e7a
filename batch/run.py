"""Jobs -> videos: here, or on a Ray cluster. One bad job never stops the rest; what is made is not made again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from .cluster import make_on_ray
from .folder import Folder, RunStopped, open_folder
from .jobs import REPORT, Fault, Job
from .make import Maker, is_writer
from .queue import Queue, Report
from .settings import Models


def run(
    jobs: Sequence[Job], faults: Sequence[Fault], models: Models, output: str | Path, workers: int = 0, gpus: float = 1
) -> Report:
    """Makes every job's video that is not there yet, and leaves report.json beside them.

    Args:
        jobs, faults: as `read_jobs` gives them.
        output: a folder, or its URL, see `open_folder`.
        workers: how many Ray workers; 0 makes the videos in this process.
        gpus: of each worker.

    Raises:
        ValueError: what was asked for cannot be had: the output, the device, the workers.
        RunStopped: the command's models cannot be opened, or the output not be written to; report.json says what was
            made before, if it could be written.
    """
    if workers < 0 or (workers and models.processes > 1):
        raise ValueError(f"{workers} workers were asked for: give 0 or more, and none when a video is split over processes.")
    folder = open_folder(output)
    report = Report(faults=list(faults))
    if is_writer():
        folder.create()  # one that cannot be written to is found before any model is opened
    queue = Queue(jobs, models, folder, report)
    try:
        _run(queue, workers, gpus)
    except (RunStopped, ValueError) as error:
        report.stopped = str(error)
        raise
    finally:
        if is_writer():
            write_report(folder, report)
    return report


def write_report(folder: Folder, report: Report) -> None:
    folder.write(f"{REPORT}.json", json.dumps(asdict(report), indent=1).encode())


def _run(queue: Queue, workers: int, gpus: float) -> None:
    results = make_on_ray(queue, workers, gpus) if workers else _make_here(queue)
    writer = is_writer()
    with tqdm(total=queue.left, desc="videos", unit="video", disable=not (queue.left and writer)) as bar:
        for job, reason in results:
            known = len(queue.report.faults)
            queue.end(job, reason)
            for fault in queue.report.faults[known:] if writer else ():
                tqdm.write(f"{fault.name}: {fault.reason}")
            bar.total = bar.n + 1 + queue.left  # what was there already, or failed for want of a video, is done too
            bar.update()
            if writer:
                write_report(queue.folder, queue.report)


def _make_here(queue: Queue) -> Iterator[tuple[Job, str]]:
    """Each job as it ends, and why it failed; empty if it did not."""
    if not queue.left:
        return
    maker = Maker(queue.models, queue.folder)
    while taken := queue.take(maker.opened):
        job, sources = taken
        yield job, maker.attempt(job, sources)
