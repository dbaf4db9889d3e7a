"""Loops: a loop is a long video that finds its own start as keyframes after its end.

Latent frame 0, a picture that is given or made, and perhaps some more lead into the loop and are not of it: those after a
video's start are not yet as even as later ones. The loop's frames follow, four pictures each. While the last of them are
made, the rolling window shows the first ones behind them, so that the end moves towards the start as towards keyframes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from .frames import MAX_LENGTH, TEMPORAL_STRIDE, check_integer
from .messages import describe, fault, mark
from .rolling import Made, Progress, Roll, Studio
from .staircase import Staircase


def loop_latents(length: int, name: str = "length") -> int:
    """Latent frames of a loop, or of what leads into it, of `length` pixel frames; `name` is what a message calls them.

    Raises:
        ValueError: `length` is not 4n.
    """
    check_integer(length, mark("The length of a loop"))
    if not 0 <= length <= MAX_LENGTH:
        raise fault(
            "A loop of {length} frames was asked for; give a length from 0 to {most}.",
            length=describe(length),
            most=MAX_LENGTH,
        )
    rest = length % TEMPORAL_STRIDE
    if rest:
        lower, upper = length - rest, length - rest + TEMPORAL_STRIDE
        raise fault(
            "A {name} of {length} frames was given, but each latent frame of a loop is 4 of them: use {lower} or {upper}.",
            name=name,
            length=length,
            lower=lower,
            upper=upper,
        )
    return length // TEMPORAL_STRIDE


class Loop(Roll):
    """Makes a loop latent frame by latent frame, see `Roll`; when it is done, `turn` decodes it.

    Args:
        staircase: with a window; its blocks end where the loop does.
        latents: latent frames of the loop.
        before: clean latent (B, C, 1, h, w) of the video's first picture; None makes one.
        lead_in: latent frames between that one and the loop. With 0 the loop's end comes back to the first picture.
        progress: where an earlier run of the same loop stopped.

    Attributes:
        first: the video's frame with which the loop begins.

    Yields:
        the video's frames; the last `latents` are the loop. Their pictures know nothing of the loop's end.

    Raises:
        ValueError: the window would show the loop's end and the same frames at its start at once.
    """

    def __init__(
        self,
        staircase: Staircase,
        latents: int,
        before: Tensor | None,
        studio: Studio,
        lead_in: int = 0,
        progress: Progress | None = None,
    ):
        self.latents, self.first, self.least = latents, lead_in + 1, _least(staircase)
        if latents < self.least:
            raise fault(
                "A loop of {frames} frames is too short for a window of {window} latent frames: make it {least} frames or "
                "longer, or let fewer frames move.",
                frames=TEMPORAL_STRIDE * latents,
                window=self.least,
                least=TEMPORAL_STRIDE * self.least,
            )
        self.met: dict[int, tuple[Tensor, float]] = {} if before is None else {0: (before, 0.0)}
        super().__init__(staircase, self.first + latents, self.met, studio, progress)

    def _finish(self, frame: int, latent: Tensor) -> Made:
        if self.first <= frame < self.first + self.least:  # no later one is shown with the end
            self.met[frame + self.latents] = latent, 0.0
        return super()._finish(frame, latent)


def _least(staircase: Staircase) -> int:
    """Latent frames that follow each other in the window: the fewest that a loop can have."""
    return 1 if staircase.window is None else staircase.window.size - len(staircase.window.anchors)


def turn(latents: Iterable[Tensor], decode: Callable[[Tensor], Tensor], last: Tensor) -> Iterator[Tensor]:
    """The pictures of a loop in their order, decoded a second time round: so each knows those before it round the circle.

    Frame 0 is the last picture of the last latent frame, where the one before the loop was.

    Args:
        latents: the loop's, (B, C, 1, h, w) each.
        decode: that of the `StreamingDecoder` which has decoded the loop once; a VAE is causal and has a long memory.
        last: the pictures of the last latent frame, (B, 4, H, W, 3), which it decoded last.

    Yields:
        (B, 4, H, W, 3) for each latent frame.
    """
    for latent in latents:
        pictures = decode(latent)
        yield torch.cat([last[:, -1:], pictures[:, :-1]], dim=1)
        last = pictures


class Seam:
    """How much pictures change over a loop's seam, and over the other borders of its latent frames.

    Attributes:
        steps: mean absolute change over each border of latent frames, the seam's first.
    """

    def __init__(self) -> None:
        self.steps: list[float] = []

    def see(self, pictures: Tensor) -> None:
        """Looks at what `turn` yields, (B, 4, H, W, 3), one after another."""
        self.steps.append(float((pictures[:, 1] - pictures[:, 0]).abs().mean()))

    @property
    def ratio(self) -> float:
        """The seam's change over the mean of the others."""
        seam, *others = self.steps
        return seam / max(sum(others) / len(others), 1e-6)
