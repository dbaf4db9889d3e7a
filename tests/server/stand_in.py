"""Prompts made for real models, rewritten for the tiny ones of the `server` fixture."""

from __future__ import annotations

import re
from typing import Any

Link = list  # ["node id", output index]
# Title of a LoadImage node in the shared workflows -> demo image
IMAGES = {
    "Start image": "start_frame.jpg",
    "End image": "end_frame.jpg",
}
CLIP = "input_video.mp4"
STEP_ENDS = ("start_at_step", "end_at_step")
WEIGHTS = re.compile(r"\.(safetensors|sft|pt|pth|ckpt|bin|gguf)$", re.IGNORECASE)


def stand_in(prompt: dict, files: dict[str, str] | None = None, **overrides: Any) -> dict:
    """An API prompt made for real models -> one for the tiny models of the `server` fixture.

    CLIPLoader and SelectCLIPDevice go, CLIPTextEncode becomes TestTextEncode, images the demo's, names of weight files
    those of tiny ones (`files` maps the names that `tiny_name` guesses wrong). overrides: values for all widgets of a name,
    e.g. width=64, height=64, length=17, steps=4; with steps, a two-stage sampler's start and end steps shrink alike.
    """
    gone = {key for key, node in prompt.items() if node["class_type"].startswith(("CLIPLoader", "SelectCLIPDevice"))}
    result = {}
    for key, node in prompt.items():
        if key in gone:
            continue
        inputs = {name: _replaced(name, value, node["inputs"], files or {}, overrides)
                  for name, value in node["inputs"].items()}  # fmt: skip
        kind = node["class_type"]
        if kind == "LoadImage":
            inputs["image"] = IMAGES.get(node.get("_meta", {}).get("title"), inputs["image"])
        if kind == "LoadVideo":
            inputs["file"] = CLIP
        if kind == "CLIPTextEncode":
            kind = "TestTextEncode"
            inputs.pop("clip", None)
        left = [name for name, value in inputs.items() if _is_link(value) and value[0] in gone]
        if left:
            raise ValueError(f"{kind} {key} takes a CLIP ({', '.join(left)}), for which nothing stands in")
        result[key] = {**node, "class_type": kind, "inputs": inputs}
    return result


def _replaced(name: str, value: Any, inputs: dict, files: dict[str, str], overrides: dict[str, Any]) -> Any:
    if _is_link(value):
        return value
    if isinstance(value, str) and WEIGHTS.search(value):
        return files.get(value) or tiny_name(value, name)
    if name in overrides:
        return overrides[name]
    steps = inputs.get("steps")
    if name in STEP_ENDS and "steps" in overrides and isinstance(steps, int) and value <= steps:
        return round(value * overrides["steps"] / steps)
    return value


def _is_link(value: Any) -> bool:
    return isinstance(value, Link) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int)


def tiny_name(name: str, widget: str = "") -> str:
    """The tiny file that plays the part of a real one, guessed from its name and its widget's."""
    low = name.lower()
    small = bool(re.search(r"5b|ti2v|wan2[._]?2[_-]?vae|vae48", low))
    expert = next((expert for expert in ("high", "low") if re.search(rf"{expert}(?!er)", low)), None)
    if "vae" in low or "vae" in widget:
        return "vae48.pt" if small else "vae16.safetensors"
    if "lora" in low or "lora" in widget or re.search(r"pusa|lightning|lightx2v", low):
        family = "lightning" if re.search(r"lightning|lightx2v", low) else "pusa"
        part = "5b" if small else expert or "21"
        return f"{family}_{part}.safetensors"
    if "skyreels" in low and "1_3b" in low:
        return "wan_forcing.safetensors"
    if "i2v" in low and not small:
        return "wan_i2v.safetensors"
    return f"wan_{'5b' if small else expert or '21'}.safetensors"
