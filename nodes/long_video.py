"""Nodes that make long videos."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import comfy.utils
import folder_paths
from comfy_api.latest import InputImpl, io, ui
from torch import Tensor

from ..pusa_core.frames import MAX_LENGTH, latent_length, pixel_length
from ..pusa_core.hosts.comfyui import check_vae, image_encoder, planned
from ..pusa_core.hosts.comfyui.checks import FROM_FRAME, warn_beyond_training
from ..pusa_core.hosts.comfyui.long_video import (
    Guidance,
    fingerprint,
    long_video_studio,
    prompts_by_frame,
    text_fingerprint,
)
from ..pusa_core.keyframes import Keyframe, check_keyframes
from ..pusa_core.messages import fault, say
from ..pusa_core.plan import leading, place_keyframes
from ..pusa_core.resize import RESIZE
from ..pusa_core.roll_files import RollFolder, settings_key
from ..pusa_core.rolling import Progress, Roll, segments
from ..pusa_core.staircase import Staircase
from ..pusa_core.video_files import VideoWriter
from ..pusa_core.wan import EXPERT_BOUNDARY
from .sampling import MAX_SEED, boundary_input
from .schedule import LARGEST, keyframes_report
from .server import running_server
from .types import CATEGORY, Keyframes, check_one_source, check_wires, latent_input, search_aliases

FOLDER = "pusa_long_video"  # in the output folder, of videos on their way
IN_PLACE, BESIDE = "in place", "beside"


class PusaPromptFromFrame(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PusaPromptFromFrame",
            display_name="Pusa Prompt From Frame",
            category=CATEGORY,
            **search_aliases("prompt schedule", "prompt travel", "prompt by frame"),
            description="Says from which frame on a prompt holds in a long video. Chain one for each prompt: a prompt that "
            "says what happens now is followed far better than one for the whole video.",
            inputs=[
                io.Conditioning.Input("conditioning", tooltip="The prompt, from a text encoder."),
                io.Int.Input("frame", default=0, min=0, max=MAX_LENGTH, tooltip="The frame at which it begins to hold."),
                io.Conditioning.Input(
                    "previous", optional=True, tooltip="The prompts before it, from another of these nodes."
                ),
            ],
            outputs=[io.Conditioning.Output(display_name="conditioning", tooltip="For Pusa Long Video.")],
        )

    @classmethod
    def execute(cls, conditioning, frame, previous=None) -> io.NodeOutput:
        kept = [entry for entry in previous or [] if entry[1].get(FROM_FRAME, 0) != frame]
        return io.NodeOutput([*kept, *([text, {**options, FROM_FRAME: frame}] for text, options in conditioning)])


class PusaLongVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PusaLongVideo",
            display_name="Pusa Long Video",
            category=CATEGORY,
            **search_aliases("long video", "rolling window", "infinite video", "endless video", "streaming video"),
            description="Makes a video of any length in the memory of a short one: a window of a few latent frames rolls "
            "along, and what is finished is written to disk at once. Begins from text, or from keyframes at the start (an "
            "image, the end of a clip); keyframes may also lie along the way and at the end. A video that was stopped goes "
            "on where it was when it is queued again with the same settings. Tried on the demo model, not at 14B.",
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="Wan text-to-video with a Pusa LoRA, or SkyReels-V2-DF as it is; for Wan2.2 A14B the high-noise "
                    "model.",
                ),
                io.Conditioning.Input("positive", tooltip="What the video shows; by frame with Pusa Prompt From Frame."),
                io.Conditioning.Input("negative", tooltip="What it should not show; unused at cfg 1."),
                io.Vae.Input("vae", tooltip="Wan2.1's VAE for the 14B and 1.3B models, Wan2.2's for the 5B model."),
                io.Int.Input("width", default=832, min=16, max=LARGEST, step=16, tooltip="Pixels. Recommended: 832."),
                io.Int.Input("height", default=480, min=16, max=LARGEST, step=16, tooltip="Pixels. Recommended: 480."),
                io.Int.Input("length", default=321, min=5, max=MAX_LENGTH, step=4, tooltip="Frames of the video, 4n+1."),
                io.Float.Input("fps", default=16.0, min=1.0, max=120.0, step=0.5, tooltip="Frames a second of the file."),
                io.Int.Input(
                    "seed", default=0, min=0, max=MAX_SEED, control_after_generate=True, tooltip="Seed of the noise."
                ),
                io.Float.Input("cfg", default=3.0, min=0.0, max=100.0, step=0.1, tooltip="Guidance. Recommended: 3."),
                io.Int.Input(
                    "moving_frames",
                    default=4,
                    min=1,
                    max=64,
                    tooltip="Latent frames that are denoised at once, each a step behind the one before it. 5 is smoother "
                    "and costs a quarter more. Recommended: 4.",
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
                io.String.Input("filename_prefix", default="video/pusa_long", tooltip="Where in the output folder."),
                Keyframes.Input(
                    "keyframes",
                    optional=True,
                    tooltip="From the Pusa keyframe nodes. Those at the start are where the video begins and stay as they "
                    "are; later ones are met on the way, with their noise multiplier, and hold their pictures.",
                ),
                io.Model.Input(
                    "low_noise_model",
                    optional=True,
                    tooltip="Wan2.2 A14B's low-noise model with its Pusa LoRA. Every evaluation then takes both models.",
                ),
                boundary_input("Sigma below which the low-noise model samples a frame. Wan2.2 T2V: 0.875."),
                latent_input(),
                io.Int.Input(
                    "anchor_distance",
                    default=1,
                    min=1,
                    max=64,
                    optional=True,
                    tooltip="How many latent frames the first frame, which is shown all along, seems to lie before the "
                    "newest finished one. More may be smoother or worse, differently for every model. Recommended: 1.",
                ),
                io.Combo.Input(
                    "on_the_way",
                    options=[IN_PLACE, BESIDE],
                    default=IN_PLACE,
                    optional=True,
                    tooltip="How single pictures on the way are met. in place: their frame is the picture, where motion "
                    "stops for a moment. beside: their frame is painted after the picture, and motion goes on.",
                ),
            ],
            outputs=[
                io.Video.Output(display_name="video", tooltip="The file that was written."),
                io.String.Output(display_name="report", tooltip="Where each keyframe went, in words."),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls, model, positive, negative, vae, width, height, length, fps, seed, cfg, moving_frames, steps, shift, blend,
        resize, filename_prefix, keyframes=None, low_noise_model=None, boundary=EXPERT_BOUNDARY, latent=None,
        anchor_distance=1, on_the_way=IN_PLACE,
    ) -> io.NodeOutput:  # fmt: skip
        check_wires(model=model, vae=vae, low_noise_model=low_noise_model, latent=latent)
        if latent is None:
            video = _of_keyframes(keyframes or [], vae, width, height, length, resize)
        else:
            check_one_source(keyframes)
            video = _of_latent(latent)
        process_in = model.model.latent_format.process_in
        given = {i: (process_in(clean.float().cpu()), m) for i, (clean, m) in video.given.items()}
        staircase = Staircase.rolling(moving_frames, steps, shift)
        guidance = Guidance(prompts_by_frame(positive, blend), negative, cfg, boundary)
        models = [m for m in (model, low_noise_model) if m is not None]
        plain = [*video.shape, video.frames, seed, cfg, steps, moving_frames, shift, blend, boundary, fps]
        plain += [anchor_distance, on_the_way]
        folder, start = RollFolder(_folder_of(plain, positive, negative, given, models)), leading(given)
        before = folder.load(start)
        warn_beyond_training(model, next(segments(staircase, start, video.frames)).plan({}, {}))
        progress = _Progress(cls, staircase, start, video.frames, len(models), before)
        studio = long_video_studio(model, vae, guidance, seed, video.shape, low_noise_model, progress.evaluated)
        roll = Roll(staircase, video.frames, given, studio, before, anchor_distance, on_the_way == BESIDE)
        saved = _move(_write(roll, folder, fps, max(start, before.frames), progress), filename_prefix, width, height)
        folder.remove()
        shown = ui.SavedResult(saved.name, _subfolder(saved), io.FolderType.output)
        return io.NodeOutput(InputImpl.VideoFromFile(str(saved)), keyframes_report(video.notes), ui=ui.PreviewVideo([shown]))


@dataclass(frozen=True)
class _Video:
    """What is to be made.

    Attributes:
        shape: of its latents without frames, (1, C, h, w).
        frames: latent frames.
        given: the VAE's latent (1, C, 1, h, w) and the noise multiplier of the frames that are given; they hold.
        notes: what was placed where.
    """

    shape: tuple[int, int, int, int]
    frames: int
    given: dict[int, tuple[Tensor, float]]
    notes: tuple[str, ...]


def _of_keyframes(keyframes: Sequence[Keyframe], vae, width: int, height: int, length: int, resize: str) -> _Video:
    check_vae(vae, width, height)
    frames, stride = latent_length(length), vae.spacial_compression_encode()
    held = [replace(keyframe, behaviour="hold") for keyframe in check_keyframes(keyframes)]
    placed, notes = place_keyframes(held, frames, image_encoder(vae, width, height, resize))
    shape = (1, vae.latent_channels, height // stride, width // stride)
    return _Video(shape, frames, {i: (p.latent, p.multiplier) for i, p in placed.items()}, notes)


def _of_latent(latent: dict) -> _Video:
    plan = planned(latent)
    batch, channels, frames, height, width = latent["samples"].shape
    if batch > 1:
        raise fault(
            "The latent is a batch of {batch} videos, but a long video is made alone: set batch_size to 1.", batch=batch
        )
    kept = {i: frame.multiplier for i, frame in enumerate(plan.schedule.frames) if frame.needs_clean_latent}
    given = {} if plan.clean is None else {i: (plan.clean[:, :, i : i + 1], m) for i, m in kept.items()}
    return _Video((1, channels, height, width), frames, given, plan.notes)


def _folder_of(plain: list, positive, negative, given: dict, models: list) -> Path:
    """Where a video is on its way: another folder for everything that makes another video."""
    texts = text_fingerprint("positive", positive) | text_fingerprint("negative", negative)
    pictures = {f"keyframe {frame}, noise {m}": latent for frame, (latent, m) in given.items()}
    experts = {key: value for number, m in enumerate(models) for key, value in fingerprint(f"model {number}", m).items()}
    key = settings_key({"settings": plain, **texts, **pictures, **experts})
    return Path(folder_paths.get_output_directory()) / FOLDER / key


def _write(roll: Roll, folder: RollFolder, fps: float, existing: int, progress: _Progress) -> Path:
    """Runs it; the video's file, in the folder."""
    folder.folder.mkdir(parents=True, exist_ok=True)
    path = folder.folder / "video.mp4"
    logging.info("Pusa Long Video: frames are written to %s", path)
    with VideoWriter(path, fps) as writer:
        for made in folder.keep(roll):
            writer.write(made.pictures[0])
            progress.made(made.frame + 1, made.frame + 1 - existing)
    return path


def _move(path: Path, prefix: str, width: int, height: int) -> Path:
    """Gives a finished file its place in the output folder."""
    folder, name, counter, *_ = folder_paths.get_save_image_path(prefix, folder_paths.get_output_directory(), width, height)
    target = Path(folder) / f"{name}_{counter:05}_.mp4"
    os.replace(path, target)
    return target


def _subfolder(path: Path) -> str:
    return path.parent.relative_to(folder_paths.get_output_directory()).as_posix().removeprefix(".")


class _Progress:
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
        done = sum(len(segment.grid) - 1 for segment in islice(segments(staircase, given, frames), before.segments))
        self.bar = comfy.utils.ProgressBar(max(staircase.evaluations(frames - given), 1) * models)
        self.bar.update_absolute(done * models)

    def evaluated(self) -> None:
        self.bar.update(1)

    def made(self, frames: int, new: int) -> None:
        if new < 1:
            return
        left = (time.monotonic() - self.start) / new * (self.left - new)
        text = say("{frames} frames; about {time} left", frames=pixel_length(frames), time=_spoken_time(left))
        server = running_server()
        if server is not None and self.node.hidden is not None:
            server.send_progress_text(text, self.node.hidden.unique_id)


def _spoken_time(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{round(seconds)} s" if minutes < 2 else f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"


NODES = [PusaPromptFromFrame, PusaLongVideo]
