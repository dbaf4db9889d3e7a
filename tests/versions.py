"""Which ComfyUI versions the pack supports: python3 tests/versions.py <ComfyUI folder> succeeds for a supported one."""

from __future__ import annotations

import re
import sys
from pathlib import Path


def version_of(comfyui: Path) -> tuple[int, ...]:
    """ComfyUI's version, from its own file."""
    text = (comfyui / "comfyui_version.py").read_text(encoding="utf-8")
    return tuple(int(part) for part in re.search(r'"([0-9.]+)"', text)[1].split("."))


def oldest_supported() -> tuple[int, ...]:
    """What pyproject.toml promises."""
    text = (Path(__file__).resolve().parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    return tuple(int(part) for part in re.search(r'requires-comfyui = ">=([0-9.]+)"', text)[1].split("."))


if __name__ == "__main__":
    sys.exit(version_of(Path(sys.argv[1])) < oldest_supported())
