"""Nodes that make long videos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from comfy_api.latest import io
from torch import Tensor

from ..pusa_core.frames import MAX_LENGTH, latent_length
from ..pusa_core.hosts.comfyui import check_vae, image_encoder, planned
from ..pusa_core.hosts.comfyui.checks import FROM_FRAME, warn_beyond_training
from ..pusa_core.hosts.comfyui.long_video import Guidance, long_video_studio, prompts_by_frame
from ..pusa_core.keyframes import Keyframe, check_keyframes
from ..pusa_core.messages import fault
from ..pusa_core.plan import leading, place_keyframes
from ..pusa_core.roll_files import RollFolder
from ..pusa_core.rolling import Roll, window_steps
from ..pusa_core.staircase import Staircase
from ..pusa_core.wan import EXPERT_BOUNDARY
from .rolling import (
    HIDDEN,
    RollProgress,
    check_prefix,
    finished_video,
    folder_of,
    low_noise_inputs,
    picture_inputs,
    rolling_inputs,
    write_roll,
)
from .schedule import keyframes_report
from .types import CATEGORY, Keyframes, check_one_source, check_wires, experts, latent_input, search_aliases

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
                *picture_inputs(),
                io.Int.Input("length", default=321, min=5, max=MAX_LENGTH, step=4, tooltip="Frames of the video, 4n+1."),
                io.Float.Input("fps", default=16.0, min=1.0, max=120.0, step=0.5, tooltip="Frames a second of the file."),
                *rolling_inputs(),
                io.String.Input("filename_prefix", default="video/pusa_long", tooltip="Where in the output folder."),
                Keyframes.Input(
                    "keyframes",
                    optional=True,
                    tooltip="From the Pusa keyframe nodes. Those at the start are where the video begins and stay as they "
                    "are; later ones are met on the way, with their noise multiplier, and hold their pictures.",
                ),
                *low_noise_inputs(),
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
            hidden=HIDDEN,
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls, model, positive, negative, vae, width, height, length, fps, seed, cfg, moving_frames, steps, shift, blend,
        resize, filename_prefix, keyframes=None, low_noise_model=None, boundary=EXPERT_BOUNDARY, latent=None,
        anchor_distance=1, on_the_way=IN_PLACE,
    ) -> io.NodeOutput:  # fmt: skip
        check_wires(model=model, vae=vae, low_noise_model=low_noise_model, latent=latent)
        check_prefix(filename_prefix)
        if latent is None:
            video = _of_keyframes(keyframes or [], vae, width, height, length, resize)
        else:
            check_one_source(keyframes)
            video = _of_latent(latent)
        process_in = model.model.latent_format.process_in
        given = {i: (process_in(clean.float().cpu()), m) for i, (clean, m) in video.given.items()}
        staircase = Staircase.rolling(moving_frames, steps, shift)
        guidance = Guidance(prompts_by_frame(positive, blend), negative, cfg, boundary)
        models = experts(model, low_noise_model)
        plain = [*video.shape, video.frames, seed, cfg, steps, moving_frames, shift, blend, boundary, fps]
        plain += [anchor_distance, on_the_way]
        folder, start = RollFolder(folder_of(plain, positive, negative, given, models)), leading(given)
        before = folder.load(start)
        if start < video.frames:
            warn_beyond_training(model, next(window_steps(staircase, start, video.frames)).plan({}, {}))
        progress = RollProgress(cls, staircase, start, video.frames, len(models), before)
        studio = long_video_studio(model, vae, guidance, seed, video.shape, low_noise_model, progress.evaluated)
        roll = Roll(staircase, video.frames, given, studio, before, anchor_distance, on_the_way == BESIDE)
        path = write_roll(roll, folder, fps, max(start, before.frames), progress)
        return finished_video(cls, path, folder, filename_prefix, (width, height), keyframes_report(video.notes))


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


NODES = [PusaPromptFromFrame, PusaLongVideo]
