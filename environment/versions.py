"""Which ComfyUI versions the pack supports: python -m environment.versions <ComfyUI folder> succeeds for a supported one."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from packaging.version import Version

from .comfyui import PACK


def version_of(comfyui: Path) -> Version:
    """ComfyUI's version, from its own file."""
    text = (comfyui / "comfyui_version.py").read_text(encoding="utf-8")
    return Version(re.search(r'__version__ = "(.+?)"', text)[1])


def oldest_supported() -> Version:
    """What pyproject.toml promises."""
    text = (PACK / "pyproject.toml").read_text(encoding="utf-8")
    return Version(re.search(r'requires-comfyui = ">=(.+?)"', text)[1])


if __name__ == "__main__":
    sys.exit(version_of(Path(sys.argv[1])) < oldest_supported())
