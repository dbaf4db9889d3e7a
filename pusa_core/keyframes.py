"""Keyframes: which pictures, where in the clip, how much noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from .frames import (
    MAX_LENGTH,
    TEMPORAL_STRIDE,
    FrameUnit,
    check_integer,
    check_multiplier,
    describe_latent_frame,
    latent_length,
    parse_multipliers,
    parse_positions,
    pixel_frames,
    pixel_length,
    resolve_index,
    spoken_count,
)
from .messages import describe, fault, mark, say
from .resize import check_pictures
from .schedule import Behaviour

Take = Literal["first", "last", "chosen"]
Place = Literal["start", "end", "index"]

# Frames encoded before a clip that is placed later than the start, so that its latents carry motion.
LEAD_IN = 4 * TEMPORAL_STRIDE + 1


@dataclass(frozen=True)
class Keyframe:
    """Pictures that are encoded together as one clip, and where some of the latents go.

    Attributes:
        pictures: (N, H, W, 3) in [0, 1], N = 4n+1.
        kept: which of the n+1 encoded latents are keyframes, rising.
        index: where the first kept latent goes; the others keep their distance from it.
        unit: what `index` counts; negatives count from the end of the clip that is made.
        multipliers: noise multiplier of every kept latent, 0 to 1.
        behaviour: "evolve" or "hold", see `FrameMap`.
        place: how the user said where; "start" and "end" have been turned into `index`.
        remark: what the user should know about how the pictures were taken.
        hold_up_to: noise multiplier up to which "hold" holds; latents of more evolve.
    """

    pictures: Tensor
    kept: tuple[int, ...]
    index: int
    unit: FrameUnit
    multipliers: tuple[float, ...]
    behaviour: Behaviour = "evolve"
    place: Place = "index"
    remark: str = ""
    hold_up_to: float = 1.0

    def behaviour_of(self, multiplier: float) -> Behaviour:
        """What a latent of a noise multiplier does."""
        return self.behaviour if multiplier <= self.hold_up_to else "evolve"

    @property
    def free_frames(self) -> list[int]:
        """The pictures' numbers of latents that have no say: they start from noise alone."""
        free = (k for k, m in zip(self.kept, self.multipliers) if m == 1 and self.behaviour_of(m) == "evolve")
        return [frame for latent in free for frame in pixel_frames(latent)]


def check_keyframes(keyframes: Any) -> list[Keyframe]:
    """The keyframes of a list that may hold anything, as what a workflow puts on a wire.

    Raises:
        ValueError: it is no list, or holds something else.
    """
    if not isinstance(keyframes, (list, tuple)):
        raise fault(
            "{keyframes} was given instead of keyframes: connect a Pusa keyframe node.", keyframes=describe(keyframes)
        )
    for keyframe in keyframes:
        if not isinstance(keyframe, Keyframe):
            raise fault("{keyframe} is among the keyframes: connect a Pusa keyframe node.", keyframe=describe(keyframe))
    return [*keyframes]


def still_keyframe(
    picture: Tensor, index: int, unit: FrameUnit, multiplier: float, behaviour: Behaviour = "evolve"
) -> Keyframe:
    """One picture (1, H, W, 3), encoded alone.

    Raises:
        ValueError: it is no picture, or the multiplier is not a number from 0 to 1.
    """
    check_pictures(picture)
    return Keyframe(picture, (0,), index, unit, (check_multiplier(multiplier),), behaviour)


def clip_keyframe(
    pictures: Tensor, index: int, unit: FrameUnit, multiplier: float, behaviour: Behaviour = "evolve"
) -> Keyframe:
    """One picture or a whole clip (N, H, W, 3) whose first frame goes to `index`.

    A clip at the start is 4n+1 frames and gives n+1 latents. A later one gives n latents: of 4n+1 frames the first
    is the lead-in, of 4n frames the first is repeated for it.

    Raises:
        ValueError: the number of pictures fits neither.
    """
    check_pictures(pictures)
    count = len(pictures)
    if count == 1:
        return still_keyframe(pictures, index, unit, multiplier, behaviour)
    try:
        latents = _latents_of(count, "pixel", index == 0)
    except ValueError as error:
        raise fault("{error} Separate pictures go to Pusa Keyframes From Text.", error=error) from error
    pictures, kept = last_frames(pictures, latents, index == 0)
    return Keyframe(pictures, kept, index, unit, (check_multiplier(multiplier),) * latents, behaviour)


def keyframes_from_text(
    pictures: Tensor, positions: str, multipliers: str, unit: FrameUnit = "latent", behaviour: Behaviour = "evolve"
) -> list[Keyframe]:
    """The public demo's interface: a batch of pictures, their positions ("0,20") and multipliers ("0.2,0.5").

    Raises:
        ValueError: a text cannot be read, or the counts differ.
    """
    check_pictures(pictures)
    indices = parse_positions(positions)
    if len(indices) != len(pictures):
        raise fault(
            '{pictures} pictures were given with {count} positions ("{positions}"): give one position for each picture.',
            pictures=len(pictures),
            count=len(indices),
            positions=positions.strip()[:40],
        )
    values = parse_multipliers(multipliers, len(indices))
    return [still_keyframe(pictures[i : i + 1], indices[i], unit, values[i], behaviour) for i in range(len(indices))]


def video_keyframes(
    pictures: Tensor,
    take: Take,
    count: int,
    unit: FrameUnit,
    place: Place,
    index: int,
    multipliers: str,
    behaviour: Behaviour = "evolve",
    chosen: str = "",
) -> Keyframe:
    """Frames of a clip as keyframes, encoded as a clip so that motion is carried (Pusa, section 2 of its inference).

    Args:
        pictures: the clip, (N, H, W, 3).
        take: the first or last `count` frames, or the `chosen` ones.
        count: how many; of pixel frames 4n+1 at the start of the new clip, 4n later in it.
        unit: what `count`, `chosen` and `index` count.
        place: at the start, at the end, or at `index`. Chosen frames keep their distances: the given clip is laid with
            its start on the new one's, or its end on its end, or its first chosen frame on `index`.
        multipliers: one value, a list with one for each latent frame, or a ramp ("0 to 0.3"); of chosen frames in
            the order in which they are named.
        chosen: frame numbers of the given clip, "0, 20".

    Raises:
        ValueError: the clip is too short, or counts do not fit.
    """
    check_pictures(pictures)
    check_choice(take, Take, "take")
    check_choice(place, Place, "place")
    check_choice(unit, FrameUnit, "unit")
    if take == "chosen":
        return _chosen_keyframe(pictures, chosen, unit, place, index, multipliers, behaviour)
    at_start = place == "start" or (place == "index" and index == 0)
    latents = _latents_of(count, unit, at_start)
    pictures, kept = {"first": _first, "last": last_frames}[take](pictures, latents, at_start)
    if place != "index":
        unit, index = "latent", 0 if at_start else -latents
    return Keyframe(pictures, kept, index, unit, tuple(parse_multipliers(multipliers, latents)), behaviour, place)


def check_choice(value: object, choices: Any, what: str) -> None:
    """Refuses what is none of a Literal's choices; `what` is the setting's name."""
    if value not in get_args(choices):
        raise fault(
            '"{what}" is {value}; it must be one of {choices}.',
            what=what,
            value=describe(value),
            choices=", ".join(get_args(choices)),
        )


def _chosen_keyframe(
    pictures: Tensor, chosen: str, unit: FrameUnit, place: Place, index: int, multipliers: str, behaviour: Behaviour
) -> Keyframe:
    unused = (len(pictures) - 1) % TEMPORAL_STRIDE
    remark = ""
    if unused:
        remark = " " + say("The clip's last {unused} frames are not used, because it is not 4n+1 frames long.", unused=unused)
    latents = latent_length(len(pictures) - unused)
    named = _named_frames(chosen, unit, latents, remark)
    kept, values = zip(*sorted(zip(named, parse_multipliers(multipliers, len(named)))))
    if place == "index" and index == 0 and kept[0] > 0:
        if len(kept) > 1:
            raise fault(
                "The chosen frames begin with {latent} of the clip, whose 4 frames do not fit on frame 0: "
                "choose frame 0 too, or place them at 1 or later.",
                latent=describe_latent_frame(kept[0]),
            )
        return still_keyframe(pictures[pixel_frames(kept[0])[-1] :][:1], index, unit, values[0], behaviour)
    if place != "index":
        unit, index = "latent", kept[0] - (latents if place == "end" else 0)
    # the VAE is causal: what comes after the last kept latent does not change it
    pictures = pictures[: pixel_length(kept[-1] + 1)]
    return Keyframe(pictures, kept, index, unit, values, behaviour, place, remark)


def _named_frames(chosen: str, unit: FrameUnit, latents: int, remark: str) -> list[int]:
    """The latent frames of a clip that a text names, each once, in its order."""
    try:
        named = [resolve_index(i, unit, latents) for i in parse_positions(chosen, mark("chosen frames"))]
    except ValueError as error:
        raise ValueError(f"{error}{remark}") from error
    for position, latent in enumerate(named):
        if latent in named[:position]:
            raise fault(
                "The chosen frames name {latent} of the clip twice; name it once.", latent=describe_latent_frame(latent)
            )
    return named


def _latents_of(count: int, unit: FrameUnit, at_start: bool) -> int:
    """How many latents `count` frames of a clip are, at the start of the new clip or later in it."""
    check_integer(count, mark("The number of frames to take"))
    if not 1 <= count <= MAX_LENGTH:
        raise fault(
            "{count} frames of the clip were asked for; take at least 1 and at most {most}.",
            count=describe(count),
            most=MAX_LENGTH,
        )
    if unit == "latent":
        return count
    if at_start:
        return latent_length(count)
    if count > 1 and count % TEMPORAL_STRIDE in (0, 1):
        return count // TEMPORAL_STRIDE
    lower = max(count - count % TEMPORAL_STRIDE, TEMPORAL_STRIDE)
    raise fault(
        "{count} of a clip cannot be placed later than its start, where a latent frame holds 4 frames: "
        "use {lower} or {upper}.",
        count=spoken_count(count),
        lower=lower,
        upper=lower + TEMPORAL_STRIDE,
    )


def _require(pictures: Tensor, needed: int, latents: int) -> None:
    if len(pictures) < needed:
        raise fault(
            "The clip has {count}, but {latents} latent frames of it need {needed}: take fewer or give a longer clip.",
            count=spoken_count(len(pictures)),
            latents=latents,
            needed=needed,
        )


def _first(pictures: Tensor, latents: int, at_start: bool) -> tuple[Tensor, tuple[int, ...]]:
    payload = TEMPORAL_STRIDE * latents
    if not at_start and len(pictures) == payload:
        return _with_repeated_lead_in(pictures, latents)
    needed = payload - TEMPORAL_STRIDE + 1 if at_start else payload + 1
    _require(pictures, needed, latents)
    return pictures[:needed], tuple(range(latents)) if at_start else tuple(range(1, latents + 1))


def last_frames(pictures: Tensor, latents: int, at_start: bool) -> tuple[Tensor, tuple[int, ...]]:
    """What is encoded of a clip (N, H, W, 3) for its last frames, and which of these latents are theirs.

    Args:
        latents: how many they fill.
        at_start: whether the first holds one frame alone, so that they are 4n+1; else they are 4n after a lead-in.

    Raises:
        ValueError: the clip is too short.
    """
    if at_start:
        needed = TEMPORAL_STRIDE * (latents - 1) + 1
        _require(pictures, needed, latents)
        return pictures[-needed:], tuple(range(latents))
    payload = TEMPORAL_STRIDE * latents
    _require(pictures, payload, latents)
    spare = len(pictures) - payload
    if spare == 0:
        return _with_repeated_lead_in(pictures, latents)
    lead = min(LEAD_IN, TEMPORAL_STRIDE * ((spare - 1) // TEMPORAL_STRIDE) + 1)
    dropped = latent_length(lead)
    return pictures[-(payload + lead) :], tuple(range(dropped, dropped + latents))


def _with_repeated_lead_in(pictures: Tensor, latents: int) -> tuple[Tensor, tuple[int, ...]]:
    return torch.cat([pictures[:1], pictures]), tuple(range(1, latents + 1))
