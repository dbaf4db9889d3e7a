"""Writes TITLE.jpg beside every workflow, which the page shows: python workflows/thumbnails.py [name ...]

Each shows what the demo model makes of the workflow's mode, with a scene of its own; frames that were given have a
border. Needs a ComfyUI, as workflows/demo.py does.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

PACK = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PACK))

from catalogue import workflows  # noqa: E402
from longer import DEMO_LOOP_SCENE, DEMO_SCENE, DEMO_SEED  # noqa: E402
from recipes import DEMO_FPS  # noqa: E402
from samples import write_clip  # noqa: E402

from demo_model.spoil import stutter  # noqa: E402
from demo_model.world import LENGTH, draw, scene_of  # noqa: E402
from environment.comfyui import find_comfyui  # noqa: E402
from environment.server import ComfyServer  # noqa: E402

# What is given of 17 frames: first frame and number of frames.
GIVEN = {
    "image_to_video": [(0, 1)],
    "start_end": [(0, 1), (16, 1)],
    "single_nodes": [(0, 1), (16, 1)],
    "three_keyframes": [(0, 1), (8, 1), (16, 1)],
    "completion": [(0, 5), (12, 5)],
    "extension": [(0, 5)],
    "transition": [(0, 5), (12, 5)],
    "text_to_video": [],
    "asynchronous": [],
    "long_video": [(0, 5)],
    "loop": [],
    "repair": [(0, 5), (13, 4)],
    "restyle": [(0, 1), (16, 1)],
    "in_between": [(0, 1), (8, 1), (16, 1)],
    "compare_samplers": [(0, 1), (16, 1)],
    "two_gpus": [(0, 1)],
}
# Modes that start every frame from the clip: the noise of its latent frames.
STRENGTHS = {"repair": [0, 0.5, 1, 1, 0.5], "restyle": [0, 0.9, 0.95, 0.9, 0]}
HEADINGS = {
    "image_to_video": "Image to video",
    "start_end": "Start and end image",
    "single_nodes": "Start and end image",
    "three_keyframes": "Three keyframes",
    "completion": "Completion",
    "extension": "Extend a video",
    "transition": "Transition",
    "text_to_video": "Text to video",
    "asynchronous": "Text to video",
    "long_video": "Long video",
    "loop": "Loop",
    "repair": "Repair a clip",
    "restyle": "Restyle, ends stay",
    "in_between": "Frames in between",
    "compare_samplers": "Compare samplers",
    "two_gpus": "Image to video",
}
SCENES = {
    "demo_image_to_video": "a red circle moves right quickly and a blue triangle moves left quickly on a gradient background",
    "demo_start_end": "a green triangle moves up quickly and a pink circle moves down quickly on a gradient background",
    "demo_extension": "a yellow cross moves right quickly on a stripes background",
    "demo_text_to_video": "a green circle moves up slowly on a gradient background",
    "wan21_image_to_video": "a pink triangle moves right quickly on a gradient background",
    "wan21_start_end": "a blue triangle moves right quickly on a stripes background",
    "wan21_three_keyframes": "a cyan bar spins on a gradient background",
    "wan21_completion": "a red triangle moves right quickly and a cyan bar moves up quickly on a plain background",
    "wan21_extension": "a green circle moves right slowly on a gradient background",
    "wan21_transition": "a yellow triangle moves right quickly on a gradient background",
    "wan21_text_to_video": "a yellow triangle moves down quickly on a gradient background",
    "wan21_image_to_video_lightning": "a red bar spins on a plain background",
    "wan21_extension_lightning": "a pink cross moves up quickly on a stripes background",
    "wan22_image_to_video": "a blue circle moves left quickly on a stripes background",
    "wan22_extension": "a red triangle moves left slowly on a plain background",
    "wan22_image_to_video_lightning": "a cyan circle moves down quickly on a gradient background",
    "wan22_extension_lightning": "a blue cross moves left quickly on a gradient background",
    "wan21_single_nodes": "a green triangle moves left quickly on a plain background",
    "demo_long_video": DEMO_SCENE,
    "wan21_long_video": "a yellow triangle bounces up on a stripes background",
    "demo_loop": DEMO_LOOP_SCENE,
    "wan21_loop": "a pink triangle bounces right on a stripes background",
    "wan22_5b_image_to_video": "a pink circle moves up quickly on a stripes background",
    "skyreels_image_to_video": "a green cross moves right quickly on a gradient background",
    "skyreels_start_end": "a red bar moves left quickly on a gradient background",
    "skyreels_extension": "a cyan circle moves up slowly on a plain background",
    "skyreels_asynchronous": "a pink bar spins on a gradient background",
    "skyreels_long_video": "a blue bar bounces left on a plain background",
    "demo_asynchronous": "a blue triangle moves right quickly on a gradient background",
    "demo_repair": "a cyan circle moves right quickly on a gradient background",
    "demo_in_between": "a yellow triangle moves left quickly on a gradient background",
    "wan21_repair": "a pink cross moves left quickly on a plain background",
    "wan21_restyle": "a red circle moves right slowly on a gradient background",
    "wan22_two_gpus": "a green bar moves right quickly on a stripes background",
    "demo_compare_samplers": "a blue bar moves up quickly on a gradient background",
    "wan21_compare_samplers": "a pink cross moves down slowly on a plain background",
    "wan21_in_between": "a green circle moves down quickly on a gradient background",
}
PROMPTS = {"wan21_restyle": "a pink circle moves right slowly on a gradient background"}  # where it is not the scene's
SECOND_SCENE = "a pink circle moves left quickly on a gradient background"  # to which the transition leads

SHOWN = (0, 2, 4, 6, 8, 10, 13, 16)  # frames
SIDE, FRAME, HOLE, TOP = 400, 86, 11, 78
PAPER, STRIP, INK, BORDER = (27, 29, 36), (8, 9, 12), (240, 241, 245), (255, 205, 64)
COLOURS = {
    "no download": (46, 160, 98),
    "Wan 2.1": (52, 110, 210),
    "Wan 2.2": (134, 84, 214),
    "Wan 2.2 5B": (134, 84, 214),
    "SkyReels-V2-DF": (24, 132, 148),
}
SPECIAL = (206, 104, 36)  # what else is written


def mode_of(name: str) -> str:
    """What a workflow does, without its model."""
    return name.split("_", 1)[1].removesuffix("_lightning").removeprefix("5b_")


def badges(name: str) -> list[str]:
    """What is needed, and what is special."""
    if "_5b_" in name:
        return ["Wan 2.2 5B", "no LoRA"]
    makers = {"demo": "no download", "wan21": "Wan 2.1", "wan22": "Wan 2.2", "skyreels": "SkyReels-V2-DF"}
    special = {
        "lightning": "4 steps",
        "nodes": "single nodes",
        "keyframes": "stock samplers",
        "asynchronous": "async",
        "gpus": "two GPUs",
    }
    return [makers[name.split("_")[0]], *(text for ending, text in special.items() if name.endswith(ending))]


# --- what the model makes --------------------------------------------------------------------------------------------


def scene_frames(name: str, seed: int) -> list[Image.Image]:
    """The clip of which parts are given."""
    clip = draw([scene_of(SCENES[name], seed)])[0]
    if mode_of(name) == "transition":
        clip[LENGTH // 2 :] = draw([scene_of(SECOND_SCENE, seed)])[0][LENGTH // 2 :]
    if mode_of(name) == "repair":
        clip = stutter(clip)
    return [Image.fromarray(frame) for frame in (clip.numpy() * 255).round().astype(np.uint8)]


def prompt_of(name: str, seed: int) -> dict[str, dict]:
    """The demo's prompt with the mode's frames on its timeline, and its frames as pictures."""
    prompt = json.loads((PACK / "workflows" / "api" / "demo_text_to_video.json").read_text(encoding="utf-8"))
    ids = {node["class_type"]: key for key, node in prompt.items()}
    by_title = {node["_meta"]["title"]: node["inputs"] for node in prompt.values()}
    taken: list[tuple[int, int, Any]] = [(first, count, 0) for first, count in GIVEN[mode_of(name)]]
    if mode_of(name) in STRENGTHS:
        taken = [(0, LENGTH, STRENGTHS[mode_of(name)])]
    behaviour = "hold" if mode_of(name) == "repair" else "evolve"
    items = [
        {"at": first, "media": f"{name}.mp4", "take": [first, first + count], "noise": noise, "behaviour": behaviour}
        for first, count, noise in taken
    ]
    by_title["Pusa Timeline"]["timeline"] = json.dumps({"version": 1, "items": items})
    by_title["Prompt"]["text"] = PROMPTS.get(name, SCENES[name])
    by_title["Pusa KSampler"]["seed"] = seed
    for kind in ("ImageScaleBy", "CreateVideo", "SaveVideo"):
        del prompt[ids[kind]]
    return prompt | {"frames": {"class_type": "PreviewImage", "inputs": {"images": [ids["VAEDecode"], 0]}}}


def long_prompt_of(name: str, seed: int) -> dict[str, dict]:
    """The long demo's prompt with a scene of its own, as long as its prompts say which way the object goes."""
    prompt = json.loads((PACK / "workflows" / "api" / "demo_long_video.json").read_text(encoding="utf-8"))
    scene = scene_of(SCENES[name], seed)
    turns = [frame for frame in range(1, 100) if scene.caption_at(frame) != scene.caption_at(frame - 1)]
    begins = iter([0, *turns])
    for node in prompt.values():
        if node["class_type"] == "PusaPromptFromFrame":
            node["inputs"]["frame"] = frame = next(begins)
            prompt[node["inputs"]["conditioning"][0]]["inputs"]["text"] = scene.caption_at(frame)
        if node["class_type"] == "PusaDemoScene":
            node["inputs"] |= {"text": SCENES[name], "seed": seed}
        if node["class_type"] == "PusaLongVideo":
            long = node["inputs"]
    long["length"] = (next(begins) - 1) // 4 * 4 + 1
    return with_frames(prompt, "PusaLongVideo")


def loop_prompt_of(name: str) -> dict[str, dict]:
    """The demo's loop with an object of its own, which moves as that of the demo does."""
    prompt = json.loads((PACK / "workflows" / "api" / "demo_loop.json").read_text(encoding="utf-8"))
    for node in prompt.values():
        text = node["inputs"].get("text")
        if text:
            node["inputs"]["text"] = SCENES[name].replace("right", "left" if "left" in text else "right")
    return with_frames(prompt, "PusaLoop")


def with_frames(prompt: dict[str, dict], kind: str) -> dict[str, dict]:
    """A prompt that shows the frames of the video that a node of this kind gives."""
    key = next(key for key, node in prompt.items() if node["class_type"] == kind)
    frames = {"class_type": "GetVideoComponents", "inputs": {"video": [key, 0]}}
    return prompt | {"video": frames, "frames": {"class_type": "PreviewImage", "inputs": {"images": ["video", 0]}}}


def made(server: ComfyServer, name: str, seed: int) -> list[Image.Image]:
    if mode_of(name) == "long_video":
        return pictures_of(server, long_prompt_of(name, DEMO_SEED))
    if mode_of(name) == "loop":
        return pictures_of(server, loop_prompt_of(name))
    large = (frame.resize((384, 384), Image.Resampling.NEAREST) for frame in scene_frames(name, seed))
    write_clip(server.base / "input" / f"{name}.mp4", large, round(DEMO_FPS), 8)
    return pictures_of(server, prompt_of(name, seed))


def pictures_of(server: ComfyServer, prompt: dict[str, dict]) -> list[Image.Image]:
    paths = server.outputs({"frames": server.run(prompt).outputs["frames"]})
    return [Image.open(path).convert("RGB") for path in paths]


# --- the picture -----------------------------------------------------------------------------------------------------


def card(name: str, frames: list[Image.Image]) -> Image.Image:
    """Eight frames on two strips of film, above the mode's name; the page puts a mark of its own over the top."""
    image = Image.new("RGB", (SIDE, SIDE), PAPER)
    pen = ImageDraw.Draw(image)
    pen.text((SIDE / 2, 327), HEADINGS[mode_of(name)], INK, ImageFont.load_default(36), "mm", stroke_width=1)
    given = {first + i for first, count in GIVEN[mode_of(name)] for i in range(count)}
    shown = [round(number * (len(frames) - 1) / (LENGTH - 1)) for number in SHOWN]
    for row in range(2):
        _strip(image, TOP + row * (FRAME + 2 * HOLE + 6), shown[4 * row : 4 * row + 4], frames, given)
    _chips(pen, badges(name), 374)
    return image


def _strip(image: Image.Image, top: int, numbers: Sequence[int], frames: list[Image.Image], given: set[int]) -> None:
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, top, SIDE, top + FRAME + 2 * HOLE - 1), STRIP)
    for left in range(6, SIDE, 24):
        for y in (top + 3, top + FRAME + HOLE + 3):
            pen.rounded_rectangle((left, y, left + 11, y + 5), 2, PAPER)
    gap = (SIDE - 4 * FRAME) // 5
    for column, number in enumerate(numbers):
        left, y = gap + column * (FRAME + gap), top + HOLE
        image.paste(frames[number].resize((FRAME, FRAME), Image.Resampling.BICUBIC), (left, y))
        if number in given:
            pen.rectangle((left - 3, y - 3, left + FRAME + 2, y + FRAME + 2), outline=BORDER, width=6)


def _chips(pen: ImageDraw.ImageDraw, texts: list[str], middle: int) -> None:
    """Words on coloured ground, beside each other in the middle."""
    font, gap, inside = ImageFont.load_default(23), 12, 16
    widths = [pen.textlength(text, font) + 2 * inside for text in texts]
    left = (SIDE - sum(widths) - gap * (len(texts) - 1)) / 2
    for text, width in zip(texts, widths):
        pen.rounded_rectangle((left, middle - 20, left + width, middle + 20), 20, COLOURS.get(text, SPECIAL))
        pen.text((left + width / 2, middle), text, "white", font, "mm")
        left += width + gap


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help="default: all")
    names = parser.parse_args().names
    comfyui = find_comfyui()
    if comfyui is None:
        sys.exit("No ComfyUI was found: set COMFYUI_PATH to its folder.")
    with ComfyServer(comfyui) as server:
        for seed, workflow in enumerate(workflows()):
            if names and workflow.name not in names:
                continue
            picture = card(workflow.name, made(server, workflow.name, seed))
            picture.save(PACK / "workflows" / f"{workflow.title}.jpg", quality=85, optimize=True)


if __name__ == "__main__":
    main()
