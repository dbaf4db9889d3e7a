"""A node that makes loops."""

from __future__ import annotations

from pathlib import Path

import comfy.model_management
from comfy_api.latest import io

from ..pusa_core.frames import MAX_LENGTH
from ..pusa_core.hosts.comfyui import check_vae, image_encoder
from ..pusa_core.hosts.comfyui.checks import warn_beyond_training
from ..pusa_core.hosts.comfyui.long_video import Guidance, long_video_studio, prompts_by_frame
from ..pusa_core.loop import Loop, Seam, loop_latents, turn
from ..pusa_core.messages import fault, say
from ..pusa_core.roll_files import RollFolder
from ..pusa_core.rolling import window_steps
from ..pusa_core.staircase import Staircase
from ..pusa_core.video_files import VideoWriter
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
    workflow_tags,
    write_roll,
)
from .types import CATEGORY, check_wires, experts, search_aliases

VISIBLE = 1.5  # times the change at other borders


class PusaLoop(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PusaLoop",
            display_name="Pusa Loop",
            category=CATEGORY,
            **search_aliases("loop", "looping video", "seamless loop", "endless loop", "cinemagraph", "gif"),
            description="Makes a video that can be played round and round without a seam: while its last frames are made, "
            "the model sees the first ones after them. It works where the motion can come back in that many frames (waves, "
            "smoke, swaying, bouncing, turning), and not where it cannot (something that leaves the picture). Begins from "
            "text or from an image. Tried on the demo model, not at 14B.",
            inputs=[
                io.Model.Input("model", tooltip="Wan text-to-video with a Pusa LoRA; for Wan2.2 A14B the high-noise model."),
                io.Conditioning.Input("positive", tooltip="A motion that comes back; by frame with Pusa Prompt From Frame."),
                io.Conditioning.Input("negative", tooltip="What it should not show; unused at cfg 1."),
                *picture_inputs(),
                io.Int.Input(
                    "length",
                    default=80,
                    min=8,
                    max=MAX_LENGTH - 1,
                    step=4,
                    tooltip="Frames of the loop, 4n: as many as the motion needs to come back. At least 4 times "
                    "moving_frames + 1.",
                ),
                io.Int.Input(
                    "lead_in",
                    default=8,
                    min=0,
                    max=MAX_LENGTH - 1,
                    step=4,
                    tooltip="Frames, 4n, that are made before the loop and left out, for a video begins less evenly than it "
                    "goes on. With 0 the loop comes back to the image itself; the seam is rougher. Recommended: 8.",
                ),
                io.Float.Input("fps", default=16.0, min=1.0, max=120.0, step=0.5, tooltip="Frames a second of the file."),
                *rolling_inputs(),
                io.String.Input("filename_prefix", default="video/pusa_loop", tooltip="Where in the output folder."),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="What leads into the loop. With lead_in 0 the loop comes back to it: its first frame is nearly "
                    "the same. Without an image it begins from text.",
                ),
                *low_noise_inputs(),
            ],
            outputs=[
                io.Video.Output(display_name="video", tooltip="The file that was written: one turn."),
                io.String.Output(display_name="report", tooltip="How much the picture changes over the seam, in words."),
            ],
            hidden=HIDDEN,
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls, model, positive, negative, vae, width, height, length, lead_in, fps, seed, cfg, moving_frames, steps, shift,
        blend, resize, filename_prefix, image=None, low_noise_model=None, boundary=EXPERT_BOUNDARY,
    ) -> io.NodeOutput:  # fmt: skip
        check_wires(model=model, vae=vae, low_noise_model=low_noise_model, image=image)
        check_prefix(filename_prefix)
        check_vae(vae, width, height)
        latents, lead = loop_latents(length), loop_latents(lead_in, "lead_in")
        staircase = Staircase.rolling(moving_frames, steps, shift)
        before = _encoded(image, image_encoder(vae, width, height, resize), model.model.latent_format.process_in)
        given = {} if before is None else {0: (before, 0.0)}
        prompts = prompts_by_frame(positive, blend)
        guidance = Guidance(lambda frame: prompts((frame - lead_in) % length), negative, cfg, boundary)
        models = experts(model, low_noise_model)
        stride = vae.spacial_compression_encode()
        shape = (1, vae.latent_channels, height // stride, width // stride)
        plain = ["loop", *shape, latents, lead, seed, cfg, steps, moving_frames, shift, blend, boundary, fps]
        folder = RollFolder(folder_of(plain, positive, negative, given, models))
        earlier = folder.load(len(given))
        warn_beyond_training(model, next(window_steps(staircase, len(given), latents)).plan({}, {}))
        progress = RollProgress(cls, staircase, len(given), 1 + lead + latents, len(models), earlier)
        studio = long_video_studio(model, vae, guidance, seed, shape, low_noise_model, progress.evaluated)
        loop = Loop(staircase, latents, before, studio, lead, earlier)
        write_roll(loop, folder, fps, max(len(given), earlier.frames), progress)
        path, report = _write_turn(loop, folder, fps, workflow_tags(cls))
        return finished_video(cls, path, folder, filename_prefix, (width, height), report)


def _encoded(image, encode, process_in):
    """The latent of the picture that leads into the loop, (1, C, 1, h, w); None where none is given."""
    if image is None:
        return None
    if len(image) != 1:
        raise fault("A loop begins from one image, but {count} were given: give it one of them.", count=len(image))
    return process_in(encode(image).float().cpu())


def _write_turn(loop: Loop, folder: RollFolder, fps: float, tags: dict[str, str]) -> tuple[Path, str]:
    """The loop's file, in the folder, and what can be said about its seam."""
    path, seam = folder.folder / "loop.mp4", Seam()
    last = loop.finished[loop.frames - 1].pictures
    with VideoWriter(path, fps, tags=tags) as writer:
        for pictures in turn(folder.latents(loop.first, loop.frames), loop.studio.decode, last):
            comfy.model_management.throw_exception_if_processing_interrupted()
            writer.write(pictures[0])
            seam.see(pictures)
    return path, _about(seam)


def _about(seam: Seam) -> str:
    told = say("Over the seam the picture changes {ratio} times as much as at the loop's other borders of latent frames.",
               ratio=f"{seam.ratio:.1f}")  # fmt: skip
    if seam.ratio <= VISIBLE:
        return told
    return told + " " + say("It may show: give the motion as many frames as it needs to come back, or another motion.")


NODES = [PusaLoop]
