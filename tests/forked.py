"""Programs in processes of their own that need not import what takes seconds: one that has, forks for each of them.

python -m tests.forked MODULE...: imports the modules, then runs every line of stdin, a task as JSON, as ``python -m`` would,
and prints its exit code.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import random
import runpy
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TextIO

import numpy

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 300  # that a program has
# Launchers of PyTorch fork as well, with their own options for that: their script is then given as a path.
FORKING = {"PET_START_METHOD": "fork", "PET_RUN_PATH": "1"}


class Forked:
    """A context manager: a process that has imported the given modules."""

    def __init__(self, *modules: str):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.forked", *modules], cwd=ROOT, text=True, env=environment(),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def __enter__(self) -> Forked:
        return self

    def __exit__(self, *_: object) -> None:
        with self.process:  # which closes the pipes
            self.process.kill()

    def run(self, *command: object) -> subprocess.CompletedProcess[str]:
        """A module's name and its arguments -> how it ended, and what it said."""
        program = [*map(str, command)]
        with tempfile.TemporaryDirectory() as folder:
            out, err = Path(folder, "out"), Path(folder, "err")
            print(json.dumps({"command": program, "out": str(out), "err": str(err)}), file=self.process.stdin, flush=True)
            code = self.process.stdout.readline()
            if not code:
                raise RuntimeError(f"the process that forks for {program[0]} has ended")
            return subprocess.CompletedProcess(program, int(code), out.read_text(), err.read_text())


def environment() -> dict[str, str]:
    return {**os.environ, **FORKING, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}


def serve(answers: TextIO) -> list[str] | None:
    """In a forked process what it is to run; None where all was done."""
    for line in sys.stdin:
        task = json.loads(line)
        child = os.fork()
        if not child:
            for descriptor, path, mode in ((0, os.devnull, "r"), (1, task["out"], "w"), (2, task["err"], "w")):
                with open(path, mode) as file:
                    os.dup2(file.fileno(), descriptor)
            return task["command"]
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers, flush=True)
    return None


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # where modules print
    for name in sys.argv[1:]:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # what is there now need not be looked through for garbage in every process
    command = serve(answers)
    if command is None:
        return
    signal.alarm(SECONDS)
    random.seed()  # as in a process that was started anew
    numpy.random.seed()
    sys.argv = command
    runpy.run_module(command[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
