"""Frame-aware flow matching, the training objective of Pusa (arXiv 2507.16116, section 3.2).

Every latent frame of every clip gets a sigma of its own, so the model learns to read some frames as clean and paint others.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from .messages import fault
from .schedule import pusa_sigmas

GRID = 1000
RULES = {
    "independent": "every latent frame draws its own (Pusa)",
    "first_frame": "the first latent frame is clean, the others share one (image to video only)",
    "shared": "one for the whole clip (plain text to video)",
}


def draw_sigmas(frames: int, generator: torch.Generator, rule: str = "independent", shift: float = 5.0) -> Tensor:
    """Sigmas for the latent frames of one clip, (F,), uniform over the 1000 points of the shifted grid.

    Raises:
        ValueError: no such rule.
    """
    if rule not in RULES:
        raise fault("There is no sigma rule {rule}: use {rules}.", rule=repr(rule), rules=", ".join(RULES))
    grid = _grid(shift)
    if rule == "independent":
        return grid[torch.randint(GRID, (frames,), generator=generator)]
    sigmas = grid[torch.randint(GRID, (1,), generator=generator)].repeat(frames)
    if rule == "first_frame":
        sigmas[0] = 0.0
    return sigmas


def add_noise(clean: Tensor, noise: Tensor, sigmas: Tensor) -> Tensor:
    """x = (1 - sigma) * clean + sigma * noise, frame by frame: (B, C, F, H, W), sigmas (B, F)."""
    sigmas = sigmas[:, None, :, None, None]
    return (1 - sigmas) * clean + sigmas * noise


def clip_losses(velocity: Tensor, clean: Tensor, noise: Tensor, sigmas: Tensor, shift: float = 5.0) -> Tensor:
    """Every clip's loss, (B,): the squared error of the velocity noise - clean, times the mean weight of its sigmas."""
    error = (velocity.float() - (noise - clean).float()).square().mean(dim=(1, 2, 3, 4))
    return error * timestep_weights(sigmas, shift).mean(dim=1)


def timestep_weights(sigmas: Tensor, shift: float = 5.0) -> Tensor:
    """w ~ exp(-2 (sigma - 1/2)^2) less its minimum over the grid, scaled to a mean of 1 there; the shape of `sigmas`."""
    on_grid = _bell(_grid(shift))
    low = on_grid.min()
    return (_bell(sigmas) - low).clamp(min=0) / (on_grid - low).mean()


def _bell(sigmas: Tensor) -> Tensor:
    return torch.exp(-2 * (sigmas - 0.5).square())


@lru_cache
def _grid(shift: float) -> Tensor:
    return pusa_sigmas(GRID, shift)[:-1].float()
