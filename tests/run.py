"""Sets up an environment for the tests where needed, then runs them: python3 tests/run.py [pytest arguments]

See environment/venv.py for the environment, environment/comfyui.py for where ComfyUI is found.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from environment.comfyui import PACK, find_comfyui, how_to_get  # noqa: E402
from environment.venv import VENV, python_for, works  # noqa: E402


def main(arguments: list[str]) -> int:
    comfyui = find_comfyui()
    print(f"ComfyUI: {comfyui or 'none found. ' + how_to_get()}", flush=True)
    python = python_for(comfyui)
    if not works(python, "import pytest"):
        sys.exit(f"{python} cannot import pytest: install it there, or unset PUSA_PYTHON to use {VENV}.")
    return subprocess.call([python, "-m", "pytest", *arguments], cwd=PACK)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
