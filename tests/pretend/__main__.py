"""python -m tests.pretend MODE FOLDER: runs every scenario on the pretend card and prints its report, a line of JSON.

MODE is one of ComfyUI's in `comfyui.MODES`, or diffusers. FOLDER holds the models; results go to MODE.pt in it.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import torch

import tests.pretend.device  # noqa: F401  before anything looks for a card


def main(mode: str, folder: Path) -> None:
    host = importlib.import_module("tests.pretend.pipelines" if mode == "diffusers" else "tests.pretend.comfyui")
    reports, results = host.run_all(mode, folder)
    torch.save(results, folder / f"{mode}.pt")
    print(json.dumps(reports))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
