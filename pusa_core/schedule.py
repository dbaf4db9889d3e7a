"""The frame schedule: which sigma every latent frame has while the sampler's sigma falls, as plain data."""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from operator import le, lt
from typing import Any, Literal

import torch
from torch import Tensor

from .frames import MAX_LENGTH, check_integer, check_multiplier, latent_length
from .json_input import read_object
from .messages import describe, fault, mark

Behaviour = Literal["evolve", "hold"]
BEHAVIOURS: tuple[Behaviour, ...] = ("evolve", "hold")
Knots = tuple[tuple[float, float], ...]
MAX_JSON = 2**24  # characters: a keyframe at every frame of the longest clip


def pusa_sigmas(steps: int, shift: float = 5.0, denoise: float = 1.0) -> Tensor:
    """The sigma grid of Pusa and Wan: linspace(1, 0, steps + 1) under the flow shift.

    Args:
        steps: number of model evaluations of a first-order sampler, at least 1.
        shift: shift * s / (1 + (shift - 1) * s); 5 is Wan's value, 1 leaves the grid linear.
        denoise: below 1, the last `steps` intervals of a grid of steps / denoise, as ComfyUI's schedulers do.

    Returns:
        fp32 tensor of shape (steps + 1,), falling, ending in exactly 0.

    Raises:
        ValueError: a value is out of range.

    Source: Wan2.1's and Pusa's inference code (arXiv 2507.16116).
    """
    check_integer(steps, mark("The number of steps"))
    if not 1 <= steps <= 10_000:
        raise fault("{steps} steps were asked for; use 1 or more (10 is Pusa's recommendation).", steps=describe(steps))
    if not (math.isfinite(shift) and shift > 0):
        raise fault("A shift of {shift} was given; it must be greater than 0 (5 is Wan's value).", shift=shift)
    if not 0 < denoise <= 1:
        raise fault("A denoise of {denoise} was given; it must be greater than 0 and at most 1.", denoise=denoise)
    s = torch.arange(steps, -1, -1, dtype=torch.float64) / int(min(steps / denoise, 2**53))
    return (shift * s / (1 + (shift - 1) * s)).float()


@dataclass(frozen=True)
class FrameMap:
    """One latent frame's sigma as a monotone, piecewise linear function of the sampler's sigma.

    Attributes:
        knots: (sampler sigma, frame sigma) pairs, both in [0, 1], sampler sigma rising from 0 to 1.
        behaviour: "evolve" integrates the model's velocity; "hold" keeps the frame on the straight line from its
            clean latent to its noise and ends exactly on the clean latent.
    """

    knots: Knots = ((0.0, 0.0), (1.0, 1.0))
    behaviour: Behaviour = "evolve"

    def __post_init__(self) -> None:
        if self.behaviour not in BEHAVIOURS:
            raise fault("A frame can 'evolve' or 'hold', not {behaviour}.", behaviour=describe(self.behaviour))
        x, y = [k[0] for k in self.knots], [k[1] for k in self.knots]
        if len(x) < 2 or x[0] != 0.0 or x[-1] != 1.0 or not all(map(lt, x, x[1:])):
            raise fault("A frame's knots must run from sampler sigma 0 to 1, each further than the one before.")
        if not (y[0] >= 0 and y[-1] <= 1 and all(map(le, y, y[1:]))):  # which no number that is none passes
            raise fault("A frame's sigmas must lie from 0 to 1 and never fall while the sampler's sigma rises.")
        if y[0] != 0.0:
            raise fault("A frame's sigma must be 0 where the sampler's is 0, or the clip would end in noise.")

    @classmethod
    def line(cls, multiplier: Any, behaviour: Behaviour = "evolve") -> FrameMap:
        """The map of a keyframe with a noise multiplier: sigma_f = multiplier * sigma (Pusa, section 3.3)."""
        return cls().scaled(multiplier, behaviour)

    def scaled(self, multiplier: Any, behaviour: Behaviour = "evolve") -> FrameMap:
        """The map of a keyframe where this is the ordinary frames' one: a share of their noise all the way."""
        share = check_multiplier(multiplier)
        return FrameMap(tuple((x, share * y) for x, y in self.knots), behaviour)

    @property
    def multiplier(self) -> float:
        """The frame's sigma at the sampler's sigma 1."""
        return self.knots[-1][1]

    @property
    def is_line(self) -> bool:
        return all(math.isclose(y, self.multiplier * x, rel_tol=0, abs_tol=1e-12) for x, y in self.knots)

    @property
    def is_pinned(self) -> bool:
        """Whether the frame stays on its clean latent: held, or never noised."""
        return self.behaviour == "hold" or self.multiplier == 0

    @property
    def needs_clean_latent(self) -> bool:
        """Whether the frame starts from a given picture rather than from noise alone."""
        return self.multiplier < 1 or self.behaviour == "hold"

    def sigma(self, sigma: float) -> float:
        """The frame's sigma at the sampler's `sigma`, both in [0, 1]."""
        i = min(max(bisect_right(self.knots, (sigma, math.inf)), 1), len(self.knots) - 1)
        (x0, y0), (x1, y1) = self.knots[i - 1], self.knots[i]
        return y0 + (y1 - y0) * (sigma - x0) / (x1 - x0)

    def ratio(self, sigma: float) -> float:
        """sigma_f / sigma; its limit where the sampler's sigma is 0."""
        if sigma > 0:
            return self.sigma(sigma) / sigma
        return self.knots[1][1] / self.knots[1][0]


ORDINARY = FrameMap()


@dataclass(frozen=True)
class FrameSchedule:
    """A `FrameMap` for every latent frame of a clip: numbers and tuples only, so it prints, pickles and compares."""

    frames: tuple[FrameMap, ...]

    @classmethod
    def build(cls, latents: int, keyframes: Mapping[int, FrameMap] | None = None) -> FrameSchedule:
        """A schedule of `latents` latent frames, ordinary but for the given ones.

        Raises:
            ValueError: a keyframe lies outside the clip.
        """
        frames = [ORDINARY] * latents
        for index, frame in (keyframes or {}).items():
            if not 0 <= index < latents:
                raise fault(
                    "Keyframe at latent frame {index}, but the clip has latent frames 0 to {last}.",
                    index=index,
                    last=latents - 1,
                )
            frames[index] = frame
        return cls(tuple(frames))

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def is_ordinary(self) -> bool:
        """Whether every frame simply follows the sampler: plain text to video."""
        return all(frame == ORDINARY for frame in self.frames)

    @property
    def is_straight(self) -> bool:
        return all(frame.is_line or frame.behaviour == "hold" for frame in self.frames)

    @property
    def keyframes(self) -> dict[int, FrameMap]:
        """The frames that do not simply follow the sampler, by latent index."""
        return {i: frame for i, frame in enumerate(self.frames) if frame != ORDINARY}

    @property
    def needs_clean_latent(self) -> list[bool]:
        """For every latent frame, whether it starts from a given picture."""
        return [frame.needs_clean_latent for frame in self.frames]

    def to_json(self) -> str:
        """The schedule as JSON text that names only its keyframes."""
        keyframes = {str(i): _frame_to_dict(frame) for i, frame in self.keyframes.items()}
        return json.dumps({"version": 1, "latent_frames": len(self), "keyframes": keyframes})

    @classmethod
    def from_json(cls, text: str) -> FrameSchedule:
        """Reads `to_json`'s text.

        Raises:
            ValueError: the text is not such a schedule; the message says where.
        """
        data = read_object(text, mark("The schedule"), MAX_JSON)
        if data.get("version") != 1:
            raise fault(
                "This schedule has version {version}; this pack reads version 1.", version=describe(data.get("version"))
            )
        latents = data.get("latent_frames")
        if type(latents) is not int or not 1 <= latents <= latent_length(MAX_LENGTH):
            raise fault(
                '"latent_frames" is {latents} in the schedule; it must be a whole number from 1.', latents=describe(latents)
            )
        keyframes = data.get("keyframes", {})
        if not isinstance(keyframes, dict):
            raise fault('"keyframes" in the schedule must be an object of latent index to keyframe.')
        return cls.build(latents, {_index(key): _frame_from_dict(key, value) for key, value in keyframes.items()})


def _index(key: str) -> int:
    if not (key.isascii() and key.isdigit() and len(key) < 10):
        raise fault('"{key}" is not a latent frame index in the schedule; use "0", "1", ...', key=key[:40])
    return int(key)


def _frame_to_dict(frame: FrameMap) -> dict[str, Any]:
    where = {"multiplier": frame.multiplier} if len(frame.knots) == 2 else {"sigmas": [list(k) for k in frame.knots]}
    return {**where, "behaviour": frame.behaviour}


def _frame_from_dict(key: str, data: Any) -> FrameMap:
    if not isinstance(data, dict):
        raise fault('Keyframe {key} of the schedule must be an object with "multiplier" or "sigmas".', key=key)
    behaviour = data.get("behaviour", "evolve")
    try:
        if "sigmas" in data:
            return FrameMap(_knots(data["sigmas"]), behaviour)
        return FrameMap.line(data.get("multiplier"), behaviour)
    except ValueError as error:
        raise fault("Keyframe {key} of the schedule cannot be read: {error}", key=key, error=error) from error


def _knots(pairs: Any) -> Knots:
    if not isinstance(pairs, list):
        raise fault('"sigmas" is {pairs}; it must be a list of pairs, such as [[0, 0], [1, 0.5]].', pairs=describe(pairs))
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2 or any(type(v) not in (int, float) for v in pair):
            raise fault("{pair} is not a pair of numbers, such as [1, 0.5].", pair=describe(pair))
    return tuple((float(x), float(y)) for x, y in pairs)
