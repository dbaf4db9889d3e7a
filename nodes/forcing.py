"""Nodes for models that were trained with a noise level for every frame (diffusion forcing)."""

from __future__ import annotations

from pathlib import Path

import folder_paths
from comfy_api.latest import io, ui

from ..pusa_core.figures import draw_schedule
from ..pusa_core.hosts.comfyui import check_vae, image_encoder, plan_latent, retimed_latent
from ..pusa_core.hosts.comfyui.forcing import fold_frame_rate
from ..pusa_core.messages import fault
from ..pusa_core.plan import plan_clip
from ..pusa_core.staircase import Staircase
from .schedule import keyframes_report, plan_outputs, size_inputs
from .types import CATEGORY, Keyframes, check_one_source, check_wires, latent_input, search_aliases


class PusaDiffusionForcing(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PusaDiffusionForcing",
            display_name="Pusa Diffusion Forcing",
            category=CATEGORY,
            **search_aliases("skyreels", "diffusion forcing", "asynchronous", "ar_step", "causal"),
            description="The schedule of a video for diffusion forcing models (SkyReels-V2-DF), whose frames may take their "
            "steps one after another. Words and defaults are SkyReels-V2's. The Pusa KSampler takes steps and shift from "
            "here; stock samplers take the sigmas.",
            inputs=[
                io.Vae.Input("vae", optional=True, tooltip="Wan2.1's VAE. Not needed with a latent."),
                *size_inputs()[1:],
                io.Int.Input("steps", default=30, min=1, max=100, tooltip="Of every frame. SkyReels-V2: 30 to 50."),
                io.Float.Input(
                    "shift", default=8.0, min=0.1, max=100.0, step=0.1, tooltip="SkyReels-V2: 8 from text, 5 from an image."
                ),
                io.Int.Input(
                    "ar_step",
                    default=0,
                    min=0,
                    max=100,
                    tooltip="Evaluations by which each block of frames lags behind the one before it. 0 is synchronous: all "
                    "together. SkyReels-V2: 5 for asynchronous.",
                ),
                io.Int.Input(
                    "causal_block_size",
                    default=1,
                    min=1,
                    max=100,
                    tooltip="Latent frames that take their steps together when ar_step is not 0. SkyReels-V2: 5.",
                ),
                io.Boolean.Input(
                    "causal_attention",
                    default=False,
                    tooltip="Frames see their own and earlier blocks only.",
                ),
                io.Int.Input(
                    "addnoise_condition",
                    default=0,
                    min=0,
                    max=100,
                    tooltip="Noise at which pictures at the start are shown to the model, in thousandths; they stay as they "
                    "are in the video. SkyReels-V2: 20 for going on with a clip, at most 50.",
                ),
                Keyframes.Input("keyframes", optional=True, tooltip="From the Pusa keyframe nodes; none is text to video."),
                latent_input(),
            ],
            outputs=[*plan_outputs(), io.Sigmas.Output(display_name="sigmas", tooltip="For SamplerCustomAdvanced.")],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls, width, height, length, batch_size, resize, steps, shift, ar_step, causal_block_size, causal_attention,
        addnoise_condition, vae=None, keyframes=None, latent=None,
    ) -> io.NodeOutput:  # fmt: skip
        check_wires(vae=vae, latent=latent)
        noise = addnoise_condition / 1000
        staircase = Staircase(steps, shift, ar_step, causal_block_size, history_noise=noise, causal=causal_attention)
        if latent is None:
            if vae is None:
                raise fault("Neither a VAE nor a latent is connected: connect one of them.")
            check_vae(vae, width, height)
            plan = plan_clip(keyframes or [], length, image_encoder(vae, width, height, resize), staircase)
            latent = plan_latent(vae, plan, width, height, length, batch_size)
        else:
            check_one_source(keyframes)
            latent, plan = retimed_latent(latent, staircase)
        picture = draw_schedule(plan.schedule, plan.grid.tolist(), plan.notes)
        report = keyframes_report(plan.notes)
        return io.NodeOutput(latent, plan, picture, report, plan.grid, ui=ui.PreviewImage(picture, cls=cls))


class PusaForcingFrameRate(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PusaForcingFrameRate",
            display_name="Pusa Forcing Frame Rate",
            category=CATEGORY,
            **search_aliases("skyreels fps", "diffusion forcing fps"),
            description="Tells SkyReels-V2-DF-1.3B its frame rate, which ComfyUI's loader leaves out. Only that model "
            "needs it.",
            inputs=[
                io.Model.Input("model", tooltip="SkyReels-V2-DF-1.3B from a stock loader."),
                io.Combo.Input(
                    "unet_name",
                    options=folder_paths.get_filename_list("diffusion_models"),
                    tooltip="The file that the model was loaded from.",
                ),
                io.Float.Input("fps", default=24.0, min=1.0, max=120.0, step=1.0, tooltip="Frames a second of the video."),
            ],
            outputs=[io.Model.Output(display_name="model")],
        )

    @classmethod
    def execute(cls, model, unet_name, fps) -> io.NodeOutput:
        check_wires(model=model)
        return io.NodeOutput(
            fold_frame_rate(model, Path(folder_paths.get_full_path_or_raise("diffusion_models", unet_name)), fps)
        )


NODES = [PusaDiffusionForcing, PusaForcingFrameRate]
