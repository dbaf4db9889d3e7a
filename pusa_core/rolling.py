"""Long video: a staircase seen through its window, in segments that each are a short sampling run of as many latent frames.

Between two evaluations at which a frame begins or is finished, the frames in the window are a clip of their own: those that
are finished are its keyframes, those that move go from one sigma to the next, those that wait stay noise. So a host samples
each segment as it samples any clip, and what it holds, the model's input and the latents, does not grow with the video.
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
from .plan import Plan, leading
from .schedule import Behaviour, FrameMap, FrameSchedule, pusa_sigmas
from .staircase import Staircase

HIGH, LOW = 2 / 3, 1 / 3  # of the sampler's sigma, within a segment


@dataclass(frozen=True)
class Segment:
    """Some evaluations in which the same frames are shown.

    Attributes:
        frames: latent frames of the video that are shown.
        sigmas: of each at each evaluation and at the end, (evaluations + 1, shown).
        finished: the frames that are clean at its end and were not before.
        positions: see `Plan`.
    """

    frames: tuple[int, ...]
    sigmas: Tensor
    finished: tuple[int, ...]
    positions: tuple[int, ...] | None = None

    @property
    def grid(self) -> Tensor:
        """The sampler's sigmas, (evaluations + 1,)."""
        return torch.linspace(HIGH, LOW, len(self.sigmas), dtype=torch.float64).float()

    @property
    def goes_on_from(self) -> int:
        """The pixel frame from which its motion goes on, whose prompt guides it: the last one before the frames that move."""
        first = next(frame for frame, sigma in zip(self.frames, self.sigmas[0].tolist()) if sigma > 0)
        return max(pixel_frames(first)[0] - 1, 0)

    def plan(self, clean: Mapping[int, Tensor], multipliers: Mapping[int, float]) -> Plan:
        """The segment as a clip's plan.

        Args:
            clean: latents (B, C, 1, h, w) of frames that are given or finished.
            multipliers: noise multipliers of frames that are given, which hold their pictures; 0 where none is named.
        """
        grid = self.grid.tolist()
        shares = [multipliers.get(frame, 0.0) if frame in clean else 1.0 for frame in self.frames]
        maps = tuple(
            _map(grid, column.tolist(), share, "hold" if frame in clean else "evolve")
            for frame, column, share in zip(self.frames, self.sigmas.T, shares)
        )
        if not clean:
            return Plan((FrameSchedule(maps),), positions=self.positions)
        empty = torch.zeros_like(next(iter(clean.values())))
        latents = torch.cat([clean.get(frame, empty) for frame in self.frames], dim=2)
        return Plan((FrameSchedule(maps),), latents, positions=self.positions)


def _map(grid: list[float], sigmas: list[float], multiplier: float, behaviour: Behaviour) -> FrameMap:
    knots = {x: multiplier * y for x, y in zip(grid, sigmas)} | {0.0: 0.0, 1.0: multiplier}
    return FrameMap(tuple(sorted(knots.items())), behaviour)


def beside(segment: Segment, plan: Plan, latents: Tensor, pictures: Mapping[int, Tensor]) -> tuple[Segment, Plan, Tensor]:
    """A segment that shows clean latents after its own, twice each, at the positions of a frame and of the one after it.

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
    return replace(segment, sigmas=pad(segment.sigmas, (0, shown.shape[2]))), plan, torch.cat([latents, shown], dim=2)


def segments(staircase: Staircase, given: int, frames: int, distance: int = 1) -> Iterator[Segment]:
    """The segments of a video of `frames` latent frames, the first `given` of which are there; lazily, one by one.

    Frames go on beginning beyond the video's end, so that its last ones are made in the same company as all others; they are
    not finished.

    Args:
        distance: positions from an anchor to the next frame that is shown, at most; 1 makes them neighbours.

    Raises:
        ValueError: the staircase has no window or no delay.
    """
    if staircase.window is None or not staircase.delay:
        raise fault("A video is made in segments along a staircase with a window and a delay, but this one has none.")
    ladder = pusa_sigmas(staircase.steps, staircase.shift)
    done, evaluation = given, 0
    while done < frames:
        end = next(i for i in count(evaluation + 1) if _is_border(staircase, i))
        begun = given + int(staircase.begun(evaluation))
        shown = staircase.window.frames(begun, max(begun, staircase.window.size))
        steps = torch.tensor([[_steps(staircase, f - given, i) for f in shown] for i in range(evaluation, end + 1)])
        finished = tuple(f for f, taken in zip(shown, steps[-1].tolist()) if f >= done and taken == staircase.steps)
        yield Segment(shown, ladder[steps], finished, None if distance == 1 else _positions(shown, distance))
        done, evaluation = done + len(finished), end


def _positions(frames: tuple[int, ...], distance: int) -> tuple[int, ...]:
    """Where the model is to think that frames are: as far from each other as they are, but no further than `distance`."""
    return tuple(accumulate((min(b - a, distance) for a, b in pairwise(frames)), initial=0))


def _steps(staircase: Staircase, index: int, evaluation: int) -> int:
    """Steps that a frame has taken before an evaluation; `index` counts from the first that is not given."""
    if index < 0:
        return staircase.steps
    return min(max(evaluation - staircase.start(index), 0), staircase.steps)


def _is_border(staircase: Staircase, evaluation: int) -> bool:
    """Whether a frame begins or is finished at an evaluation."""
    delay = min(staircase.delay, staircase.steps)
    return evaluation % delay == 0 or (evaluation >= staircase.steps and (evaluation - staircase.steps) % delay == 0)


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
    """Where a run stands after a segment.

    Attributes:
        segments: how many are done.
        frames: how many are finished by then, with those that were given.
        moving: latents of the frames that have begun, (B, C, 1, h, w).
        latents: gives those of the frames that the run had made, the given ones left out, in their order.
    """

    segments: int = 0
    frames: int = 0
    moving: Mapping[int, Tensor] = field(default_factory=dict)
    latents: Callable[[], Iterable[Tensor]] = tuple


@dataclass(frozen=True)
class Studio:
    """What a host can do for a long video. Latents are (B, C, F, h, w), as the model sees them.

    Attributes:
        noise: of a latent frame by number, (B, C, 1, h, w); the same whenever it is asked for.
        sample: takes a segment, its plan and its frames' latents along the segment's grid.
        decode: a `StreamingDecoder`'s `push`.
        encode: one picture of each video, (B, 1, H, W, 3) -> (B, C, 1, h, w).
    """

    noise: Callable[[int], Tensor]
    sample: Callable[[Segment, Plan, Tensor], Tensor]
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
        distance: see `segments`.
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
        self.moving = dict(self.progress.moving)
        self.finished: dict[int, Made] = {}
        self.alone: dict[int, Tensor] = {}

    def __iter__(self) -> Iterator[Made]:
        for frame in range(self.given):
            yield self._finish(frame, self.keyframes[frame][0])
        for frame, latent in enumerate(self.progress.latents(), self.given):
            yield self._finish(frame, latent)
        done = self.progress.segments
        every = segments(self.staircase, self.given, self.frames, self.distance)
        for number, segment in enumerate(islice(every, done, None), done + 1):
            plan = segment.plan(self._clean(segment), {frame: m for frame, (_, m) in self.keyframes.items()})
            latents = torch.cat([self._latent(frame, plan, i) for i, frame in enumerate(segment.frames)], dim=2)
            sampled = self._sample(segment, plan, latents)
            for i, frame in enumerate(segment.frames):
                if frame not in self.finished:
                    self.moving[frame] = sampled[:, :, i : i + 1]
            made = [self._finish(frame, self.moving.pop(frame)) for frame in segment.finished]
            self.progress = Progress(number, made[-1].frame + 1 if made else self.progress.frames, dict(self.moving))
            yield from made

    def _sample(self, segment: Segment, plan: Plan, latents: Tensor) -> Tensor:
        pictures = {
            place: self.beside[frame]
            for place, frame in enumerate(segment.frames)
            if frame in self.beside and frame not in self.finished
        }
        if pictures:
            segment, plan, latents = beside(segment, plan, latents, pictures)
        return self.studio.sample(segment, plan, latents)

    def _clean(self, segment: Segment) -> dict[int, Tensor]:
        """Of the shown frames, those that are given or finished."""
        finished = {frame: self._shown(frame, segment) for frame in segment.frames if frame in self.finished}
        in_place = self.keyframes.keys() - self.beside.keys()
        given = {frame: self.keyframes[frame][0] for frame in segment.frames if frame in in_place}
        return given | finished

    def _shown(self, frame: int, segment: Segment) -> Tensor:
        """A finished frame as it was made, or, where the one before it is not shown, its last picture alone.

        A latent frame of four pictures says something to the model only after the one before it.
        """
        if frame == 0 or frame - 1 in segment.frames:
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
