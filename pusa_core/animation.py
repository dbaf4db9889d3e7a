"""Clips as one moving picture, for documents and logs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

INK, PAPER = (236, 238, 242), (24, 26, 32)
GAP, TITLE = 8, 26


def side_by_side(clips: Sequence[tuple[str, Tensor, Collection[int]]], side: int = 192) -> Tensor:
    """Clips of one length beside each other, each below its title.

    Args:
        clips: (title, frames (T, H, W, 3) in [0, 1], numbers of the frames that were given, which get a white border).
        side: height of a clip in pixels.

    Returns:
        (T, H, W, 3), float in [0, 1].
    """
    drawn = [_column(title, frames, given, side) for title, frames, given in clips]
    return rearrange(torch.from_numpy(np.stack(drawn)), "n t h w c -> t h (n w) c").float() / 255


def _column(title: str, frames: Tensor, given: Collection[int], side: int) -> np.ndarray:
    width = round(side * frames.shape[2] / frames.shape[1])
    return np.stack([_panel(title, frame, number in given, width, side) for number, frame in enumerate(frames)])


def _panel(title: str, frame: Tensor, is_given: bool, width: int, side: int) -> np.ndarray:
    panel = Image.new("RGB", (width + 2 * GAP, side + TITLE + GAP), PAPER)
    draw = ImageDraw.Draw(panel)
    draw.text((GAP, 5), title, INK, ImageFont.load_default(14))
    picture = Image.fromarray((frame.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy())
    panel.paste(picture.resize((width, side), Image.Resampling.NEAREST), (GAP, TITLE))
    if is_given:
        draw.rectangle((GAP - 4, TITLE - 4, GAP + width + 3, TITLE + side + 3), outline="white", width=4)
    return np.asarray(panel)


def write_animation(frames: Tensor, path: Path, fps: float, hold: float = 0.0, lossless: bool = False) -> None:
    """Writes frames (T, H, W, 3) in [0, 1] as an animated WebP that repeats.

    Args:
        hold: seconds that the last frame stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = [Image.fromarray((frame.clamp(0, 1) * 255).round().to(torch.uint8).numpy()) for frame in frames.cpu()]
    durations = [round(1000 / fps)] * len(pictures)
    durations[-1] += round(1000 * hold)
    quality = {"lossless": True} if lossless else {"quality": 90}
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=durations, loop=0, **quality)
