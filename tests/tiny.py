"""Small models in the real file formats, the same every time for a seed.

The stock loaders open every file written here: UNETLoader, VAELoader, LoraLoaderModelOnly. The defaults are chosen
so that all supported ComfyUI versions do: before `config` metadata was read for Wan (0.8.0 does not read it), a Wan
model had dim // 128 heads and a text width of 4096, whatever the file said.

Only torch and safetensors are needed to write; `load_wan` and `load_vae` need an importable ComfyUI.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import torch
from safetensors.torch import save_file

DIM, HEADS, LAYERS, FFN = 128, 1, 2, 256
TEXT_DIM = 4096
FREQ_DIM = 256  # the sinusoidal time embedding of every Wan model
CLIP_DIM = 1280  # the CLIP vision embedding of Wan2.1 I2V models

VARIANTS = ("t2v", "i2v", "vace", "camera", "camera_2.2", "ref_conv", "forcing")
IN_CHANNELS = {"i2v": 36, "camera": 32, "camera_2.2": 36}
ATTENTION = ("self_attn", "cross_attn")

GAINS = {"self_attn.o.": 3.0, "cross_attn.o.": 3.0, "text_embedding.2": 1.5, "time_embedding.2": 0.7}

Shapes = dict[str, tuple[int, ...]]


# --- the diffusion model ---------------------------------------------------------------------------------------------


def write_wan(
    path,
    *,
    channels: int = 16,
    in_channels: int | None = None,
    variant: str = "t2v",
    dim: int = DIM,
    heads: int = HEADS,
    layers: int = LAYERS,
    ffn: int = FFN,
    text_dim: int = TEXT_DIM,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Writes a Wan checkpoint in the original key layout.

    channels: 16 for Wan2.1 and Wan2.2-A14B, 48 for Wan2.2-TI2V-5B. in_channels: 36 with variant "t2v" is Wan2.2's I2V.
    variant: what ComfyUI detects; "i2v" and "camera" are the Wan2.1 kinds with CLIP vision inputs (7 MB more). "forcing" has
        SkyReels-V2-DF-1.3B's frame-rate embedding, which ComfyUI leaves out; its other weights are those of "t2v".
    heads other than dim // 128 or text_dim other than 4096 are told in `config` metadata, which 0.8.0 ignores.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, not {variant!r}")
    in_channels = in_channels or IN_CHANNELS.get(variant, channels)
    shapes = wan_shapes(channels, in_channels, variant, dim, layers, ffn, text_dim)
    generator = torch.Generator().manual_seed(seed)
    weights = {key: _wan_weight(key, shape, generator).to(dtype) for key, shape in shapes.items()}
    metadata = {"format": "pt"}
    if (heads, text_dim) != (dim // 128, 4096):
        metadata["config"] = json.dumps({"transformer": {"num_heads": heads, "text_dim": text_dim}})
    save_file(weights, str(path), metadata=metadata)
    return Path(path)


def wan_shapes(channels, in_channels, variant, dim, layers, ffn, text_dim) -> Shapes:
    shapes: Shapes = {
        "patch_embedding.weight": (dim, in_channels, 1, 2, 2),
        "patch_embedding.bias": (dim,),
        **_linear("text_embedding.0", dim, text_dim),
        **_linear("text_embedding.2", dim, dim),
        **_linear("time_embedding.0", dim, FREQ_DIM),
        **_linear("time_embedding.2", dim, dim),
        **_linear("time_projection.1", 6 * dim, dim),
        **_linear("head.head", 4 * channels, dim),
        "head.modulation": (1, 2, dim),
    }
    has_image = variant in ("i2v", "camera")
    for i in range(layers):
        shapes |= _block(f"blocks.{i}", dim, ffn, has_image)
    if has_image:
        shapes |= {
            "img_emb.proj.0.weight": (CLIP_DIM,),
            "img_emb.proj.0.bias": (CLIP_DIM,),
            **_linear("img_emb.proj.1", CLIP_DIM, CLIP_DIM),
            **_linear("img_emb.proj.3", dim, CLIP_DIM),
            "img_emb.proj.4.weight": (dim,),
            "img_emb.proj.4.bias": (dim,),
        }
    if variant == "vace":
        shapes |= {"vace_patch_embedding.weight": (dim, 96, 1, 2, 2), "vace_patch_embedding.bias": (dim,)}
        shapes |= _linear("vace_blocks.0.before_proj", dim, dim)
        for i in range(layers):
            shapes |= _block(f"vace_blocks.{i}", dim, ffn, False) | _linear(f"vace_blocks.{i}.after_proj", dim, dim)
    if variant.startswith("camera"):
        shapes |= {"control_adapter.conv.weight": (dim, 24 * 64, 2, 2), "control_adapter.conv.bias": (dim,)}
        for conv in ("conv1", "conv2"):
            key = f"control_adapter.residual_blocks.0.{conv}"
            shapes |= {f"{key}.weight": (dim, dim, 3, 3), f"{key}.bias": (dim,)}
    if variant == "forcing":
        shapes |= {"fps_embedding.weight": (2, dim)}
        shapes |= _linear("fps_projection.0", dim, dim) | _linear("fps_projection.2", 6 * dim, dim)
    if variant == "ref_conv":
        shapes |= {"ref_conv.weight": (dim, channels, 2, 2), "ref_conv.bias": (dim,)}
    return shapes


def _block(prefix: str, dim: int, ffn: int, has_image: bool) -> Shapes:
    shapes: Shapes = {}
    for attention in ATTENTION:
        at = f"{prefix}.{attention}"
        for name in "qkvo":
            shapes |= _linear(f"{at}.{name}", dim, dim)
        shapes |= {f"{at}.norm_q.weight": (dim,), f"{at}.norm_k.weight": (dim,)}
    if has_image:
        at = f"{prefix}.cross_attn"
        shapes |= _linear(f"{at}.k_img", dim, dim) | _linear(f"{at}.v_img", dim, dim)
        shapes[f"{at}.norm_k_img.weight"] = (dim,)
    shapes |= {f"{prefix}.norm3.weight": (dim,), f"{prefix}.norm3.bias": (dim,)}
    shapes |= _linear(f"{prefix}.ffn.0", ffn, dim) | _linear(f"{prefix}.ffn.2", dim, ffn)
    shapes[f"{prefix}.modulation"] = (1, 6, dim)
    return shapes


def _linear(key: str, rows: int, columns: int) -> Shapes:
    return {f"{key}.weight": (rows, columns), f"{key}.bias": (rows,)}


def _wan_weight(key: str, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Random weights under which time, text and the other frames all show in the output."""
    noise = torch.randn(shape, generator=generator)
    if key.endswith("modulation"):
        return 0.5 * noise
    if key.endswith((".norm_q.weight", ".norm_k.weight")):
        return 1.5 + 0.1 * noise  # attention that picks tokens: at 1 it averages over all of them
    if len(shape) == 1:
        is_norm = key.endswith(".weight")
        return is_norm + 0.05 * noise
    gain = next((gain for part, gain in GAINS.items() if part in key), 1.0)
    weight = gain * noise / math.sqrt(math.prod(shape[1:]))
    return weight * _slow_times() if key.startswith("time_embedding.0") else weight


def _slow_times() -> torch.Tensor:
    """A factor per sinusoid that leaves those slower than about a hundred timesteps, so that velocities are smooth."""
    half = FREQ_DIM // 2
    frequency = 10000.0 ** (-torch.arange(half) / half)
    keep = 1 / (1 + (100 * frequency) ** 2)
    keep = torch.cat([keep, keep])
    return keep / keep.square().mean().sqrt()


# --- VAEs ------------------------------------------------------------------------------------------------------------


def write_vae(path, channels: int = 16, width: int = 4, seed: int = 0) -> Path:
    """Writes a Wan VAE: 16 channels (Wan2.1: 8x in space) or 48 (Wan2.2: 16x); both 4x in time.

    ComfyUI reads the width of a 16-channel VAE from the file, but has that of the 48-channel one fixed (160 and 256:
    0.7 billion weights). So that one is written with every weight a window on a short random buffer: a .pt file of
    a few MB, which takes 2.8 GB of memory once loaded. `width` does not apply to it.
    """
    generator = torch.Generator().manual_seed(seed)
    if channels == 16:
        weights = {key: _vae_weight(key, shape, generator) for key, shape in vae_shapes(width, width, 16)}
        save_file(weights, str(path), metadata={"format": "pt"})
    elif channels == 48:
        if Path(path).suffix != ".pt":
            raise ValueError(f"a 48-channel VAE is small as a .pt file only, not as {Path(path).name}")
        torch.save({key: _vae_window(key, shape, generator) for key, shape in vae_shapes(160, 256, 48)}, path)
    else:
        raise ValueError(f"a Wan VAE has 16 or 48 channels, not {channels}")
    return Path(path)


def vae_shapes(width: int, decoder_width: int, z: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every key of a Wan VAE. The 48-channel one nests its stages, sees 2x2 patches and resamples at full width."""
    nested = z == 48
    pixels = 12 if nested else 3

    def stages(side: str, widths: list[int], residuals: int, halve: bool, in_time: list[bool]):
        inside = f"{side}samples"
        index = 0
        for stage, (rows_in, rows) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
            coder = "encoder" if side == "down" else "decoder"
            if halve and stage > 0:
                rows_in //= 2
            if nested:
                index = 0
            for _ in range(residuals):
                key = f"{coder}.{inside}.{stage}.{inside}.{index}" if nested else f"{coder}.{inside}.{index}"
                yield from _residual(key, rows_in, rows)
                rows_in = rows
                index += 1
            if stage < 3:
                key = f"{coder}.{inside}.{stage}.{inside}.{index}" if nested else f"{coder}.{inside}.{index}"
                yield from _conv(f"{key}.resample.1", rows // 2 if halve else rows, rows, (3, 3))
                if in_time[stage]:
                    yield from _conv(f"{key}.time_conv", 2 * rows if side == "up" else rows, rows, (3, 1, 1))
                index += 1

    def coder(name: str, inputs: int, first: int, last: int, outputs: int, deep: int):
        yield from _conv(f"{name}.conv1", first, inputs, (3, 3, 3))
        yield from _residual(f"{name}.middle.0", deep, deep)
        yield f"{name}.middle.1.norm.gamma", (deep, 1, 1)
        yield from _conv(f"{name}.middle.1.to_qkv", 3 * deep, deep, (1, 1))
        yield from _conv(f"{name}.middle.1.proj", deep, deep, (1, 1))
        yield from _residual(f"{name}.middle.2", deep, deep)
        yield f"{name}.head.0.gamma", (last, 1, 1, 1)
        yield from _conv(f"{name}.head.2", outputs, last, (3, 3, 3))

    deep = 4 * decoder_width
    yield from coder("encoder", pixels, width, 4 * width, 2 * z, 4 * width)
    yield from stages("down", [width * m for m in (1, 1, 2, 4, 4)], 2, False, [False, True, True])
    yield from _conv("conv1", 2 * z, 2 * z, (1, 1, 1))
    yield from _conv("conv2", z, z, (1, 1, 1))
    yield from coder("decoder", z, deep, decoder_width, pixels, deep)
    yield from stages("up", [decoder_width * m for m in (4, 4, 4, 2, 1)], 3, not nested, [True, True, False])


def _residual(key: str, rows_in: int, rows: int):
    yield f"{key}.residual.0.gamma", (rows_in, 1, 1, 1)
    yield from _conv(f"{key}.residual.2", rows, rows_in, (3, 3, 3))
    yield f"{key}.residual.3.gamma", (rows, 1, 1, 1)
    yield from _conv(f"{key}.residual.6", rows, rows, (3, 3, 3))
    if rows_in != rows:
        yield from _conv(f"{key}.shortcut", rows, rows_in, (1, 1, 1))


def _conv(key: str, rows: int, rows_in: int, kernel: tuple[int, ...]):
    yield f"{key}.weight", (rows, rows_in, *kernel)
    yield f"{key}.bias", (rows,)


def _vae_gain(key: str, shape: tuple[int, ...]) -> float:
    gain = 5.0 if key.startswith("encoder.head") else 1.0  # latents of about the spread of real ones
    return gain / math.sqrt(math.prod(shape[1:]))


def _vae_weight(key: str, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    noise = torch.randn(shape, generator=generator)
    if key.endswith("gamma"):
        return 1 + 0.1 * noise
    return 0.1 * noise if len(shape) == 1 else _vae_gain(key, shape) * noise


def _vae_window(key: str, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Like _vae_weight, but overlapping in storage: each row starts a little further into one random buffer."""
    if len(shape) <= 1 or key.endswith("gamma"):
        return _vae_weight(key, shape, generator)
    fan_in, step = math.prod(shape[1:]), math.prod(shape[2:]) + 2
    buffer = torch.randn(fan_in + step * shape[0], generator=generator) * _vae_gain(key, shape)
    row_strides = [math.prod(shape[i + 1 :]) for i in range(1, len(shape))]
    return buffer.as_strided(shape, (step, *row_strides))


# --- LoRAs and conditioning ------------------------------------------------------------------------------------------

SPELLINGS = {
    "diffusion_model": ("diffusion_model.{module}", "lora_A.weight", "lora_B.weight"),
    "bare": ("{module}", "lora_A.default.weight", "lora_B.default.weight"),
    "kohya": ("lora_unet_{module_}", "lora_down.weight", "lora_up.weight"),
}


def write_lora(
    path,
    *,
    dim: int = DIM,
    layers: int = LAYERS,
    ffn: int = FFN,
    ranks: tuple[int, ...] = (4,),
    spelling: str = "diffusion_model",
    alpha: float | None = None,
    gain: float = 0.3,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Writes a LoRA on the ten modules per block that Pusa trains; as a torch pickle when the path ends in .pt.

    ranks: of one module after another, again and again; resized LoRAs have a rank for each.
    alpha: stored as an alpha tensor per module, as Lightning LoRAs have it; Pusa's files have none.
    gain: standard deviation of B @ A relative to that of the weight it is added to.
    """
    prefix, down_name, up_name = SPELLINGS[spelling]
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for (module, (rows, columns)), rank in zip(lora_modules(dim, layers, ffn).items(), cycle(ranks)):
        key = prefix.format(module=module, module_=module.replace(".", "_"))
        tensors[f"{key}.{down_name}"] = torch.randn(rank, columns, generator=generator) / math.sqrt(columns)
        tensors[f"{key}.{up_name}"] = torch.randn(rows, rank, generator=generator) * gain / math.sqrt(rank)
        if alpha is not None:
            tensors[f"{key}.alpha"] = torch.tensor(float(alpha))
    tensors = {key: tensor.to(dtype) for key, tensor in tensors.items()}
    if Path(path).suffix == ".pt":
        torch.save(tensors, path)
    else:
        save_file(tensors, str(path), metadata={"format": "pt"})
    return Path(path)


def lora_modules(dim: int = DIM, layers: int = LAYERS, ffn: int = FFN) -> dict[str, tuple[int, int]]:
    """The modules that Pusa's LoRA changes and their weights' shapes (rows, columns)."""
    modules: dict[str, tuple[int, int]] = {}
    for i in range(layers):
        modules |= {f"blocks.{i}.{attention}.{name}": (dim, dim) for attention in ATTENTION for name in "qkvo"}
        modules |= {f"blocks.{i}.ffn.0": (ffn, dim), f"blocks.{i}.ffn.2": (dim, ffn)}
    return modules


def conditioning(text_dim: int = TEXT_DIM, tokens: int = 8, seed: int = 0) -> list:
    """A ComfyUI CONDITIONING value with random text embeddings (1, tokens, text_dim)."""
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(1, tokens, text_dim, generator=generator), {}]]


# --- loading, as the stock nodes do ----------------------------------------------------------------------------------


def load_wan(path):
    """A MODEL, as UNETLoader makes it."""
    import comfy.sd

    return comfy.sd.load_diffusion_model(str(path))


def load_vae(path):
    """A VAE, as VAELoader makes it."""
    import comfy.sd
    import comfy.utils

    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(path)))
    vae.throw_exception_if_invalid()
    return vae
