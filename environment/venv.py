"""The environment of the README's commands: .venv in the pack's folder, with everything installed.

With a ComfyUI it gets ComfyUI's requirements, without one only torch. PUSA_PYTHON=<interpreter> uses that interpreter as it
is and installs nothing. Standard library only, Python 3.10 or newer.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from .comfyui import PACK

VENV = PACK / ".venv"
STAMP = VENV / "tests-installed.txt"
TORCH = ["torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0"]  # these three match, and run without a GPU
READ_PYPROJECT = """
import sys
try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    from pip._vendor import tomli as tomllib
with open(sys.argv[1], "rb") as file:
    project = tomllib.load(file)["project"]
extras = project["optional-dependencies"]
print("\\n".join({*project["dependencies"], *extras["test"], *extras["train"], *extras["diffusers"]}))
"""


def python_for(comfyui: Path | None) -> str:
    """An interpreter with everything installed: PUSA_PYTHON, or that of .venv, which is made complete first."""
    if sys.version_info < (3, 10):  # noqa: UP036 - for the user who starts this with an older one
        sys.exit(f"Python 3.10 or newer is needed; this is {sys.version.split()[0]}.")
    return os.environ.get("PUSA_PYTHON") or str(prepare(comfyui))


def prepare(comfyui: Path | None) -> Path:
    """Makes .venv complete and returns its Python; does nothing when the same things were installed before."""
    python = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not works(str(python), "import pip"):
        _step("make .venv (on Debian and Ubuntu: apt install python3-venv)", sys.executable, "-m", "venv", str(VENV))
    wanted, key = _wanted(python, comfyui)
    if STAMP.is_file() and STAMP.read_text() == key:
        return python
    print(f"Installing into {VENV} (7 GB the first time)", flush=True)
    _step("install the packages (see pip's message above)", str(python), "-m", "pip", "install", *wanted)
    STAMP.write_text(key)
    return python


def _wanted(python: Path, comfyui: Path | None) -> tuple[list[str], str]:
    """pip's arguments, and a key that changes with anything they stand for."""
    said = subprocess.check_output([str(python), "-c", READ_PYPROJECT, str(PACK / "pyproject.toml")], text=True)
    ours = sorted(said.splitlines())
    if comfyui is None:
        return ours, _key(ours)
    requirements = comfyui / "requirements.txt"
    wanted = [*TORCH, "-r", str(requirements), *ours]
    return wanted, _key([*wanted, requirements.read_text(encoding="utf-8")])


def _key(parts: list[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _step(what: str, *command: str) -> None:
    if subprocess.call(command) != 0:
        sys.exit(f"Could not {what}. The command was: {' '.join(command)}")


def works(python: str, code: str) -> bool:
    try:
        return subprocess.run([python, "-c", code], capture_output=True).returncode == 0
    except OSError:
        return False
