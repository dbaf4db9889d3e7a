"""What a Wan model's blocks are given where its latent frames have timesteps of their own, as ComfyUI's options for a model.

ComfyUI's blocks take a modulation for every frame, and copy each of its six vectors to all tokens of the frame. So frames are
folded into the batch there, (F, tokens of a frame, width), where a block takes them as clips with a modulation each, and only
attention sees the clip, (1, F * tokens of a frame, width). Nothing is copied, and every number is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import comfy.ldm.wan.model as comfy_wan
from comfy.ldm.modules.attention import attention_pytorch
from torch import Tensor, cat, nn

from ...causal import block_causal
from ...messages import fault
from ...wan import PATCH

ATTENTION = "optimized_attention_override"  # ComfyUI's name
OTHERS = "pusa_others_attention"
Options = dict[str, Any]
Block = Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]  # ComfyUI's replacement of a block


def frames_as_batch(wan: nn.Module, options: Options) -> Options:
    """Options with which blocks take frames as a batch, but those that another node has replaced.

    They are as they were where another node has changed what sees a block's tokens.
    """
    if not _is_stock(wan):
        return options
    return _with_blocks(wan, options, lambda other: other or _folded)


def positioned(wan: Any, positions: tuple[int, ...], x: Tensor, options: Options) -> Options:
    """Options with which frames are at positions of their own in the rotary embedding, in every block."""
    rotary = wan.rope_encode(
        max(positions) + 1, *x.shape[3:], device=x.device, dtype=x.dtype, transformer_options=options
    )  # (1, positions * tokens of a frame, ...)
    tokens = rotary.shape[1] // (max(positions) + 1)
    rotary = cat([rotary[:, p * tokens : (p + 1) * tokens] for p in positions], dim=1)
    return _with_blocks(wan, options, lambda other: partial(_at_positions, rotary, other))


def causal(blocks: list[int], x: Tensor, context: Tensor, options: Options) -> Options:
    """Options with which self-attention is block-causal, through whatever attention another node has put there."""
    pixels = -(-x.shape[3] // PATCH) * -(-x.shape[4] // PATCH)
    tokens = [pixels * frames for frames in blocks]
    if context.shape[1] == sum(tokens):
        raise fault(
            "A clip of {tokens} tokens cannot be told from its text, which has as many: change its size or length.",
            tokens=sum(tokens),
        )
    other = options.get(ATTENTION)

    def override(attention, query, key, value, *args, **kwargs):
        inner = partial(attention if other is None else partial(other, attention), *args, **kwargs)
        if key.shape[1] != sum(tokens):
            return inner(query, key, value)
        return block_causal(inner, query, key, value, tokens)

    return {**options, ATTENTION: override}


def _with_blocks(wan: Any, options: Options, replacement: Callable[[Block | None], Block]) -> Options:
    """Options with every block replaced.

    Args:
        replacement: makes it, of another node's for the block or None.
    """
    replaced = options.get("patches_replace", {})
    blocks = replaced.get("dit", {})
    names = [("double_block", number) for number in range(len(wan.blocks))]
    ours = {name: replacement(blocks.get(name)) for name in names}
    return {**options, "patches_replace": {**replaced, "dit": {**blocks, **ours}}}


def _at_positions(rotary: Tensor, other: Block | None, args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    args = {**args, "pe": rotary}
    return extra["original_block"](args) if other is None else other(args, extra)


def _is_stock(wan: Any) -> bool:
    """Whether no other node has put something in the place of what sees a block's tokens: its attention, of which ComfyUI's
    alone asks for an override, and its feed-forward, which some let take tokens in parts."""
    attention = [layer for block in wan.blocks for layer in (block.self_attn, block.cross_attn)]
    layers = [*attention, *(block.ffn for block in wan.blocks)]
    asks = getattr(comfy_wan.optimized_attention, "__code__", None) is attention_pytorch.__code__  # of ComfyUI's decorator
    comfyuis = all(type(layer).forward.__module__ == comfy_wan.__name__ for layer in attention)
    return asks and comfyuis and all(getattr(layer.forward, "__func__", None) is type(layer).forward for layer in layers)


def _folded(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    """A block with the frames of one clip as a batch. Of several, each would need a copy of the rotary embedding."""
    clip, modulation, options = args["img"], args["vec"], args["transformer_options"]  # (B, tokens, D), (B, F, 6, D)
    frames = modulation.shape[1]
    patches = options.get("patches", {})
    if len(clip) > 1 or clip.shape[1] % frames or "attn1_patch" in patches or "attn2_patch" in patches:
        return extra["original_block"](args)
    of_frames = {
        "img": _fold(clip, frames),
        "vec": modulation.transpose(0, 1),
        "pe": _fold(args["pe"], frames),
        "transformer_options": {**options, ATTENTION: _clip_attention, OTHERS: options.get(ATTENTION)},
    }
    return {"img": _unfold(extra["original_block"]({**args, **of_frames})["img"])}


def _clip_attention(attention: Callable, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    other = kwargs["transformer_options"][OTHERS]
    inner = attention if other is None else partial(other, attention)
    clip = inner(_unfold(query), _unfold(key), _unfold(value), *args, **kwargs)  # a text is one clip anyway
    return _fold(clip, len(query))


def _fold(clip: Tensor, frames: int) -> Tensor:
    return clip.reshape(frames, -1, *clip.shape[2:])


def _unfold(frames: Tensor) -> Tensor:
    return frames.reshape(1, -1, *frames.shape[2:])
