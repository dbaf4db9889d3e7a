"""Trains the small VAE in the format of Wan2.1's: python -m demo_model.train_vae [--steps N]

The network is ComfyUI's own (16 latent channels, 8x in space, 4x in time, causal), at a small width. Its latents are
scaled to Wan's published means and deviations, so that after ComfyUI's normalisation they have unit variance.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import tyro
from safetensors.torch import save_file
from torch import Tensor, nn

from . import VAE
from .loop import train
from .measure import decibels
from .vae import CHANNELS, decode, encode, latent_format, new_vae, pictures
from .world import LENGTH, SIZE, TEST_SEEDS, TRAIN_SEEDS, draw, scene

CROP = 32
# (first step, frames, batch): short clips first, which teach the pictures; then whole ones, which teach it not to drift.
CROPS = ((0, 9, 8), (1700, LENGTH, 4))
KL_WEIGHT, STATIC_WEIGHT = 1e-4, 1e-3


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
    """Squared error of the clips, the divergence of their latents from a normal distribution, and `static_error`."""
    with torch.autocast("cpu", torch.bfloat16):
        mean, log_variance = encode(vae, clips)
        log_variance = log_variance.clamp(-20, 10)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        mean, wanted, static = with_stills(vae, clips, mean)
        back = decode(vae, mean + (0.5 * log_variance).exp() * torch.randn_like(mean))
    return F.mse_loss(back, wanted) + KL_WEIGHT * divergence + STATIC_WEIGHT * static


def with_stills(vae: nn.Module, clips: Tensor, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Puts stills into a quarter of the clips: a still picture at a later place stands for four frames without motion.

    Keyframes are encoded alone, so a decoder that met single pictures only in front would paint others in wrong colours.

    Returns:
        (latents, clips as they should come back, squared distance of a motionless clip's later latents from its still's)
    """
    count, place = len(clips) // 4, int(torch.randint(1, latents.shape[2], ()))
    picture = clips[:count, :, 4 * place : 4 * place + 1]
    still, motionless = encode(vae, picture)[0], encode(vae, picture.expand(-1, -1, 9, -1, -1))[0][:, :, 1:]
    latents, wanted = latents.clone(), clips.clone()
    latents[:count, :, place : place + 1] = still
    wanted[:count, :, 4 * place - 3 : 4 * place + 1] = picture
    return latents, wanted, F.mse_loss(motionless, still.expand_as(motionless))


def psnr(vae: nn.Module) -> Tensor:
    """Decibels of each test clip, encoded and decoded."""
    with torch.inference_mode():
        clips = pictures(range(TEST_SEEDS, TEST_SEEDS + 16))
        back = torch.cat([decode(vae, encode(vae, clip[None])[0]) for clip in clips])
    return decibels(back / 2 + 0.5, clips / 2 + 0.5)


def normalise(vae: Any, clips: Tensor) -> None:
    """Scales the latents, in the 1x1 convolutions around them, to the means and deviations that Wan's have."""
    wanted = latent_format()
    mean_wanted, std_wanted = wanted.latents_mean.flatten(), wanted.latents_std.flatten()
    with torch.inference_mode():
        latents = torch.cat([encode(vae, clip[None])[0] for clip in clips])
    std, mean = torch.std_mean(latents, dim=(0, 2, 3, 4))
    scale, shift = std_wanted / std, mean_wanted - mean * std_wanted / std  # new = scale * old + shift
    weights = vae.state_dict()  # shares the network's tensors
    weights["conv1.weight"][:CHANNELS] *= scale.view(-1, 1, 1, 1, 1)
    weights["conv1.bias"][:CHANNELS] = scale * weights["conv1.bias"][:CHANNELS] + shift
    weights["conv2.bias"] -= weights["conv2.weight"].flatten(1) @ (shift / scale)
    weights["conv2.weight"] /= scale.view(1, -1, 1, 1, 1)


def main(steps: int = 4300, work: Path = Path("training"), output: Path = VAE) -> None:
    """Trains the small VAE.

    Args:
        steps: optimiser steps.
        work: folder for checkpoints.
        output: the VAE's file.
    """
    torch.manual_seed(0)
    vae = new_vae()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=3e-3, betas=(0.9, 0.98), weight_decay=1e-4)

    def step_loss(step: int) -> Tensor:
        torch.manual_seed(step)
        return loss(vae, batch(step))

    mean = train(
        vae, [optimizer], step_loss, steps, work / "vae.pt",
        evaluate=lambda model: f"{psnr(model).mean():.2f} dB",
    )  # fmt: skip
    normalise(mean, pictures(range(TRAIN_SEEDS, TRAIN_SEEDS + 128)))
    decibels = psnr(mean)
    print(f"{decibels.mean():.2f} dB on {len(decibels)} test clips, the lowest {decibels.min():.2f} dB")
    output.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.half().contiguous() for key, value in mean.state_dict().items()}, output)


if __name__ == "__main__":
    tyro.cli(main)
