"""Trains the small VAE in the format of Wan2.1's: python -m demo_model.train_vae [--steps N]

The network is ComfyUI's own (16 latent channels, 8x in space, 4x in time, causal), at a small width. Its latents are
scaled to Wan's published means and deviations, so that after ComfyUI's normalisation they have unit variance.
"""

from __future__ import annotations

import argparse
import math
import random
from pathlib import Path
from types import MethodType

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from pusa_core.hosts.comfyui_folder import import_comfyui

from . import VAE
from .loop import train
from .world import LENGTH, SIZE, draw, scene

WIDTH, CHANNELS = 12, 16
CROP = 32
# (first step, frames, batch): short clips first, which teach the pictures; then whole ones, which teach it not to drift.
CROPS = ((0, 9, 8), (2250, LENGTH, 4))
KL_WEIGHT = 1e-4
TEST_SEEDS = range(10**6, 10**6 + 16)  # away from training's


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
    """Makes this network's layers take whole clips."""
    from comfy.ldm.wan.vae import Resample

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


# --- training ------------------------------------------------------------------------------------------------------------


def pictures(seeds, length: int = LENGTH) -> Tensor:
    """Clips as the network takes them: (B, 3, T, H, W) in [-1, 1]."""
    return draw([scene(seed) for seed in seeds], length).permute(0, 4, 1, 2, 3) * 2 - 1


def batch(step: int) -> Tensor:
    """Crops in space and time, most of them around an object."""
    rng = random.Random(step)
    _, length, count = max(entry for entry in CROPS if entry[0] <= step)
    crops = []
    for _ in range(count):
        one = scene(rng.randrange(10**6))
        track = one.actors[0].track()
        start = rng.randrange(LENGTH - length + 1)
        x, y = track[start + length // 2, :2].tolist() if rng.random() < 0.85 else (rng.uniform(0, SIZE),) * 2
        left, top = (min(max(int(p - CROP / 2 + rng.uniform(-10, 10)), 0), SIZE - CROP) for p in (x, y))
        crops.append(draw([one])[0, start : start + length, top : top + CROP, left : left + CROP])
    return (torch.stack(crops) * 2 - 1).permute(0, 4, 1, 2, 3)


def loss(vae: nn.Module, clips: Tensor) -> Tensor:
    """Squared error of the clips and the divergence of their latents from a normal distribution."""
    with torch.autocast("cpu", torch.bfloat16):
        mean, log_variance = encode(vae, clips)
        log_variance = log_variance.clamp(-20, 10)
        back = decode(vae, mean + (0.5 * log_variance).exp() * torch.randn_like(mean))
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
    return F.mse_loss(back, clips) + KL_WEIGHT * divergence


def psnr(vae: nn.Module, seeds=TEST_SEEDS) -> Tensor:
    """Decibels of each test clip, encoded and decoded, for pictures in [0, 1]."""
    with torch.inference_mode():
        clips = pictures(seeds)
        back = torch.cat([decode(vae, encode(vae, clip[None])[0]) for clip in clips]).clamp(-1, 1)
    return -10 * ((back - clips) / 2).square().mean(dim=(1, 2, 3, 4)).log10()


def normalise(vae: nn.Module, clips: Tensor) -> None:
    """Scales the latents, in the 1x1 convolutions around them, to the means and deviations that Wan's have."""
    from comfy.latent_formats import Wan21

    wanted = Wan21()
    mean_wanted, std_wanted = wanted.latents_mean.flatten(), wanted.latents_std.flatten()
    with torch.inference_mode():
        latents = torch.cat([encode(vae, clip[None])[0] for clip in clips])
    std, mean = torch.std_mean(latents, dim=(0, 2, 3, 4))
    scale, shift = std_wanted / std, mean_wanted - mean * std_wanted / std  # new = scale * old + shift
    with torch.no_grad():
        vae.conv1.weight[:CHANNELS] *= scale.view(-1, 1, 1, 1, 1)
        vae.conv1.bias[:CHANNELS] = scale * vae.conv1.bias[:CHANNELS] + shift
        vae.conv2.bias -= vae.conv2.weight.flatten(1) @ (shift / scale)
        vae.conv2.weight /= scale.view(1, -1, 1, 1, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--work", type=Path, default=Path("training"))
    parser.add_argument("--output", type=Path, default=VAE)
    args = parser.parse_args()
    torch.manual_seed(0)
    vae = unstream(new_vae())
    optimizer = torch.optim.AdamW(vae.parameters(), lr=3e-3, betas=(0.9, 0.98), weight_decay=1e-4)

    def step_loss(step: int) -> Tensor:
        torch.manual_seed(step)
        return loss(vae, batch(step))

    mean = train(
        vae, [optimizer], step_loss, args.steps, args.work / "vae.pt",
        evaluate=lambda model: f"{psnr(model).mean():.2f} dB",
    )  # fmt: skip
    normalise(mean, pictures(range(128)))
    decibels = psnr(mean)
    print(f"{decibels.mean():.2f} dB on {len(decibels)} test clips, the lowest {decibels.min():.2f} dB")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.half().contiguous() for key, value in mean.state_dict().items()}, args.output)


if __name__ == "__main__":
    main()
