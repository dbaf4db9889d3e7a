"""Pictures to look at: a schedule, with a row for every latent frame and a column for every step; clips, frame by frame."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .frames import pixel_length, spoken_frames
from .schedule import ORDINARY, FrameMap, FrameSchedule

WIDTH, MARGIN, LABEL, HEADER = 900, 16, 190, 74
ROW_HEIGHTS = (8, 26)
TALLEST = 1400  # pixels for all rows; more frames than fit are drawn as evenly spaced ones
BACKGROUND, INK, FAINT = (24, 26, 32), (236, 238, 242), (150, 156, 168)
CLEAN_TO_NOISE = np.array([(255, 214, 102), (237, 125, 92), (139, 74, 138), (44, 52, 96)], dtype=np.float32)


def draw_schedule(schedule: FrameSchedule, sigmas: Sequence[float], notes: Sequence[str] = ()) -> Tensor:
    """Draws what each latent frame does while the sampler goes down `sigmas`.

    Args:
        schedule: the frames' sigmas.
        sigmas: the sampler's grid, at least one value.
        notes: sentences to write below, one paragraph each.

    Returns:
        A picture (1, H, W, 3), float in [0, 1].
    """
    rows = _rows(schedule)
    height = int(np.clip(TALLEST // len(rows), *ROW_HEIGHTS))
    small, normal = ImageFont.load_default(max(height - 12, 11)), ImageFont.load_default(15)
    lines = [line for note in notes for line in textwrap.wrap(note, 108, subsequent_indent="    ")]
    top, text_height = HEADER, 22
    total = top + height * len(rows) + MARGIN + text_height * len(lines) + MARGIN
    image = Image.new("RGB", (WIDTH, total), BACKGROUND)
    draw = ImageDraw.Draw(image)
    draw.text((MARGIN, 12), _title(schedule), INK, ImageFont.load_default(18))
    draw.text((MARGIN, 46), "sampler's sigma", FAINT, normal)
    step = (WIDTH - LABEL - MARGIN) / len(sigmas)
    for column, sigma in enumerate(sigmas):
        if step >= 34 or column in (0, len(sigmas) - 1):
            draw.text((LABEL + column * step + 3, 46), f"{sigma:.2f}", FAINT, normal)
    for number, index in enumerate(rows):
        y = top + number * height
        frame = schedule.frames[index]
        _draw_row(draw, y, height, frame, sigmas, step, small)
        if height >= 12 or frame != ORDINARY:
            draw.text((MARGIN, y + (height - 15) / 2), _label(index, frame), INK, small)
    for number, line in enumerate(lines):
        draw.text((MARGIN, top + height * len(rows) + MARGIN + number * text_height), line, INK, normal)
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255)[None]


def _rows(schedule: FrameSchedule) -> list[int]:
    most = TALLEST // ROW_HEIGHTS[0]
    if len(schedule) <= most:
        return list(range(len(schedule)))
    spaced = {round(i * (len(schedule) - 1) / (most - 1)) for i in range(most)}
    return sorted(spaced | set(list(schedule.keyframes)[:most]))


def _title(schedule: FrameSchedule) -> str:
    count = len(schedule.keyframes)
    what = "text to video" if count == 0 else f"{count} given latent frame{'s' if count > 1 else ''}"
    return f"{len(schedule)} latent frames, {pixel_length(len(schedule))} frames: {what} (1 is noise, 0 is clean)"


def _label(index: int, frame: FrameMap) -> str:
    return f"{index}: {spoken_frames(index)}" + (f", {frame.behaviour}" if frame.needs_clean_latent else "")


def _draw_row(
    draw: ImageDraw.ImageDraw, y: int, height: int, frame: FrameMap, sigmas: Sequence[float], step: float, font
) -> None:
    for column, sigma in enumerate(sigmas):
        value = frame.sigma(min(max(sigma, 0.0), 1.0))
        x = LABEL + column * step
        draw.rectangle((x, y, x + step - 1, y + height - 1), fill=_colour(value))
        if step >= 34 and height >= 18:
            draw.text((x + 5, y + (height - 15) / 2), f"{value:.2f}", INK if value > 0.35 else BACKGROUND, font)


def _colour(sigma: float) -> tuple[int, int, int]:
    position = sigma * (len(CLEAN_TO_NOISE) - 1)
    low = min(int(position), len(CLEAN_TO_NOISE) - 2)
    mixed = CLEAN_TO_NOISE[low] + (position - low) * (CLEAN_TO_NOISE[low + 1] - CLEAN_TO_NOISE[low])
    return tuple(int(v) for v in mixed)  # type: ignore[return-value]


def contact_sheet(rows: Sequence[tuple[str, Tensor, Collection[int]]], every: int = 2, side: int = 128) -> Tensor:
    """Clips as a picture, one row for each.

    Args:
        rows: (what it is, frames (T, H, W, 3) in [0, 1], numbers of the frames that were given, which get a frame).
        every: show every n-th frame.
        side: height of a frame in pixels.

    Returns:
        (1, H, W, 3), float in [0, 1].
    """
    gap, label = 4, 20
    frames = range(0, max(len(clip) for _, clip, _ in rows), every)
    across = max(round(side * clip.shape[2] / clip.shape[1]) for _, clip, _ in rows)
    sheet = Image.new("RGB", (len(frames) * (across + gap) + gap, len(rows) * (side + label + gap)), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for row, (name, clip, given) in enumerate(rows):
        top = row * (side + label + gap) + label
        draw.text((gap, top - label + 3), name, INK, ImageFont.load_default(13))
        width = round(side * clip.shape[2] / clip.shape[1])
        for column, frame in enumerate(frames[: math.ceil(len(clip) / every)]):
            pixels = (clip[frame].clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
            left = gap + column * (across + gap)
            sheet.paste(Image.fromarray(pixels).resize((width, side), Image.Resampling.NEAREST), (left, top))
            if frame in given:
                draw.rectangle((left, top, left + width - 1, top + side - 1), outline="white", width=2)
    return torch.from_numpy(np.asarray(sheet, dtype=np.float32) / 255)[None]


def save_image(picture: Tensor, path: Path) -> None:
    """Writes a picture (1, H, W, 3) in [0, 1] as a file of the kind that its name says."""
    Image.fromarray((picture[0] * 255).round().to(torch.uint8).numpy()).save(path, optimize=True)
