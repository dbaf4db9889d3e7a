"""Files of Wan and of its VAE as Diffusers' models, and back."""

from __future__ import annotations

import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKLWan, SkyReelsV2Transformer3DModel, WanTransformer3DModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ...capabilities import check_text_to_video
from ...forcing import PARTS, TARGET, frame_rate_offset
from ...wan import PREFIX, diffusers_key, original_key, wan_config
from .forcing import FPS, as_wan

FP32_MODULES = re.compile(r"time_embedder|scale_shift_table|\.norm[123]\.")  # what Diffusers keeps in fp32
NO_MEMORY = re.compile(r"\(12\)$|\b1455\W*$", re.M)  # at the end of a system's error: ENOMEM, or Windows' of its page file


def open_wan(path: str | Path, dtype: torch.dtype = torch.bfloat16, fps: float = FPS) -> WanTransformer3DModel:
    """Opens a Wan text-to-video checkpoint of any size: an original or ComfyUI safetensors file, or a Diffusers folder.

    fp8 files are read with their scales. What Diffusers keeps in fp32 is kept so. SkyReels-V2 is a Wan.

    Args:
        fps: frames a second, of which only SkyReels-V2-DF-1.3B is told.

    Raises:
        ValueError: it cannot be used; the message says why.
    """
    path = Path(path)
    if path.is_dir():
        return _open_folder(path, dtype, fps)
    if path.suffix != ".safetensors" or not path.is_file():
        raise ValueError(f"{path} is not a safetensors file or a Diffusers folder: give a Wan text-to-video checkpoint.")
    try:
        return _open_file(path, dtype, fps)
    except SafetensorError as error:
        raise ValueError(f"{path.name} is damaged or cut off ({error}): download it again.") from error


def _open_folder(path: Path, dtype: torch.dtype, fps: float) -> WanTransformer3DModel:
    """The folder of a transformer, or of a pipeline that has one."""
    if (path / "model_index.json").is_file():
        path = path / "transformer"
    try:
        kind = WanTransformer3DModel.load_config(path).get("_class_name")
        if kind == SkyReelsV2Transformer3DModel.__name__:
            wan = as_wan(SkyReelsV2Transformer3DModel.from_pretrained(path, torch_dtype=dtype), fps)
        else:
            wan = WanTransformer3DModel.from_pretrained(path, torch_dtype=dtype)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} is not a folder of Diffusers' Wan, or incomplete ({error}).") from error
    check_text_to_video(wan.config.in_channels, wan.config.out_channels)
    return wan


def _open_file(path: Path, dtype: torch.dtype, fps: float) -> WanTransformer3DModel:
    with _mapped(path) as file:
        names = {PREFIX.sub("", key): key for key in file.keys()}  # noqa: SIM118
        shapes = {name: tuple(file.get_slice(key).get_shape()) for name, key in names.items()}
        config = wan_config(path.name, shapes, file.metadata() or {})
        with init_empty_weights(include_buffers=False):
            wan = WanTransformer3DModel(**config)
        parts = {name: _weight(file, names, name, torch.float32) for name in PARTS if name in names}
        weights = [name for name in names if name not in parts and not _is_scale(name)]
        state = {diffusers_key(name): _weight(file, names, name, dtype) for name in weights}
        if len(parts) == len(PARTS):
            bias = _weight(file, names, TARGET, torch.float32) + frame_rate_offset(parts, fps)
            state[diffusers_key(TARGET)] = bias.to(dtype)
    expected = set(wan.state_dict())
    if strays := sorted(state.keys() - expected):
        raise ValueError(
            f"{path.name} is a variant of Wan (it has {original_key(strays[0])}): choose a plain text-to-video one."
        )
    if missing := sorted(expected - state.keys()):
        raise ValueError(f"{path.name} is incomplete ({original_key(missing[0])} is missing): download it again.")
    wan.load_state_dict(state, assign=True)
    wan.register_to_config(_name_or_path=str(path))  # as Diffusers' own loader does
    return wan


def _mapped(path: Path) -> Any:
    """A file whose weights lie in it until they are changed, once for all processes of a machine."""
    try:
        return safe_open(path, framework="pt")
    except (MemoryError, OSError, RuntimeError) as error:  # torch may write to what it maps: of so much systems refuse
        if not (isinstance(error, MemoryError) or NO_MEMORY.search(str(error))):
            raise
        raise ValueError(
            f"{path.name} has {path.stat().st_size / 1e9:.1f} GB, which this computer's memory cannot hold ({error}): choose "
            "a smaller form of it, as bf16 or fp8, or one in several files."
        ) from error


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
