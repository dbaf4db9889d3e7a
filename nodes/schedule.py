"""Nodes that turn keyframes into a schedule, and put a schedule on a model."""

from __future__ import annotations

from collections.abc import Sequence

from comfy_api.latest import io, ui

from ..demo_model.preview import preview_colours
from ..pusa_core.figures import draw_schedule
from ..pusa_core.hosts.comfyui import (
    apply_schedule,
    check_vae,
    image_encoder,
    join_latents,
    plan_latent,
    with_preview_colours,
)
from ..pusa_core.hosts.comfyui.checks import warn_beyond_training
from ..pusa_core.messages import say
from ..pusa_core.plan import plan_clip
from ..pusa_core.resize import RESIZE
from ..pusa_core.schedule import pusa_sigmas
from .types import CATEGORY, Keyframes, Plan, check_wires, search_aliases

LARGEST = 16384


def size_inputs() -> list[io.Input]:
    """VAE and size of a video that is planned."""
    return [
        io.Vae.Input("vae", tooltip="Wan2.1's VAE for the 14B and 1.3B models, Wan2.2's for the 5B model."),
        io.Int.Input("width", default=832, min=16, max=LARGEST, step=16, tooltip="Pixels. Recommended: 832 (480p), 1280."),
        io.Int.Input("height", default=480, min=16, max=LARGEST, step=16, tooltip="Pixels. Recommended: 480, or 720."),
        io.Int.Input(
            "length",
            default=81,
            min=1,
            max=LARGEST,
            step=4,
            tooltip="Frames of the video, 4n+1. Recommended: 81, which are 21 latent frames.",
        ),
        io.Int.Input("batch_size", default=1, min=1, max=64, tooltip="Videos made at once, each from other noise."),
        io.Combo.Input(
            "resize",
            options=list(RESIZE),
            default="crop",
            tooltip="How pictures of another size are fitted: crop fills the frame and cuts what is over, letterbox "
            "adds black bars, stretch distorts. Recommended: crop.",
        ),
    ]


def plan_inputs() -> list[io.Input]:
    return [
        Keyframes.Input("keyframes", optional=True, tooltip="From the Pusa keyframe nodes; none is text to video."),
        io.Sigmas.Input(
            "sigmas",
            optional=True,
            tooltip="Only for the picture: the grid it is drawn on. Default: Pusa's own, 10 steps at shift 5.",
        ),
    ]


def plan_outputs() -> list[io.Output]:
    return [
        io.Latent.Output(display_name="latent"),
        Plan.Output(display_name="schedule"),
        io.Image.Output(display_name="picture"),
        io.String.Output(display_name="report", tooltip="Where each keyframe went, in words."),
    ]


def plan_video(vae, width, height, length, batch_size, resize, keyframes, sigmas) -> tuple:
    """What `plan_outputs` names, of keyframes (none is text to video)."""
    check_wires(vae=vae, sigmas=sigmas)
    check_vae(vae, width, height)
    plan = plan_clip(keyframes or [], length, image_encoder(vae, width, height, resize))
    latent = plan_latent(vae, plan, width, height, length, batch_size)
    grid = sigmas if sigmas is not None and len(sigmas) > 0 else pusa_sigmas(10)
    picture = draw_schedule(plan.schedule, grid.tolist(), plan.notes)
    report = keyframes_report(plan.notes)
    return latent, plan, picture, report


def keyframes_report(notes: Sequence[str]) -> str:
    """What was placed where."""
    return "\n".join(notes) or say("No keyframes: text to video.")


class PusaSchedule(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PusaSchedule",
            display_name="Pusa Schedule",
            category=CATEGORY,
            description="Builds the latent and the schedule of a video from its keyframes, and draws what every latent "
            "frame does over the steps. Without keyframes it makes plain text to video.",
            **search_aliases("text to video", "empty latent video", "per-frame noise", "per-frame timesteps"),
            inputs=[*size_inputs(), *plan_inputs()],
            outputs=plan_outputs(),
            is_output_node=True,  # so that it can be run, and looked at, before a long sampling
        )

    @classmethod
    def execute(cls, vae, width, height, length, batch_size, resize, keyframes=None, sigmas=None) -> io.NodeOutput:
        outputs = plan_video(vae, width, height, length, batch_size, resize, keyframes, sigmas)
        return io.NodeOutput(*outputs, ui=ui.PreviewImage(outputs[2], cls=cls))


class PusaApplySchedule(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PusaApplySchedule",
            display_name="Pusa Apply Schedule",
            category=CATEGORY,
            description="Makes a model sample every latent frame on its own sigma, with any sampler node: KSampler, KSampler "
            "(Advanced), SamplerCustomAdvanced. Not needed with the Pusa KSampler, which takes the schedule itself.",
            **search_aliases("per-frame noise model patch", "stock sampler"),
            inputs=[
                io.Model.Input("model", tooltip="A Wan text-to-video model with a Pusa LoRA."),
                Plan.Input("schedule", tooltip="From the Pusa Schedule node, whose latent goes to the sampler."),
            ],
            outputs=[io.Model.Output(display_name="model")],
        )

    @classmethod
    def execute(cls, model, schedule) -> io.NodeOutput:
        check_wires(model=model, schedule=schedule)
        warn_beyond_training(model, schedule)
        model = with_preview_colours(model, preview_colours(model.model.diffusion_model))
        return io.NodeOutput(apply_schedule(model, schedule))


class PusaBatchLatents(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PusaBatchLatents",
            display_name="Pusa Batch Latents",
            category=CATEGORY,
            description="Joins the latents of two Pusa Schedule nodes, so that videos with different keyframes are made at "
            "once. Chain it for more. All need the same size and length.",
            **search_aliases("join latents", "latent batch"),
            inputs=[
                io.Latent.Input("latent1", tooltip="From a Pusa Schedule node, or another of these nodes."),
                io.Latent.Input("latent2", tooltip="From another Pusa Schedule node."),
            ],
            outputs=[
                io.Latent.Output(display_name="latent", tooltip="Brings all schedules along to the Pusa KSampler."),
                Plan.Output(display_name="schedule", tooltip="For Pusa Apply Schedule and stock samplers."),
            ],
        )

    @classmethod
    def execute(cls, latent1, latent2) -> io.NodeOutput:
        check_wires(latent1=latent1, latent2=latent2)
        return io.NodeOutput(*join_latents([latent1, latent2]))


NODES = [PusaSchedule, PusaBatchLatents, PusaApplySchedule]
