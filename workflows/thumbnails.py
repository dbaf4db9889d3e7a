"""Makes the templates' thumbnails, TITLE.jpg beside TITLE.json: python workflows/thumbnails.py

Each shows what the demo model, which comes with the pack, makes in the workflow's mode: six frames in the order of
reading, given ones with a white border, and below them which latent frames were given. Needs a ComfyUI.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

SIDE, FRAME, EDGE = 480, 142, 14
TOP, GAP = 62, 10  # the page's own badge lies in the upper left corner
LARGEST = 30_000  # bytes
QUALITIES = (90, 84, 76, 68)
LATENTS = 5
GOLD, WHITE, DARK, MADE = (255, 206, 84), (255, 255, 255), (20, 24, 38), (70, 108, 176)


@dataclass(frozen=True)
class Mode:
    """What is given of a scene, as items of the timeline, and what is shown of the result."""

    words: str
    items: tuple[dict[str, Any], ...] = ()
    given: frozenset[int] = frozenset()  # pixel frames
    shown: tuple[int, ...] = (0, 3, 6, 9, 12, 16)


def still(at: int) -> dict[str, Any]:
    return {"at": at, "media": "frame{}.png", "noise": 0}


def part(at: int, *take: int | None, scene: str = "clip") -> dict[str, Any]:
    return {"at": at, "media": f"{scene}{{}}.webp", "take": take, "noise": 0}


ENDS = frozenset(range(5)) | frozenset(range(12, 17))
MODES = {
    "image_to_video": Mode("Image to video", (still(0),), frozenset({0})),
    "start_end": Mode("Start and end", (still(0), still(16)), frozenset({0, 16})),
    "single_nodes": Mode("Single nodes", (still(0), still(16)), frozenset({0, 16})),
    "three_keyframes": Mode("Three keyframes", (still(0), still(8), still(16)), frozenset({0, 8, 16}), (0, 4, 8, 11, 14, 16)),
    "completion": Mode("Completion", (part(0, 0, 5), part(12, 12, 17)), ENDS),
    "extension": Mode("Extend a video", (part(0, 0, 5),), frozenset(range(5)), (0, 2, 4, 8, 12, 16)),
    "transition": Mode("Transition", (part(0, 0, 5), part(12, 12, 17, scene="other")), ENDS),
    "text_to_video": Mode("Text to video"),
}
# A scene for each workflow, so that no two look alike.
SCENES = {
    "demo_image_to_video": "a red circle moves right quickly on a gradient background",
    "demo_start_end": "a yellow cross moves up quickly and a cyan circle moves down quickly on a plain background",
    "demo_extension": "a green triangle moves left quickly and a pink bar moves right quickly on stripes",
    "demo_text_to_video": "a pink circle moves up quickly and a green bar moves down quickly on a gradient background",
    "wan21_image_to_video": "a blue triangle moves right quickly and a yellow circle moves left on a plain background",
    "wan21_start_end": "a pink cross moves right quickly and a blue circle moves left quickly on a gradient background",
    "wan21_three_keyframes": "a cyan bar moves up quickly and a red triangle moves down quickly on a plain background",
    "wan21_completion": "a yellow circle moves down quickly and a blue cross moves up quickly on stripes",
    "wan21_extension": "a red bar moves left quickly and a cyan cross moves right quickly on a gradient background",
    "wan21_transition": "a green circle moves right quickly on a plain background",
    "wan21_text_to_video": "a cyan triangle moves right quickly and a yellow bar moves left quickly on a plain background",
    "wan21_image_to_video_lightning": "a yellow bar moves down quickly and a red circle moves up quickly on stripes",
    "wan21_extension_lightning": "a blue circle moves up quickly and a yellow bar moves down quickly on a plain background",
    "wan22_image_to_video": "a green cross moves left quickly and a red circle moves right quickly on a gradient background",
    "wan22_extension": "a pink triangle moves down quickly and a green circle moves up quickly on a plain background",
    "wan22_image_to_video_lightning": "a cyan circle moves left quickly and a pink cross moves right on a plain background",
    "wan22_extension_lightning": "a red cross moves right quickly and a green bar moves left quickly on stripes",
    "wan21_single_nodes": "a cyan cross moves down quickly and a pink triangle moves up quickly on stripes",
}
OTHER = "a green bar moves right quickly on stripes"
# Badge and the colours behind, by the beginning and end of a workflow's name.
BADGES = {
    "demo": ("no download", (46, 160, 96), (24, 66, 58)),
    "wan21": ("Wan 2.1", (64, 124, 222), (28, 44, 84)),
    "wan22": ("Wan 2.2", (178, 84, 206), (62, 32, 84)),
    "lightning": ("4 steps", (232, 132, 36), (92, 52, 24)),
}


def mode_of(name: str) -> Mode:
    return MODES[name.split("_", 1)[1].removesuffix("_lightning")]


# --- what the demo model makes ---------------------------------------------------------------------------------------


def make(server: Any, name: str, seed: int) -> list[Image.Image]:
    """The 17 frames of a workflow's mode."""
    from demo_model.world import draw, scene_of

    scene = scene_of(SCENES[name], seed)
    folder = server.base / "input"
    for word, text in (("clip", SCENES[name]), ("other", OTHER)):
        clip = [Image.fromarray(frame) for frame in (draw([scene_of(text, seed)])[0].numpy() * 255).round().astype(np.uint8)]
        clip[0].save(folder / f"{word}{name}.webp", save_all=True, append_images=clip[1:], lossless=True, duration=125)
        if word == "clip":
            for at, frame in enumerate(clip):
                frame.save(folder / f"frame{name}{at}.png")
    run = server.run(prompt_of(name, scene.caption, seed))
    return [Image.open(path).convert("RGB") for path in run.files if path.suffix == ".png"]


def prompt_of(name: str, caption: str, seed: int) -> dict[str, Any]:
    prompt = copy.deepcopy(json.loads((HERE / "api" / "demo_image_to_video.json").read_text(encoding="utf-8")))
    items = [{**item, "media": item["media"].format(f"{name}{item['at']}" if "take" not in item else name)}
             for item in mode_of(name).items]  # fmt: skip
    for node in prompt.values():
        if node["class_type"] == "PusaTimeline":
            node["inputs"]["timeline"] = json.dumps({"version": 1, "items": items})
        elif node["class_type"] == "PusaKSampler":
            node["inputs"] |= {"seed": seed, "steps": 20}
        elif node["_meta"]["title"] == "Prompt":
            node["inputs"]["text"] = caption
    decoded = next(key for key, node in prompt.items() if node["class_type"] == "VAEDecode")
    kept = {key: node for key, node in prompt.items() if int(key) <= int(decoded)}
    return kept | {"frames": {"class_type": "PreviewImage", "inputs": {"images": [decoded, 0]}}}


# --- the picture -----------------------------------------------------------------------------------------------------


def picture(name: str, frames: list[Image.Image]) -> Image.Image:
    mode = mode_of(name)
    badge, colour, behind = BADGES["lightning" if name.endswith("lightning") else name.split("_")[0]]
    sheet = _gradient(behind)
    draw = ImageDraw.Draw(sheet)
    family = BADGES[name.split("_")[0]][0]
    _pill(draw, SIDE - EDGE, badge if badge == family else f"{family}, {badge}", colour)
    for place, at in enumerate(mode.shown):
        x, y = EDGE + place % 3 * (FRAME + GAP + 3), TOP + place // 3 * (FRAME + GAP)
        if at in mode.given:
            draw.rounded_rectangle([x - 5, y - 5, x + FRAME + 4, y + FRAME + 4], 10, fill=WHITE)
        sheet.paste(frames[at].resize((FRAME, FRAME), Image.Resampling.BICUBIC), (x, y))
    _words(draw, mode.words)
    _bar(draw, mode.given)
    return sheet


def _gradient(colour: tuple[int, int, int]) -> Image.Image:
    part = np.linspace(0, 1, SIDE)[:, None, None]
    rows = np.array(colour) * (1 - part) + np.array(DARK) * part
    return Image.fromarray(np.broadcast_to(rows, (SIDE, SIDE, 3)).round().astype(np.uint8))


def _pill(draw: ImageDraw.ImageDraw, right: int, text: str, colour: tuple[int, int, int]) -> None:
    font = ImageFont.load_default(24)
    width = draw.textlength(text, font)
    draw.rounded_rectangle([right - width - 28, 10, right, 48], 19, fill=colour)
    draw.text((right - 14 - width / 2, 29), text, WHITE, font, "mm")


def _words(draw: ImageDraw.ImageDraw, text: str) -> None:
    draw.text((SIDE / 2, TOP + 2 * FRAME + GAP + 36), text, WHITE, ImageFont.load_default(42), "mm")


def _bar(draw: ImageDraw.ImageDraw, given: Iterable[int]) -> None:
    """The latent frames; those with a given picture are gold."""
    latents = {(at + 3) // 4 for at in given}
    width = (SIDE - 2 * EDGE) / LATENTS
    for latent in range(LATENTS):
        left = EDGE + latent * width
        colour = GOLD if latent in latents else MADE
        draw.rounded_rectangle([left + 2, SIDE - 48, left + width - 3, SIDE - 20], 8, fill=colour)


def save(image: Image.Image, path: Path) -> None:
    """As good as a small file can be."""
    for quality in QUALITIES:
        image.save(path, quality=quality, optimize=True)
        if path.stat().st_size <= LARGEST:
            return


def main(names: list[str]) -> None:
    from recipes import TITLES

    from environment.comfyui import find_comfyui
    from environment.server import ComfyServer

    comfyui = find_comfyui()
    if comfyui is None:
        sys.exit("No ComfyUI was found: set COMFYUI_PATH.")
    with ComfyServer(comfyui) as server:
        for seed, (describe, title) in enumerate(TITLES.items()):
            if not names or describe.__name__ in names:
                frames = make(server, describe.__name__, seed)
                save(picture(describe.__name__, frames), HERE / f"{title}.jpg")


if __name__ == "__main__":
    main(sys.argv[1:])
