"""Videos as windows of pictures: which frames, at which size."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from pusa_core.media import read_media
from pusa_core.resize import fit_images
from pusa_core.video_files import frame_rate, read_frames

from .settings import CacheSettings
from .sources import Source

Size = tuple[int, int]  # width, height in pixels
RATIOS = (16 / 9, 4 / 3, 1.0, 3 / 4, 9 / 16)
DISTINCT = 1.15  # ratios nearer than this share a bucket


def bucket_sizes(width: int, height: int, multiple: int) -> list[Size]:
    """The sizes that clips are fitted to: width x height, its portrait twin, and common ratios between at no larger an area.

    Args:
        multiple: pixels that both sides are multiples of.
    """
    sizes = [(width, height)]
    for size in ((height, width), *(_size_of_ratio(ratio, width * height, multiple) for ratio in RATIOS)):
        if min(size) > 0 and all(_ratio_distance(size, other) > math.log(DISTINCT) for other in sizes):
            sizes.append(size)
    return sizes


def _size_of_ratio(ratio: float, area: int, multiple: int) -> Size:
    """The largest size of about a ratio within an area; zero where none is."""
    width, height = (int(math.sqrt(side) / multiple) * multiple for side in (area * ratio, area / ratio))
    return width, height


def _ratio_distance(size: Size, other: Size) -> float:
    return abs(math.log(size[0] / size[1] * other[1] / other[0]))


def nearest_size(sizes: Sequence[Size], width: int, height: int) -> Size:
    """The size whose aspect ratio is nearest to that of pictures of width x height."""
    return min(sizes, key=lambda size: _ratio_distance(size, (width, height)))


def read_source(
    source: Source, settings: CacheSettings, sizes: Sequence[Size], first: int = 0
) -> Iterator[tuple[int, Tensor]]:
    """What is to be cached of a video, see `read_windows`, or of a still image, which is a clip of one frame."""
    if not source.is_image:
        yield from read_windows(source.path, settings, sizes, first)
        return
    picture = next(read_media(source.path))
    yield 0, fit_images(picture, *nearest_size(sizes, picture.shape[2], picture.shape[1]), "crop")


def read_windows(path: Path, settings: CacheSettings, sizes: Sequence[Size], first: int = 0) -> Iterator[tuple[int, Tensor]]:
    """A video's windows from number `first` on, with their numbers: (length, height, width, 3) in [0, 1] at one of `sizes`.

    The video is read once and never held whole.

    Raises:
        ValueError: it cannot be read, is too short for one window, or has fewer frames a second than asked for.
    """
    rate = frame_rate(path)
    if settings.fps and settings.fps > rate:
        raise ValueError(f"{path} has {rate:g} frames a second, fewer than --fps {settings.fps:g}: give at most {rate:g}.")
    recent: deque[Tensor] = deque(maxlen=settings.length)
    count = 0
    for count, picture in enumerate(_at_rate(path, rate, settings.fps), 1):
        size = nearest_size(sizes, picture.shape[2], picture.shape[1])
        recent.append(fit_images(picture, *size, "crop"))
        window, rest = divmod(count - settings.length, settings.stride or settings.length)
        if count >= settings.length and rest == 0 and window >= first:
            yield window, torch.cat(tuple(recent))
        if settings.windows and window + 1 >= settings.windows:
            return
    if count < settings.length:
        raise ValueError(
            f"{path} has {count} frames at {settings.fps or rate:g} a second, but {settings.length} are needed: "
            "take a shorter --length or leave the clip out."
        )


def _at_rate(path: Path, rate: float, fps: float | None) -> Iterator[Tensor]:
    """The frames nearest to those of another rate, (1, H, W, 3); None takes them as they are."""
    taken = 0
    for number, picture in enumerate(read_frames(path)):
        if number == (round(taken * rate / fps) if fps else taken):
            yield picture
            taken += 1
