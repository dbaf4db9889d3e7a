"""Keyframes as users of Diffusers give them: PIL images, arrays and tensors, with a frame and a noise multiplier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...keyframes import Keyframe, clip_keyframe
from ...media import pixels
from ...plan import Plan
from ...strength import Strength

NOISE, END_NOISE = 0.2, 0.5  # Pusa's, for images at the start and at the end
FORMS = "a PIL image, an array or a tensor (H, W, 3), one of frames (N, H, W, 3), or a list of images"


def as_list(given: Any) -> Sequence[Any]:
    """Keyframes as a list where there is only one, or none."""
    if given is None:
        return ()
    is_short = isinstance(given, tuple) and len(given) > 1 and (_is_number(given[1]) or isinstance(given[1], Strength))
    is_one = is_short or isinstance(given, Keyframe | Image.Image | np.ndarray | Tensor)
    return [given] if is_one or not isinstance(given, Sequence) else given


def is_per_prompt(keyframes: Sequence[Any]) -> bool:
    """Whether there is a list of keyframes, or a plan, for every prompt."""
    return any(given is None or isinstance(given, list | Plan) for given in keyframes)


def read_keyframes(given: Sequence[Any], num_frames: int) -> list[Keyframe]:
    """Keyframes of any form, see `PusaWanPipeline.__call__`.

    Raises:
        ValueError: one cannot be read; the message says which and why.
    """
    keyframes = []
    for number, one in enumerate(given, 1):
        try:
            keyframes.append(one if isinstance(one, Keyframe) else _keyframe(one, num_frames))
        except ValueError as error:
            raise ValueError(f"Keyframe {number}: {error}") from error
    return keyframes


def _keyframe(given: Any, num_frames: int) -> Keyframe:
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], Strength):
        return replace(given[1], length=given[1].length or num_frames).keyframe(_pictures(given[0]))
    picture, frame, noise, *rest = (*given, None, None) if isinstance(given, tuple) and given else (given, None, None)
    frame = 0 if frame is None else frame
    if any(value is not None for value in rest) or not _is_whole(frame) or not (noise is None or _is_number(noise)):
        raise ValueError("give (image, frame, noise): a whole number of a pixel frame, and a noise multiplier from 0 to 1.")
    if noise is None:
        noise = END_NOISE if frame in (-1, num_frames - 1) and num_frames > 1 else NOISE
    return clip_keyframe(_pictures(picture), int(frame), "pixel", float(noise))


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_whole(value) or isinstance(value, float | np.floating)


def _pictures(given: Any) -> Tensor:
    """(N, H, W, 3) in [0, 1], on the CPU."""
    if isinstance(given, list) and given:
        pictures = [_pictures(one) for one in given]
        if len({picture.shape[1:] for picture in pictures}) > 1:
            raise ValueError("the images of a clip have different sizes: give them all the same.")
        return torch.cat(pictures)
    if isinstance(given, Image.Image):
        return pixels(given)
    if isinstance(given, np.ndarray):
        given = torch.from_numpy(np.ascontiguousarray(given))
    if not isinstance(given, Tensor):
        raise ValueError(f"{type(given).__name__} is no image: give {FORMS}.")
    return _in_unit_range(_channels_last(given.detach().cpu()))


def _channels_last(pictures: Tensor) -> Tensor:
    """(N, H, W, 3), of one or several pictures with their channels last or, as torch has them, first."""
    shape = tuple(pictures.shape)
    if pictures.ndim == 3:
        pictures = pictures[None]
    if pictures.ndim == 4 and pictures.shape[3] != 3 and pictures.shape[1] == 3:
        pictures = pictures.movedim(1, -1)
    if pictures.ndim != 4 or pictures.shape[3] != 3 or 0 in pictures.shape:
        raise ValueError(f"an image of shape {shape} was given: give {FORMS}.")
    return pictures


def _in_unit_range(pictures: Tensor) -> Tensor:
    if pictures.dtype == torch.uint8:
        return pictures / 255
    if not pictures.is_floating_point():
        raise ValueError(f"an image of {pictures.dtype} was given: give uint8, or floats from 0 to 1.")
    pictures = pictures.float()
    if not bool(((pictures >= 0) & (pictures <= 1)).all()):
        low, high = (f"{float(value):.3g}" for value in pictures.aminmax())
        raise ValueError(f"an image has values from {low} to {high}: give floats from 0 to 1, or uint8.")
    return pictures
