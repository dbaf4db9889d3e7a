"""Pixel frames, latent frames, and the text that people type for them.

Wan's VAE is causal and compresses time by four: latent frame 0 holds pixel frame 0 alone, latent frame k holds
pixel frames 4k-3 ... 4k, so 4n+1 pixel frames are n+1 latent frames.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np

from .messages import describe, fault, mark, say, shorten

TEMPORAL_STRIDE = 4
MAX_LENGTH = 1_000_001  # pixel frames; keeps a typing slip from allocating a latent of terabytes
MOST_POINTS = 1_000  # of a noise curve
CURVE = "0: 0, 8: 0.2, -1: 1"  # an example of one
HELD = 0.5  # noise up to which frames of a clip are to stay as they are, and end exactly so

FrameUnit = Literal["pixel", "latent"]

_INTEGER = re.compile(r"[+-]?[0-9]{1,9}\Z")
_NUMBER = re.compile(r"[+-]?([0-9]{1,9}(\.[0-9]{0,20})?|\.[0-9]{1,20})([eE][+-]?[0-9]{1,2})?\Z")


def check_integer(value: Any, what: str) -> None:
    """Refuses what is no whole number.

    Args:
        what: what the message calls it, such as mark("The length of a clip").

    Raises:
        ValueError: it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise fault("{what} must be a whole number, not {value}.", what=say(what), value=describe(value))


def latent_length(length: int) -> int:
    """Number of latent frames of a clip of `length` pixel frames.

    Raises:
        ValueError: `length` is not 4n+1.
    """
    check_integer(length, mark("The length of a clip"))
    if not 1 <= length <= MAX_LENGTH:
        raise fault(
            "A clip of {length} frames was asked for; give a length from 1 to {most}.",
            length=describe(length),
            most=MAX_LENGTH,
        )
    rest = (length - 1) % TEMPORAL_STRIDE
    if rest:
        lower, upper = length - rest, length - rest + TEMPORAL_STRIDE
        raise fault(
            "A length of {length} frames is not 4n+1, which Wan's VAE needs; use {lower} or {upper}.",
            length=length,
            lower=lower,
            upper=upper,
        )
    return (length - 1) // TEMPORAL_STRIDE + 1


def pixel_length(latents: int) -> int:
    """Number of pixel frames that `latents` latent frames decode to."""
    return TEMPORAL_STRIDE * (latents - 1) + 1


def latent_frame(pixel_frame: int) -> int:
    """The latent frame that holds a pixel frame (both counted from 0)."""
    return (pixel_frame + TEMPORAL_STRIDE - 1) // TEMPORAL_STRIDE


def pixel_frames(latent: int) -> range:
    """The pixel frames that a latent frame holds (both counted from 0)."""
    if latent == 0:
        return range(1)
    return range(TEMPORAL_STRIDE * (latent - 1) + 1, TEMPORAL_STRIDE * latent + 1)


def spoken_count(frames: int) -> str:
    return say("1 frame") if frames == 1 else say("{count} frames", count=frames)


def spoken_frames(latent: int) -> str:
    """`frames 17-20`: the pixel frames that a latent frame holds, in words."""
    pixels = pixel_frames(latent)
    if len(pixels) == 1:
        return say("frame {number}", number=pixels[0])
    return say("frames {first}-{last}", first=pixels[0], last=pixels[-1])


def describe_latent_frame(latent: int) -> str:
    """`latent frame 5 (frames 17-20)`: a latent frame as users see it."""
    return say("latent frame {number} ({frames})", number=latent, frames=spoken_frames(latent))


_OUTSIDE = {
    "pixel": mark(
        "Pixel frame {index} lies outside the clip, which has {total} pixel frames: use 0 to {last}, or -{total} to -1 to "
        "count from the end."
    ),
    "latent": mark(
        "Latent frame {index} lies outside the clip, which has {total} latent frames: use 0 to {last}, or -{total} to -1 to "
        "count from the end."
    ),
}


def resolve_index(index: int, unit: FrameUnit, latents: int) -> int:
    """The latent frame that `index` names in a clip of `latents` latent frames.

    Args:
        index: counted from 0, or from the end when negative (-1 is the last).
        unit: whether `index` counts pixel frames or latent frames.

    Raises:
        ValueError: the index lies outside the clip.
    """
    if unit not in ("pixel", "latent"):
        raise fault("A frame index counts 'pixel' or 'latent' frames, not {unit}.", unit=describe(unit))
    check_integer(index, mark("A frame index"))
    total = pixel_length(latents) if unit == "pixel" else latents
    if not -total <= index < total:
        raise fault(_OUTSIDE[unit], index=describe(index), total=total, last=total - 1)
    position = index % total
    return latent_frame(position) if unit == "pixel" else position


def comma_fields(text: str, what: str, example: str) -> list[str]:
    """The entries of a list with commas; `what` they are, and an `example`, for the message of the ValueError."""
    fields = [field.strip() for field in text.split(",")]
    if not any(fields):
        raise fault(
            'No {what} were given: write them separated by commas, for example "{example}".', what=say(what), example=example
        )
    if not all(fields):
        raise fault('"{text}" has an empty entry between commas; remove the extra comma.', text=shorten(text))
    return fields


def parse_positions(text: str, what: str = mark("positions")) -> list[int]:
    """Reads frame positions, `"0, 20"` or `"0,-1"`; negatives count from the end.

    Raises:
        ValueError: an entry is not a whole number in ASCII digits; `what` is what the message calls them.
    """
    fields = comma_fields(text, what, "0, 20")
    for field in fields:
        if not _INTEGER.match(field):
            raise fault('"{field}" is not a frame position; write whole numbers, for example "0, 20".', field=shorten(field))
    return [int(field) for field in fields]


def check_multiplier(value: Any) -> float:
    """Returns a noise multiplier unchanged.

    Raises:
        ValueError: it is not a number from 0 to 1.
    """
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not (is_number and 0 <= value <= 1):
        raise fault(
            "A noise multiplier of {value} was given; it must be from 0 (clean) to 1 (all noise).", value=describe(value)
        )
    return float(value)


def _multiplier(field: str) -> float:
    if not _NUMBER.match(field):
        raise fault(
            '"{field}" is not a noise multiplier; write numbers from 0 to 1, for example "0.2, 0.5".', field=shorten(field)
        )
    return check_multiplier(float(field))


def parse_multipliers(text: str, count: int) -> list[float]:
    """Reads the noise multipliers of `count` latent frames.

    Args:
        text: one value for all (`"0.2"`), one for each (`"0, 0.3, 0.4, 0.5"`), a ramp (`"0 to 0.3"`), or a curve by points
            (`"0: 0, 8: 0.2, -1: 1"`, see `parse_curve`).

    Raises:
        ValueError: an entry is not a number from 0 to 1, their number is neither 1 nor `count`, or a point lies outside.
    """
    if ":" in text:
        return parse_curve(text, count)
    start, is_ramp, end = " ".join(text.split()).partition(" to ")
    if is_ramp:
        return linear_ramp(_multiplier(start), _multiplier(end), count)
    values = [_multiplier(field) for field in comma_fields(text, mark("noise multipliers"), "0.2, 0.5")]
    if len(values) == 1:
        return values * count
    if len(values) != count:
        raise fault(
            "{given} noise multipliers were given for {count} latent frames: give one for each, one for "
            'all, or a ramp such as "0 to 0.5".',
            given=len(values),
            count=count,
        )
    return values


def fewest_latents(text: str) -> int:
    """The least number of latent frames that `parse_multipliers` reads a text for.

    Raises:
        ValueError: there is none, and why.
    """
    if ":" not in text:
        count = 1 if " to " in text else text.count(",") + 1
        parse_multipliers(text, count)
        return count
    frames = [frame for frame, _ in parse_points(text)]
    count = max(0, *(frame + 1 for frame in frames)) + max(0, *(-frame for frame in frames))
    _check_order(frames, count)
    return count


def parse_curve(text: str, total: int) -> list[float]:
    """Noise multipliers of `total` frames by points: linear between them, level before the first and after the last.

    Args:
        text: frame and noise of each point, `"0: 0, 8: 0.2, -1: 1"`; negatives count from the end.

    Raises:
        ValueError: a point cannot be read, lies outside, or not after the one before it.
    """
    frames, values = zip(*parse_points(text))
    places = _check_order(frames, total)
    return np.interp(np.arange(total), places, values).tolist()


def _check_order(frames: Sequence[int], total: int) -> list[int]:
    """The places of a curve's points among `total` frames."""
    places = [_place(frame, total) for frame in frames]
    for number, (before, after) in enumerate(pairwise(places), 1):
        if before >= after:
            raise fault(
                "The noise curve has frame {frame} after frame {before}, of {total} frames: name each once, in their order.",
                frame=frames[number],
                before=frames[number - 1],
                total=total,
            )
    return places


def parse_points(text: str) -> list[tuple[int, float]]:
    """The points of a noise curve, see `parse_curve`.

    Raises:
        ValueError: one cannot be read, or there are more than `MOST_POINTS`.
    """
    fields = comma_fields(text, mark("points of the noise curve"), CURVE)
    if len(fields) > MOST_POINTS:
        raise fault("The noise curve has {count} points; at most {most} are read.", count=len(fields), most=MOST_POINTS)
    return [_point(field) for field in fields]


def _point(field: str) -> tuple[int, float]:
    frame, _, value = (part.strip() for part in field.partition(":"))
    if not _INTEGER.match(frame) or not value:
        raise fault(
            '"{field}" is no point of a noise curve; write a frame and its noise, for example "{example}".',
            field=shorten(field),
            example=CURVE,
        )
    return int(frame), _multiplier(value)


def _place(frame: int, total: int) -> int:
    if not -total <= frame < total:
        raise fault(
            "Frame {frame} of the noise curve lies outside its {total} frames: use 0 to {last}, or -{total} to -1 to count "
            "from the end.",
            frame=frame,
            total=total,
            last=total - 1,
        )
    return frame % total


def linear_ramp(start: float, end: float, count: int) -> list[float]:
    """`count` evenly spaced values from `start` to `end`."""
    if count == 1:
        return [start]
    return [start + (end - start) * i / (count - 1) for i in range(count)]
