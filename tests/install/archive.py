"""The archive that `comfy node pack` makes for the registry: the tracked files without those that .comfyignore names."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import pytest

from environment.comfyui import PACK


def archived_files() -> list[str]:
    """Paths from the pack's folder, as git writes them; git reads .comfyignore too, whose rules are its own."""
    if not (PACK / ".git").exists():
        pytest.skip("the pack is no git repository")
    ignored = set(tracked("--ignored", "--exclude-from=.comfyignore"))
    return [name for name in tracked() if name not in ignored and (PACK / name).exists()]


def tracked(*options: str) -> list[str]:
    command = ["git", "-C", str(PACK), "ls-files", "-z", "--cached", *options]
    return subprocess.check_output(command, text=True, encoding="utf-8").split("\0")[:-1]


def write_archive(path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in archived_files():
            archive.write(PACK / name, name)
    return path
