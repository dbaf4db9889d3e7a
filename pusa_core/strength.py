"""Strength by frame: a clip is the start of every frame of the video, each frame with its own share of noise.

It is one keyframe that fills all latent frames and whose noise multipliers follow a curve: planning, drawing, hosts and
samplers need nothing more. What is here reads the curve, and gives the clip the video's length.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from .frames import (
    HELD,
    TEMPORAL_STRIDE,
    FrameUnit,
    check_integer,
    check_multiplier,
    latent_frame,
    latent_length,
    parse_curve,
    parse_multipliers,
    pixel_frames,
    pixel_length,
    spoken_count,
)
from .keyframes import Keyframe, check_choice
from .messages import mark, say
from .resize import check_pictures
from .retime import at_times

Retime = Literal["keep", "stretch"]


def parse_strength(text: str, latents: int, unit: FrameUnit) -> list[float]:
    """Noise multipliers of all latent frames of a video, as `parse_multipliers` reads them.

    Args:
        unit: what the points of a curve count. Of pixel frames, a latent frame takes the highest noise of those that it
            holds, for it is made anew as a whole.

    Raises:
        ValueError: the text is none, or does not fit the number of frames.
    """
    if unit == "latent" or ":" not in text:
        return parse_multipliers(text, latents)
    values = parse_curve(text, pixel_length(latents))
    return [max(values[frame] for frame in pixel_frames(latent)) for latent in range(latents)]


@dataclass(frozen=True)
class Strength:
    """How much of a clip stays in the video that starts from it, frame by frame.

    Attributes:
        noise: noise multipliers from 0 (the clip stays) to 1 (it has no say), see `parse_strength`.
        unit: what a curve's points count, "pixel" or "latent" frames of the clip as it lies in the video.
        length: pixel frames of the video, 4n+1; 0 is as many as the clip has.
        retime: "keep" leaves every frame its time: a longer clip is cut, after a shorter one the video is new. "stretch"
            gives the clip the video's length, slower or faster; what lies between two of its frames is a blend of them.
        between: least noise of latent frames that hold no frame of a stretched clip, only blends.
        hold_up_to: latent frames of at most this noise end exactly on the clip, the others evolve; see `FrameMap`.

    Raises:
        ValueError: a value is out of range.
    """

    noise: str
    unit: FrameUnit = "pixel"
    length: int = 0
    retime: Retime = "keep"
    between: float = 1.0
    hold_up_to: float = HELD

    def __post_init__(self) -> None:
        check_choice(self.unit, FrameUnit, "unit")
        check_choice(self.retime, Retime, "retime")
        check_multiplier(self.between)
        check_multiplier(self.hold_up_to)
        check_integer(self.length, mark("The length of a clip"))
        if self.length:
            latent_length(self.length)

    def times(self, total: int) -> list[float]:
        """The moments of a clip of `total` frames, counted in them, that the video's frames begin with."""
        if self.length and self.retime == "stretch":
            return np.linspace(0, total - 1, self.length).round(9).tolist()
        kept = min(total, self.length or total)
        return [float(frame) for frame in range(kept - (kept - 1) % TEMPORAL_STRIDE)]

    def multipliers(self, total: int) -> tuple[float, ...]:
        """The noise multiplier of each latent frame that a clip of `total` frames fills.

        Raises:
            ValueError: the noise cannot be read, or does not fit their number.
        """
        length = len(self.times(total))
        values = parse_strength(self.noise, latent_length(length), self.unit)
        if self.retime == "keep" or length <= total:
            return tuple(values)
        held = {latent_frame(round(frame * (length - 1) / max(total - 1, 1))) for frame in range(total)}
        return tuple(value if latent in held else max(value, self.between) for latent, value in enumerate(values))

    def keyframe(self, pictures: Tensor) -> Keyframe:
        """The keyframe of a clip, (N, H, W, 3) in [0, 1].

        Raises:
            ValueError: these are no pictures, or the noise does not fit them.
        """
        check_pictures(pictures)
        return self.keyframe_of(pictures.split(1), len(pictures))

    def keyframe_of(self, frames: Iterable[Tensor], total: int) -> Keyframe:
        """The same of `total` frames, (1, H, W, 3) each, that come one by one: those that are not needed are not kept."""
        multipliers, times = self.multipliers(total), self.times(total)
        pictures = at_times(frames, times)
        return Keyframe(
            pictures,
            tuple(range(len(multipliers))),
            0,
            "latent",
            multipliers,
            "hold",
            "start",
            self._remark(total),
            self.hold_up_to,
        )

    def _remark(self, total: int) -> str:
        length = len(self.times(total))
        if length == total:
            return ""
        if self.length and self.retime == "stretch":
            return " " + say("The clip's {count} were given the time of {length}.", count=spoken_count(total), length=length)
        return " " + say("Of the clip's {count} the first {length} are used.", count=spoken_count(total), length=length)
