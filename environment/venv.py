"""The environment of the README's commands: .venv in the pack's folder, with everything installed.

With a ComfyUI it gets ComfyUI's requirements, without one only torch. PUSA_PYTHON=<interpreter> uses that interpreter as it
is and installs nothing. Standard library only, Python 3.10 or newer.

uv installs it, in a tenth of pip's time, under the settings that pip has on this machine; where uv cannot, pip does.
"""

from __future__ import annotations

import ast
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
print("\\n".join({*project["dependencies"], *(package for name in sys.argv[2:] for package in extras[name])}))
"""
EXTRAS = ("test", "train", "diffusers")
# pip's settings that say where packages come from, and uv's variables for them. uv takes the first index that has a name,
# pip the best version of all.
UV_SETTINGS = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "no-index": "UV_NO_INDEX",
    "find-links": "UV_FIND_LINKS",
    "constraint": "UV_CONSTRAINT",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
    "timeout": "UV_HTTP_TIMEOUT",
    "default-timeout": "UV_HTTP_TIMEOUT",
}


def python_for(comfyui: Path | None, *more: str) -> str:
    """An interpreter with everything installed: PUSA_PYTHON, or that of .venv, which is made complete first.

    ``more`` names extras of pyproject.toml beside those of the tests.
    """
    if sys.version_info < (3, 10):  # noqa: UP036 - for the user who starts this with an older one
        sys.exit(f"Python 3.10 or newer is needed; this is {sys.version.split()[0]}.")
    return os.environ.get("PUSA_PYTHON") or str(prepare(comfyui, *more))


def prepare(comfyui: Path | None, *more: str) -> Path:
    """Makes .venv complete and returns its Python; does nothing when the same things were installed before."""
    python = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not works(str(python), "import pip"):
        _step("make .venv (on Debian and Ubuntu: apt install python3-venv)", sys.executable, "-m", "venv", str(VENV))
    wanted, key = _wanted(python, comfyui, EXTRAS + more)
    if STAMP.is_file() and STAMP.read_text() == key:
        return python
    print(f"Installing into {VENV} (7 GB the first time)", flush=True)
    if not _installed_by_uv(str(python), wanted):
        _step("install the packages (see pip's message above)", str(python), "-m", "pip", "install", *wanted)
    STAMP.write_text(key)
    return python


def _installed_by_uv(python: str, wanted: list[str]) -> bool:
    pip = [python, "-m", "pip"]
    if subprocess.call([*pip, "install", "--quiet", "uv"]) != 0:
        return False
    settings = subprocess.run([*pip, "config", "list"], capture_output=True, text=True).stdout
    command = [python, "-m", "uv", "pip", "install", "--python", python, *wanted]
    return subprocess.call(command, env=os.environ | uv_settings(settings)) == 0


def uv_settings(pip: str) -> dict[str, str]:
    """uv's variables for the lines that ``pip config list`` prints, as ``global.find-links='/opt/wheels'``."""
    found = {"UV_INDEX_STRATEGY": "unsafe-best-match"}
    for line in pip.splitlines():
        name, _, value = line.partition("=")
        variable = UV_SETTINGS.get(name.rpartition(".")[2])
        if variable:
            separator = "," if variable == "UV_FIND_LINKS" else " "
            found[variable] = separator.join(str(ast.literal_eval(value)).split())
    return found


def _wanted(python: Path, comfyui: Path | None, extras: tuple[str, ...]) -> tuple[list[str], str]:
    """pip's arguments, and a key that changes with anything they stand for."""
    said = subprocess.check_output([str(python), "-c", READ_PYPROJECT, str(PACK / "pyproject.toml"), *extras], text=True)
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
