"""A Wan transformer whose latent frames have timesteps of their own.

Diffusers' Wan takes one timestep for a clip or one for every token; the latter projects each token's timestep to six times
the model's width and keeps that through all blocks, which nearly triples a step's memory. But all tokens of a frame have one
timestep. So frames are folded into the batch, (B * F, tokens of a frame, width), where every layer takes them as clips with a
timestep each, and only attention sees whole clips, (B, F * tokens of a frame, width). The rotary embedding is that of the
whole clip anyway. Nothing is copied, and nothing stays on the model.

A model that is split over processes by tokens (context parallelism) gets a timestep for every token, which Diffusers splits
with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from einops import rearrange, repeat
from torch import Tensor, nn

from ...causal import block_causal_mask
from ...virtual_latent import FrameCoefficients
from ...wan import PATCH

STEP, VIRTUAL = "pusa_step", "pusa_virtual"  # names in `attention_kwargs`, which the transformer itself does not read


def velocity(wan: nn.Module, latents: Tensor, sigmas: Tensor, text: Tensor, positions: Sequence[int] | None = None) -> Tensor:
    """The model's velocity for latents whose frames may have sigmas of their own.

    Gradients and gradient checkpointing are as ever.

    Args:
        wan: a Wan transformer of Diffusers, or one wrapped for training or compiled.
        latents: (B, C, F, H, W).
        sigmas: (B,), one for each clip, or (B, F), one for each latent frame.
        text: (B, L, text width).
        positions: of latent frames in time, where each has a sigma of its own; None counts them from 0.
    """
    timesteps = 1000 * sigmas
    if timesteps.ndim == 1:
        return wan(latents, timesteps, text, return_dict=False)[0]
    model = unwrapped(wan)
    with per_frame_timesteps(model, positions=positions):
        return wan(latents, timestep_input(model, timesteps, latents), text, return_dict=False)[0]


@contextmanager
def per_frame_timesteps(
    model: Any, blocks: Sequence[int] | None = None, positions: Sequence[int] | None = None
) -> Iterator[None]:
    """Within it a transformer takes what `timestep_input` makes.

    Args:
        blocks: latent frames of each block of causal attention; None where all attend to all.
        positions: see `velocity`.

    Raises:
        ValueError: causal attention or positions of a model that is split by tokens.
    """
    if blocks is not None and is_split_by_tokens(model):
        raise ValueError("Causal attention was asked for with context parallelism, which splits its blocks: take one out.")
    if positions is not None and is_split_by_tokens(model):
        raise ValueError(
            "Frames were given positions of their own with context parallelism, which splits these: take one out."
        )
    if is_split_by_tokens(model):
        yield
        return
    with ExitStack() as stack:
        stack.enter_context(model.patch_embedding.register_forward_hook(_fold_frames))
        if positions is not None:
            stack.enter_context(model.rope.register_forward_hook(partial(_rotary_at, positions)))
        if torch.is_grad_enabled() and model.gradient_checkpointing:
            stack.enter_context(_recomputed_with_clips(model))
        else:
            stack.enter_context(_attention_sees_clips(model.blocks, blocks))
        yield


def timestep_input(model: nn.Module, timesteps: Tensor, latents: Tensor) -> Tensor:
    """Timesteps of latent frames, (B, F), for the model: (B * F,), or (B, tokens) where it is split by tokens."""
    if not is_split_by_tokens(model):
        return timesteps.flatten()
    return repeat(timesteps, "b f -> b (f n)", n=(latents.shape[3] // PATCH) * (latents.shape[4] // PATCH))


def unwrapped(wan: nn.Module) -> Any:
    """The transformer in what `torch.compile` or a launcher of distributed training made of it."""
    return extract_model_from_parallel(wan, keep_fp32_wrapper=True, keep_torch_compile=False)


def is_split_by_tokens(model: nn.Module) -> bool:
    """Whether `enable_parallelism` has split it over processes by tokens."""
    return getattr(getattr(model, "_parallel_config", None), "context_parallel_config", None) is not None


# --- frames as the batch -------------------------------------------------------------------------------------------------


def _fold_frames(module: nn.Module, args: Any, patches: Tensor) -> Tensor:
    return rearrange(patches, "b d f h w -> (b f) d 1 h w")


def _rotary_at(positions: Sequence[int], rope: nn.Module, args: Any, rotary: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The rotary embedding of frames at positions of their own, out of that of a longer clip."""
    longer = args[0][:, :, :1].expand(-1, -1, max(positions) + 1, -1, -1)
    tokens = rotary[0].shape[1] // len(positions)
    return tuple(
        torch.cat([part[:, p * tokens : (p + 1) * tokens] for p in positions], dim=1) for part in rope.forward(longer)
    )


class ClipAttention:
    """An attention processor that lets another see whole clips where frames are folded into the batch.

    How many frames there are follows from the inputs, so that a compiled graph holds nothing of the call it was made in.
    """

    def __init__(self, processor: Callable[..., Tensor], blocks: Sequence[int] | None = None):
        self.processor, self.blocks = processor, blocks

    def __call__(self, attn: nn.Module, frames: Tensor, text: Any, mask: Any, rotary: Any, **more: Any) -> Tensor:
        count = rotary[0].shape[1] // frames.shape[1] if rotary is not None else len(frames) // len(text)
        if self.blocks is not None and text is None:
            mask = block_causal_mask([frames.shape[1] * block for block in self.blocks], frames.device)
        clips = rearrange(frames, "(b f) n d -> b (f n) d", f=count)
        return rearrange(self.processor(attn, clips, text, mask, rotary, **more), "b (f n) d -> (b f) n d", f=count)


@contextmanager
def _attention_sees_clips(layers: Iterable[Any], blocks: Sequence[int] | None = None) -> Iterator[None]:
    attentions = [attention for layer in layers for attention in (layer.attn1, layer.attn2)]
    processors = [attention.processor for attention in attentions]
    try:
        for attention, processor in zip(attentions, processors):
            attention.set_processor(ClipAttention(processor, blocks))
        yield
    finally:
        for attention, processor in zip(attentions, processors):
            attention.set_processor(processor)


@contextmanager
def _recomputed_with_clips(model: Any) -> Iterator[None]:
    """The same for gradient checkpointing, which runs a block again in backward, long after this context."""
    checkpoint = model._gradient_checkpointing_func
    model._gradient_checkpointing_func = lambda block, *args: checkpoint(partial(_run_block, block), *args)
    try:
        yield
    finally:
        model._gradient_checkpointing_func = checkpoint


def _run_block(block: nn.Module, *args: Any) -> Tensor:
    with _attention_sees_clips([block]):
        return block(*args)


# --- virtual latents -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """What a step of the sampler is for the frames: tensors only, which reach the model as an input.

    Attributes:
        at: the schedule at the step's sigma.
        clean: (1 or B, C, F, H, W), the keyframes as the model sees them.
        sigma: the sampler's, of shape ().
        seen: the latent frames that the model sees; None for all.
    """

    at: FrameCoefficients
    clean: Tensor
    sigma: Tensor
    seen: Tensor | None = None


@contextmanager
def virtual_latents(
    transformers: Iterable[nn.Module], blocks: Sequence[int] | None = None, positions: Sequence[int] | None = None
) -> Iterator[None]:
    """Within it the models take virtual latents and give their velocities, with a `Step` in `attention_kwargs`.

    The hooks look at nothing but a call's inputs: a compiled graph is right for every step and every call with a `Step`, and
    is not used for others.
    """
    with ExitStack() as stack:
        for model in map(unwrapped, transformers):
            stack.enter_context(per_frame_timesteps(model, blocks, positions))
            stack.enter_context(model.register_forward_pre_hook(_show_frames, with_kwargs=True))
            stack.enter_context(model.register_forward_hook(_velocity_of_virtual, with_kwargs=True))
        yield


def _show_frames(model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    step, virtual = kwargs["attention_kwargs"][STEP], kwargs["hidden_states"]
    x = step.at.to_frame(virtual, step.clean).to(virtual.dtype)
    timesteps = (kwargs["timestep"].flatten()[0] * step.at.ratio).expand(len(x), -1)  # (B, F)
    if step.seen is not None:
        x, timesteps = x[:, :, step.seen], timesteps[:, step.seen]
    more = {**kwargs["attention_kwargs"], VIRTUAL: virtual}
    return args, {**kwargs, "hidden_states": x, "timestep": timestep_input(model, timesteps, x), "attention_kwargs": more}


def _velocity_of_virtual(model: nn.Module, args: tuple, kwargs: dict[str, Any], output: tuple[Tensor]) -> tuple[Tensor]:
    step, virtual = kwargs["attention_kwargs"][STEP], kwargs["attention_kwargs"][VIRTUAL]
    velocity = output[0]
    if step.seen is not None:  # what is not shown stays as it is
        velocity = torch.zeros_like(virtual, dtype=velocity.dtype).index_copy(2, step.seen, velocity)
    return (step.at.velocity(virtual, step.clean, velocity, step.sigma).to(velocity.dtype),)
