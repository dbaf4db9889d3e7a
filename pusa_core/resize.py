"""Pictures of any size, checked and fitted to the clip's."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor
from torch.nn.functional import interpolate, pad

from .messages import describe, fault, say

RESIZE = ("crop", "letterbox", "stretch")
OVERSHOOT = 0.1  # beyond black or white: what sharpening and resampling nodes leave, and is cut off
UNCUT = 8  # times the clip's side that a picture's may grow to before it is cut
MARGIN = 8  # pixels that are left to resample from where it is cut


def fit_images(pictures: Tensor, width: int, height: int, method: str) -> Tensor:
    """Pictures of another size, resampled (bicubic, antialiased).

    Args:
        pictures: (N, H, W, C) in [0, 1]; of C = 4 the alpha channel is dropped, C = 1 is grey.
        method: "crop" fills the frame and cuts what is over, "letterbox" fits in and adds black, "stretch" distorts.

    Returns:
        (N, height, width, 3) in [0, 1]; the very same values where the size is right already.

    Raises:
        ValueError: these are no pictures, see `check_pictures`, or a pixel is not a number from 0 to 1.
    """
    check_pictures(pictures)
    pictures = _in_range(pictures)
    pictures = pictures[..., :3] if pictures.shape[3] >= 3 else pictures[..., :1].expand(-1, -1, -1, 3)
    if pictures.shape[1:3] == (height, width):
        return pictures
    planes = pictures.movedim(-1, 1).float()  # (N, 3, H, W)
    scaled = [height, width]
    if method != "stretch":
        factors = height / planes.shape[2], width / planes.shape[3]
        factor = max(factors) if method == "crop" else min(factors)
        planes = _cut(planes, factor, (height, width))
        scaled = [max(1, round(side * factor)) for side in planes.shape[2:]]
    return _scale(planes, scaled, (height, width)).movedim(1, -1)


def check_pictures(pictures: Any) -> None:
    """Refuses what are no pictures; their values are left to `fit_images`.

    Raises:
        ValueError: they are no floating point tensor of shape (N, H, W, C), or have no frames, pixels or channels.
    """
    if not isinstance(pictures, Tensor):
        raise fault("{pictures} was given instead of pictures: connect an image or video.", pictures=describe(pictures))
    if pictures.ndim != 4:
        raise fault(
            "Pictures must have the shape (frames, height, width, channels), but these have {shape}: "
            "add or remove a dimension.",
            shape=_size(pictures),
        )
    if not pictures.numel():
        raise fault(
            "There is no pixel in pictures of the shape {shape} (frames, height, width, channels): "
            "check the node that they come from.",
            shape=_size(pictures),
        )
    if not pictures.is_floating_point():
        kind = str(pictures.dtype).removeprefix("torch.")
        raise fault("Pictures must be floating point numbers from 0 to 1, not {kind}: convert them, 255 to 1.", kind=kind)


def _size(pictures: Tensor) -> str:
    return " x ".join(map(str, pictures.shape[:8])) + " ..." * (pictures.ndim > 8) if pictures.ndim else say("no dimension")


def _in_range(pictures: Tensor) -> Tensor:
    low, high = (float(value) for value in pictures.aminmax())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise fault("A picture has pixels that are not numbers (NaN or infinite): check the node that it comes from.")
    if low < -OVERSHOOT or high > 1 + OVERSHOOT:
        advice = say("divide them by 255") if high > 2 else say("they must be from 0 to 1, check the node that it comes from")
        raise fault(
            "A picture has pixels from {low:.4g} to {high:.4g}, where 0 is black and 1 is white: {advice}.",
            low=low,
            high=high,
            advice=advice,
        )
    return pictures if low >= 0 and high <= 1 else pictures.clamp(0, 1)


def _cut(planes: Tensor, factor: float, target: tuple[int, int]) -> Tensor:
    """Cuts off most of what lies outside the frame where a side would grow to many times the frame's."""
    for axis, length in enumerate(target):
        side = planes.shape[2 + axis]
        if factor > 1 and side * factor > UNCUT * length:
            kept = 2 * math.ceil(length / factor) + MARGIN
            kept += (side - kept) % 2  # as much on either side
            planes = planes.narrow(2 + axis, (side - kept) // 2, kept) if kept < side else planes
    return planes


def _scale(planes: Tensor, scaled: list[int], target: tuple[int, int]) -> Tensor:
    """Resamples (N, C, H, W) to the sides `scaled`, and cuts or fills up with black to the sides `target`."""
    shrunk = [min(sides) for sides in zip(scaled, planes.shape[2:])]  # before anything grows
    planes = _resample(planes, shrunk)
    for axis in sorted((1, 0), key=lambda axis: target[axis] / scaled[axis]):  # what is cut most grows first
        sides = [*planes.shape[2:]]
        sides[axis] = scaled[axis]
        planes = _centre(_resample(planes, sides), axis, target[axis])
    return planes.clamp(0, 1)


def _resample(planes: Tensor, sides: list[int]) -> Tensor:
    if sides == [*planes.shape[2:]]:
        return planes
    return interpolate(planes, sides, mode="bicubic", antialias=True)


def _centre(planes: Tensor, axis: int, length: int) -> Tensor:
    over = length - planes.shape[2 + axis]  # a negative padding cuts
    sides = over // 2, over - over // 2
    return pad(planes, (*sides, 0, 0) if axis == 1 else (0, 0, *sides))
