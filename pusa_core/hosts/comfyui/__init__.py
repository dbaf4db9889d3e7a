"""Pusa on ComfyUI: the only file that touches `comfy`.

A schedule rides on a cloned model as plain data in `transformer_options`, with three stateless wrappers:

- SAMPLER_SAMPLE hands the sampler virtual latents (see `pusa_core.virtual_latent`) and turns its result, and what it shows
  on the way, back into frames. It lays the clean latents into every cond as a noise-shaped tensor, so ComfyUI itself
  slices them with areas, context windows, batches and devices; the last channel carries each frame's number.
- APPLY_MODEL shows the model the frames instead of the virtual latents.
- DIFFUSION_MODEL gives every latent frame its own timestep.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import comfy.conds
import comfy.latent_formats
import comfy.lora
import comfy.model_base
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_model_advanced import ModelSamplingSD3
from einops import rearrange
from torch import Tensor

from ...frames import latent_length, pixel_length
from ...lora import MODULE_KINDS, LoraReport, fit, read_lora
from ...plan import Plan
from ...resize import fit_images
from ...schedule import pusa_sigmas
from ...virtual_latent import per_frame
from ...wan import EXPERT_BOUNDARY, check_text_to_video

KEY = "pusa"
RATIO = "pusa_ratio"
KEYFRAMED = "pusa_keyframed"  # marks a LATENT whose keyframes need their schedule
PUSA_SCHEDULER = "pusa"
SCHEDULERS = [PUSA_SCHEDULER, *comfy.samplers.SCHEDULER_NAMES]
SAMPLERS = comfy.samplers.SAMPLER_NAMES

# Solvers of the flow's ODE: the ones that can follow a frame whose sigma is not a straight line.
ODE_SAMPLERS = {
    f"sample_{name}"
    for name in (
        *("euler", "euler_cfg_pp", "heun", "heunpp2", "exp_heun_2_x0", "dpm_2", "lms", "ipndm", "ipndm_v", "deis"),
        *("dpmpp_2m", "dpmpp_2m_cfg_pp", "res_multistep", "res_multistep_cfg_pp"),
        *("gradient_estimation", "gradient_estimation_cfg_pp"),
    )
}

VARIANTS = {
    "WAN21_Vace": "a VACE",
    "WAN21_Camera": "a camera-control",
    "WAN21_HuMo": "a HuMo",
    "WAN21_CausalAR": "an autoregressive (causal)",
    "WAN21_FlowRVS": "a FlowRVS",
    "WAN21_SCAIL": "a SCAIL",
    "WAN22_S2V": "a speech-to-video",
    "WAN22_Animate": "an Animate",
}

LATENT_FORMATS = {16: comfy.latent_formats.Wan21, 48: comfy.latent_formats.Wan22}
VAE_FILES = {
    16: "wan_2.1_vae.safetensors (for Wan2.1 and Wan2.2-A14B)",
    48: "wan2.2_vae.safetensors (for Wan2.2-TI2V-5B)",
}

# Conditionings that add frames of their own to the model's input, which then have no timestep in the schedule.
EXTRA_FRAMES = {
    "reference_latent": "a reference image",
    "time_dim_concat": "extra frames in time",
    "context_latents": "in-context reference latents",
}


def check_model(model: ModelPatcher) -> None:
    """Refuses anything but a plain Wan text-to-video model.

    Raises:
        ValueError: what the model is instead, and which to load.
    """
    base = model.model
    name = type(base).__name__
    if not isinstance(base, comfy.model_base.WAN21):
        raise ValueError(f"This model is {name}, not Wan: Pusa needs a Wan2.1 or Wan2.2 text-to-video checkpoint.")
    if name not in ("WAN21", "WAN22"):
        raise ValueError(
            f"This is {VARIANTS.get(name, f'a {name}')} variant of Wan, which handles timesteps in its own way: "
            "load a plain Wan text-to-video (T2V) checkpoint."
        )
    check_text_to_video(base.diffusion_model.in_dim, base.diffusion_model.out_dim)


def _check_channels(model: ModelPatcher, channels: int) -> None:
    wanted = model.model.latent_format.latent_channels
    if channels != wanted:
        raise ValueError(
            f"The latent has {channels} channels, but this model takes {wanted}: use {VAE_FILES.get(wanted, 'its own VAE')}."
        )


def _check_single_rank() -> None:
    """Sequence parallelism shards the tokens but not the per-frame timesteps: frames would silently swap theirs."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        return
    xfuser = sys.modules.get("xfuser.core.distributed")
    if xfuser is None or xfuser.get_sequence_parallel_world_size() > 1:
        raise RuntimeError(
            "This worker splits the clip's tokens over several GPUs (sequence parallelism), which mixes up Pusa's "
            "per-frame timesteps: turn it off (CFG or data parallelism is fine)."
        )


def apply_schedule(model: ModelPatcher, plan: Plan) -> ModelPatcher:
    """A clone of `model` that samples every latent frame on its own sigma; any sampler node can use it.

    A schedule without keyframes leaves the clone as the model was. An earlier schedule is replaced.

    Raises:
        ValueError: the model is not a plain Wan text-to-video model, or the plan was made with another model's VAE.
    """
    check_model(model)
    if plan.clean is not None:
        _check_channels(model, plan.clean.shape[1])
    clone = model.clone()
    options = clone.model_options["transformer_options"]
    options.pop(KEY, None)
    wrappers = (
        (WrappersMP.SAMPLER_SAMPLE, _sampler_sample),
        (WrappersMP.APPLY_MODEL, _apply_model),
        (WrappersMP.DIFFUSION_MODEL, _diffusion_model),
    )
    for kind, wrapper in wrappers:
        clone.remove_wrappers_with_key(kind, KEY)
        if not plan.is_ordinary:
            clone.add_wrapper_with_key(kind, KEY, wrapper)
    if not plan.is_ordinary:
        options[KEY] = plan
    return clone


def _sampler_sample(executor, guider, sigmas, extra_args, callback, noise, latent_image, denoise_mask, disable_pbar):
    plan: Plan = extra_args["model_options"]["transformer_options"][KEY]
    _check_single_rank()
    _check_conds(guider.conds)
    _check_sampler(plan, executor.class_obj)
    clean = _clean_latents(guider.inner_model, plan, latent_image)
    keyed = per_frame(plan.keyframed.to(clean.device))
    sigma_start, sigma_end = float(sigmas[0]), float(sigmas[-1])
    table = plan.table.to(clean.device)
    start = table.at(sigma_start)

    if torch.count_nonzero(noise) > 0:
        noise, latent_image = start.start(noise, torch.where(keyed, clean, latent_image), sigma_start)
    elif sigma_start < 1:  # goes on from an earlier stage, whose latents ComfyUI carries divided by 1 - sigma
        latent_image = start.to_virtual(latent_image * (1 - sigma_start), clean) / (1 - sigma_start)

    _add_cond(guider.conds, clean, len(plan.schedules))
    show = None
    if callback is not None:

        def show(step, denoised, x, total_steps):
            callback(step, start.to_frame(denoised, clean), start.to_frame(x, clean), total_steps)

    grid = sigmas.clone()  # uni_pc writes 0.001 over a last sigma of 0
    virtual = executor(guider, grid, extra_args, show, noise, latent_image, denoise_mask, disable_pbar)
    virtual = virtual * (1 - float(grid[-1]))
    end = table.at(sigma_end)
    frames = end.to_frame(virtual, clean)
    if sigma_end == 0:  # dpm_fast and dpm_adaptive stop one sigma early
        frames = torch.where(per_frame(end.pinned), clean, frames)
    return frames / (1 - sigma_end)


def _check_conds(conds: dict[str, list[dict[str, Any]]]) -> None:
    for cond in (c for cs in conds.values() for c in cs):
        for key, what in EXTRA_FRAMES.items():
            if key in cond.get("model_conds", {}):
                raise ValueError(
                    f"The conditioning brings {what} ({key}), which adds frames that a Pusa schedule has no sigma for: "
                    "take that node out and give the picture as a keyframe."
                )


def _check_sampler(plan: Plan, sampler) -> None:
    name = getattr(getattr(sampler, "sampler_function", None), "__name__", type(sampler).__name__)
    if not plan.is_straight and name not in ODE_SAMPLERS:
        raise ValueError(
            f"The schedule bends a frame's sigma, which the sampler {name.removeprefix('sample_')} cannot follow "
            "because it adds noise or steps outside the sigma grid: use euler, heun, dpmpp_2m or res_multistep."
        )


def _clean_latents(base, plan: Plan, latent_image: Tensor) -> Tensor:
    """The plan's clean latents as the model sees them, checked against the latent that is sampled."""
    shape, clean, frames = tuple(latent_image.shape), plan.clean, len(plan)
    if len(shape) != 5 or shape[2] != frames:
        given = f"{shape[2]} latent frames" if len(shape) == 5 else "no video"
        raise ValueError(
            f"The schedule is for {frames} latent frames ({pixel_length(frames)} frames), but the latent has {given}: "
            "connect the latent that comes out of the Pusa Schedule node."
        )
    if clean is None:
        return torch.zeros_like(latent_image[:1])
    if (clean.shape[1], *clean.shape[3:]) != (shape[1], *shape[3:]) or clean.shape[0] not in (1, shape[0]):
        raise ValueError(
            f"The keyframes were encoded to latents of shape {tuple(clean.shape)}, but the latent to sample is {shape} "
            "(batch, channels, frames, height, width): use the same size and VAE, through one Pusa Schedule node."
        )
    return base.process_latent_in(clean.to(latent_image.device, torch.float32))


def _add_cond(conds: dict[str, list[dict[str, Any]]], clean: Tensor, schedules: int) -> None:
    number = torch.arange(schedules * clean.shape[2], device=clean.device, dtype=clean.dtype)
    number = rearrange(number, "(b f) -> b 1 f 1 1", b=schedules)
    clips = max(schedules, len(clean))
    parts = (part.expand(clips, -1, -1, *clean.shape[3:]) for part in (clean, number))
    tensor = torch.cat(list(parts), dim=1)  # (1 or B, C + 1, F, H, W)
    for cond in (c for cs in conds.values() for c in cs):
        cond["model_conds"] = {**cond["model_conds"], KEY: comfy.conds.CONDNoiseShape(tensor)}


def _apply_model(executor, x, t, c_concat, c_crossattn, control, transformer_options, **kwargs):
    tensor = kwargs.pop(KEY)  # (B, C + 1, F, H, W) of this window, area and batch
    if tensor.shape[2:] != x.shape[2:]:
        raise RuntimeError(
            f"The model was given a latent of {tuple(x.shape[2:])} (frames, height, width), but its part of the schedule is "
            f"{tuple(tensor.shape[2:])}: another node cuts or extends the clip while it is sampled; take it out."
        )
    clean, number = tensor[:, :-1], tensor[:, -1, :, 0, 0].long()
    plan: Plan = transformer_options[KEY]
    grid = transformer_options.get("sample_sigmas")
    at = plan.table.to(x.device).frames(number).at(t[0], None if grid is None else grid.to(x.device))
    frame = at.to_frame(x, clean)
    options = {**transformer_options, RATIO: at.ratio}
    denoised = executor(frame, t, c_concat, c_crossattn, control, options, **kwargs)
    return at.denoised(x, clean, frame, denoised)


def _diffusion_model(executor, x, timestep, context, clip_fea, time_dim_concat, transformer_options, **kwargs):
    ratio = transformer_options[RATIO]  # (B, F)
    if ratio.shape != (x.shape[0], x.shape[2]):
        raise RuntimeError(
            f"The model was given {x.shape[2]} latent frames of {x.shape[0]} clips, but the schedule has sigmas for "
            f"{ratio.shape[1]} of {ratio.shape[0]}: another node adds or drops frames; take it out."
        )
    timestep = timestep.reshape(x.shape[0], -1) * ratio
    return executor(x, timestep, context, clip_fea, time_dim_concat, transformer_options, **kwargs)


def load_pusa_lora(model: ModelPatcher, path: str, alpha: float) -> tuple[ModelPatcher, LoraReport]:
    """A clone of `model` with a Pusa LoRA on it as ordinary ComfyUI weight patches, and a report.

    Raises:
        ValueError: the model is not Wan text-to-video, or the file is not a Pusa LoRA for its size.
    """
    check_model(model)
    lora = read_lora(path)
    report = fit(lora, _linear_shapes(model.model.diffusion_model))
    patches = comfy.lora.load_lora(lora.state_dict(), comfy.lora.model_lora_keys_unet(model.model, {}))
    clone = model.clone()
    applied = clone.add_patches(patches, alpha)
    if len(applied) != len(lora.modules):
        raise ValueError(f"ComfyUI took only {len(applied)} of the {len(lora.modules)} modules of {lora.name}.")
    return clone, report


def _linear_shapes(wan: Any) -> dict[str, tuple[int, int]]:
    modules = {f"blocks.{i}.{kind}": block.get_submodule(kind) for i, block in enumerate(wan.blocks) for kind in MODULE_KINDS}
    return {name: (module.out_features, module.in_features) for name, module in modules.items()}


def picture_encoder(vae, width: int, height: int, method: str):
    """A function from pictures (N, H, W, C) to their clean latents (1, C, (N-1)/4+1, h, w)."""
    return lambda pictures: vae.encode(fit_images(pictures, width, height, method))


def check_vae(vae, width: int, height: int) -> None:
    """Refuses a VAE that is not Wan's, and a size that it cannot encode.

    Raises:
        ValueError: what is wrong with it.
    """
    coder = vae.first_stage_model
    hunyuan = getattr(coder, "latent_format", None) is not None  # a TAEHV of Wan's has none
    if vae.latent_channels not in LATENT_FORMATS or type(coder).__name__ not in ("WanVAE", "TAEHV") or hunyuan:
        raise ValueError(f"This is not a Wan video VAE: load {VAE_FILES[16]} or {VAE_FILES[48]}.")
    stride = vae.spacial_compression_encode()
    if width % stride or height % stride:
        raise ValueError(f"A size of {width}x{height} was given; with this VAE both must be multiples of {stride}.")


def plan_latent(vae, plan: Plan, width: int, height: int, length: int, batch_size: int) -> dict[str, Any]:
    """ComfyUI's LATENT for a plan: clean latents at its keyframes, nothing elsewhere. (B, C, F, h, w)"""
    stride = vae.spacial_compression_encode()
    shape = (batch_size, vae.latent_channels, latent_length(length), height // stride, width // stride)
    empty = LATENT_FORMATS[vae.latent_channels]().process_out(torch.zeros(shape))
    if plan.clean is None:
        return {"samples": empty}
    keyed = per_frame(plan.keyframed)
    return {"samples": torch.where(keyed, plan.clean.to(empty), empty), KEYFRAMED: bool(keyed.any())}


@dataclass(frozen=True)
class Sampling:
    """The settings of a sampler node.

    Attributes:
        boundary: sigma below which a low-noise model takes over.
        start_step, end_step: the part of the sigma grid to sample, as in KSampler (Advanced).
        leftover_noise: keep the noise of the last sigma where `end_step` stops early.
    """

    seed: int
    steps: int
    cfg: float
    sampler: str
    scheduler: str
    shift: float
    denoise: float = 1.0
    boundary: float = EXPERT_BOUNDARY
    add_noise: bool = True
    start_step: int = 0
    end_step: int | None = None
    leftover_noise: bool = False

    @property
    def starts_from_noise(self) -> bool:
        return self.add_noise and self.start_step == 0 and self.denoise == 1

    def sigmas(self, model: ModelPatcher) -> Tensor:
        """The grid to sample: Pusa's exact one, or one of ComfyUI's schedulers on a model with the shift."""
        sigmas = sigma_grid(model, self.scheduler, self.sampler, self.steps, self.shift, self.denoise)
        if self.end_step is not None and self.end_step < len(sigmas) - 1:
            sigmas = sigmas[: self.end_step + 1].clone()
            if not self.leftover_noise:
                sigmas[-1] = 0
        return sigmas[self.start_step :]


def sigma_grid(model: ModelPatcher, scheduler: str, sampler: str, steps: int, shift: float, denoise: float) -> Tensor:
    """The sigmas of Pusa's exact grid, or of one of ComfyUI's schedulers on a model with its shift. (steps + 1,)"""
    if scheduler == PUSA_SCHEDULER:
        return pusa_sigmas(steps, shift, denoise)
    stock = comfy.samplers.KSampler(model, steps, "cpu", sampler, scheduler, denoise, model.model_options)
    return stock.sigmas


def sample_clip(
    model: ModelPatcher,
    positive,
    negative,
    latent: dict[str, Any],
    sampling: Sampling,
    plan: Plan | None = None,
    low_noise_model: ModelPatcher | None = None,
) -> dict[str, Any]:
    """Samples a clip, switching to the low-noise model where sigma falls below the boundary.

    Args:
        latent: ComfyUI's LATENT, samples (B, C, F, H, W).
        plan: a schedule to apply to the models; None takes them as they are.

    Returns:
        The LATENT with new samples.

    Raises:
        ValueError: the latent is another model's, or its keyframes have no schedule.
    """
    models = [model] if low_noise_model is None else [model, low_noise_model]
    if plan is not None:
        models = [apply_schedule(m, plan) for m in models]
    elif latent.get(KEYFRAMED) and sampling.starts_from_noise:
        _require_schedule(models)
    models = [ModelSamplingSD3().patch(m, sampling.shift)[0] for m in models]
    ratios = {key: value for key, value in latent.items() if key.startswith("downscale_ratio")}
    start = samples = comfy.sample.fix_empty_latent_channels(models[0], latent["samples"], **ratios)
    _check_channels(models[0], start.shape[1])
    noise = torch.zeros_like(start, device="cpu")
    if sampling.add_noise:
        noise = comfy.sample.prepare_noise(start, sampling.seed, latent.get("batch_index"))
    sigmas, done = sampling.sigmas(models[0]), 0
    progress = latent_preview.prepare_callback(models[0], max(len(sigmas) - 1, 1))
    for number, (expert, part) in enumerate(_stages(models, sigmas, sampling.boundary)):
        if number > 0:
            noise = _carried_noise(expert, start, samples, float(part[0]))
        samples = comfy.sample.sample_custom(
            expert,
            noise,
            sampling.cfg,
            comfy.samplers.sampler_object(sampling.sampler),
            part,
            positive,
            negative,
            start,
            noise_mask=latent.get("noise_mask"),
            callback=_continued(progress, done, len(sigmas) - 1),
            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
            seed=(sampling.seed + number) % 2**64,  # stochastic samplers must not repeat the noise of the stage before
        )
        done += len(part) - 1
    kept = {key: value for key, value in latent.items() if key != KEYFRAMED and key not in ratios}
    return {**kept, "samples": samples}


def _require_schedule(models: list[ModelPatcher]) -> None:
    if not all(KEY in model.model_options["transformer_options"] for model in models):
        raise ValueError(
            "The latent holds keyframes, but their schedule is not connected, so they would be lost: connect the schedule "
            "output of the Pusa Schedule node to this sampler."
        )


def _stages(models: list[ModelPatcher], sigmas: Tensor, boundary: float) -> list[tuple[ModelPatcher, Tensor]]:
    """Which model samples which part of the grid: the high-noise one every step that starts at the boundary or above."""
    if len(models) == 1:
        return [(models[0], sigmas)] if len(sigmas) > 1 else []
    split = int((sigmas[:-1] >= boundary).sum())
    parts = zip(models, (sigmas[: split + 1], sigmas[split:]))
    return [(model, part) for model, part in parts if len(part) > 1]


def _carried_noise(model: ModelPatcher, start: Tensor, samples: Tensor, sigma: float) -> Tensor:
    """The noise that takes the latent a run started from to what an earlier stage left at `sigma`.

    With it a later stage starts like the first, so that a noise mask still keeps the latent's own content.
    """
    base, plan = model.model, model.model_options["transformer_options"].get(KEY)
    origin = base.process_latent_in(start) if torch.count_nonzero(start) > 0 else start  # as ComfyUI does
    reached = base.process_latent_in(samples) * (1 - sigma)
    if plan is not None:
        clean = _clean_latents(base, plan, start)
        keyed = per_frame(plan.keyframed.to(clean.device))
        origin = torch.where(keyed, clean, origin)
        reached = plan.table.to(clean.device).at(sigma).to_virtual(reached, clean)
    return (reached - (1 - sigma) * origin) / sigma


def _continued(progress, done: int, total: int):
    """A progress callback that counts on over several stages."""
    return lambda step, x0, x, _: progress(done + step, x0, x, total)
