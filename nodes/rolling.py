"""What the nodes that make videos with a rolling window share: inputs, files on the way, progress."""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path

import comfy.utils
import folder_paths
from comfy.cli_args import args
from comfy_api.latest import InputImpl, io, ui

from ..pusa_core.frames import MAX_LENGTH, pixel_length
from ..pusa_core.hosts.comfyui.long_video import fingerprint, text_fingerprint
from ..pusa_core.messages import describe, fault, say
from ..pusa_core.resize import RESIZE
from ..pusa_core.roll_files import RollFolder, settings_key
from ..pusa_core.rolling import Progress, Roll
from ..pusa_core.staircase import Staircase
from ..pusa_core.video_files import VideoWriter
from .sampling import MAX_SEED, boundary_input
from .schedule import LARGEST
from .server import running_server

FOLDER = "pusa_long_video"  # in the output folder, of videos on their way
HIDDEN = [io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo]


def picture_inputs() -> list[io.Input]:
    return [
        io.Vae.Input("vae", tooltip="Wan2.1's VAE for the 14B and 1.3B models, Wan2.2's for the 5B model."),
        io.Int.Input("width", default=832, min=16, max=LARGEST, step=16, tooltip="Pixels. Recommended: 832."),
        io.Int.Input("height", default=480, min=16, max=LARGEST, step=16, tooltip="Pixels. Recommended: 480."),
    ]


def rolling_inputs() -> list[io.Input]:
    return [
        io.Int.Input("seed", default=0, min=0, max=MAX_SEED, control_after_generate=True, tooltip="Seed of the noise."),
        io.Float.Input("cfg", default=3.0, min=0.0, max=100.0, step=0.1, tooltip="Guidance. Recommended: 3."),
        io.Int.Input(
            "moving_frames",
            default=4,
            min=1,
            max=64,
            tooltip="Latent frames that are denoised at once, each a step behind the one before it. More cost more, and "
            "were not better on the demo model. Recommended: 4.",
        ),
        io.Int.Input(
            "steps",
            default=1,
            min=1,
            max=16,
            tooltip="Model evaluations for each new latent frame; a frame takes moving_frames times as many steps. "
            "Recommended: 1.",
        ),
        io.Float.Input("shift", default=5.0, min=0.1, max=100.0, step=0.1, tooltip="Flow shift. Recommended: 5."),
        io.Int.Input(
            "blend",
            default=8,
            min=0,
            max=MAX_LENGTH,
            tooltip="Frames over which one prompt passes into the next. 0 changes at once.",
        ),
        io.Combo.Input("resize", options=list(RESIZE), default="crop", tooltip="How pictures are fitted."),
    ]


def low_noise_inputs() -> list[io.Input]:
    return [
        io.Model.Input(
            "low_noise_model",
            optional=True,
            tooltip="Wan2.2 A14B's low-noise model with its Pusa LoRA. Every evaluation then takes both models.",
        ),
        boundary_input("Sigma below which the low-noise model samples a frame. Wan2.2 T2V: 0.875."),
    ]


def check_prefix(prefix: str) -> None:
    """Refuses a place that ComfyUI would refuse when the video is finished."""
    output = os.path.abspath(folder_paths.get_output_directory())
    path = Path(os.path.abspath(os.path.join(output, prefix)))
    if not path.is_relative_to(output):
        raise fault(
            "The filename_prefix {prefix} leads out of ComfyUI's output folder: give one inside it, such as {inside}.",
            prefix=describe(prefix),
            inside=describe(f"video/{path.name}"),
        )


def folder_of(plain: list, positive, negative, given: dict, models: list) -> Path:
    """Where a video is on its way: another folder for everything that makes another video."""
    texts = text_fingerprint("positive", positive) | text_fingerprint("negative", negative)
    pictures = {f"keyframe {frame}, noise {m}": latent for frame, (latent, m) in given.items()}
    experts = {key: value for number, m in enumerate(models) for key, value in fingerprint(f"model {number}", m).items()}
    key = settings_key({"settings": plain, **texts, **pictures, **experts})
    return Path(folder_paths.get_output_directory()) / FOLDER / key


def write_roll(roll: Roll, folder: RollFolder, fps: float, existing: int, progress: RollProgress) -> Path:
    """Runs it; the video's file, in the folder."""
    folder.folder.mkdir(parents=True, exist_ok=True)
    path = folder.folder / "video.mp4"
    logging.info("%s: frames are written to %s", progress.node.define_schema().display_name, path)
    with VideoWriter(path, fps, tags=workflow_tags(progress.node)) as writer:
        for made in folder.keep(roll):
            writer.write(made.pictures[0])
            progress.made(made.frame + 1, made.frame + 1 - existing)
    return path


def workflow_tags(node: type[io.ComfyNode]) -> dict[str, str]:
    """What ComfyUI's own node writes into a video, so that the page opens its workflow where the file is dropped."""
    hidden = node.hidden
    if hidden is None or args.disable_metadata:
        return {}
    known = {**(hidden.extra_pnginfo or {}), "prompt": hidden.prompt}
    return {name: json.dumps(value) for name, value in known.items() if value is not None}


def finished_video(
    node: type[io.ComfyNode], path: Path, folder: RollFolder, prefix: str, size: tuple[int, int], report: str
) -> io.NodeOutput:
    """A node's output: moves a finished file to its place in the output folder and removes what it was made from. The report
    takes the place of the time left."""
    output = folder_paths.get_output_directory()
    place, name, counter, subfolder, _ = folder_paths.get_save_image_path(prefix, output, *size)
    target = Path(place) / f"{name}_{counter:05}_.mp4"
    os.replace(path, target)
    folder.remove()
    send_progress(node, report)
    shown = ui.SavedResult(target.name, subfolder, io.FolderType.output)
    return io.NodeOutput(InputImpl.VideoFromFile(str(target)), report, ui=ui.PreviewVideo([shown]))


class RollProgress:
    """Frames done and time left, on the node.

    Args:
        given, frames: latent frames that are given at the start, and of the video.
        models: that are asked at each evaluation.
        before: where an earlier run of the video stopped, which is where the bar begins.
    """

    def __init__(
        self, node: type[io.ComfyNode], staircase: Staircase, given: int, frames: int, models: int, before: Progress
    ):
        self.node, self.left, self.start = node, frames - max(given, before.frames), time.monotonic()
        self.bar = comfy.utils.ProgressBar(max(staircase.evaluations(frames - given), 1) * models)
        self.bar.update_absolute(before.steps * models)

    def evaluated(self) -> None:
        self.bar.update(1)

    def made(self, frames: int, new: int) -> None:
        if new < 1:
            return
        left = (time.monotonic() - self.start) / new * (self.left - new)
        send_progress(
            self.node, say("{frames} frames; about {time} left", frames=pixel_length(frames), time=spoken_time(left))
        )


def send_progress(node: type[io.ComfyNode], text: str) -> None:
    """Shows a line on the node that runs, where there is a page."""
    server = running_server()
    if server is not None and node.hidden is not None:
        server.send_progress_text(text, node.hidden.unique_id)


def spoken_time(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{round(seconds)} s" if minutes < 2 else f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
