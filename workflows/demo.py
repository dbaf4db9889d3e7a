"""Makes four clips with the small model that comes with the pack: python3 workflows/demo.py [output folder]

Sets up its environment (see environment/venv.py), then makes image to video, start-end, extension and text to video:
with the shared workflows on a ComfyUI that it starts, where one is found, else on Diffusers. It leaves videos, schedule
pictures and a contact sheet in demo_output/. PUSA_DEMO_HOST=diffusers leaves a ComfyUI alone.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

PACK = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PACK))
DEMOS = ("demo_image_to_video", "demo_start_end", "demo_extension", "demo_text_to_video")
GIVEN = {DEMOS[0]: [0], DEMOS[1]: [0, 16], DEMOS[2]: range(5)}  # frames of the made clips, for the contact sheet
TEXT, SIZE, FPS = "a red circle moves right quickly and a blue triangle moves left quickly on a gradient background", 64, 8.0


def host() -> Path | None:
    """The ComfyUI to use; None for Diffusers."""
    from environment.comfyui import find_comfyui

    return None if os.environ.get("PUSA_DEMO_HOST") == "diffusers" else find_comfyui()


def where() -> str:
    """A sentence: what makes the clips, and why."""
    from environment.comfyui import how_to_get

    if (comfyui := host()) is not None:
        return f"The clips are made with the ComfyUI in {comfyui}."
    if os.environ.get("PUSA_DEMO_HOST") == "diffusers":
        return "The clips are made with Diffusers, as PUSA_DEMO_HOST says."
    return f"The clips are made with Diffusers, because no ComfyUI was found. {how_to_get()}"


def main(folder: Path) -> int:
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    comfyui = host()
    made = run_workflows(comfyui, folder) if comfyui else run_diffusers(folder)
    made += draw_all(folder)
    print(f"Made in {folder}:", *(f"  {path.name}" for path in made), sep="\n")
    print(f"Open this first: {made[-1]}")
    print("Next: install the pack in your ComfyUI (README.md, Install); its first templates make these clips there.")
    return 0


def run_workflows(comfyui: Path, folder: Path) -> list[Path]:
    """Runs the demos on a ComfyUI of their own and collects what they made."""
    from tqdm import tqdm

    from environment.server import ComfyServer

    made = []
    with ComfyServer(comfyui) as server:
        for name in (bar := tqdm(DEMOS, unit="video")):
            bar.set_description(name)
            for path in server.run(with_schedule(name)).files:
                kept = folder / f"{name}{'_schedule' * (path.suffix == '.png')}{path.suffix}"
                made.append(Path(shutil.copyfile(path, kept)))
    return made


def with_schedule(name: str) -> dict[str, dict]:
    """A workflow's prompt that shows its schedule's picture, too."""
    prompt = json.loads((PACK / "workflows" / "api" / f"{name}.json").read_text(encoding="utf-8"))
    keys = {node["class_type"]: key for key, node in prompt.items()}
    if {"PusaSchedule", "PusaDiffusionForcing"} & keys.keys():
        return prompt  # they show it by themselves
    return prompt | {"picture": {"class_type": "PreviewImage", "inputs": {"images": [keys["PusaTimeline"], 2]}}}


def run_diffusers(folder: Path) -> list[Path]:
    """Makes the same clips as a batch of jobs, with pictures of the same scene."""
    from batch.jobs import FramesOf, ImageAt, Job
    from batch.run import run
    from batch.settings import Models
    from demo_model.world import draw, scene_of
    from pusa_core.figures import draw_schedule, save_image
    from pusa_core.schedule import FrameSchedule
    from pusa_core.video_files import write_video

    scene = scene_of(TEXT, seed=0)
    clip = draw([scene])[0]
    start, end, whole = (folder / name for name in ("given_start.png", "given_end.png", "given_clip.mp4"))
    save_image(clip[:1], start)
    save_image(clip[-1:], end)
    write_video(whole, clip, FPS, quality=0)
    pictures = ImageAt(str(start), noise=0.0), ImageAt(str(end), frame=-1, noise=0.0)
    keyframes: tuple[tuple[ImageAt | FramesOf, ...], ...] = (
        pictures[:1],
        pictures,
        (FramesOf(str(whole), "first", 5, noise="0"),),
        (),
    )
    size: dict[str, Any] = {"width": SIZE, "height": SIZE, "length": len(clip), "fps": FPS}
    jobs = [Job(scene.caption, name, keyframes=given, **size) for name, given in zip(DEMOS, keyframes)]
    for name in DEMOS:
        (folder / f"{name}.json").unlink(missing_ok=True)  # a second run makes them again
    report = run(jobs, [], Models(), folder)
    if report.faults:
        sys.exit(str(report))
    made = []
    for name in DEMOS:
        metadata = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        schedule = FrameSchedule.from_json(json.dumps(metadata["schedule"]))
        made += [folder / f"{name}.mp4", folder / f"{name}_schedule.png"]
        save_image(draw_schedule(schedule, metadata["sigmas"], metadata["notes"]), made[-1])
    return made


def draw_all(folder: Path) -> list[Path]:
    """All clips, read back from their files: frame by frame, and moving beside each other."""
    import torch

    from pusa_core.animation import side_by_side, write_animation
    from pusa_core.figures import contact_sheet, save_image
    from pusa_core.video_files import read_frames

    clips = [(name, torch.cat(list(read_frames(folder / f"{name}.mp4"))), GIVEN.get(name, ())) for name in DEMOS]
    save_image(contact_sheet(clips), folder / "contact_sheet.png")
    titled = [(name.removeprefix("demo_").replace("_", " "), frames, given) for name, frames, given in clips]
    write_animation(side_by_side(titled), folder / "clips.webp", FPS, hold=1.0)
    return [folder / "contact_sheet.png", folder / "clips.webp"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "folder", type=Path, nargs="?", default=Path("demo_output"), help="for what is made (default: %(default)s)"
    )
    parser.add_argument("--prepared", action="store_true", help="run with this Python, which has what the demo needs")
    options = parser.parse_args()
    if options.prepared:
        sys.exit(main(options.folder))
    from environment.venv import python_for

    print(where(), flush=True)
    sys.exit(subprocess.call([python_for(host()), __file__, "--prepared", str(options.folder)]))
