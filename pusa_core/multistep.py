"""A second-order step for frames that each have a sigma and a history of their own: DPM-Solver++(2M) by frame.

Euler's step takes a frame's denoised value as constant over the step; this one takes it as a line in lambda = log((1 - sigma)
/ sigma) through the values of the frame's last two evaluations (arXiv 2211.01095, algorithm 2, with alpha = 1 - sigma of flow
matching). It costs no evaluation more.
"""

from __future__ import annotations

import math

from torch import Tensor


def second_order(
    latent: Tensor, euler: Tensor, earlier: Tensor | None, sigmas: tuple[float, float, float]
) -> tuple[Tensor, Tensor]:
    """A frame's step of second order.

    Args:
        latent: (B, C, 1, h, w).
        euler: what Euler's step makes of it.
        earlier: the frame's denoised value at the evaluation before this one; None where there was none.
        sigmas: of the frame at the evaluation before, at this one, and after the step; falling.

    Returns:
        the frame after the step, and its denoised value at this evaluation. The step is Euler's where there was no evaluation
        before or that one was at pure noise, where lambda is infinite, and where it ends clean, for which the line would have
        to be followed to infinity.
    """
    before, now, after = sigmas
    share = 1 - after / now
    denoised = latent + (euler - latent) / share
    if earlier is None or before == 1 or after == 0:
        return euler, denoised
    oldest, old, new = (math.log((1 - sigma) / sigma) for sigma in sigmas)
    weight = (new - old) / (old - oldest) / 2
    return euler + share * weight * (denoised - earlier), denoised
