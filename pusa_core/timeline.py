"""The timeline: pictures and clips on the frames of a video, as one JSON text.

    {"version": 1, "items": [
        {"at": 0, "media": "pusa/a.png", "noise": 0.2},
        {"at": 40, "input": 1, "noise": 0.3, "behaviour": "hold"},
        {"at": -13, "media": "clip.mp4", "take": [0, 13], "noise": [0, 0.3, 0.4, 0.5]}
    ]}

`at` is the pixel frame of the item's first picture; negative counts from the end (-1 is the last frame). `media` is a
file in ComfyUI's input folder, `input` the number of a connected picture, from 1. `noise` is one noise multiplier for
all latent frames, a list with one for each, a ramp ("0 to 0.5"), or a curve by points ("0: 0, 3: 1, -1: 0.2", counted in
the item's latent frames); 0.2 where it is left out. `behaviour` is evolve or hold, which leaves a clip's latent frames of
noise 1 free. `take` says which frames of a clip: [first, after the last], as a slice does: [-13, null] are the last 13. A
clip of 4n+1 frames fills n+1 latent frames: its first frame the one that holds `at`. Later than the start, where a latent
frame holds four, it may be 4n frames, which fill n: those before them in the clip lead in.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, get_args

import torch

from .frames import (
    MAX_LENGTH,
    TEMPORAL_STRIDE,
    check_multiplier,
    fewest_latents,
    latent_length,
    parse_multipliers,
    pixel_length,
    spoken_count,
)
from .json_input import read_object
from .keyframes import LEAD_IN, Keyframe, last_frames, still_keyframe
from .messages import either, fault, mark, say
from .plan import plan_clip
from .schedule import Behaviour

VERSION = 1
LARGEST_TEXT = 1_000_000  # characters
MOST_ITEMS = 1_000
MOST_INPUTS = 50
EXAMPLE = '{"version": 1, "items": [...]}'
HELD_CLIP = 0.999  # noise up to which latent frames of a clip are held: those of 1 are made anew
NOISE = 0.2  # the Keyframe node's default
KEYS = ("at", "media", "input", "take", "noise", "behaviour")


@dataclass(frozen=True)
class Item:
    """One entry of a timeline.

    Attributes:
        number: counted from 1, as messages name it.
        at: pixel frame of its first picture; negative counts from the end.
        media: a file's name, or None.
        input: number of a connected picture, from 1, or None.
        noise: a number, numbers, or a ramp or curve as text.
        behaviour: "evolve" or "hold", see `FrameMap`.
        take: first frame of the clip, and the one after the last; None takes all that follow.
    """

    number: int
    at: int
    media: str | None = None
    input: int | None = None
    noise: float | tuple[float, ...] | str = NOISE
    behaviour: Behaviour = "evolve"
    take: tuple[int, int | None] = (0, None)

    def frames(self, total: int) -> range:
        """Which frames it takes of a clip of `total` frames.

        Raises:
            ValueError: none, more than the clip has, or not 4n+1 (later than the start: nor 4n).
        """
        first, last = ((total if n is None else n + total if n < 0 else n) for n in self.take)
        with named(self):
            if not 0 <= first < total or not 0 <= last <= total:
                raise fault('"take" is {take}, but the clip has {total}.', take=_shown(self.take), total=spoken_count(total))
            _check_count(last - first, total, self.at == 0)
        return range(first, last)

    def count(self) -> int | None:
        """How many frames it takes; None where only the clip can say."""
        return _count(*self.take)

    def multipliers(self, latents: int) -> tuple[float, ...]:
        """The noise multiplier of each of its latent frames.

        Raises:
            ValueError: there are more or fewer of them.
        """
        if isinstance(self.noise, str):
            return tuple(parse_multipliers(self.noise, latents))
        values = self.noise if isinstance(self.noise, tuple) else (self.noise,) * latents
        if len(values) != latents:
            raise fault(
                '"noise" has {count} values, but the item fills {latents} latent frames: give one for '
                'each, one number for all, or a ramp such as "0 to 0.5".',
                count=len(values),
                latents=latents,
            )
        return values


@contextmanager
def named(item: Item) -> Iterator[None]:
    """Says in an error which item it is about."""
    try:
        yield
    except ValueError as error:
        raise ValueError(_about(item.number, error)) from error


def _about(number: int, error: object) -> str:
    name = say("Item {number} of the timeline:", number=number)
    return str(error) if str(error).startswith(name) else f"{name} {error}"


def parse_timeline(text: str) -> tuple[Item, ...]:
    """Reads a timeline. An empty text has no items: text to video.

    Raises:
        ValueError: it is not one; the message names the item.
    """
    if not text.strip():
        return ()
    data = read_object(text, mark("The timeline"), LARGEST_TEXT, EXAMPLE)
    if data.get("version") != VERSION:
        raise fault(
            "The timeline has version {version}; this pack reads version {known}.",
            version=_shown(data.get("version")),
            known=VERSION,
        )
    entries = data.get("items")
    if not isinstance(entries, list) or data.keys() != {"version", "items"}:
        raise fault('The timeline must hold "version" and a list of "items", and nothing else.')
    if len(entries) > MOST_ITEMS:
        raise fault("The timeline has {count} items; at most {most} are read.", count=len(entries), most=MOST_ITEMS)
    return tuple(_item(number, entry) for number, entry in enumerate(entries, 1))


def _item(number: int, entry: Any) -> Item:
    try:
        if not isinstance(entry, dict):
            raise fault('it must be an object with "at" and "media" or "input".')
        unknown = next((key for key in entry if key not in KEYS), None)
        if unknown is not None:
            raise fault("{key} is not known; use {keys}.", key=_shown(unknown), keys=", ".join(KEYS))
        media, source = entry.get("media"), entry.get("input")
        if media is None and source is None:
            raise fault(
                'it is an empty place: drop a picture or clip on it (in the text, give "media" or "input"), or remove it.'
            )
        if media is not None and source is not None:
            raise fault('give either "media", a file, or "input", the number of a connected picture, not both.')
        at = _whole(entry.get("at"), "at", -MAX_LENGTH, MAX_LENGTH)
        return Item(
            number,
            at,
            None if media is None else _file_name(media),
            None if source is None else _whole(source, "input", 1, MOST_INPUTS),
            _noise(entry.get("noise", NOISE)),
            _behaviour(entry.get("behaviour", "evolve")),
            _take(entry.get("take", [0, None]), at),
        )
    except ValueError as error:
        raise ValueError(_about(number, error)) from error


def _shown(value: Any, limit: int = 40) -> str:
    text = json.dumps(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _whole(value: Any, key: str, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise fault(
            '"{key}" is {value}; it must be a whole number from {low} to {high}.',
            key=key,
            value=_shown(value),
            low=low,
            high=high,
        )
    return value


def _file_name(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise fault('"media" is {value}; it must be the name of a file in the input folder.', value=_shown(value))
    return value


def _behaviour(value: Any) -> Behaviour:
    if value not in get_args(Behaviour):
        raise fault('"behaviour" is {value}; it must be "evolve" or "hold".', value=_shown(value))
    return value


def _noise(value: Any) -> float | tuple[float, ...] | str:
    if isinstance(value, str):
        fewest_latents(value)
        return value
    return tuple(_multiplier(v) for v in value) if isinstance(value, list) and value else _multiplier(value)


def _multiplier(value: Any) -> float:
    if type(value) not in (int, float):
        raise fault(
            '"noise" is {value}; use a number from 0 to 1, a list of them, or a ramp "0 to 0.5".', value=_shown(value)
        )
    return check_multiplier(min(value, 2))  # of a huge whole number no float can be made


def _take(value: Any, at: int) -> tuple[int, int | None]:
    if not isinstance(value, list) or len(value) != 2:
        raise fault('"take" is {value}; it must be [first, after the last], for example [0, 13].', value=_shown(value))
    first = _whole(value[0], "take", -MAX_LENGTH, MAX_LENGTH)
    take = first, None if value[1] is None else _whole(value[1], "take", -MAX_LENGTH, MAX_LENGTH)
    count = _count(*take)
    if count is not None:
        _check_count(count, None, at == 0)
    return take


def _count(first: int, last: int | None) -> int | None:
    if last is None:
        return -first if first < 0 else None
    return last - first if (first < 0) == (last < 0) else None


def _check_count(count: int, total: int | None, at_start: bool) -> None:
    if count < 1:
        raise fault('"take" names no frame; it is [first, after the last], for example [0, 13].')
    rest = count % TEMPORAL_STRIDE
    if rest > 1 or (rest == 0 and at_start):
        lower = count - (count - 1) % TEMPORAL_STRIDE
        upper = lower + TEMPORAL_STRIDE
        choices = either(lower, upper) if total is None or upper <= total else lower
        taken = spoken_count(count)
        if total is not None:
            taken = say("{frames} of the clip's {total}", frames=taken, total=total)
        raise fault(
            'it takes {taken}, which is not 4n+1: use {choices} ("take": [first, after the last]).',
            taken=taken,
            choices=choices,
        )


def with_lead_in(taken: range) -> range:
    """What is read of a clip for the frames that an item takes: 4n come after some that lead in, where there are any."""
    return taken if len(taken) % TEMPORAL_STRIDE else range(max(0, taken.start - LEAD_IN), taken.stop)


def item_keyframe(item: Item, pictures: torch.Tensor, taken: int | None = None) -> Keyframe:
    """What an item is for the plan.

    Args:
        pictures: (N, H, W, 3), the frames that it takes, after those that lead in; see `with_lead_in`.
        taken: how many it takes, 4n+1 or 4n; None where nothing leads in.

    Raises:
        ValueError: its noise multipliers do not fit their number.
    """
    taken = len(pictures) if taken is None else taken
    with named(item):
        multipliers = item.multipliers(-(-taken // TEMPORAL_STRIDE))
        if taken == 1:
            return still_keyframe(pictures, item.at, "pixel", multipliers[0], item.behaviour)
        pictures, kept = last_frames(pictures, len(multipliers), taken % TEMPORAL_STRIDE == 1)
        return Keyframe(pictures, kept, item.at, "pixel", multipliers, item.behaviour, hold_up_to=HELD_CLIP)


def outline(item: Item, total: int | None = None) -> torch.Tensor:
    """Empty pictures (N, 1, 1, 3) in the number that an item takes, as far as that is known without its clip."""
    count = item.count() if total is None else len(item.frames(total))
    if count is None:
        count = pixel_length(_fewest_latents(item.noise))
    return torch.zeros(1, 1, 1, 3).expand(count, -1, -1, -1)


def _fewest_latents(noise: float | tuple[float, ...] | str) -> int:
    return len(noise) if isinstance(noise, tuple) else fewest_latents(noise) if isinstance(noise, str) else 1


def check_places(keyframes: Sequence[Keyframe], length: int) -> None:
    """Whether keyframes fit into a video of `length` frames, without encoding anything.

    Raises:
        ValueError: what `plan_clip` says, with the number of the item; they are counted from 1.
    """
    latent_length(length)
    for number, keyframe in enumerate(keyframes, 1):
        try:
            _check_length(keyframe, length)
        except ValueError as error:
            raise ValueError(_about(number, error)) from error
    try:
        plan_clip(keyframes, length, _encode_nothing)
    except ValueError:
        _check_each(keyframes, length)
        raise


def _check_length(keyframe: Keyframe, length: int) -> None:
    leads_in = keyframe.kept[0] > 0
    count = TEMPORAL_STRIDE * len(keyframe.kept) if leads_in else pixel_length(len(keyframe.kept))
    if count > length:
        raise fault("it takes {count} frames, but the video has {length}.", count=count, length=length)
    _check_count(count, None, keyframe.index in (0, -length))


def _check_each(keyframes: Sequence[Keyframe], length: int) -> None:
    for number, keyframe in enumerate(keyframes, 1):
        try:
            plan_clip([keyframe], length, _encode_nothing)
        except ValueError as error:
            raise ValueError(_about(number, error)) from error


def _encode_nothing(pictures: torch.Tensor) -> torch.Tensor:
    return torch.zeros(1, 1, latent_length(len(pictures)), 1, 1)
