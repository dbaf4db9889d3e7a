"""Staircases: schedules whose frames take the same steps one after another, on a clock of equal model evaluations.

A frame waits in pure noise, takes the steps of one sigma grid, and stays clean from then on. Each block of frames begins
`delay` evaluations after the block before it:

    delay 0             all frames together: what every video model does
    delay below steps   asynchronous diffusion forcing, for models trained with a noise level for every frame
                        (SkyReels-V2, arXiv 2504.13074, which calls the delay `ar_step`)
    and a window        a rolling window: only the frames that move, and some finished ones, are shown to the model
                        (Rolling Diffusion, arXiv 2402.09470; Rolling Forcing, arXiv 2509.25161)

As `FrameMap`s of the sampler's sigma 1 - evaluation / evaluations, whose steps Euler's method takes exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from .frames import check_integer, check_multiplier
from .messages import describe, fault, mark
from .schedule import ORDINARY, FrameMap, pusa_sigmas

MOST_EVALUATIONS = 100_000


@dataclass(frozen=True)
class Window:
    """Which frames the model sees at an evaluation: always as many, so that its memory does not grow with the clip.

    Attributes:
        size: latent frames, anchors included.
        anchors: frames that stay in it, as a clip's first (the "sink" of streaming language models).

    Raises:
        ValueError: it is no larger than its anchors.
    """

    size: int
    anchors: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_integer(self.size, mark("The size of a window"))
        if self.size <= len(self.anchors):
            raise fault(
                "A window of {size} latent frames has no room beside its anchors {anchors}: make it larger.",
                size=describe(self.size),
                anchors=list(self.anchors),
            )

    def frames(self, begun: int, latents: int) -> tuple[int, ...]:
        """What is shown of a clip of `latents` frames when the first `begun` are given or have begun to take steps."""
        end = min(max(begun, self.size), latents)
        others = (frame for frame in range(end - 1, -1, -1) if frame not in self.anchors)
        shown = {*self.anchors, *islice(others, self.size - len(self.anchors))}
        return tuple(sorted(frame for frame in shown if frame < latents))


@dataclass(frozen=True)
class Staircase:
    """When every latent frame takes its steps.

    Attributes:
        steps: steps that each frame takes, of the grid `pusa_sigmas(steps, shift)`.
        shift: flow shift of that grid.
        delay: evaluations from the beginning of one block to that of the next; more than `steps` is as `steps`.
        block: latent frames that take their steps together.
        window: which frames the model sees; None shows it all.
        history_noise: sigma at which frames that are given at the start, without noise of their own, are shown all along.
        causal: whether frames attend to those of their own and earlier blocks only, as some models were trained.

    Raises:
        ValueError: a value is out of range.
    """

    steps: int
    shift: float = 5.0
    delay: int = 0
    block: int = 1
    window: Window | None = None
    history_noise: float = 0.0
    causal: bool = False

    def __post_init__(self) -> None:
        pusa_sigmas(self.steps, self.shift)  # which checks them
        check_integer(self.delay, mark("The delay between blocks of frames"))
        check_integer(self.block, mark("The size of a block of frames"))
        if self.delay < 0 or self.block < 1:
            raise fault(
                "Blocks of {block} latent frames, each {delay} evaluations after the one before, were asked for: blocks need "
                "at least 1 frame, and the delay is 0 or more.",
                block=describe(self.block),
                delay=describe(self.delay),
            )
        check_multiplier(self.history_noise)
        if self.causal and self.window is not None:
            raise fault("Causal attention was asked for in a window that moves, which is not supported: choose one.")

    @classmethod
    def rolling(cls, moving: int, steps: int = 1, shift: float = 5.0, anchors: tuple[int, ...] = (0,)) -> Staircase:
        """That of a long video: `moving` frames at once, each a step behind the one before it, with anchors and the newest
        finished frame.

        Args:
            steps: model evaluations for each new latent frame; a frame takes `moving` times as many.
        """
        return cls(steps * moving, shift, steps, window=Window(moving + 1 + len(anchors), anchors))

    def start(self, index: int) -> int:
        """The evaluation at which a frame takes its first step; `index` counts the frames that are not given, from 0."""
        return min(self.delay, self.steps) * (index // self.block)

    def evaluations(self, count: int) -> int:
        """Model evaluations for `count` frames that are not given."""
        return self.start(max(count, 1) - 1) + self.steps

    def begun(self, evaluation: int) -> float:
        """How many frames, of as many as there may be, take a step at an evaluation or did before."""
        if not self.delay:
            return math.inf
        return self.block * (evaluation // min(self.delay, self.steps) + 1)

    @property
    def clock_shift(self) -> float:
        """Flow shift of the clock: none, but for frames that go together, whose own grid it is."""
        return 1.0 if self.delay else self.shift

    def grid(self, count: int) -> Tensor:
        """The clock: the sampler's sigmas, (evaluations + 1,).

        Raises:
            ValueError: there are too many.
        """
        total = self.evaluations(count)
        if total > MOST_EVALUATIONS:
            raise fault(
                "This schedule takes {total} model evaluations; at most {most} are made.", total=total, most=MOST_EVALUATIONS
            )
        return pusa_sigmas(total, self.clock_shift)

    def map(self, index: int, count: int) -> FrameMap:
        """A frame's sigma over the clock."""
        if not self.delay:
            return ORDINARY
        start, total = self.start(index), self.evaluations(count)
        steps = zip(range(start, start + self.steps + 1), pusa_sigmas(self.steps, self.shift).double().tolist())
        knots = {1 - evaluation / total: sigma for evaluation, sigma in steps} | {0.0: 0.0, 1.0: 1.0}
        return FrameMap(tuple(sorted(knots.items())))

    def blocks(self, given: int, count: int) -> list[int]:
        """Latent frames of each block; those that are given are blocks too, counted back from the first that is made."""
        first = [given % self.block] * (given % self.block > 0)
        rest = count % self.block
        return [*first, *[self.block] * (given // self.block + count // self.block), *[rest] * (rest > 0)]

    def history_map(self, count: int) -> FrameMap:
        """The map of a frame that is given at the start, without noise of its own."""
        last = float(self.grid(count)[-2])
        return FrameMap(tuple(sorted({0.0: 0.0, last: self.history_noise, 1.0: self.history_noise}.items())), "hold")

    def shown(self, given: int, count: int) -> Tensor | None:
        """The latent frames that the model sees at each evaluation, (evaluations, size); None where it sees all.

        Args:
            given: frames before the first that takes steps; they count as begun.
            count: frames that take steps.
        """
        if self.window is None or self.window.size >= given + count:
            return None
        begun = (given + min(count, self.begun(i)) for i in range(self.evaluations(count)))
        return torch.tensor([self.window.frames(int(frames), given + count) for frames in begun])
