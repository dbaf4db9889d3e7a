"""Pusa on Diffusers: the only file that touches `diffusers`.

Diffusers' Wan takes a timestep for every token, so a timestep for every latent frame needs no patch. The pipeline is
Diffusers' own: it works on virtual latents (see `pusa_core.virtual_latent`), and two forward hooks on the transformer, there
for one call only, show it the frames and their timesteps.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ...capabilities import check_text_to_video
from ...frames import pixel_length
from ...keyframes import Keyframe
from ...lora import DIFFUSERS_KINDS, LoraReport, fit, read_lora
from ...plan import Plan, plan_clip
from ...resize import fit_images
from ...schedule import FrameSchedule, pusa_sigmas
from ...virtual_latent import per_frame
from ...wan import PATCH, PREFIX, diffusers_key, original_key, wan_config

FP32_MODULES = re.compile(r"time_embedder|scale_shift_table|\.norm[123]\.")  # what Diffusers keeps in fp32


def open_wan(path: str | Path, dtype: torch.dtype = torch.bfloat16) -> WanTransformer3DModel:
    """Opens a Wan text-to-video checkpoint of any size: an original or ComfyUI safetensors file, or a Diffusers folder.

    fp8 files are read with their scales. What Diffusers keeps in fp32 is kept so.

    Raises:
        ValueError: it cannot be used; the message says why.
    """
    path = Path(path)
    if path.is_dir():
        return _open_folder(path, dtype)
    if path.suffix != ".safetensors" or not path.is_file():
        raise ValueError(f"{path} is not a safetensors file or a Diffusers folder: give a Wan text-to-video checkpoint.")
    try:
        return _open_file(path, dtype)
    except SafetensorError as error:
        raise ValueError(f"{path.name} is damaged or cut off ({error}): download it again.") from error


def _open_folder(path: Path, dtype: torch.dtype) -> WanTransformer3DModel:
    """The folder of a transformer, or of a pipeline that has one."""
    if (path / "model_index.json").is_file():
        path = path / "transformer"
    try:
        wan = WanTransformer3DModel.from_pretrained(path, torch_dtype=dtype)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} is not a folder of Diffusers' Wan, or incomplete ({error}).") from error
    check_text_to_video(wan.config.in_channels, wan.config.out_channels)
    return wan


def _open_file(path: Path, dtype: torch.dtype) -> WanTransformer3DModel:
    with safe_open(path, framework="pt") as file:
        names = {PREFIX.sub("", key): key for key in file.keys()}  # noqa: SIM118
        config = wan_config(
            {name: tuple(file.get_slice(key).get_shape()) for name, key in names.items()}, file.metadata() or {}
        )
        with init_empty_weights(include_buffers=False):
            wan = WanTransformer3DModel(**config)
        state = {diffusers_key(name): _weight(file, names, name, dtype) for name in names if not _is_scale(name)}
    expected = set(wan.state_dict())
    if strays := sorted(state.keys() - expected):
        raise ValueError(
            f"{path.name} is a variant of Wan (it has {original_key(strays[0])}): choose a plain text-to-video one."
        )
    if missing := sorted(expected - state.keys()):
        raise ValueError(f"{path.name} is incomplete ({original_key(missing[0])} is missing): download it again.")
    wan.load_state_dict(state, assign=True)
    return wan


def _is_scale(name: str) -> bool:
    return (
        name.endswith((".scale_weight", ".weight_scale", ".scale_input", ".input_scale", ".comfy_quant"))
        or name == "scaled_fp8"
    )


def _weight(file: Any, names: dict[str, str], name: str, dtype: torch.dtype) -> Tensor:
    tensor = file.get_tensor(names[name])
    stem = name.removesuffix(".weight")
    scale = names.get(f"{stem}.scale_weight") or names.get(f"{stem}.weight_scale")
    if scale is not None and name.endswith(".weight"):
        tensor = tensor.float() * file.get_tensor(scale).float()
    return tensor.to(torch.float32 if FP32_MODULES.search(diffusers_key(name)) else dtype)


def open_vae(path: str | Path, dtype: torch.dtype = torch.float32) -> AutoencoderKLWan:
    """Opens a Wan2.1 VAE, a safetensors file as ComfyUI and Wan have it, of any width.

    Raises:
        ValueError: it is another VAE, or cannot be read.
    """
    try:
        return _open_vae(path, dtype)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read ({error}): give a Wan2.1 VAE as a safetensors file.") from error


def _open_vae(path: str | Path, dtype: torch.dtype) -> AutoencoderKLWan:
    with safe_open(path, framework="pt") as file:
        keys = set(file.keys())
        wan22 = any(key.startswith("decoder.upsamples.0.upsamples.") for key in keys)
        if wan22 or not {"decoder.head.0.gamma", "encoder.conv1.weight", "conv2.weight"} <= keys:
            raise ValueError(f"{Path(path).name} is no Wan2.1 VAE: choose wan_2.1_vae.safetensors.")
        width = file.get_slice("decoder.head.0.gamma").get_shape()[0]
    with TemporaryDirectory() as config:
        AutoencoderKLWan.from_config({"base_dim": width}).save_config(config)
        vae = AutoencoderKLWan.from_single_file(str(path), config=config)
    return nn.Module.to(vae, dtype)  # Diffusers' own warns of modules to keep in fp32, of which there are none


def save_wan(wan: WanTransformer3DModel, path: str | Path, dtype: torch.dtype = torch.bfloat16) -> None:
    """Writes a Wan in the original key layout, which ComfyUI's loader opens."""
    state = {original_key(key): tensor.to(dtype).contiguous() for key, tensor in wan.state_dict().items()}
    save_file(state, path, metadata={"format": "pt"})


def velocity(wan: WanTransformer3DModel, latents: Tensor, sigmas: Tensor, text: Tensor) -> Tensor:
    """The model's velocity for latents whose frames may have sigmas of their own.

    Args:
        latents: (B, C, F, H, W).
        sigmas: (B,), one for each clip, or (B, F), one for each latent frame.
        text: (B, L, text width).
    """
    timesteps = 1000 * sigmas
    if timesteps.ndim == 2:
        timesteps = _per_token(timesteps, latents)
    return wan(latents, timesteps, text, return_dict=False)[0]


def sample(
    wan: WanTransformer3DModel,
    schedule: FrameSchedule,
    clean: Tensor,
    noise: Tensor,
    text: Tensor,
    negative: Tensor,
    steps: int = 10,
    cfg: float = 3.0,
    shift: float = 5.0,
) -> Tensor:
    """Clips without a VAE or a text encoder: latents as the model sees them.

    Args:
        clean: (1 or B, C, F, H, W); only its keyframes are looked at.
        noise: (B, C, F, H, W).
        text, negative: (B, L, text width).

    Returns:
        (B, C, F, H, W).
    """
    parts = {"tokenizer": None, "text_encoder": None, "vae": None}
    pipe = PusaWanPipeline(**parts, transformer=wan, scheduler=PusaScheduler(shift=shift))
    pipe.set_progress_bar_config(disable=True)
    return pipe(
        prompt_embeds=text, negative_prompt_embeds=negative, keyframes=Plan((schedule,), clean), num_inference_steps=steps,
        num_frames=pixel_length(noise.shape[2]), guidance_scale=cfg, latents=noise, output_type="latent",
    ).frames  # fmt: skip


class PusaScheduler(FlowMatchEulerDiscreteScheduler):
    """Euler's method on the exact sigma grid of Pusa and Wan; PusaScheduler(shift=5.0)."""

    def set_timesteps(self, num_inference_steps=None, device=None, sigmas=None, **kwargs) -> None:
        if sigmas is None and kwargs.get("timesteps") is None:
            sigmas = pusa_sigmas(num_inference_steps, 1.0)[:-1].tolist()  # the base class shifts it
        super().set_timesteps(num_inference_steps, device, sigmas, **kwargs)


class PusaWanPipeline(WanPipeline):
    """Wan text to video with a sigma for every latent frame.

    Everything of `WanPipeline` holds: its schedulers, two transformers, callbacks, offload, LoRA, quantised transformers,
    context parallelism. `PusaWanPipeline.from_wan` makes one of a loaded `WanPipeline`.
    """

    @classmethod
    def from_wan(cls, wan: WanPipeline, shift: float = 5.0) -> PusaWanPipeline:
        """A pipeline that shares `wan`'s models, on Pusa's sigma grid; assign another scheduler to use that.

        Offload is to be turned on here and not there, as with `from_pipe`, which would also cast every model to fp32.

        Raises:
            ValueError: it is not a text-to-video model.
        """
        config = {"boundary_ratio": wan.config.boundary_ratio, "expand_timesteps": wan.config.expand_timesteps}
        pipe = cls(**{**wan.components, "scheduler": PusaScheduler(shift=shift)}, **config)
        for model in pipe.transformers:
            check_text_to_video(model.config.in_channels, model.config.out_channels)
        return pipe

    @property
    def transformers(self) -> list[WanTransformer3DModel]:
        """One, or Wan2.2's two."""
        return [model for model in (self.transformer, self.transformer_2) if model is not None]

    def load_pusa_lora(
        self, path: str | Path, alpha: float = 1.4, low_noise: bool = False, adapter_name: str = "pusa"
    ) -> LoraReport:
        """Loads a Pusa LoRA in any known spelling as a PEFT adapter, beside those that are active.

        `delete_adapters` takes it off again. Diffusers' own `load_lora_weights` turns earlier adapters off: load a
        Lightning LoRA first, or name both in `set_adapters` after it.

        Args:
            alpha: strength; change it later with `set_adapters`.
            low_noise: load it into `transformer_2`, the low-noise model of Wan2.2.

        Raises:
            ValueError: the file is not a Pusa LoRA for this model's size, or there is no such model.
        """
        wan = self.transformer_2 if low_noise else self.transformer
        if wan is None:
            raise ValueError(
                f"This pipeline has no {'low' if low_noise else 'high'}-noise model: load the LoRA into the other."
            )
        lora = read_lora(path)
        report = fit(lora, _linear_shapes(wan))
        tensors = {}
        for name, module in lora.modules.items():
            key = diffusers_key(f"{name}.weight").removesuffix(".weight")
            tensors[f"transformer.{key}.lora_A.weight"] = module.down
            tensors[f"transformer.{key}.lora_B.weight"] = module.up if module.scale == 1 else module.up * module.scale
        beside = wan.active_adapters() if getattr(wan, "peft_config", None) else []
        self.load_lora_weights(tensors, adapter_name=adapter_name, load_into_transformer_2=low_noise)
        for layer in wan.modules():
            if isinstance(layer, LoraLayer):  # `set_adapters` would also set the strength of the others
                layer.set_adapter([*beside, adapter_name])
                if adapter_name in layer.r:
                    layer.lora_alpha[adapter_name] = layer.r[adapter_name]  # older Diffusers give all the first one's
                    layer.set_scale(adapter_name, alpha)
        return report

    @torch.no_grad()
    def plan(self, keyframes: Sequence[Keyframe], height: int, width: int, num_frames: int) -> Plan:
        """Keyframes encoded and placed; pictures of another size are cropped to the clip's.

        Raises:
            ValueError: see `plan_clip`.
        """
        plan = plan_clip(keyframes, num_frames, lambda pictures: self._encode(fit_images(pictures, width, height, "crop")))
        self.maybe_free_model_hooks()
        return plan

    def _normalised(self, latents: Tensor) -> Tensor:
        """Latents from the VAE's own scale to the model's; without a VAE they are in that already."""
        if self.vae is None:
            return latents
        config = self.vae.config
        mean, std = (torch.tensor(v).view(1, -1, 1, 1, 1).to(latents) for v in (config.latents_mean, config.latents_std))
        return (latents - mean) / std

    def _encode(self, pictures: Tensor) -> Tensor:
        """(N, H, W, 3) in [0, 1] -> (1, C, (N-1)/4+1, h, w) in the VAE's own scale."""
        video = pictures.permute(3, 0, 1, 2)[None].to(self._execution_device, self.vae.dtype) * 2 - 1
        return self.vae.encode(video).latent_dist.mode().float()

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = None,
        keyframes: Sequence[Keyframe] | Plan = (),
        height: int = 480,
        width: int = 832,
        num_frames: int = 81,
        num_inference_steps: int = 10,
        guidance_scale: float = 3.0,
        callback_on_step_end: Callable[..., dict[str, Any]] | PipelineCallback | MultiPipelineCallbacks | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        **wan: Any,
    ) -> Any:
        """`WanPipeline`'s call with keyframes; what is not named here is as there.

        Args:
            keyframes: see `pusa_core.keyframes`, or a plan that `plan` made; none is plain text to video.
            height, width: pixels; multiples of 16, of 32 for the 5B model.
            num_frames: 4n+1.
            callback_on_step_end: gets, and may change, the latents of the frames, each at its own sigma.

        Raises:
            ValueError: a keyframe cannot be placed, or the plan is for another length or size.
        """
        self._check_size(height, width)
        if isinstance(keyframes, Plan):
            plan: Plan | None = keyframes
        else:
            plan = self.plan(keyframes, height, width, num_frames) if keyframes else None
        call = {
            "prompt": prompt, "negative_prompt": negative_prompt, "height": height, "width": width,
            "num_frames": num_frames, "num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale, **wan,
        }  # fmt: skip
        if plan is None or plan.is_ordinary:
            callback = {
                "callback_on_step_end": callback_on_step_end,
                "callback_on_step_end_tensor_inputs": list(callback_on_step_end_tensor_inputs),
            }
            return super().__call__(**call, **callback)
        self._check_plan(plan, height, width, num_frames)
        run = _Run(self, plan)
        with run.on(self.transformers):
            return super().__call__(**call, **run.callback(callback_on_step_end, callback_on_step_end_tensor_inputs))

    def _check_size(self, height: int, width: int) -> None:
        stride = self.vae_scale_factor_spatial * PATCH
        for what, size in (("height", height), ("width", width)):
            if size < stride or size % stride:  # Diffusers would take a smaller one, which keyframes do not fit
                raise ValueError(f"A {what} of {size} is not divisible by {stride}: use {max(size // stride, 1) * stride}.")

    def _check_plan(self, plan: Plan, height: int, width: int, num_frames: int) -> None:
        frames = pixel_length(len(plan))
        if frames != num_frames:
            raise ValueError(f"The plan is for {frames} frames, but num_frames is {num_frames}: give {frames}.")
        if plan.clean is None or self.vae is None:
            return
        stride = self.vae_scale_factor_spatial
        made = (plan.clean.shape[3] * stride, plan.clean.shape[4] * stride)
        if made != (height, width):
            raise ValueError(
                f"The plan's keyframes are {made[1]}x{made[0]}, but the clip is to be {width}x{height}: make them the same."
            )


class _Run:
    """One call with keyframes: what transformers and callbacks see of the virtual latents that the pipeline samples."""

    def __init__(self, pipe: PusaWanPipeline, plan: Plan):
        self.scheduler, self.table = pipe.scheduler, plan.table
        clean = torch.zeros(1, 1, len(plan), 1, 1) if plan.clean is None else plan.clean
        self.clean = pipe._normalised(clean.float())

    @contextmanager
    def on(self, transformers: Sequence[nn.Module]) -> Iterator[None]:
        with ExitStack() as hooks:
            for wan in transformers:
                hooks.enter_context(wan.register_forward_pre_hook(self._before, with_kwargs=True))
                hooks.enter_context(wan.register_forward_hook(self._after, with_kwargs=True))
                embedder = wan.get_submodule("condition_embedder")
                hooks.enter_context(embedder.register_forward_pre_hook(self._before_embedding, with_kwargs=True))
                hooks.enter_context(embedder.register_forward_hook(self._after_embedding))
            yield

    @property
    def sigma(self) -> float:
        """Where the scheduler is; its timesteps may be rounded."""
        return float(self.scheduler.sigmas[self.scheduler.step_index or 0])

    @torch.compiler.disable
    def _before(self, wan: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        virtual, sigma = kwargs["hidden_states"], self.sigma
        table = self.table.to(virtual.device)
        self.virtual, self.at = virtual, table.at(sigma, self.scheduler.sigmas.to(virtual.device))
        x = self.at.to_frame(virtual, self._clean(virtual)).to(virtual.dtype)
        timesteps = kwargs["timestep"].flatten()[0] * self.at.ratio  # (1, F)
        return args, {**kwargs, "hidden_states": x, "timestep": _per_token(timesteps.expand(len(x), -1), x)}

    @torch.compiler.disable
    def _after(self, wan: nn.Module, args: tuple, kwargs: dict[str, Any], output: tuple[Tensor]) -> tuple[Tensor]:
        velocity = self.at.velocity(self.virtual, self._clean(self.virtual), output[0], self.sigma)
        return (velocity.to(output[0].dtype),)

    @torch.compiler.disable
    def _before_embedding(self, embedder: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        """Embeds a frame's timestep once and not for each of its tokens."""
        tokens = args[0].view(-1, kwargs["timestep_seq_len"])  # (B, those of this process), all rows the same
        values, self.repeats = tokens[0].unique_consecutive(return_counts=True)
        return (values.repeat(len(tokens)), *args[1:]), {**kwargs, "timestep_seq_len": len(values)}

    @torch.compiler.disable
    def _after_embedding(self, embedder: nn.Module, args: tuple, output: tuple) -> tuple:
        embedding, projection, *rest = output  # (B, frames, ...)
        return *(x.repeat_interleave(self.repeats, dim=1) for x in (embedding, projection)), *rest

    def _clean(self, like: Tensor) -> Tensor:
        return self.clean.to(like.device)

    def callback(self, theirs: Callable[..., dict[str, Any]] | None, names: Sequence[str]) -> dict[str, Any]:
        """The arguments that give a callback the frames' latents, and the pipeline these at the end."""
        names = list(getattr(theirs, "tensor_inputs", names))

        def on_step_end(pipe: PusaWanPipeline, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            virtual = tensors["latents"]
            at, clean = self.table.to(virtual.device).at(self.sigma), self._clean(virtual)
            tensors["latents"] = frames = at.to_frame(virtual, clean)
            changed = {} if theirs is None else theirs(pipe, step, timestep, {name: tensors[name] for name in names}) or {}
            frames = changed.get("latents", frames)
            ends = step == pipe.num_timesteps - 1
            if ends:
                frames = torch.where(per_frame(at.pinned), clean, frames)
            if ends or pipe.interrupt:
                return {**changed, "latents": frames}
            return {**changed, "latents": virtual if frames is tensors["latents"] else at.to_virtual(frames, clean)}

        return {"callback_on_step_end": on_step_end, "callback_on_step_end_tensor_inputs": [*{*names, "latents"}]}


def _per_token(values: Tensor, latents: Tensor) -> Tensor:
    """Values of latent frames, (B, F), for every token, (B, tokens)."""
    return values.repeat_interleave((latents.shape[3] // PATCH) * (latents.shape[4] // PATCH), dim=1)


def _linear_shapes(wan: WanTransformer3DModel) -> dict[str, tuple[int, int]]:
    shapes = {}
    for number, block in enumerate(wan.blocks):
        for theirs, kind in DIFFUSERS_KINDS.items():
            module = block.get_submodule(theirs)
            shapes[f"blocks.{number}.{kind}"] = (module.out_features, module.in_features)
    return shapes
