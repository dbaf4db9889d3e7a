"""The virtual latent: what a sampler integrates so that every frame lands on its own sigma.

A keyframe with clean latent z and sigma_f = m * sigma is x = (1 - m*sigma) * z + m*sigma * eps. Write s for an
ordinary noisy latent at the sampler's own sigma, s = (1 - sigma) * z + sigma * eps. Then

    x = (1 - m) * z + m * s        and        dx/dsigma = m * v   <=>   ds/dsigma = v.

So the sampler works on s, which is an ordinary flow-matching latent, and only the model looks at x. Euler on s is
Pusa's published step on x (arXiv 2507.16116, section 3.3); any other solver, and any noise that a stochastic one
injects, reaches the frame scaled by m, its own share; m = 0 gives z whatever the sampler does.

A frame on a bent map follows the same formulas with m = sigma_f(1), and s has a sigma of its own, u = sigma_f(sigma) / m:
the velocity is then multiplied by the mean slope of u over the step, which makes Euler's method exact and no other.

This is the only place of these formulas: hosts move tensors and call it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from einops import rearrange
from torch import Tensor

from .schedule import FrameMap, FrameSchedule

SAME_SIGMA = 1e-6  # relative; a sigma within this of the sampler's is where the sampler is, not where it goes


@dataclass(frozen=True)
class FrameCoefficients:
    """A schedule at one sigma of the sampler; every entry is of shape (1 or B, F).

    Attributes:
        scale: share of the virtual latent in the frame, x = scale * s + (1 - scale) * z.
        ratio: the frame's sigma over the sampler's, which is also its timestep over the sampler's.
        own: the virtual latent's own sigma over the sampler's; 1 but on bent maps.
        slope: factor on the velocity in virtual space; 1 but on bent maps.
        pinned: whether the frame's denoised value is its clean latent, whatever the model says.
    """

    scale: Tensor
    ratio: Tensor
    own: Tensor
    slope: Tensor
    pinned: Tensor

    def to_frame(self, virtual: Tensor, clean: Tensor) -> Tensor:
        """The latent frames x that the model sees of virtual latents s.

        Args:
            virtual, clean: (B, C, F, H, W); of `clean` only what keyframes have is looked at.

        Returns:
            (1 - scale) * clean + scale * virtual: exactly `virtual` where scale is 1, exactly `clean` where it is 0.
        """
        scale = per_frame(self.scale)
        return torch.where(scale == 0, clean, virtual - (1 - scale) * (virtual - clean))

    def to_virtual(self, frame: Tensor, clean: Tensor) -> Tensor:
        """The inverse of `to_frame`; where scale is 0, which keeps nothing of s, the clean latent stands in for it."""
        scale = per_frame(self.scale)
        kept = scale != 0
        return torch.where(kept, frame + (1 / torch.where(kept, scale, 1.0) - 1) * (frame - clean), clean)

    def denoised(self, virtual: Tensor, clean: Tensor, frame: Tensor, denoised: Tensor) -> Tensor:
        """The denoised value of s, of which a sampler takes (s - denoised) / sigma as the velocity.

        Args:
            virtual, clean, frame: s, z, and the x that `to_frame` made of them.
            denoised: x - sigma * v with the sampler's sigma and the model's velocity v.

        Returns:
            s - sigma * slope * v: exactly `denoised` for a frame that simply follows the sampler; z for a pinned one.
        """
        scale, slope = per_frame(self.scale), per_frame(self.slope)
        value = denoised + (1 - scale) * (virtual - clean) + (1 - slope) * (frame - denoised)
        return torch.where(per_frame(self.pinned), clean, value)

    def velocity(self, virtual: Tensor, clean: Tensor, velocity: Tensor, sigma: Tensor | float) -> Tensor:
        """ds/dsigma, from the model's velocity: the same equation for samplers that take velocities.

        A pinned frame goes straight to its clean latent, (s - z) / sigma.
        """
        return torch.where(per_frame(self.pinned), (virtual - clean) / sigma, velocity * per_frame(self.slope))

    def start(self, noise: Tensor, content: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        """Noise and content for a host that starts from (1 - sigma) * content + sigma * noise.

        On a bent map s starts at its own sigma u, not at the sampler's: noise is scaled by u / sigma, content by
        (1 - u) / (1 - sigma). Both are returned as they are for all other frames.
        """
        own = per_frame(self.own)
        if sigma < 1:
            content = content * torch.where(own == 1, 1.0, (1 - own * sigma) / (1 - sigma))
        return noise * own, content


def per_frame(values: Tensor) -> Tensor:
    """Values of latent frames, (1 or B, F), as they meet latents (B, C, F, H, W): (1 or B, 1, F, 1, 1)."""
    return rearrange(values, "b f -> b 1 f 1 1")


@dataclass(frozen=True)
class ScheduleTable:
    """The maps of one or several schedules as tensors: a device evaluates all frames at once and waits for nothing.

    Attributes:
        x, y: knots, (1 or B, F, K), the sampler's sigma and the frame's; maps with fewer go on flat beyond 1.
        multiplier, line, hold, pinned: see `FrameMap`, (1 or B, F).
    """

    x: Tensor
    y: Tensor
    multiplier: Tensor
    line: Tensor
    hold: Tensor
    pinned: Tensor

    @classmethod
    def of(cls, schedules: Sequence[FrameSchedule]) -> ScheduleTable:
        """One schedule for every clip, or one for all; all of the same length."""
        rows = [schedule.frames for schedule in schedules]
        most = max(len(frame.knots) for frames in rows for frame in frames)
        x, y = torch.tensor([[_padded(frame, most) for frame in frames] for frames in rows]).unbind(-1)
        flags = [[(f.is_line, f.behaviour == "hold", f.is_pinned) for f in frames] for frames in rows]
        line, hold, pinned = torch.tensor(flags).unbind(-1)
        multiplier = torch.tensor([[frame.multiplier for frame in frames] for frames in rows])
        return cls(x, y, multiplier, line, hold, pinned)

    def to(self, device: torch.device | str) -> ScheduleTable:
        return ScheduleTable(*(getattr(self, field.name).to(device) for field in fields(self)))

    def frames(self, number: Tensor) -> ScheduleTable:
        """The table of frames by number, (B, F') counted through all schedules: those of a window, an area, a batch."""
        return ScheduleTable(*(getattr(self, field.name).flatten(0, 1)[number] for field in fields(self)))

    def at(self, sigma: Tensor | float, grid: Tensor | None = None) -> FrameCoefficients:
        """The schedules at the sampler's `sigma`.

        Args:
            sigma: one value, on the table's device if it is a tensor.
            grid: the sampler's falling sigmas, (steps + 1,), on the same device; the step from `sigma` goes to the next
                lower one. Without it, and past its end, slopes are 1.
        """
        sigma = torch.as_tensor(sigma, dtype=self.x.dtype, device=self.x.device)
        value = self._value(sigma)
        safe = sigma.clamp(min=torch.finfo(sigma.dtype).tiny)
        at_zero = self.y[..., 1] / self.x[..., 1]  # the ratio's limit
        ratio = torch.where(self.line, self.multiplier, torch.where(sigma > 0, value / safe, at_zero))
        bent = ~(self.line | self.pinned)
        scale = torch.where(self.hold, ratio, self.multiplier)
        full = torch.where(bent, self.multiplier, 1.0)
        own = torch.where(bent, ratio / full, 1.0)
        slope = torch.ones_like(ratio)
        if grid is not None:
            low = torch.where(grid < sigma * (1 - SAME_SIGMA), grid, -1.0).amax().to(sigma)
            rise = (value - self._value(low.clamp(min=0))) / ((sigma - low) * full)
            slope = torch.where(bent & (low >= 0), rise, 1.0)
        return FrameCoefficients(scale, ratio, own, slope, self.pinned)

    def _value(self, sigma: Tensor) -> Tensor:
        """Every frame's sigma at the sampler's: (1 or B, F)."""
        right = (self.x <= sigma).sum(-1, keepdim=True).clamp(1, self.x.shape[-1] - 1)
        (x0, x1), (y0, y1) = ([v.gather(-1, right - 1), v.gather(-1, right)] for v in (self.x, self.y))
        return (y0 + (y1 - y0) * ((sigma - x0) / (x1 - x0))).squeeze(-1)


def _padded(frame: FrameMap, count: int) -> list[tuple[float, float]]:
    beyond = [(1.0 + i, frame.multiplier) for i in range(1, count - len(frame.knots) + 1)]
    return [*frame.knots, *beyond]
