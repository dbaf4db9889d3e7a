"""The small VAE, in the format of Wan2.1's: ComfyUI's own network at a small width, on whole clips at once."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from environment.comfyui import import_comfyui

from . import VAE, world
from .world import LENGTH, TRAIN_SEEDS, draw, scene

WIDTH, CHANNELS = 12, 16


def new_vae() -> nn.Module:
    """An untrained network, which starts as nearly linear.

    Raises:
        SystemExit: this ComfyUI's network is built otherwise.
    """
    try:
        return _host().new_network(WIDTH, CHANNELS)
    except RuntimeError as error:
        raise SystemExit(str(error)) from error


def latent_format() -> Any:
    """ComfyUI's normalisation of Wan's latents."""
    return _host().latent_format()


def _host() -> Any:
    import_comfyui()
    from pusa_core.hosts.comfyui import vae_network

    return vae_network


def encode(vae: nn.Module, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """(means, log variances) of clips in [-1, 1], (B, 3, T, H, W) -> (B, 16, (T-1)/4+1, H/8, W/8)."""
    return vae.get_submodule("conv1")(vae.get_submodule("encoder")(pictures)).float().chunk(2, dim=1)


def decode(vae: nn.Module, latents: Tensor) -> Tensor:
    return vae.get_submodule("decoder")(vae.get_submodule("conv2")(latents))[0].float()


def open_vae(path: Path = VAE) -> nn.Module:
    vae = new_vae()
    vae.load_state_dict({key: value.float() for key, value in load_file(path).items()})
    return vae.requires_grad_(False)


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
