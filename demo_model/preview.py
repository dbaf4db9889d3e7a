"""Colours for previews of the demo model's latents: python -m demo_model.preview fits them again.

A latent's cell is a linear picture of the pixels it stands for, good enough to see what is being made. Real Wan's
coefficients, which ComfyUI has, do not fit this model's VAE.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FILE = Path(__file__).with_name("preview_colours.json")
NETWORK = {"dim": 256, "ffn_dim": 512, "num_layers": 5}  # what no other Wan is like
CLIPS = 200

Colours = tuple[list[list[float]], list[float]]


def preview_colours(network: Any) -> Colours | None:
    """(factors (16, 3), bias (3)) from a latent's cell, as the model sees it, to RGB in [-1, 1].

    Args:
        network: a diffusion model; any other than the demo model gives None.
    """
    is_demo = all(getattr(network, name, None) == value for name, value in NETWORK.items())
    return _read() if is_demo else None


@cache
def _read() -> Colours:
    data = json.loads(FILE.read_text(encoding="utf-8"))
    return data["factors"], data["bias"]


def shrink(pictures: Tensor, cell: int = 8) -> Tensor:
    """The mean pixel of every latent cell: (B, 3, T, H, W) -> (B, 3, (T-1)/4+1, H/8, W/8)."""
    first, rest = pictures[:, :, :1], pictures[:, :, 1:]
    pool = torch.nn.functional.avg_pool3d
    return torch.cat([pool(first, (1, cell, cell)), pool(rest, (4, cell, cell))], dim=2)


def fit(latents: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor, float]:
    """Least squares from latents (B, C, F, h, w) to pixels (B, 3, F, h, w): factors (C, 3), bias (3), share explained."""
    x = latents.double().movedim(1, -1).flatten(0, -2)
    y = pixels.double().movedim(1, -1).flatten(0, -2)
    x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
    solution = torch.linalg.lstsq(x, y).solution
    explained = 1 - (x @ solution - y).square().sum() / (y - y.mean(0)).square().sum()
    return solution[:-1], solution[-1], float(explained)


def main() -> None:
    from .vae import encode, latent_format, open_vae, pictures
    from .world import TRAIN_SEEDS

    vae, form, latents, pixels = open_vae(), latent_format(), [], []
    with torch.inference_mode():
        for seed in range(TRAIN_SEEDS, TRAIN_SEEDS + CLIPS, 10):
            clips = pictures(range(seed, seed + 10))
            latents.append(form.process_in(encode(vae, clips)[0]))
            pixels.append(shrink(clips))
    factors, bias, explained = fit(torch.cat(latents), torch.cat(pixels))
    rounded = {
        "factors": [[round(v, 4) for v in row] for row in factors.tolist()],
        "bias": [round(v, 4) for v in bias.tolist()],
    }
    FILE.write_text(json.dumps(rounded) + "\n", encoding="utf-8")
    print(f"{explained:.1%} of the pixels' variance")


if __name__ == "__main__":
    main()
