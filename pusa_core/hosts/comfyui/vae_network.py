"""ComfyUI's bare Wan VAE network at any width and on whole clips at once, to train one.

Reached after `environment.comfyui.import_comfyui`. ComfyUI streams a clip through the network in chunks. Without its
caches, and with two methods of its own here, the same network takes a whole clip, which is several times faster to train.
"""

from __future__ import annotations

import math
from types import MethodType
from typing import Any

import torch
from comfy.latent_formats import Wan21
from comfy.ldm.wan.vae import AttentionBlock, Resample, ResidualBlock, WanVAE
from einops import rearrange
from torch import Tensor, nn

from ...messages import say

STAGES: dict[str, Any] = {
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_scales": [],
    "temperal_downsample": [False, True, True],
}


def new_network(width: int, channels: int) -> nn.Module:
    """An untrained network on whole clips: residual branches start at zero, so that it starts as nearly linear.

    Raises:
        RuntimeError: this ComfyUI's network is built otherwise.
    """
    network: Any = WanVAE(dim=width, z_dim=channels, **STAGES)
    if not hasattr(network.decoder, "run_up"):
        raise RuntimeError(say("The demo model is trained with a newer ComfyUI than this: 0.33.0 will do."))
    _initialise(network)
    _take_whole_clips(network)
    return network


def latent_format() -> Wan21:
    """ComfyUI's normalisation of the latents of Wan2.1's VAE."""
    return Wan21()


def _initialise(network: Any) -> None:
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d)):
            nn.init.normal_(module.weight, std=1 / math.sqrt(module.weight[0].numel()))
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]  # all of them have one
            _store_channels_last(module)
    for module in network.modules():
        if isinstance(module, ResidualBlock):
            nn.init.zeros_(module.residual[6].weight)
        elif isinstance(module, AttentionBlock):
            nn.init.zeros_(module.proj.weight)


def _store_channels_last(convolution: nn.Module) -> None:
    """Nearly twice as fast on a CPU."""
    layout = torch.channels_last_3d if isinstance(convolution, nn.Conv3d) else torch.channels_last
    convolution.to(memory_format=layout)  # type: ignore[call-overload]  # torch's own annotation lacks it


def _take_whole_clips(network: Any) -> None:
    for module in network.modules():
        if isinstance(module, Resample):
            module.forward = MethodType(_resample, module)
    network.decoder.run_up = MethodType(_run_up, network.decoder)


def _resample(self, x: Tensor, *_, **__) -> Tensor:
    if self.mode == "upsample3d" and x.shape[2] > 1:
        rest = rearrange(self.time_conv(x[:, :, 1:]), "b (n c) t h w -> b c (t n) h w", n=2)
        x = torch.cat([x[:, :, :1], rest], dim=2)
    clips = len(x)
    x = self.resample(rearrange(x, "b c t h w -> (b t) c h w"))
    x = rearrange(x, "(b t) c h w -> b c t h w", b=clips)
    if self.mode == "downsample3d" and x.shape[2] > 1:
        x = torch.cat([x[:, :, :1], self.time_conv(x)], dim=2)
    return x


def _run_up(self, index: int, x_ref: list[Tensor], cache, cache_index, chunks: list[Tensor]) -> None:
    x = x_ref[0]
    for layer in [*self.upsamples[index:], *self.head]:
        x = layer(x)
    chunks.append(x)
