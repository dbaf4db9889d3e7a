"""Long video: a staircase seen through its window, each step of which is a step of a short clip of as many latent frames.

At every evaluation the frames in the window are a clip of their own: those that are finished are its keyframes, those that
move go from one sigma to the next, those that wait stay noise. So a host takes each step as it takes one of any clip, and
what it holds, the model's input and the latents, does not grow with the video. The host's step is Euler's; from it and from
each frame's step before, the one that is taken is of second order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import accumulate, count, islice, pairwise

import torch
from torch import Tensor
from torch.nn.functional import pad

from .frames import pixel_frames
from .messages import fault
from .multistep import second_order
from .plan import Plan, leading
from .schedule import Behaviour, FrameMap, FrameSchedule, pusa_sigmas
from .staircase import Staircase

GRID = torch.tensor([2 / 3, 1 / 3])  # the sampler's sigmas of every step; the frames' own are bent to them


@dataclass(frozen=True)
class WindowStep:
    """One evaluation of the model.

    Attributes:
        frames: latent frames of the video that are shown.
        sigmas: of each, (3, shown): at the evaluation before, at this one, and after it.
        finished: the frames that are clean after it and were not before.
        positions: see `Plan`.
    """

    frames: tuple[int, ...]
    sigmas: Tensor
    finished: tuple[int, ...]
    positions: tuple[int, ...] | None = None

    @property
    def goes_on_from(self) -> int:
        """The pixel frame from which its motion goes on, whose prompt guides it: the last one before the frames that move."""
        first = next(frame for frame, sigma in zip(self.frames, self.sigmas[1].tolist()) if sigma > 0)
        return max(pixel_frames(first)[0] - 1, 0)

    def plan(self, clean: Mapping[int, Tensor], multipliers: Mapping[int, float]) -> Plan:
        """The step as one of a clip's plan, along `GRID`.

        Args:
            clean: latents (B, C, 1, h, w) of frames that are given or finished.
            multipliers: noise multipliers of frames that are given, which hold their pictures; 0 where none is named.
        """
        shares = [multipliers.get(frame, 0.0) if frame in clean else 1.0 for frame in self.frames]
        maps = tuple(
            _map(sigmas, share, "hold" if frame in clean else "evolve")
            for frame, sigmas, share in zip(self.frames, self.sigmas[1:].T.tolist(), shares)
        )
        if not clean:
            return Plan((FrameSchedule(maps),), positions=self.positions)
        empty = torch.zeros_like(next(iter(clean.values())))
        latents = torch.cat([clean.get(frame, empty) for frame in self.frames], dim=2)
        return Plan((FrameSchedule(maps),), latents, positions=self.positions)


def _map(sigmas: list[float], multiplier: float, behaviour: Behaviour) -> FrameMap:
    knots = {x: multiplier * y for x, y in zip(GRID.tolist(), sigmas)} | {0.0: 0.0, 1.0: multiplier}
    return FrameMap(tuple(sorted(knots.items())), behaviour)


def beside(step: WindowStep, plan: Plan, latents: Tensor, pictures: Mapping[int, Tensor]) -> tuple[WindowStep, Plan, Tensor]:
    """A step that shows clean latents after its own, twice each, at the positions of a frame and of the one after it.

    Args:
        latents: of its frames.
        pictures: latents (B, C, 1, h, w) by the place of the frame among those that are shown.
    """
    shown = torch.cat([latent for latent in pictures.values() for _ in range(2)], dim=2)
    positions = plan.positions or tuple(range(len(plan)))
    clean = torch.zeros_like(latents) if plan.clean is None else plan.clean
    maps = (*plan.schedule.frames, *[FrameMap.line(0.0)] * shown.shape[2])
    plan = Plan(
        (FrameSchedule(maps),),
        torch.cat([clean, shown], dim=2),
        positions=(*positions, *(positions[place] + i for place in pictures for i in range(2))),
    )
    return replace(step, sigmas=pad(step.sigmas, (0, shown.shape[2]))), plan, torch.cat([latents, shown], dim=2)


def window_steps(staircase: Staircase, given: int, frames: int, distance: int = 1) -> Iterator[WindowStep]:
    """The steps of a video of `frames` latent frames, the first `given` of which are there; lazily, one by one.

    Frames go on beginning beyond the video's end, so that its last ones are made in the same company as all others; they are
    not finished.

    Args:
        distance: positions from an anchor to the next frame that is shown, at most; 1 makes them neighbours.

    Raises:
        ValueError: the staircase has no window or no delay.
    """
    if staircase.window is None or not staircase.delay:
        raise fault("A video is made step by step along a staircase with a window and a delay, but this one has none.")
    ladder = pusa_sigmas(staircase.steps, staircase.shift)
    done = given
    for evaluation in count():
        if done >= frames:
            return
        begun = given + int(staircase.begun(evaluation))
        shown = staircase.window.frames(begun, max(begun, staircase.window.size))
        taken = torch.tensor([[_taken(staircase, f - given, evaluation + i) for f in shown] for i in (-1, 0, 1)])
        finished = tuple(f for f, steps in zip(shown, taken[-1].tolist()) if f >= done and steps == staircase.steps)
        yield WindowStep(shown, ladder[taken], finished, None if distance == 1 else _positions(shown, distance))
        done += len(finished)


def _positions(frames: tuple[int, ...], distance: int) -> tuple[int, ...]:
    """Where the model is to think that frames are: as far from each other as they are, but no further than `distance`."""
    return tuple(accumulate((min(b - a, distance) for a, b in pairwise(frames)), initial=0))


def _taken(staircase: Staircase, index: int, evaluation: int) -> int:
    """Steps that a frame has taken before an evaluation; `index` counts from the first that is not given."""
    if index < 0:
        return staircase.steps
    return min(max(evaluation - staircase.start(index), 0), staircase.steps)


@dataclass(frozen=True)
class Made:
    """A frame that is finished.

    Attributes:
        frame: latent frame of the video.
        latent: (B, C, 1, h, w).
        pictures: (B, N, H, W, 3), N = 1 of the first latent frame and 4 of each other.
    """

    frame: int
    latent: Tensor
    pictures: Tensor


def noise_by_frame(seed: int, shape: tuple[int, int, int, int]) -> Callable[[int], Tensor]:
    """A `Studio`'s noise, the same on every host.

    Args:
        shape: of latents without frames, (B, C, h, w).
    """

    def noise(frame: int) -> Tensor:
        generator = torch.Generator().manual_seed((seed * 1_000_003 + frame) % 2**63)
        return torch.randn(shape, generator=generator)[:, :, None]

    return noise


@dataclass(frozen=True)
class Progress:
    """Where a run stands after a step.

    Attributes:
        steps: how many are done.
        frames: how many are finished by then, with those that were given.
        moving: latents of the frames that have begun, (B, C, 1, h, w).
        denoised: of those of them that have taken a step, the denoised values at the last one.
        latents: gives those of the frames that the run had made, the given ones left out, in their order.
    """

    steps: int = 0
    frames: int = 0
    moving: Mapping[int, Tensor] = field(default_factory=dict)
    denoised: Mapping[int, Tensor] = field(default_factory=dict)
    latents: Callable[[], Iterable[Tensor]] = tuple


@dataclass(frozen=True)
class Studio:
    """What a host can do for a long video. Latents are (B, C, F, h, w), as the model sees them.

    Attributes:
        noise: of a latent frame by number, (B, C, 1, h, w); the same whenever it is asked for.
        euler: takes a step, its plan and its frames' latents; Euler's step along `GRID`.
        decode: a `StreamingDecoder`'s `push`.
        encode: one picture of each video, (B, 1, H, W, 3) -> (B, C, 1, h, w).
    """

    noise: Callable[[int], Tensor]
    euler: Callable[[WindowStep, Plan, Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]
    encode: Callable[[Tensor], Tensor]


class Roll:
    """Makes a video of any length, latent frame by latent frame; iterate over it.

    Args:
        staircase: with a window.
        frames: latent frames of the video.
        keyframes: clean latent (B, C, 1, h, w) and noise multiplier of latent frames that are given: from those from 0 on
            without a gap the video goes on; the later ones are met on the way, and end on their pictures.
        studio: what the host can do.
        progress: where an earlier run of the same video stopped; it goes on from there as if it had not.
        distance: see `window_steps`.
        beside: keyframes that are met on the way, but for those that are clips, are shown beside their frame and not in its
            place: the frame is painted, and motion goes on.

    Yields:
        the given frames at the start, and those that an earlier run made, then each frame when it is finished. Between two
        of them, `progress` is where the run stands.
    """

    def __init__(
        self,
        staircase: Staircase,
        frames: int,
        keyframes: Mapping[int, tuple[Tensor, float]],
        studio: Studio,
        progress: Progress | None = None,
        distance: int = 1,
        beside: bool = False,
    ):
        self.staircase, self.frames, self.keyframes, self.studio = staircase, frames, keyframes, studio
        self.distance, self.given = distance, min(leading(keyframes), frames)
        self.beside = {
            frame: latent
            for frame, (latent, _) in keyframes.items()
            if beside and frame >= self.given and not {frame - 1, frame + 1} & keyframes.keys()
        }
        self.progress = progress or Progress()
        self.moving, self.denoised = dict(self.progress.moving), dict(self.progress.denoised)
        self.finished: dict[int, Made] = {}
        self.alone: dict[int, Tensor] = {}

    def __iter__(self) -> Iterator[Made]:
        for frame in range(self.given):
            yield self._finish(frame, self.keyframes[frame][0])
        for frame, latent in enumerate(self.progress.latents(), self.given):
            yield self._finish(frame, latent)
        done = self.progress.steps
        every = window_steps(self.staircase, self.given, self.frames, self.distance)
        for number, step in enumerate(islice(every, done, None), done + 1):
            plan = step.plan(self._clean(step), {frame: m for frame, (_, m) in self.keyframes.items()})
            latents = torch.cat([self._latent(frame, plan, i) for i, frame in enumerate(step.frames)], dim=2)
            self._take(step, latents, self._euler(step, plan, latents))
            made = [self._finish(frame, self.moving.pop(frame)) for frame in step.finished]
            frames = made[-1].frame + 1 if made else self.progress.frames
            self.progress = Progress(number, frames, dict(self.moving), dict(self.denoised))
            yield from made

    def _euler(self, step: WindowStep, plan: Plan, latents: Tensor) -> Tensor:
        pictures = {
            place: self.beside[frame]
            for place, frame in enumerate(step.frames)
            if frame in self.beside and frame not in self.finished
        }
        if pictures:
            step, plan, latents = beside(step, plan, latents, pictures)
        return self.studio.euler(step, plan, latents)

    def _take(self, step: WindowStep, latents: Tensor, euler: Tensor) -> None:
        """Moves frames a step on; those that wait begin to be kept."""
        for place, (frame, *sigmas) in enumerate(zip(step.frames, *step.sigmas.tolist())):
            if frame in self.finished:
                continue
            self.moving[frame], before = euler[:, :, place : place + 1], self.denoised.pop(frame, None)
            if sigmas[1] > sigmas[2]:
                latent = latents[:, :, place : place + 1]
                self.moving[frame], denoised = second_order(latent, self.moving[frame], before, (*sigmas,))
                if frame not in step.finished:
                    self.denoised[frame] = denoised

    def _clean(self, step: WindowStep) -> dict[int, Tensor]:
        """Of the shown frames, those that are given or finished."""
        finished = {frame: self._shown(frame, step) for frame in step.frames if frame in self.finished}
        in_place = self.keyframes.keys() - self.beside.keys()
        given = {frame: self.keyframes[frame][0] for frame in step.frames if frame in in_place}
        return given | finished

    def _shown(self, frame: int, step: WindowStep) -> Tensor:
        """A finished frame as it was made, or, where the one before it is not shown, its last picture alone.

        A latent frame of four pictures says something to the model only after the one before it.
        """
        if frame == 0 or frame - 1 in step.frames:
            return self.finished[frame].latent
        if frame not in self.alone:
            self.alone[frame] = self.studio.encode(self.finished[frame].pictures[:, -1:])
        return self.alone[frame]

    def _latent(self, frame: int, plan: Plan, place: int) -> Tensor:
        if frame in self.moving:
            return self.moving[frame]
        noise = self.studio.noise(frame)
        if plan.clean is None:
            return noise
        scale = plan.schedule.frames[place].multiplier  # a frame begins in pure noise, a keyframe in its share of it
        return torch.lerp(plan.clean[:, :, place : place + 1], noise, scale)

    def _finish(self, frame: int, latent: Tensor) -> Made:
        self.finished[frame] = made = Made(frame, latent, self.studio.decode(latent))
        self._forget(frame - self.staircase.window.size if self.staircase.window else 0)
        return made

    def _forget(self, oldest: int) -> None:
        """What no later window shows."""
        anchors = self.staircase.window.anchors if self.staircase.window else ()
        for frames in (self.finished, self.alone):
            for frame in [frame for frame in frames if frame < oldest and frame not in anchors]:
                del frames[frame]
