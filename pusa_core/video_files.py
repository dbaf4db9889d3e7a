"""Video files as pictures, by PyAV, which comes with ComfyUI."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .messages import fault


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """(container, its video stream)."""
    import av

    try:
        with av.open(str(path)) as container:
            yield container, container.streams.video[0]
    except (av.FFmpegError, IndexError, ValueError) as error:
        raise fault(
            "{path} cannot be read ({kind}: {error}): check the file.", path=path, kind=type(error).__name__, error=error
        ) from error


def frame_rate(path: Path) -> float:
    """Frames a second; 0 where the file does not say.

    Raises:
        ValueError: it is no video.
    """
    with _opened(path) as (_, stream):
        return float(stream.average_rate or 0)


def count_frames(path: Path) -> int:
    """How many frames a video has, counted without decoding them.

    Raises:
        ValueError: it is no video.
    """
    with _opened(path) as (container, stream):
        return sum(1 for packet in container.demux(stream) if packet.size)


def read_frames(path: Path) -> Iterator[Tensor]:
    """A video's frames one after another, (1, H, W, 3) in [0, 1]; long ones need not fit into memory.

    Raises:
        ValueError: it cannot be read.
    """
    with _opened(path) as (container, stream):
        for frame in container.decode(stream):
            turned = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)  # a telephone's are
            yield torch.from_numpy(turned.copy())[None].float() / 255


def write_video(path: Path, pictures: Tensor, fps: float, quality: int = 15) -> None:
    """Writes pictures (T, H, W, 3) in [0, 1] as H.264, which every browser plays.

    Args:
        quality: x264's constant rate factor, from 0 (lossless) to 51.
    """
    import av

    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.width, stream.height = pictures.shape[2], pictures.shape[1]
        stream.pix_fmt, stream.options = "yuv420p", {"crf": str(quality)}
        for picture in (pictures.clamp(0, 1) * 255).round().to(torch.uint8).contiguous().numpy():
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            container.mux(stream.encode(frame.reformat(format="yuv420p")))
        container.mux(stream.encode())
