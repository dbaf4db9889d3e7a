"""The virtual latent: what a sampler integrates so that every frame lands on its own sigma.

A keyframe with clean latent z and sigma_f = m * sigma is x = (1 - m*sigma) * z + m*sigma * eps. Write s for an
ordinary noisy latent at the sampler's own sigma, s = (1 - sigma) * z + sigma * eps. Then

    x = (1 - m) * z + m * s        and        dx/dsigma = m * v   <=>   ds/dsigma = v.

So the sampler works on s, which is an ordinary flow-matching latent, and only the model looks at x. Euler on s is
Pusa's published step on x (arXiv 2507.16116, section 3.3); any other solver, and any noise that a stochastic one
injects, reaches the frame scaled by m, its own share; m = 0 gives z whatever the sampler does.

A frame on a bent map follows the same formulas with m = sigma_f(1) and the velocity times the slope of sigma_f / m.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .schedule import FrameMap, FrameSchedule


@dataclass(frozen=True)
class FrameCoefficients:
    """What one model evaluation needs of a schedule, one entry for every latent frame, each of shape (F,).

    Attributes:
        scale: share of the virtual latent in the frame, x = scale * s + (1 - scale) * z.
        ratio: the frame's sigma over the sampler's, which is also its timestep over the sampler's.
        slope: factor on the velocity in virtual space; 1 but on bent maps.
        pinned: whether the frame's denoised value is its clean latent, whatever the model says.
    """

    scale: Tensor
    ratio: Tensor
    slope: Tensor
    pinned: Tensor


def coefficients(schedule: FrameSchedule, sigma: float, sigma_next: float | None = None) -> FrameCoefficients:
    """The schedule at the sampler's `sigma`, on the step that goes to `sigma_next` (default: the same sigma)."""
    frames = schedule.frames
    return FrameCoefficients(
        scale=torch.tensor([frame_scale(f, sigma) for f in frames], dtype=torch.float32),
        ratio=torch.tensor([f.ratio(sigma) for f in frames], dtype=torch.float32),
        slope=torch.tensor([_slope(f, sigma, sigma_next) for f in frames], dtype=torch.float32),
        pinned=torch.tensor([is_pinned(f) for f in frames]),
    )


def is_pinned(frame: FrameMap) -> bool:
    """Whether the frame stays on its clean latent: held, or never noised."""
    return frame.behaviour == "hold" or frame.multiplier == 0


def frame_scale(frame: FrameMap, sigma: float) -> float:
    """Share of the virtual latent in the frame: a held frame follows its map exactly, another one its end value."""
    return frame.ratio(sigma) if frame.behaviour == "hold" else frame.multiplier


def _slope(frame: FrameMap, sigma: float, sigma_next: float | None) -> float:
    if frame.is_line or is_pinned(frame) or sigma_next is None or sigma_next >= sigma:
        return 1.0
    return (frame.sigma(sigma) - frame.sigma(sigma_next)) / ((sigma - sigma_next) * frame.multiplier)


def step_end(sigmas: Sequence[float], sigma: float) -> float | None:
    """The sigma at which the step that `sigma` lies in ends, on a falling grid; None past its end."""
    return next((s for s in sigmas if s < sigma * (1 - 1e-6)), None)


def to_frame(virtual: Tensor, clean: Tensor, scale: Tensor) -> Tensor:
    """The latent frames x of virtual latents s.

    Args:
        virtual, clean: (B, C, F, H, W).
        scale: broadcastable to them, usually (1, 1, F, 1, 1).

    Returns:
        (1 - scale) * clean + scale * virtual: exactly `virtual` where scale is 1, exactly `clean` where it is 0.
    """
    return torch.where(scale == 0, clean, virtual - (1 - scale) * (virtual - clean))


def to_virtual(frame: Tensor, clean: Tensor, scale: Tensor) -> Tensor:
    """The inverse of `to_frame`; where scale is 0, which keeps nothing of s, the clean latent stands in for it."""
    kept = scale != 0
    return torch.where(kept, frame + (1 / torch.where(kept, scale, 1.0) - 1) * (frame - clean), clean)
