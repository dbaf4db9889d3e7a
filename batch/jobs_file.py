"""A JSONL file of jobs. All that can be told of a job without its pictures is told here, before a model is loaded."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from pusa_core.json_input import read_object

from .checks import check_job
from .jobs import MAX_JOB, Fault, Job, read_job
from .settings import Models

SHOWN = 6  # names of a circle, in a message


def read_jobs(
    path: Path, defaults: Mapping[str, Any] | None = None, models: Models | None = None
) -> tuple[list[Job], list[Fault]]:
    """The jobs of a JSONL file, and the lines that are none.

    Args:
        defaults: settings of jobs that do not have them.
        models: the command's, for jobs that have none of their own.

    Raises:
        ValueError: the file cannot be read or has no jobs.
    """
    file = _File()
    for number, line in enumerate(_lines(path), 1):
        if line.strip():
            file.add(number, line, path.parent, defaults or {})
    if not file.jobs and not file.faults:
        raise ValueError(f"{path} has no jobs: write one JSON object on each line.")
    file.check(models or Models())
    file.refuse_circles()
    file.refuse_missing()
    return list(file.jobs.values()), [Fault(f"line {number}", reason) for number, reason in sorted(file.faults.items())]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").split("\n")  # JSON text may have other ends of lines in it
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({error}): give a JSONL file of jobs in UTF-8.") from error


@dataclass
class _File:
    """What has been read.

    Attributes:
        jobs: by name.
        lines: numbers of the lines of all names, also of those that are no jobs.
        faults: by number of the line.
    """

    jobs: dict[str, Job] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    faults: dict[int, str] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)

    def add(self, number: int, line: str, folder: Path, defaults: Mapping[str, Any]) -> None:
        name = f"{number:05d}"
        try:
            given = {"name": name, **defaults, **read_object(line, "It", MAX_JOB, '{"prompt": "a cat"}')}
            name = str(given["name"])
            job = read_job(given, folder)
            if name.casefold() in self.names:  # one file on Windows and macOS
                raise ValueError(f'An earlier job is called "{name}", too: give each its own name.')
        except ValueError as error:
            self.faults[number] = str(error)
            self.lines.setdefault(name, number)
        else:
            self.jobs[name], self.lines[name] = job, number
            self.names.add(name.casefold())

    def refuse(self, name: str, reason: str) -> None:
        self.faults[self.lines[name]] = reason
        del self.jobs[name]

    def check(self, models: Models) -> None:
        lengths = {name: job.length for name, job in self.jobs.items()}
        for name, job in list(self.jobs.items()):
            try:
                check_job(job, models, lengths)
            except ValueError as error:
                self.refuse(name, str(error))

    @property
    def order(self) -> TopologicalSorter[str]:
        return TopologicalSorter({name: job.needs for name, job in self.jobs.items()})

    def refuse_circles(self) -> None:
        """Jobs that need their own videos."""
        while True:
            try:
                return self.order.prepare()
            except CycleError as error:
                circle = error.args[1][::-1]  # the first again at the end
            shown = circle if len(circle) <= SHOWN else [*circle[: SHOWN - 2], "...", circle[-1]]
            told = " needs ".join(f'"{name}"' for name in shown)
            for name in set(circle):
                self.refuse(name, f"It needs its own video: {told}.")

    def refuse_missing(self) -> None:
        """Jobs that need videos that nobody makes."""
        for name in self.order.static_order():
            missing = [need for need in self.jobs[name].needs if need not in self.jobs] if name in self.jobs else []
            if missing:
                self.refuse(name, self._missing(missing[0]))

    def _missing(self, need: str) -> str:
        if need in self.lines:
            return f'It needs the video of "{need}", which is no job: see line {self.lines[need]}.'
        near = difflib.get_close_matches(need, self.jobs, 1)
        hint = f'did you mean "{near[0]}"?' if near else "give the name of a job of this file."
        return f'It needs the video of "{need[:100]}", but there is no job of that name: {hint}'
