"""Where ComfyUI is, for the tests and benchmarks that need one. Standard library only."""

from __future__ import annotations

import os
from pathlib import Path

PACK = Path(__file__).resolve().parent.parent


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
