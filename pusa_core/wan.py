"""What every host has to know about Wan's checkpoints."""

from __future__ import annotations

import json
import re
from typing import Any

from .capabilities import check_text_to_video
from .lora import DIFFUSERS_KINDS
from .messages import fault

EXPERT_BOUNDARY = 0.875  # sigma below which Wan2.2-T2V-A14B's low-noise model takes over
PATCH = 2  # a token is 2 x 2 of a latent frame
PREFIX = re.compile(r"^(model\.)?(diffusion_model\.)?")
# Diffusers' names of a Wan's modules: the original ones.
MODULES = {
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    "proj_out": "head.head",
}
BLOCK_MODULES = {
    **DIFFUSERS_KINDS,
    **{
        f"{theirs}.norm_{part}": f"{original}.norm_{part}"
        for theirs, original in (("attn1", "self_attn"), ("attn2", "cross_attn"))
        for part in "qk"
    },
    "norm2": "norm3",
}


def original_key(key: str) -> str:
    """The original Wan spelling of one of Diffusers' keys, `blocks.0.attn1.to_q.weight` -> `blocks.0.self_attn.q.weight`."""
    if key.endswith("scale_shift_table"):
        return f"{key[:-17]}modulation" if key.startswith("blocks.") else "head.modulation"
    head, tail, block = _split(key)
    return f"{block}{(BLOCK_MODULES if block else MODULES).get(head, head)}.{tail}"


def diffusers_key(key: str) -> str:
    """The inverse of `original_key`."""
    if key.endswith("modulation"):
        return "scale_shift_table" if key.startswith("head.") else f"{key[:-10]}scale_shift_table"
    head, tail, block = _split(key)
    names = BLOCK_MODULES if block else MODULES
    return f"{block}{next((theirs for theirs, original in names.items() if original == head), head)}.{tail}"


def _split(key: str) -> tuple[str, str, str]:
    match = re.match(r"(blocks\.[0-9]+\.)?(.+)\.([^.]+)$", key)
    if match is None:
        return key, "", ""
    return match[2], match[3], match[1] or ""


def wan_config(name: str, shapes: dict[str, tuple[int, ...]], metadata: dict[str, str]) -> dict[str, Any]:
    """Diffusers' config of a Wan text-to-video checkpoint, read off the shapes of its tensors (original names).

    Args:
        name: what messages call it.

    Raises:
        ValueError: it is no Wan, or not a text-to-video one.
    """
    modules = "patch_embedding", "head.head", "blocks.0.ffn.0", "text_embedding.0", "time_embedding.0"
    patch, head, ffn, text, time = (shapes.get(f"{module}.weight", ()) for module in modules)
    if not (patch and head and ffn and text and time):
        raise fault(
            "{name} is no Wan checkpoint, it lacks one of {modules}: choose a Wan model.",
            name=name,
            modules=", ".join(modules),
        )
    dim, channels = patch[0], head[0] // 4
    check_text_to_video(patch[1], channels)
    stated = json.loads(metadata.get("config", "{}")).get("transformer", {})
    heads = stated.get("num_heads", max(dim // 128, 1))
    return {
        "num_attention_heads": heads,
        "attention_head_dim": dim // heads,
        "in_channels": channels,
        "out_channels": channels,
        "text_dim": text[1],
        "freq_dim": time[1],
        "ffn_dim": ffn[0],
        "num_layers": 1 + max(int(key.split(".")[1]) for key in shapes if key.startswith("blocks.")),
    }
