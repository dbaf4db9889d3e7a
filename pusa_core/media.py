"""Files as pictures, frame by frame: images by Pillow, clips by PyAV."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, ImageSequence, UnidentifiedImageError
from torch import Tensor

from .messages import fault
from .video_files import count_frames, frame_rate, read_frames


def is_picture(path: Path) -> bool:
    """Whether a file is an image, animated or not, rather than a video."""
    try:
        with Image.open(path):
            return True
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError):
        return False


def read_media(path: Path) -> Iterator[Tensor]:
    """The frames of an image or video file, one after another, (1, H, W, 3) in [0, 1]; transparency is dropped.

    Raises:
        ValueError: it cannot be read.
    """
    if not is_picture(path):
        yield from read_frames(path)
        return
    try:
        with Image.open(path) as image:
            for frame in ImageSequence.Iterator(image):
                yield pixels(ImageOps.exif_transpose(frame))
    except (OSError, SyntaxError) as error:
        raise fault("{name} cannot be read ({error}): check the file.", name=path.name, error=error) from error


def pixels(image: Image.Image) -> Tensor:
    """An image as pictures, (1, H, W, 3) in [0, 1]; 16 bits are kept in proportion, transparency is dropped."""
    if image.mode.startswith("I"):  # 16 bits
        image = Image.fromarray((np.asarray(image, dtype=np.float32) / 257).round().astype(np.uint8))
    return torch.from_numpy(np.array(image.convert("RGB"), dtype=np.float32) / 255)[None]


def media_length(path: Path) -> tuple[int, float]:
    """(frames of a file, frames a second); a second has 0 where the file does not say.

    Raises:
        ValueError: it cannot be read.
    """
    if is_picture(path):
        with Image.open(path) as image:
            return getattr(image, "n_frames", 1), 0.0
    if next(read_frames(path), None) is None:  # counting does not decode
        raise fault("{name} has no frames: check the file.", name=path.name)
    return count_frames(path), frame_rate(path)
