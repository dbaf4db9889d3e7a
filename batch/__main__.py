"""python -m batch jobs.jsonl --output videos: see README.md."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

try:
    import tyro
except ImportError as error:
    sys.exit(f'error: {error}. The batch needs what pip install ".[diffusers]" brings.')

from pusa_core.json_input import read_object

from .jobs import MAX_JOB, Fault
from .settings import Models


@dataclass(frozen=True)
class Command:
    """Makes a video for each line of a JSONL file.

    Attributes:
        jobs: one JSON object on each line, see README.md
        output: folder for videos, sidecars and report.json; also a URL, as s3://bucket/videos
        workers: Ray workers; 0 makes the videos in this process
        gpus: of each Ray worker
        defaults: settings of jobs that do not have them, as '{"steps": 4, "cfg": 1}'
        check: only say which lines are no jobs
    """

    jobs: tyro.conf.Positional[Path]
    output: str
    workers: int = 0
    gpus: float = 1
    defaults: str = "{}"
    check: bool = False
    models: tyro.conf.OmitArgPrefixes[Models] = field(default_factory=Models)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code; `arguments` are the process's own if not given."""
    command = tyro.cli(Command, prog="python -m batch", args=arguments, config=(tyro.conf.FlagCreatePairsOff,))
    try:
        return _run(command)
    except KeyboardInterrupt:
        print("Stopped. The same command goes on with what is missing.", file=sys.stderr)
        return 130


def _run(command: Command) -> int:
    try:
        from .checks import check_models
        from .folder import RunStopped
        from .jobs_file import read_jobs
        from .make import is_writer
        from .run import run
    except ImportError as error:
        sys.exit(f'error: {error}. The batch needs what pip install ".[diffusers]" brings.')
    models = command.models.resolved()
    try:
        defaults = read_object(command.defaults, "--defaults", MAX_JOB, """'{"steps": 4}'""")
        jobs, faults = read_jobs(command.jobs, defaults, models)
        _tell(faults if is_writer() else ())
        check_models(models)
        if command.check:
            print(f"{len(jobs)} jobs, {len(faults)} bad lines.")
            return 1 if faults else 0
        report = run(jobs, faults, models, command.output, command.workers, command.gpus)
    except (OSError, ValueError, RunStopped) as error:
        sys.exit(f"error: {error}")
    if is_writer():
        print(report)
        print(f"They are in {command.output}.")
    return 1 if report.faults else 0


def _tell(faults: Sequence[Fault]) -> None:
    for fault in faults:
        print(f"{fault.name}: {fault.reason}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
