"""Where ComfyUI is, for what runs it from outside: tests, benchmarks, the demo, training. Standard library only."""

from __future__ import annotations

import os
import sys
from pathlib import Path

PACK = Path(__file__).resolve().parents[1]


def find_comfyui() -> Path | None:
    """The ComfyUI folder: COMFYUI_PATH, else the one this pack is installed in, else ~/comfy/ComfyUI.

    A COMFYUI_PATH that is no ComfyUI is an error of the user's and finds nothing, rather than some other ComfyUI.
    """
    named = os.environ.get("COMFYUI_PATH")
    if named:
        candidates = [Path(named).expanduser()]
    else:
        # The pack's folder may be a link: look around the link (as the working directory has it) and its target.
        around = {PACK, Path(os.environ.get("PWD", PACK))}
        enclosing = [p.parent for folder in around for p in folder.parents if p.name == "custom_nodes"]
        candidates = [*enclosing, Path.home() / "comfy" / "ComfyUI"]
    return next((path.resolve() for path in candidates if _is_comfyui(path)), None)


def _is_comfyui(path: Path) -> bool:
    return (path / "main.py").is_file() and (path / "comfy").is_dir()


def how_to_get() -> str:
    """One sentence for a user whose ComfyUI was not found."""
    named = os.environ.get("COMFYUI_PATH")
    wrong = f"COMFYUI_PATH={named} holds no main.py and comfy/. " if named else ""
    return (
        f"{wrong}To get ComfyUI: 'pip install comfy-cli && comfy install', or "
        "'git clone https://github.com/comfyanonymous/ComfyUI ~/comfy/ComfyUI'; "
        "for one that lies elsewhere, set COMFYUI_PATH to its folder."
    )


def require_comfyui() -> Path:
    """The ComfyUI folder.

    Raises:
        SystemExit: there is none; the message says how to get one.
    """
    folder = find_comfyui()
    if folder is None:
        sys.exit(f"No ComfyUI was found. {how_to_get()}")
    return folder


def import_comfyui(cpu: bool | None = None) -> None:
    """Makes `import comfy` and `import nodes` give ComfyUI's. Does nothing inside a ComfyUI.

    Args:
        cpu: leave a GPU alone; by default only where there is none.

    Raises:
        SystemExit: there is no ComfyUI; the message says how to get one.
    """
    if "comfy" in sys.modules:
        return
    folder = str(require_comfyui())
    from pusa_core.devices import accelerator

    if folder in sys.path:
        sys.path.remove(folder)
    sys.path.insert(0, folder)  # first: this repository has a folder called nodes, too
    from comfy.cli_args import args

    args.cpu = args.cpu or (accelerator() is None if cpu is None else cpu)
