"""Which ComfyUI versions the pack supports: python -m environment.versions <ComfyUI folder> succeeds for a supported one."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from packaging.version import Version

from .comfyui import PACK


def version_of(comfyui: Path) -> Version:
    """ComfyUI's version, from its own file."""
    return _version(comfyui / "comfyui_version.py", r'__version__ = "(.+?)"')


def oldest_supported() -> Version:
    """What pyproject.toml promises."""
    return _version(PACK / "pyproject.toml", r'requires-comfyui = ">=(.+?)"')


def _version(file: Path, pattern: str) -> Version:
    match = re.search(pattern, file.read_text(encoding="utf-8"))
    if match is None:
        raise ValueError(f"{file} does not say its version: is it ComfyUI's?")
    return Version(match[1])


if __name__ == "__main__":
    sys.exit(version_of(Path(sys.argv[1])) < oldest_supported())
