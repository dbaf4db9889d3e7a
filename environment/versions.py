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
    return _found(r'__version__ = "(.+?)"', text)


def oldest_supported() -> Version:
    """What pyproject.toml promises."""
    text = (PACK / "pyproject.toml").read_text(encoding="utf-8")
    return _found(r'requires-comfyui = ">=(.+?)"', text)


def _found(pattern: str, text: str) -> Version:
    found = re.search(pattern, text)
    if found is None:
        raise ValueError(f"No version that looks like {pattern}: this is another ComfyUI, or another pyproject.toml.")
    return Version(found[1])


if __name__ == "__main__":
    sys.exit(version_of(Path(sys.argv[1])) < oldest_supported())
