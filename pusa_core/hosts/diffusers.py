"""Pusa on Diffusers: the only file that touches `diffusers`.

Diffusers' Wan takes a timestep for every token, so a timestep for every latent frame needs no patch.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import WanTransformer3DModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..lora import DIFFUSERS_KINDS
from ..schedule import FrameSchedule
from ..virtual import coefficients, to_frame

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
FP32_MODULES = re.compile("time_embedder|scale_shift_table|norm")  # what Diffusers keeps in fp32


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


def wan_config(shapes: dict[str, tuple[int, ...]], metadata: dict[str, str]) -> dict[str, Any]:
    """Diffusers' config of a Wan text-to-video checkpoint, read off the shapes of its tensors (original names).

    Raises:
        ValueError: it is no Wan, or not a text-to-video one.
    """
    patch, head, ffn = (shapes.get(key) for key in ("patch_embedding.weight", "head.head.weight", "blocks.0.ffn.0.weight"))
    if not (patch and head and ffn):
        raise ValueError("This file is no Wan checkpoint (patch_embedding, blocks or head are missing): choose a Wan model.")
    dim, channels = patch[0], head[0] // 4
    _check_text_to_video(patch[1], channels)
    told = json.loads(metadata.get("config", "{}")).get("transformer", {})
    heads = told.get("num_heads", dim // 128)
    return {
        "num_attention_heads": heads,
        "attention_head_dim": dim // heads,
        "in_channels": channels,
        "out_channels": channels,
        "text_dim": shapes["text_embedding.0.weight"][1],
        "freq_dim": shapes["time_embedding.0.weight"][1],
        "ffn_dim": ffn[0],
        "num_layers": 1 + max(int(key.split(".")[1]) for key in shapes if key.startswith("blocks.")),
    }


def _check_text_to_video(in_channels: int, out_channels: int) -> None:
    if in_channels != out_channels:
        raise ValueError(
            f"This Wan checkpoint takes {in_channels} input channels, so it is an image-to-video or control model: "
            f"Pusa works on text-to-video (T2V) checkpoints, which take {out_channels}."
        )


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
    _check_text_to_video(wan.config.in_channels, wan.config.out_channels)
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
        timesteps = timesteps.repeat_interleave(latents.shape[3] * latents.shape[4] // 4, dim=1)  # (B, tokens)
    return wan(latents, timesteps, text, return_dict=False)[0]


@torch.inference_mode()
def sample(
    wan: WanTransformer3DModel,
    schedule: FrameSchedule,
    clean: Tensor,
    noise: Tensor,
    sigmas: Tensor,
    text: Tensor,
    negative: Tensor | None = None,
    cfg: float = 1.0,
) -> Tensor:
    """Clips by Euler's method, every latent frame on its own sigma (arXiv 2507.16116, section 3.3).

    Args:
        clean: (1 or B, C, F, H, W); only its keyframes are looked at.
        noise: (B, C, F, H, W).
        sigmas: the sampler's grid, falling from 1 to 0.
        text, negative: (B, L, text width); `negative` is needed where cfg is not 1.

    Returns:
        (B, C, F, H, W).
    """
    virtual = torch.lerp(clean.expand_as(noise), noise, float(sigmas[0]))
    for sigma, after in zip(sigmas[:-1].tolist(), sigmas[1:].tolist()):
        c = coefficients(schedule, sigma, after)
        x = to_frame(virtual, clean, _per_frame(c.scale, noise))
        at = (c.ratio * sigma).to(noise.device).expand(len(noise), -1)  # (B, F)
        v = velocity(wan, x, at, text)
        if cfg != 1 and negative is not None:
            v_negative = velocity(wan, x, at, negative)
            v = v_negative + cfg * (v - v_negative)
        v = torch.where(_per_frame(c.pinned, noise), (virtual - clean) / sigma, v)  # straight to the clean latent
        virtual = virtual + v * _per_frame(c.slope, noise) * (after - sigma)
    end = coefficients(schedule, float(sigmas[-1]))
    frames = to_frame(virtual, clean, _per_frame(end.scale, noise))
    return torch.where(_per_frame(end.pinned, noise), clean, frames)


def _per_frame(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.device)[None, None, :, None, None]  # (1, 1, F, 1, 1)
