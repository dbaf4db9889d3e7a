"""Diffusers' own Wan pipeline with keyframes: it works on virtual latents, see `pusa_core.virtual_latent`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import SkyReelsV2Transformer3DModel, WanPipeline, WanTransformer3DModel
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from einops import rearrange
from torch import Tensor

from ...capabilities import check_text_to_video
from ...frames import latent_length, pixel_length
from ...lora import LoraReport
from ...plan import Plan, join_plans, leading, place_keyframes, plan_clip
from ...resize import fit_images
from ...roll_files import RollFolder
from ...rolling import Roll
from ...schedule import FrameSchedule
from ...staircase import Staircase
from ...virtual_latent import per_frame
from ...wan import EXPERT_BOUNDARY
from .checks import (
    check_latents,
    check_length,
    check_longest,
    check_pictures,
    check_rolling,
    check_scheduler,
    check_single_transformer,
    check_size,
    check_start,
)
from .forcing import FPS, as_wan
from .long_video import Guidance, LongVideo, blended, by_frame, embedded, long_video_studio, video_key
from .lora import load_pusa_lora
from .per_frame import STEP, Step, virtual_latents
from .pictures import as_list, is_per_prompt, read_keyframes
from .scheduler import PusaScheduler


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


class PusaWanPipeline(WanPipeline):
    """Wan text to video with a sigma for every latent frame.

    Everything of `WanPipeline` holds: its schedulers, two transformers, callbacks, offload, LoRA, quantised and compiled
    transformers, context parallelism, `save_pretrained` and `from_pretrained`. `PusaWanPipeline.from_wan` makes one of a
    loaded `WanPipeline`. A clip with keyframes takes the memory of one without; with context parallelism, which splits a
    clip by its tokens, it takes more.
    """

    _optional_components = [*WanPipeline._optional_components, "tokenizer", "text_encoder", "vae"]
    _run: _Run | None = None
    scheduler: Any  # which one call may replace

    @classmethod
    def from_wan(cls, wan: Any, shift: float = 5.0, fps: float = FPS) -> PusaWanPipeline:
        """A pipeline that shares the models of a `WanPipeline`, on Pusa's sigma grid; assign another scheduler to use that.

        A pipeline of SkyReels-V2 will do, too, whose transformer is a Wan.

        Offload is to be turned on here and not there, as with `from_pipe`, which would also cast every model to fp32.

        Args:
            fps: frames a second, of which only SkyReels-V2-DF-1.3B is told.

        Raises:
            ValueError: it is not a text-to-video model.
        """
        config = {name: wan.config[name] for name in ("boundary_ratio", "expand_timesteps") if name in wan.config}
        models = {**wan.components, "scheduler": PusaScheduler(shift=shift)}
        if isinstance(models["transformer"], SkyReelsV2Transformer3DModel):
            models["transformer"] = as_wan(models["transformer"], fps)
        pipe = cls(**models, **config)
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
            adapter_name: each model may have one adapter of a name.

        Raises:
            ValueError: the file is not a Pusa LoRA for this model's size, there is no such model, or it has an adapter of
                this name.
        """
        return load_pusa_lora(self, path, alpha, low_noise, adapter_name)

    @torch.no_grad()
    def plan(self, keyframes: Any, height: int, width: int, num_frames: int, staircase: Staircase | None = None) -> Plan:
        """One clip's keyframes encoded and placed; pictures of another size are cropped to the clip's.

        Args:
            keyframes, staircase: as `__call__` takes them.

        Raises:
            ValueError: a keyframe cannot be read or placed, see `plan_clip`; or there is no VAE to encode it.
        """
        read = read_keyframes(as_list(keyframes), num_frames)
        if read and self.vae is None:
            raise ValueError("This pipeline has no VAE to encode keyframes with: give a Plan whose latents are encoded.")
        plan = plan_clip(read, num_frames, self._encode_cropped(height, width), staircase)
        self.maybe_free_model_hooks()
        return plan

    def _encode_cropped(self, height: int, width: int) -> Callable[[Tensor], Tensor]:
        return lambda pictures: self._encode(fit_images(pictures, width, height, "crop"))

    def _encode(self, pictures: Tensor) -> Tensor:
        """(N, H, W, 3) in [0, 1] -> (1, C, (N-1)/4+1, h, w) in the VAE's own scale."""
        video = pictures.permute(3, 0, 1, 2)[None].to(self._execution_device, self.vae.dtype) * 2 - 1
        return self.vae.encode(video).latent_dist.mode().float()

    def _normalised(self, latents: Tensor) -> Tensor:
        """Latents from the VAE's own scale to the model's; without a VAE they are in that already."""
        if self.vae is None:
            return latents
        mean, std = self._scale(latents)
        return (latents - mean) / std

    def _scale(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the VAE's latents, as they meet latents."""
        config = self.vae.config
        mean, std = (torch.tensor(v).view(1, -1, 1, 1, 1).to(latents) for v in (config.latents_mean, config.latents_std))
        return mean, std

    def _decode(self, latents: Tensor) -> Tensor:
        """Latents as the model sees them -> pictures (B, T, H, W, 3) in [0, 1]."""
        mean, std = self._scale(latents)
        video = self.vae.decode((latents * std + mean).to(self.vae.dtype), return_dict=False)[0]
        return rearrange((video.float() / 2 + 0.5).clamp(0, 1), "b c t h w -> b t h w c")

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = None,
        keyframes: Any = (),
        height: int = 480,
        width: int = 832,
        num_frames: int = 81,
        num_inference_steps: int = 10,
        guidance_scale: float = 3.0,
        callback_on_step_end: Callable[..., dict[str, Any]] | PipelineCallback | MultiPipelineCallbacks | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        attention_kwargs: dict[str, Any] | None = None,
        staircase: Staircase | None = None,
        **wan: Any,
    ) -> Any:
        """`WanPipeline`'s call with keyframes; what is not named here is as there.

        Args:
            keyframes: one, or a list of them; none is plain text to video. Each is

                * an image, for the first frame;
                * `(image, frame)` or `(image, frame, noise)`: the pixel frame it is placed at, negative from the end, and
                  its noise multiplier from 0 (kept as it is) to 1 (free), by default 0.2, and 0.5 for the last frame;
                * `(clip, Strength("0: 0, 5: 1"))`: every frame starts from a clip, see `pusa_core.strength.Strength`;
                * a `Keyframe`, see `pusa_core.keyframes`.

                An image is a PIL image, an array (H, W, 3) of uint8 or of floats in [0, 1], or such a tensor, (3, H, W)
                too. Several frames, (N, H, W, 3) or a list of images, are a clip: 4n+1 frames at the start, 4n+1 or 4n
                later, see `clip_keyframe`. With a list of prompts, a list of such lists gives each prompt its own, for all
                of its `num_videos_per_prompt`. In place of a list there may be a `Plan`, which `plan` makes.
            height, width: pixels; multiples of 16, of 32 for the 5B model.
            num_frames: 4n+1.
            callback_on_step_end: gets, and may change, the latents of the frames, each at its own sigma.
            staircase: when frames take their steps, see `pusa_core.staircase`; steps and shift are then its own. For
                diffusion forcing models, as SkyReels-V2-DF: `Staircase(30, 8.0, delay=5, block=5, causal=True)`.

        Raises:
            ValueError: a keyframe cannot be read or placed, the plan is for another length, size or number of clips, or
                the scheduler cannot follow it.
        """
        check_size(height, width, self.vae_scale_factor_spatial)
        check_longest(num_frames, self.transformers[0].config.rope_max_seq_len)
        call = {
            "prompt": prompt, "negative_prompt": negative_prompt, "height": height, "width": width,
            "num_frames": num_frames, "num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale, **wan,
        }  # fmt: skip
        plan = self._read_plan(keyframes, call, staircase)
        if plan is None or plan.is_ordinary:
            callback = {
                "callback_on_step_end": callback_on_step_end,
                "callback_on_step_end_tensor_inputs": list(callback_on_step_end_tensor_inputs),
            }
            return super().__call__(**call, **callback, attention_kwargs=attention_kwargs)
        check_length(plan, num_frames)
        if self.vae is not None:
            check_pictures(plan, height, width, self.vae_scale_factor_spatial)
        scheduler: Any = self.scheduler  # of WanPipeline, whose types mypy does not follow
        if plan.staircase is not None and plan.grid is not None:
            check_single_transformer(self.transformers)
            scheduler, call["num_inference_steps"] = PusaScheduler(shift=plan.staircase.clock_shift), len(plan.grid) - 1
        check_scheduler(scheduler, plan)
        seen = virtual_latents(self.transformers, plan.blocks, plan.positions)
        with self._running(plan, scheduler, attention_kwargs) as run, seen:
            callback = run.callback(callback_on_step_end, callback_on_step_end_tensor_inputs)
            return super().__call__(**call, **callback, attention_kwargs=run.attention_kwargs)

    @torch.no_grad()
    def long_video(
        self,
        prompt: str | Mapping[int, str] | None = None,
        negative_prompt: str | None = None,
        keyframes: Any = (),
        height: int = 480,
        width: int = 832,
        num_frames: int = 321,
        guidance_scale: float = 3.0,
        guidance_scale_2: float | None = None,
        generator: torch.Generator | None = None,
        moving_frames: int = 4,
        steps: int = 1,
        shift: float = 5.0,
        blend: int = 8,
        anchor_distance: int = 1,
        keyframes_beside: bool = False,
        folder: str | Path | None = None,
        prompt_embeds: Tensor | Mapping[int, Tensor] | None = None,
        negative_prompt_embeds: Tensor | None = None,
        max_sequence_length: int = 512,
    ) -> LongVideo:
        """A video of any length in the memory of a short one; it is made while the result is iterated over or saved.

        A window of a few latent frames rolls along the video, see `pusa_core.rolling`. With two transformers every
        evaluation is made by both, for frames are at high and at low noise at once.

        Args:
            prompt: one, or by the pixel frame at which each begins to hold: `{0: "a boat sails on", 160: "a storm"}`.
            keyframes: as `__call__` takes them, for one prompt; they hold their pictures. Those at the start are where the
                video begins; later ones are met on the way.
            num_frames: 4n+1.
            generator: whose seed the noise has; without one it is another in every call, and 0 with `folder`.
            moving_frames: latent frames that are denoised at once, each a step behind the one before.
            steps: model evaluations for each new latent frame; a frame takes `moving_frames` times as many steps.
            shift: flow shift of a frame's steps; the pipeline's scheduler takes no part.
            blend: frames over which one prompt passes into the next.
            anchor_distance: latent frames by which the first frame seems to lie before the newest finished one, at most.
            keyframes_beside: single pictures on the way are shown beside their frame, which is painted after them.
            folder: keeps what a run that is stopped, or dies, needs to go on from; the same call goes on.
            prompt_embeds: in place of `prompt`, (1, L, text width) each.

        Raises:
            ValueError: the same as by `__call__`; or there is no VAE, or one that decodes whole clips only.
        """
        check_size(height, width, self.vae_scale_factor_spatial)
        check_rolling(moving_frames, steps, blend, anchor_distance)
        if self.vae is None:
            raise ValueError("This pipeline has no VAE, with which a long video is decoded as it is made: give it one.")
        frames, staircase = latent_length(num_frames), Staircase.rolling(moving_frames, steps, shift)
        read = [replace(keyframe, behaviour="hold") for keyframe in read_keyframes(as_list(keyframes), num_frames)]
        placed, notes = place_keyframes(read, frames, self._encode_cropped(height, width))
        given = {frame: (self._normalised(p.latent).cpu(), p.multiplier) for frame, p in placed.items()}
        scales = (guidance_scale, guidance_scale if guidance_scale_2 is None else guidance_scale_2)
        prompts = by_frame(prompt if prompt_embeds is None else prompt_embeds, num_frames)
        texts = {frame: embedded(self, text, max_sequence_length) for frame, text in prompts.items()}
        without = (negative_prompt or "") if negative_prompt_embeds is None else negative_prompt_embeds
        negative = embedded(self, without, max_sequence_length) if max(scales) > 1 else None
        self.maybe_free_model_hooks()
        guidance = Guidance(blended(texts, blend), negative, scales, self.config.boundary_ratio or EXPERT_BOUNDARY)
        seed = generator.initial_seed() if generator is not None else 0 if folder is not None else torch.Generator().seed()
        sides = (height // self.vae_scale_factor_spatial, width // self.vae_scale_factor_spatial)
        shape = (1, self.transformers[0].config.in_channels, *sides)
        rolled = (moving_frames, steps, shift, blend, anchor_distance, keyframes_beside)
        settings = [shape, frames, seed, scales, rolled]
        kept = None if folder is None else RollFolder(Path(folder) / video_key(self, settings, texts, negative, given))

        def begin() -> Roll:
            progress = None if kept is None else kept.load(leading(given))
            studio = long_video_studio(self, guidance, seed, shape)
            return Roll(staircase, frames, given, studio, progress, anchor_distance, keyframes_beside)

        return LongVideo(begin, notes, kept, self.progress_bar, self.maybe_free_model_hooks)

    def _read_plan(self, keyframes: Any, call: dict[str, Any], staircase: Staircase | None) -> Plan | None:
        if isinstance(keyframes, Plan):
            return keyframes
        keyframes, size = as_list(keyframes), (call["height"], call["width"], call["num_frames"], staircase)
        if not keyframes and staircase is None:
            return None
        if not is_per_prompt(keyframes):
            return self.plan(keyframes, *size)
        prompt = call["prompt"] if call["prompt"] is not None else call.get("prompt_embeds")
        prompts = 1 if isinstance(prompt, str) or prompt is None else len(prompt)
        if len(keyframes) != prompts:
            raise ValueError(f"There are {prompts} prompts, but keyframes for {len(keyframes)}: give a list for each prompt.")
        plans = [given if isinstance(given, Plan) else self.plan(given, *size) for given in keyframes]
        return join_plans(plans, [call.get("num_videos_per_prompt") or 1] * prompts)

    @contextmanager
    def _running(self, plan: Plan, scheduler: Any, attention_kwargs: dict[str, Any] | None) -> Iterator[_Run]:
        own: Any = self.scheduler
        self.scheduler = scheduler
        self._run = run = _Run(self, plan, attention_kwargs)
        try:
            yield run
        finally:
            self.scheduler = own
            self._run = self._attention_kwargs = None  # which would keep the last step's tensors on the card

    def prepare_latents(self, *args: Any, **kwargs: Any) -> Tensor:
        """As `WanPipeline`'s; the scheduler's sigmas are known by now."""
        latents = super().prepare_latents(*args, **kwargs)
        if self._run is not None:
            self._run.begin(latents)
        return latents


class _Run:
    """One call with keyframes: what transformers and callbacks see of the virtual latents that the pipeline samples."""

    def __init__(self, pipe: PusaWanPipeline, plan: Plan, attention_kwargs: dict[str, Any] | None):
        self.scheduler, self.plan = pipe.scheduler, plan
        self.attention_kwargs = dict(attention_kwargs or {})
        clean = torch.zeros(1, 1, len(plan), 1, 1) if plan.clean is None else plan.clean
        self.clean = pipe._normalised(clean.float())

    def begin(self, latents: Tensor) -> None:
        """Takes all to the latents' device, once."""
        check_latents(self.plan, latents)
        self.clean, self.table = self.clean.to(latents.device), self.plan.table.to(latents.device)
        self.shown = None if self.plan.shown is None else self.plan.shown.to(latents.device)
        self.sigmas = self.scheduler.sigmas.to(latents.device)
        check_start(self.scheduler, self.plan, self._advance().at)

    def _advance(self) -> Step:
        """The step that the scheduler is at, for the model, too. A scheduler's timesteps may be rounded: its sigmas count."""
        sigma = self.sigmas[self.scheduler.step_index or 0]
        seen = None if self.shown is None else self.shown.at(sigma)
        step = Step(self.table.at(sigma, self.sigmas), self.clean, sigma, seen)
        self.attention_kwargs[STEP] = step
        return step

    def callback(self, theirs: Callable[..., dict[str, Any]] | None, names: Sequence[str]) -> dict[str, Any]:
        """The arguments that give a callback the frames' latents, and the pipeline these at the end."""
        names = list(getattr(theirs, "tensor_inputs", names))

        def on_step_end(pipe: PusaWanPipeline, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            virtual, at, clean = tensors["latents"], self._advance().at, self.clean
            ends = step == pipe.num_timesteps - 1
            stops = ends or pipe.interrupt
            if theirs is None and not stops:
                return {}
            tensors["latents"] = frames = at.to_frame(virtual, clean)
            changed = {} if theirs is None else theirs(pipe, step, timestep, {name: tensors[name] for name in names}) or {}
            frames = changed.get("latents", frames)
            if ends:
                frames = torch.where(per_frame(at.pinned), clean, frames)
            if stops or pipe.interrupt:
                return {**changed, "latents": frames}
            return {**changed, "latents": virtual if frames is tensors["latents"] else at.to_virtual(frames, clean)}

        return {"callback_on_step_end": on_step_end, "callback_on_step_end_tensor_inputs": [*{*names, "latents"}]}
