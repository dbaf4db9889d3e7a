"""Nodes that sample a clip."""

from __future__ import annotations

from comfy_api.latest import io

from ..demo_model.preview import preview_colours
from ..pusa_core.hosts.comfyui import PUSA_SCHEDULER, SAMPLERS, SCHEDULERS, Sampling, sample_clip, with_preview_colours
from ..pusa_core.schedule import pusa_sigmas
from ..pusa_core.wan import EXPERT_BOUNDARY
from .types import CATEGORY, Plan, check_wires, search_aliases

MAX_SEED = 0xFFFFFFFFFFFFFFFF


def _steps_input() -> io.Int.Input:
    return io.Int.Input("steps", default=10, min=1, max=50, tooltip="1 to 50. Recommended: 10; 4 with a Lightning LoRA.")


def _shift_input() -> io.Float.Input:
    return io.Float.Input(
        "shift",
        default=5.0,
        min=0.1,
        max=100.0,
        step=0.1,
        tooltip="Flow shift: higher spends more steps at high noise. Recommended: 5. Replaces a shift set on the model.",
    )


def _denoise_input() -> io.Float.Input:
    return io.Float.Input(
        "denoise",
        default=1.0,
        min=0.01,
        max=1.0,
        step=0.01,
        tooltip="1 makes a new video; less keeps that much of the latent that goes in. Keyframes start from the schedule's "
        "pictures again. Recommended: 1.",
    )


def model_inputs() -> list[io.Input]:
    return [
        io.Model.Input("model", tooltip="Wan text-to-video with a Pusa LoRA; for Wan2.2 A14B the high-noise model."),
        io.Conditioning.Input("positive", tooltip="What the video shows."),
        io.Conditioning.Input("negative", tooltip="What it should not show; unused at cfg 1."),
        io.Latent.Input("latent", tooltip="From the Pusa Schedule node; it brings its schedule along."),
    ]


def _sampler_inputs() -> list[io.Input]:
    return [
        _steps_input(),
        io.Float.Input(
            "cfg",
            default=3.0,
            min=0.0,
            max=100.0,
            step=0.1,
            tooltip="Guidance. Recommended: 3; 1 with a Lightning LoRA.",
        ),
        io.Combo.Input("sampler", options=SAMPLERS, default="euler", tooltip="Any works. Recommended: euler."),
        io.Combo.Input(
            "scheduler",
            options=SCHEDULERS,
            default=PUSA_SCHEDULER,
            tooltip="pusa is the exact sigma grid of Pusa and Wan; the others are ComfyUI's. Recommended: pusa.",
        ),
        _shift_input(),
    ]


def optional_inputs() -> list[io.Input]:
    return [
        Plan.Input(
            "schedule",
            optional=True,
            tooltip="Instead of the one that the latent brings along, which is enough as a rule.",
        ),
        io.Model.Input(
            "low_noise_model",
            optional=True,
            tooltip="Wan2.2 A14B's low-noise model with its Pusa LoRA; takes over below the boundary.",
        ),
        boundary_input("Sigma below which the low-noise model samples. Wan2.2 T2V: 0.875."),
    ]


def boundary_input(tooltip: str) -> io.Float.Input:
    return io.Float.Input("boundary", default=EXPERT_BOUNDARY, min=0.0, max=1.0, step=0.005, optional=True, tooltip=tooltip)


def _own_inputs() -> list[io.Input]:
    return [
        io.Sigmas.Input(
            "sigmas",
            optional=True,
            tooltip="Instead of steps, scheduler and denoise: from Pusa Compare Samplers, or any node that makes sigmas.",
        ),
        io.Sampler.Input(
            "custom_sampler",
            optional=True,
            tooltip="Instead of sampler: from Pusa Compare Samplers, or any node that makes a sampler.",
        ),
    ]


def _sample(model, positive, negative, latent, sampling, schedule, low_noise_model) -> io.NodeOutput:
    model = with_preview_colours(model, preview_colours(model.model.diffusion_model))
    return io.NodeOutput(sample_clip(model, positive, negative, latent, sampling, schedule, low_noise_model))


class PusaKSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PusaKSampler",
            display_name="Pusa KSampler",
            category=CATEGORY,
            description="Samples a video with per-frame noise levels, in one node: schedule, exact sigma grid, shift, and "
            "the switch between Wan2.2's two experts.",
            **search_aliases("video sampler", "wan sampler", "sample video"),
            inputs=[
                *model_inputs(),
                io.Int.Input(
                    "seed", default=0, min=0, max=MAX_SEED, control_after_generate=True, tooltip="Seed of the noise."
                ),
                *_sampler_inputs(),
                _denoise_input(),
                *optional_inputs(),
                *_own_inputs(),
            ],
            outputs=[io.Latent.Output(display_name="latent")],
        )

    @classmethod
    def execute(
        cls, model, positive, negative, latent, seed, steps, cfg, sampler, scheduler, shift, denoise, schedule=None,
        low_noise_model=None, boundary=EXPERT_BOUNDARY, sigmas=None, custom_sampler=None,
    ) -> io.NodeOutput:  # fmt: skip
        check_wires(model=model, latent=latent, schedule=schedule, low_noise_model=low_noise_model, sigmas=sigmas,
                    custom_sampler=custom_sampler)  # fmt: skip
        sampling = Sampling(
            seed, steps, cfg, sampler, scheduler, shift, denoise, boundary, grid=sigmas, solver=custom_sampler
        )
        return _sample(model, positive, negative, latent, sampling, schedule, low_noise_model)


class PusaKSamplerAdvanced(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PusaKSamplerAdvanced",
            display_name="Pusa KSampler (Advanced)",
            category=CATEGORY,
            description="The Pusa KSampler for a part of the steps, so that several can follow each other.",
            **search_aliases("video sampler", "wan sampler", "sampler part of the steps"),
            inputs=[
                *model_inputs(),
                io.Combo.Input(
                    "add_noise",
                    options=["enable", "disable"],
                    default="enable",
                    tooltip="enable for the first stage, disable for one that goes on from leftover noise.",
                ),
                io.Int.Input(
                    "noise_seed",
                    default=0,
                    min=0,
                    max=MAX_SEED,
                    control_after_generate=True,
                    tooltip="Seed of the noise.",
                ),
                *_sampler_inputs(),
                io.Int.Input("start_at_step", default=0, min=0, max=50, tooltip="First step to sample, from 0."),
                io.Int.Input(
                    "end_at_step",
                    default=50,
                    min=0,
                    max=50,
                    tooltip="Step to stop before; steps or more is to the end.",
                ),
                io.Combo.Input(
                    "return_with_leftover_noise",
                    options=["disable", "enable"],
                    default="disable",
                    tooltip="enable when another stage goes on from here.",
                ),
                *optional_inputs(),
            ],
            outputs=[io.Latent.Output(display_name="latent")],
        )

    @classmethod
    def execute(
        cls, model, positive, negative, latent, add_noise, noise_seed, steps, cfg, sampler, scheduler, shift,
        start_at_step, end_at_step, return_with_leftover_noise, schedule=None, low_noise_model=None,
        boundary=EXPERT_BOUNDARY,
    ) -> io.NodeOutput:  # fmt: skip
        check_wires(model=model, latent=latent, schedule=schedule, low_noise_model=low_noise_model)
        sampling = Sampling(
            noise_seed, steps, cfg, sampler, scheduler, shift, boundary=boundary, add_noise=add_noise == "enable",
            start_step=start_at_step, end_step=end_at_step, leftover_noise=return_with_leftover_noise == "enable",
        )  # fmt: skip
        return _sample(model, positive, negative, latent, sampling, schedule, low_noise_model)


class PusaSigmas(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PusaSigmas",
            display_name="Pusa Sigmas",
            category=CATEGORY,
            description="The exact sigma grid of Pusa and Wan, for SamplerCustomAdvanced.",
            **search_aliases("sigma grid", "wan scheduler", "scheduler"),
            inputs=[_steps_input(), _shift_input(), _denoise_input()],
            outputs=[io.Sigmas.Output(display_name="sigmas")],
        )

    @classmethod
    def execute(cls, steps, shift, denoise) -> io.NodeOutput:
        return io.NodeOutput(pusa_sigmas(steps, shift, denoise))


NODES = [PusaKSampler, PusaKSamplerAdvanced, PusaSigmas]
