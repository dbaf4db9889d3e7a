"""The plan of a clip: its schedule and the clean latents of its keyframes, each in its place."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count

import torch
from torch import Tensor

from .frames import describe_latent_frame, latent_length, resolve_index
from .keyframes import Keyframe, check_keyframes
from .messages import fault, mark, say, shorten
from .retime import bridged
from .schedule import Behaviour, FrameMap, FrameSchedule
from .staircase import Staircase
from .virtual_latent import SAME_SIGMA, ScheduleTable

NOISE_SHOWN = 200  # characters of the list of noise multipliers in a note


@dataclass(frozen=True)
class Plan:
    """Schedules with the clean latents of their keyframes: one for every clip of a batch, or one for all.

    Attributes:
        schedules: every latent frame's sigma; 1 or B, of one length.
        clean: (1 or B, C, F, H, W), the VAE's latents at keyframes and zeros elsewhere; None without keyframes.
        notes: what was placed where, one sentence each.
        staircase: when frames take their steps, if not all together as the sampler goes.
        given: frames at the start that take none.
        positions: of every frame in time, for the model's rotary embedding; None counts them from 0.

    Raises:
        ValueError: a frame that starts from a picture has none, or lengths or numbers of clips differ.
    """

    schedules: tuple[FrameSchedule, ...]
    clean: Tensor | None = None
    notes: tuple[str, ...] = ()
    staircase: Staircase | None = None
    given: int = 0
    positions: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        lengths = {len(schedule) for schedule in self.schedules}
        if len(lengths) != 1:
            raise fault(
                "The clips of a batch have {lengths} latent frames: give them all the same length.", lengths=sorted(lengths)
            )
        for schedule in self.schedules:
            if self.clean is None and any(schedule.needs_clean_latent):
                index = schedule.needs_clean_latent.index(True)
                raise fault(
                    "Latent frame {index} of the schedule starts from a picture, but none was given for it.", index=index
                )
        if self.clean is None:
            return
        if self.clean.shape[2] != len(self):
            raise fault(
                "The schedule has {count} latent frames, the clean latents {clean}.",
                count=len(self),
                clean=self.clean.shape[2],
            )
        if len(self.schedules) > 1 and len(self.clean) not in (1, len(self.schedules)):
            raise fault(
                "There are {count} schedules, but clean latents of {clips} clips.",
                count=len(self.schedules),
                clips=len(self.clean),
            )

    def __len__(self) -> int:
        """Latent frames of every clip."""
        return len(self.schedules[0])

    @property
    def schedule(self) -> FrameSchedule:
        """The first clip's."""
        return self.schedules[0]

    @property
    def is_ordinary(self) -> bool:
        """Whether every frame of every clip simply follows any sampler: plain text to video."""
        return self.staircase is None and all(schedule.is_ordinary for schedule in self.schedules)

    @property
    def is_straight(self) -> bool:
        return all(schedule.is_straight for schedule in self.schedules)

    @property
    def clips(self) -> int:
        """How many clips it tells apart; 1 fits a batch of any size."""
        return max(len(self.schedules), 1 if self.clean is None else len(self.clean))

    @property
    def keyframed(self) -> Tensor:
        """Which frames start from a clean latent, (1 or B, F)."""
        return torch.tensor([schedule.needs_clean_latent for schedule in self.schedules])

    @property
    def table(self) -> ScheduleTable:
        return ScheduleTable.of(self.schedules)

    @cached_property
    def grid(self) -> Tensor | None:
        """The sampler's sigmas, (evaluations + 1,), that the schedules were made for; None where any will do."""
        return None if self.staircase is None else self.staircase.grid(len(self) - self.given)

    @property
    def shown(self) -> ShownFrames | None:
        """What the model sees at each evaluation; None where it sees all."""
        frames = None if self.staircase is None else self.staircase.shown(self.given, len(self) - self.given)
        return None if frames is None or self.grid is None else ShownFrames(self.grid, frames)

    @property
    def blocks(self) -> list[int] | None:
        """Latent frames of each block of causal attention; None where all attend to all."""
        if self.staircase is None or not self.staircase.causal:
            return None
        return self.staircase.blocks(self.given, len(self) - self.given)


@dataclass(frozen=True)
class ShownFrames:
    """The latent frames that a model sees, as tensors: a device looks them up and waits for nothing.

    Attributes:
        grid: the sampler's sigmas, (evaluations + 1,).
        frames: at each evaluation, (evaluations, size).
    """

    grid: Tensor
    frames: Tensor

    def to(self, device: torch.device | str) -> ShownFrames:
        return ShownFrames(self.grid.to(device), self.frames.to(device))

    def at(self, sigma: Tensor) -> Tensor:
        """Those at the sampler's sigma, (size,); all on one device."""
        step = (self.grid > sigma * (1 + SAME_SIGMA)).sum()
        return self.frames.index_select(0, step.clamp(max=len(self.frames) - 1)[None])[0]  # a tensor as an index is read


def same_plan(a: Plan, b: Plan) -> bool:
    """Whether two plans ask for the same, however they came to be."""
    if a is b:
        return True
    if _timetable(a) != _timetable(b) or a.schedules != b.schedules:
        return False
    if a.clean is None or b.clean is None:
        return a.clean is b.clean
    return a.clean.shape == b.clean.shape and torch.equal(a.clean, b.clean.to(a.clean))


def _timetable(plan: Plan) -> tuple[Staircase | None, int]:
    return plan.staircase, plan.given


def join_plans(plans: Sequence[Plan], counts: Sequence[int]) -> Plan:
    """One plan for a batch: the first for the first `counts[0]` clips, and so on.

    Raises:
        ValueError: the plans are for clips of different lengths or sizes.
    """
    if plans[0].clips == 1 and all(same_plan(plan, plans[0]) for plan in plans):
        return plans[0]
    if len({_timetable(plan) for plan in plans}) > 1:
        raise fault("The clips of a batch take their steps at different times: give them all the same kind of schedule.")
    schedules = tuple(s for plan, n in zip(plans, counts) for s in _repeated(plan.schedules, n))
    images = [plan.clean for plan in plans if plan.clean is not None]
    sizes = {tuple(clean.shape[1:]) for clean in images}
    if len(sizes) > 1:
        raise fault(
            "The keyframes of a batch have latents of different shapes, {sizes}: use one size and VAE.", sizes=sorted(sizes)
        )
    clean = None
    if images:
        empty = torch.zeros_like(images[0][:1])
        parts = [(empty if plan.clean is None else plan.clean.to(empty.device), n) for plan, n in zip(plans, counts)]
        clean = torch.cat([part.expand(n, *part.shape[1:]) for part, n in parts])
    notes = tuple(dict.fromkeys(note for plan in plans for note in plan.notes))
    return Plan(schedules, clean, notes, *_timetable(plans[0]))


def _repeated(schedules: tuple[FrameSchedule, ...], count: int) -> tuple[FrameSchedule, ...]:
    return schedules * count if len(schedules) == 1 else schedules


def plan_clip(
    keyframes: Sequence[Keyframe], length: int, encode: Callable[[Tensor], Tensor], staircase: Staircase | None = None
) -> Plan:
    """Places keyframes into a clip of `length` pixel frames.

    Args:
        keyframes: none makes plain text to video.
        length: pixel frames of the clip, 4n+1.
        encode: pictures (N, H, W, 3) -> clean latents (1, C, (N-1)/4+1, h, w).
        staircase: when frames take their steps; a keyframe has its share of the noise that its frame would have. None: all
            follow the sampler together.

    Raises:
        ValueError: the length is not 4n+1, something else is among the keyframes, one lies outside the clip, or two share a
            latent frame.
    """
    latents = latent_length(length)
    placed, notes = place_keyframes(keyframes, latents, encode)
    schedule = FrameSchedule.build(latents, {i: FrameMap.line(p.multiplier, p.behaviour) for i, p in placed.items()})
    clean = None
    if placed:
        some = next(iter(placed.values())).latent
        clean = some.new_zeros((1, some.shape[1], latents, *some.shape[3:]))
        clean[:, :, list(placed)] = torch.cat([p.latent for p in placed.values()], dim=2)
    plan = Plan((schedule,), clean, notes)
    return plan if staircase is None else retimed(plan, staircase)


def retimed(plan: Plan, staircase: Staircase) -> Plan:
    """A plan whose frames take their steps along a staircase; its pictures keep their places, noise and behaviour.

    Raises:
        ValueError: the clips of a batch begin with different numbers of given frames.
    """
    given = {leading([*_given(schedule)]) for schedule in plan.schedules}
    if len(given) > 1:
        raise fault("The clips of a batch take their steps at different times: give them all the same kind of schedule.")
    [start] = given
    return replace(
        plan, schedules=tuple(_retimed(s, staircase, start) for s in plan.schedules), staircase=staircase, given=start
    )


def _given(schedule: FrameSchedule) -> dict[int, FrameMap]:
    """The frames that start from a picture, by latent index."""
    return {index: frame for index, frame in enumerate(schedule.frames) if frame.needs_clean_latent}


def _retimed(schedule: FrameSchedule, staircase: Staircase, start: int) -> FrameSchedule:
    """Those that are given at the start go with the first that takes steps, or are shown with a little noise."""
    moving, given = len(schedule) - start, _given(schedule)
    maps = {i: staircase.map(max(i - start, 0), moving) for i in range(len(schedule))}
    maps |= {i: maps[i].scaled(frame.multiplier, frame.behaviour) for i, frame in given.items()}
    if staircase.history_noise:
        maps |= {i: staircase.history_map(moving) for i in range(start) if given[i].multiplier == 0}
    return FrameSchedule(tuple(maps.values()))


@dataclass(frozen=True)
class Placed:
    """A keyframe's latent frame.

    Attributes:
        latent: clean, (1, C, 1, h, w).
        multiplier: of its noise.
    """

    latent: Tensor
    multiplier: float
    behaviour: Behaviour


def place_keyframes(
    keyframes: Sequence[Keyframe], latents: int, encode: Callable[[Tensor], Tensor]
) -> tuple[dict[int, Placed], tuple[str, ...]]:
    """The latent frames of keyframes in a clip of `latents` of them, by index, and a sentence on each; see `plan_clip`."""
    keyframes = check_keyframes(keyframes)
    targets = [_place(keyframe, latents) for keyframe in keyframes]
    owner: dict[int, int] = {}
    for number, indices in enumerate(targets, 1):
        for index in indices:
            _claim(owner, index, number)
    placed = {}
    for keyframe, indices in zip(keyframes, targets):
        encoded = encode(bridged(keyframe.pictures, keyframe.free_frames)).split(1, dim=2)  # n of (1, C, 1, h, w)
        for index, kept, m in zip(indices, keyframe.kept, keyframe.multipliers):
            placed[index] = Placed(encoded[kept], m, keyframe.behaviour_of(m))
    return placed, tuple(_note(number, k, t) for number, (k, t) in enumerate(zip(keyframes, targets), 1))


def leading(placed: Collection[int]) -> int:
    """How many frames are given at the clip's start, before any that is made."""
    return next(i for i in count() if i not in placed)


def _place(keyframe: Keyframe, latents: int) -> tuple[int, ...]:
    anchor = resolve_index(keyframe.index, keyframe.unit, latents)
    targets = tuple(anchor + k - keyframe.kept[0] for k in keyframe.kept)
    if targets[-1] >= latents:
        raise fault(
            "A keyframe clip of {count} latent frames at {anchor} runs past the clip's last, {last}: "
            "place it earlier or make the clip longer.",
            count=len(targets),
            anchor=describe_latent_frame(anchor),
            last=describe_latent_frame(latents - 1),
        )
    if anchor == 0 and keyframe.kept[0] > 0:
        raise fault(
            "A keyframe clip prepared for a later place lands on latent frame 0, which holds a single "
            "frame: place it at index 0 or at the start."
        )
    return targets


def _claim(owner: dict[int, int], target: int, number: int) -> None:
    if target in owner:
        raise fault(
            "Keyframes {other} and {number} both land on {target}: move one by at least 4 frames, or remove it.",
            other=owner[target],
            number=number,
            target=describe_latent_frame(target),
        )
    owner[target] = number


_ASKED = {
    "pixel": mark("pixel frame {index}"),
    "latent": mark("latent frame {index}"),
    "start": mark("the start"),
    "end": mark("the end"),
}


def _note(number: int, keyframe: Keyframe, targets: tuple[int, ...]) -> str:
    where = describe_latent_frame(targets[0])
    if len(targets) > 1:
        where = say("{first} to {last}", first=where, last=describe_latent_frame(targets[-1]))
    same = len(set(keyframe.multipliers)) == 1
    noise = shorten(", ".join(f"{m:.3g}" for m in (keyframe.multipliers[:1] if same else keyframe.multipliers)), NOISE_SHOWN)
    asked = say(_ASKED[keyframe.unit if keyframe.place == "index" else keyframe.place], index=keyframe.index)
    what = say("a picture") if len(keyframe.pictures) == 1 else say("a clip")
    note = say(
        "Keyframe {number}, {what} at {asked}: {where}; noise {noise}; {behaviour}.",
        number=number, what=what, asked=asked, where=where, noise=noise, behaviour=_spoken_behaviour(keyframe),
    )  # fmt: skip
    return f"{note}{keyframe.remark}"


def _spoken_behaviour(keyframe: Keyframe) -> str:
    held = [m for m in keyframe.multipliers if keyframe.behaviour_of(m) == "hold"]
    if 0 < len(held) < len(keyframe.multipliers):
        return say("hold up to {noise:g}, above it evolve", noise=max(held))
    return "hold" if held else "evolve"
