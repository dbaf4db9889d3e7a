"""Video files as pictures, by PyAV, which comes with ComfyUI."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
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
            streams = container.streams.video
            if streams:
                yield container, streams[0]
    except (av.FFmpegError, ValueError) as error:
        why = getattr(error, "strerror", error)  # without the path, which FFmpeg's errors repeat
        raise fault(
            "{path} cannot be read ({kind}: {error}): check the file.", path=path, kind=type(error).__name__, error=why
        ) from error
    if not streams:
        raise fault("{name} has no frames: check the file.", name=path.name)


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


class VideoWriter:
    """Writes pictures as H.264, which every browser plays, as they come; what is written can be played at any time.

    Args:
        quality: x264's constant rate factor, from 0 (lossless) to 51.
        tags: texts by name, which the file carries.
    """

    def __init__(self, path: Path, fps: float, quality: int = 15, tags: Mapping[str, str] | None = None):
        import av

        # a table of contents with each fragment, so that a file whose writer died is whole up to there
        options = {"movflags": "frag_keyframe+empty_moov+default_base_moof+use_metadata_tags"}
        self._container = av.open(str(path), "w", format="mp4", options=options)
        self._container.metadata.update(tags or {})
        self._stream: Any = None
        self._fps, self._quality = Fraction(fps).limit_denominator(1001), quality

    def write(self, pictures: Tensor) -> None:
        """Pictures (T, H, W, 3) in [0, 1]."""
        import av

        self._stream = self._stream or self._open(*pictures.shape[1:3])
        for picture in (pictures.clamp(0, 1) * 255).round().to(torch.uint8).contiguous().cpu().numpy():
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            self._container.mux(self._stream.encode(frame.reformat(format="yuv420p")))

    def _open(self, height: int, width: int) -> Any:
        stream = self._container.add_stream("libx264", rate=self._fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": str(self._quality)}
        return stream

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._stream is not None:
            self._container.mux(self._stream.encode())
        self._container.close()


def write_video(path: Path, pictures: Tensor | Iterable[Tensor], fps: float, quality: int = 15) -> None:
    """Writes pictures (T, H, W, 3) in [0, 1], or several such parts as they come, see `VideoWriter`."""
    with VideoWriter(path, fps, quality) as writer:
        for part in [pictures] if isinstance(pictures, Tensor) else pictures:
            writer.write(part)
