"""Nodes that say which pictures go where, and how much noise they carry."""

from __future__ import annotations

from typing import get_args

from comfy_api.latest import io

from ..pusa_core.frames import HELD
from ..pusa_core.keyframes import check_keyframes, clip_keyframe, keyframes_from_text, video_keyframes
from ..pusa_core.strength import Retime, Strength
from .schedule import LARGEST
from .types import (
    CATEGORY,
    Keyframes,
    behaviour_input,
    check_wires,
    multiplier_input,
    previous_input,
    search_aliases,
    unit_input,
)

LAST_INDEX = 1_000_000


class PusaKeyframe(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PusaKeyframe",
            display_name="Pusa Keyframe",
            category=CATEGORY,
            description="Places an image, or a short clip, at a frame of the video. Chain several for start-end and "
            "multi-keyframe video.",
            **search_aliases("reference frame", "key frame", "guide image"),
            inputs=[
                io.Image.Input(
                    "image",
                    tooltip="One image, or a clip: 4n+1 frames (1, 5, 9, 13 ...); placed later than "
                    "the start, its first frame only leads in.",
                ),
                io.Int.Input(
                    "frame_index",
                    default=0,
                    min=-LAST_INDEX,
                    max=LAST_INDEX,
                    tooltip="Where the image goes: 0 is the first frame, negative counts from the end (-1 is the last). "
                    "Four pixel frames share a latent frame (1-4, 5-8, ...), and what is placed fills the whole group.",
                ),
                unit_input("frame_index"),
                multiplier_input(),
                behaviour_input(),
                previous_input(),
            ],
            outputs=[Keyframes.Output(display_name="keyframes")],
        )

    @classmethod
    def execute(cls, image, frame_index, unit, noise_multiplier, behaviour, previous=None) -> io.NodeOutput:
        check_wires(image=image)
        keyframe = clip_keyframe(image, frame_index, unit, noise_multiplier, behaviour)
        return io.NodeOutput([*check_keyframes(previous or []), keyframe])


class PusaKeyframesFromText(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PusaKeyframesFromText",
            display_name="Pusa Keyframes From Text",
            category=CATEGORY,
            description="Places a batch of images by two lists, as Pusa's public demo does: positions and noise multipliers.",
            **search_aliases("keyframe list", "image batch to video"),
            inputs=[
                io.Image.Input("images", tooltip="A batch of images, one for each position."),
                io.String.Input(
                    "positions",
                    default="0,20",
                    tooltip="Frame positions, separated by commas; negative counts from the end. 81 frames have latent "
                    "frames 0 to 20. Example: 0,20 for start and end.",
                ),
                io.String.Input(
                    "noise_multipliers",
                    default="0.2,0.5",
                    tooltip="Noise multipliers from 0 (exact picture) to 1 (no say): one for each image, one for all, or "
                    'a ramp such as "0 to 0.3". Recommended: 0.2,0.5 for start and end.',
                ),
                unit_input("positions", "latent"),
                behaviour_input(),
                previous_input(),
            ],
            outputs=[Keyframes.Output(display_name="keyframes")],
        )

    @classmethod
    def execute(cls, images, positions, noise_multipliers, unit, behaviour, previous=None) -> io.NodeOutput:
        check_wires(images=images)
        new = keyframes_from_text(images, positions, noise_multipliers, unit, behaviour)
        return io.NodeOutput([*check_keyframes(previous or []), *new])


class PusaVideoKeyframes(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PusaVideoKeyframes",
            display_name="Pusa Video Keyframes",
            category=CATEGORY,
            description="Uses frames of a clip as keyframes and keeps their motion: the last frames of a clip placed at "
            "the start extend it, its first and last frames complete it, one clip's end and another's start join them.",
            **search_aliases(
                "extend video", "video extension", "continue video", "video completion", "transition", "video to video"
            ),
            inputs=[
                io.Image.Input("video", tooltip="The clip's frames, at the frame rate of the video that is made."),
                io.Combo.Input(
                    "take",
                    options=["last", "first", "chosen"],
                    default="last",
                    tooltip="Which frames of the clip: the last or first frame_count, or the ones named in chosen.",
                ),
                io.Int.Input(
                    "frame_count",
                    default=13,
                    min=1,
                    max=LAST_INDEX,
                    tooltip="How many frames to take (not used by chosen). Pixel frames: 4n+1 at the start of the new "
                    "video (13 recommended), a multiple of 4 later in it.",
                ),
                unit_input("frame_count, chosen and frame_index"),
                io.Combo.Input(
                    "place",
                    options=["start", "end", "index"],
                    default="start",
                    tooltip="Where they go in the new video: at its start, its end, or at frame_index.",
                ),
                io.Int.Input(
                    "frame_index",
                    default=0,
                    min=-LAST_INDEX,
                    max=LAST_INDEX,
                    tooltip="First frame of the placed clip when place is index; negative counts from the end.",
                ),
                io.String.Input(
                    "noise_multipliers",
                    default="0, 0.3, 0.4, 0.5",
                    tooltip="Noise multipliers of the taken latent frames, 0 to 1: one for each, one for all, or a ramp "
                    'such as "0 to 0.3". Recommended for 13 frames: 0, 0.3, 0.4, 0.5 (Wan2.1); 0.2, 0.4, 0.4, 0.4 (2.2).',
                ),
                behaviour_input(),
                io.String.Input(
                    "chosen",
                    default="",
                    optional=True,
                    tooltip="Frames of the clip when take is chosen, for example 0, 20, 40; they keep their distances.",
                ),
                previous_input(),
            ],
            outputs=[Keyframes.Output(display_name="keyframes")],
        )

    @classmethod
    def execute(
        cls,
        video,
        take,
        frame_count,
        unit,
        place,
        frame_index,
        noise_multipliers,
        behaviour,
        chosen="",
        previous=None,
    ) -> io.NodeOutput:
        check_wires(video=video)
        keyframe = video_keyframes(video, take, frame_count, unit, place, frame_index, noise_multipliers, behaviour, chosen)
        return io.NodeOutput([*check_keyframes(previous or []), keyframe])


class PusaVideoStrength(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PusaVideoStrength",
            display_name="Pusa Video Strength",
            category=CATEGORY,
            description="Starts every frame of the video from a clip, each with its own share of noise: a denoise strength "
            "by frame. Repairs bad frames, restyles a clip and keeps its ends, paints frames in between, retimes.",
            **search_aliases(
                "video to video",
                "vid2vid",
                "denoise strength by frame",
                "repair frames",
                "restyle video",
                "frame interpolation",
                "in-betweening",
                "slow motion",
                "retime",
            ),
            inputs=[
                io.Image.Input("video", tooltip="The clip's frames."),
                io.String.Input(
                    "noise",
                    default="0: 0, 1: 0.7, -5: 0.7, -4: 0",
                    tooltip="Noise by points, frame: noise, with straight lines between them; negative frames count from the "
                    "end. 0 keeps the clip, 1 gives it no say. Also one value for all, a ramp (0 to 1), or one for each "
                    "latent frame. Recommended: 0 for what stays, 0.7 to restyle, 1 for frames that are bad.",
                ),
                unit_input("noise"),
                io.Int.Input(
                    "length",
                    default=0,
                    min=0,
                    max=LARGEST,
                    tooltip="Frames of the video, 4n+1; 0 is as many as the clip has. Connect the output of this name to "
                    "Pusa Schedule.",
                ),
                io.Combo.Input(
                    "retime",
                    options=list(get_args(Retime)),
                    default="keep",
                    tooltip="A clip of another length: keep cuts a longer one, and after a shorter one the video is new. "
                    "stretch gives it the video's length, slower or faster.",
                ),
                io.Float.Input(
                    "between",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Least noise of latent frames that hold no frame of a stretched clip, only blends of two. "
                    "Recommended: 1, which makes them anew.",
                ),
                io.Float.Input(
                    "hold_up_to",
                    default=HELD,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Latent frames of at most this noise end exactly on the clip (hold), those of more evolve. "
                    "Recommended: 0.5.",
                ),
                previous_input(),
            ],
            outputs=[
                Keyframes.Output(display_name="keyframes"),
                io.Int.Output(display_name="length", tooltip="Frames of the video: for Pusa Schedule."),
            ],
        )

    @classmethod
    def execute(cls, video, noise, unit, length, retime, between, hold_up_to, previous=None) -> io.NodeOutput:
        check_wires(video=video)
        keyframe = Strength(noise, unit, length, retime, between, hold_up_to).keyframe(video)
        return io.NodeOutput([*check_keyframes(previous or []), keyframe], length or len(keyframe.pictures))


NODES = [PusaKeyframe, PusaKeyframesFromText, PusaVideoKeyframes, PusaVideoStrength]
