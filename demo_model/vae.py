"""The small VAE, in the format of Wan2.1's: ComfyUI's own network at a small width, on whole clips at once."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterable
from pathlib import Path
from types import MethodType

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from environment.comfyui import import_comfyui

from . import VAE, world
from .world import LENGTH, TRAIN_SEEDS, draw, scene

WIDTH, CHANNELS = 12, 16


def new_vae() -> nn.Module:
    """An untrained network: residual branches start at zero, so that it starts as nearly linear."""
    import_comfyui()
    from comfy.ldm.wan.vae import AttentionBlock, ResidualBlock, WanVAE

    stages = {"dim_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_scales": [], "temperal_downsample": [False, True, True]}
    vae = WanVAE(dim=WIDTH, z_dim=CHANNELS, **stages)
    for module in vae.modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d)):
            nn.init.normal_(module.weight, std=1 / math.sqrt(module.weight[0].numel()))
            nn.init.zeros_(module.bias)
            channels_last = torch.channels_last_3d if isinstance(module, nn.Conv3d) else torch.channels_last
            module.to(memory_format=channels_last)  # nearly twice as fast on a CPU
    for module in vae.modules():
        if isinstance(module, ResidualBlock):
            nn.init.zeros_(module.residual[6].weight)
        elif isinstance(module, AttentionBlock):
            nn.init.zeros_(module.proj.weight)
    return vae


# --- whole clips at once -------------------------------------------------------------------------------------------------
# ComfyUI streams a clip through the network in chunks. Without its caches, and with these two methods, the same network
# takes a whole clip at once, which is several times faster to train.


def _resample(self, x: Tensor, *_, **__) -> Tensor:
    if self.mode == "upsample3d" and x.shape[2] > 1:
        rest = self.time_conv(x[:, :, 1:])
        b, c, t, h, w = rest.shape
        rest = rest.view(b, 2, c // 2, t, h, w).permute(0, 2, 3, 1, 4, 5).reshape(b, c // 2, 2 * t, h, w)
        x = torch.cat([x[:, :, :1], rest], dim=2)
    frames = [x.shape[0], x.shape[2]]
    x = self.resample(x.transpose(1, 2).flatten(0, 1)).unflatten(0, frames).transpose(1, 2)
    if self.mode == "downsample3d" and x.shape[2] > 1:
        x = torch.cat([x[:, :, :1], self.time_conv(x)], dim=2)
    return x


def _run_up(self, index: int, x_ref: list[Tensor], cache, cache_index, chunks: list[Tensor]) -> None:
    x = x_ref[0]
    for layer in [*self.upsamples[index:], *self.head]:
        x = layer(x)
    chunks.append(x)


def unstream(vae: nn.Module) -> nn.Module:
    """Makes this network's layers take whole clips.

    Raises:
        SystemExit: this ComfyUI's network is built otherwise.
    """
    from comfy.ldm.wan.vae import Resample

    if not hasattr(vae.decoder, "run_up"):
        raise SystemExit("The demo model is trained with a newer ComfyUI than this: 0.33.0 will do.")
    for module in vae.modules():
        if isinstance(module, Resample):
            module.forward = MethodType(_resample, module)
    vae.decoder.run_up = MethodType(_run_up, vae.decoder)
    return vae


def encode(vae: nn.Module, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """(means, log variances) of clips in [-1, 1], (B, 3, T, H, W) -> (B, 16, (T-1)/4+1, H/8, W/8)."""
    return vae.conv1(vae.encoder(pictures)).float().chunk(2, dim=1)


def decode(vae: nn.Module, latents: Tensor) -> Tensor:
    return vae.decoder(vae.conv2(latents))[0].float()


def open_vae(path: Path = VAE) -> nn.Module:
    vae = unstream(new_vae())
    vae.load_state_dict({key: value.float() for key, value in load_file(path).items()})
    return vae.requires_grad_(False)


def latent_format():
    """ComfyUI's normalisation of Wan's latents."""
    import_comfyui()
    from comfy.latent_formats import Wan21

    return Wan21()


# --- clips of the world --------------------------------------------------------------------------------------------------


def pictures(seeds: Iterable[int], length: int = LENGTH) -> Tensor:
    """Clips as the network takes them: (B, 3, T, H, W) in [-1, 1]."""
    return draw([scene(seed) for seed in seeds], length).permute(0, 4, 1, 2, 3) * 2 - 1


def clips_key(path: Path) -> str:
    """What cached clips depend on: the VAE and the world."""
    return hashlib.sha256(path.read_bytes() + Path(world.__file__).read_bytes()).hexdigest()[:12]


def cache_clips(path: Path, count: int, work: Path, shard: int = 500) -> Tensor:
    """The latents of the first `count` training clips as the model sees them, (count, 16, 5, 8, 8).

    They are kept in a folder of `work` that is named after the VAE file `path` and the world.
    """
    folder = work / f"clips_{clips_key(path)}"
    folder.mkdir(parents=True, exist_ok=True)
    vae, form = open_vae(path), latent_format()
    shards, start = [], time.monotonic()
    for first in range(0, count, shard):
        file = folder / f"{first}_{shard}.safetensors"
        if not file.is_file():
            parts = []
            for seed in range(TRAIN_SEEDS + first, TRAIN_SEEDS + first + shard, 10):
                with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
                    parts.append(form.process_in(encode(vae, pictures(range(seed, seed + 10)))[0]).half())
            save_file({"latents": torch.cat(parts).contiguous()}, part := file.with_suffix(".part"))
            part.replace(file)
            print(f"{first + shard} of {count} clips, {time.monotonic() - start:.0f} s", flush=True)
        shards.append(load_file(file)["latents"])
    return torch.cat(shards)[:count]
