"""The plan of a clip: its schedule and the clean latents of its keyframes, each in its place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .frames import describe_latent_frame, latent_length, resolve_index
from .keyframes import Keyframe, check_keyframes
from .messages import fault, mark, say
from .schedule import FrameMap, FrameSchedule
from .virtual_latent import ScheduleTable


@dataclass(frozen=True)
class Plan:
    """Schedules with the clean latents of their keyframes: one for every clip of a batch, or one for all.

    Attributes:
        schedules: every latent frame's sigma; 1 or B, of one length.
        clean: (1 or B, C, F, H, W), the VAE's latents at keyframes and zeros elsewhere; None without keyframes.
        notes: what was placed where, one sentence each.

    Raises:
        ValueError: a frame that starts from a picture has none, or lengths or numbers of clips differ.
    """

    schedules: tuple[FrameSchedule, ...]
    clean: Tensor | None = None
    notes: tuple[str, ...] = ()

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
        """Whether every frame of every clip simply follows the sampler: plain text to video."""
        return all(schedule.is_ordinary for schedule in self.schedules)

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


def same_plan(a: Plan, b: Plan) -> bool:
    """Whether two plans ask for the same, however they came to be."""
    if a is b or a.schedules != b.schedules:
        return a is b
    if a.clean is None or b.clean is None:
        return a.clean is b.clean
    return a.clean.shape == b.clean.shape and torch.equal(a.clean, b.clean.to(a.clean))


def join_plans(plans: Sequence[Plan], counts: Sequence[int]) -> Plan:
    """One plan for a batch: the first for the first `counts[0]` clips, and so on.

    Raises:
        ValueError: the plans are for clips of different lengths or sizes.
    """
    if plans[0].clips == 1 and all(same_plan(plan, plans[0]) for plan in plans):
        return plans[0]
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
    return Plan(schedules, clean, tuple(dict.fromkeys(note for plan in plans for note in plan.notes)))


def _repeated(schedules: tuple[FrameSchedule, ...], count: int) -> tuple[FrameSchedule, ...]:
    return schedules * count if len(schedules) == 1 else schedules


def plan_clip(keyframes: Sequence[Keyframe], length: int, encode: Callable[[Tensor], Tensor]) -> Plan:
    """Places keyframes into a clip of `length` pixel frames.

    Args:
        keyframes: none makes plain text to video.
        length: pixel frames of the clip, 4n+1.
        encode: pictures (N, H, W, 3) -> clean latents (1, C, (N-1)/4+1, h, w).

    Raises:
        ValueError: the length is not 4n+1, something else is among the keyframes, one lies outside the clip, or two share a
            latent frame.
    """
    latents, keyframes = latent_length(length), check_keyframes(keyframes)
    placed = [_place(keyframe, latents) for keyframe in keyframes]
    owner: dict[int, int] = {}
    for number, targets in enumerate(placed, 1):
        for target in targets:
            _claim(owner, target, number)
    maps, clean = {}, None
    for keyframe, targets in zip(keyframes, placed):
        encoded = encode(keyframe.pictures)  # (1, C, n, h, w)
        if clean is None:
            clean = encoded.new_zeros((1, encoded.shape[1], latents, *encoded.shape[3:]))
        clean[:, :, list(targets)] = encoded[:, :, list(keyframe.kept)]
        maps.update({t: FrameMap.line(m, keyframe.behaviour) for t, m in zip(targets, keyframe.multipliers)})
    notes = tuple(_note(number, k, t) for number, (k, t) in enumerate(zip(keyframes, placed), 1))
    return Plan((FrameSchedule.build(latents, maps),), clean, notes)


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
    noise = ", ".join(f"{m:g}" for m in (keyframe.multipliers[:1] if same else keyframe.multipliers))
    asked = say(_ASKED[keyframe.unit if keyframe.place == "index" else keyframe.place], index=keyframe.index)
    what = say("a picture") if len(keyframe.pictures) == 1 else say("a clip")
    note = say(
        "Keyframe {number}, {what} at {asked}: {where}; noise {noise}; {behaviour}.",
        number=number, what=what, asked=asked, where=where, noise=noise, behaviour=keyframe.behaviour,
    )  # fmt: skip
    return f"{note}{keyframe.remark}"
