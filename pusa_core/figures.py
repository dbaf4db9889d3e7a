"""Pictures to look at: a schedule, time from left to right and sampling from top to bottom; clips, frame by frame.

The README's picture is drawn by: python -m pusa_core.figures web/pictures/schedule.png
"""

from __future__ import annotations

import argparse
import math
import textwrap
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .frames import latent_length, parse_multipliers, parse_positions, pixel_frames, pixel_length, resolve_index, spoken_count
from .messages import ENGLISH, speaking
from .preview_sheet import evenly_spaced
from .schedule import ORDINARY, FrameMap, FrameSchedule, pusa_sigmas

WIDTH, MARGIN, LABEL = 760, 16, 62  # pixels
TITLE, LINE = 46, 20  # heights: the title with the scale, a line of text
WIDE = 76  # width from which a column says more than its latent frames' numbers
STRIP = 6  # height of the mark over frames that start from a picture
ROWS_HEIGHT, ROW_HEIGHTS = 340, (7, 26)
MOST_ROWS, MOST_COLUMNS = 48, 2 * WIDTH
PAPER, INK, FAINT = (250, 250, 248), (26, 28, 34), (92, 96, 106)
DARK, LIGHT = (24, 26, 32), (236, 238, 242)

# Anchors of cividis, which looks alike to people with and without colour blindness, from light to dark in even steps.
# Source: Nunez, Anderton and Renslow 2018, doi 10.1371/journal.pone.0199239.
CLEAN_TO_NOISE = np.array([(255, 234, 70), (188, 175, 111), (124, 123, 120), (65, 77, 107), (0, 32, 77)], dtype=np.float32)


def sigma_colours(sigmas: Sequence[float] | np.ndarray) -> np.ndarray:
    """The colour of every sigma in [0, 1], from yellow (clean) to dark blue (noise): (...,) -> (..., 3), uint8."""
    position = np.clip(np.asarray(sigmas, dtype=np.float32), 0, 1) * (len(CLEAN_TO_NOISE) - 1)
    low = np.minimum(position.astype(int), len(CLEAN_TO_NOISE) - 2)
    part = (position - low)[..., None]
    return (CLEAN_TO_NOISE[low] * (1 - part) + CLEAN_TO_NOISE[low + 1] * part).round().astype(np.uint8)


@dataclass(frozen=True)
class Run:
    """Latent frames next to each other that do the same."""

    first: int
    last: int
    frame: FrameMap

    @property
    def latents(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"

    @property
    def frames(self) -> str:
        first, last = pixel_frames(self.first)[0], pixel_frames(self.last)[-1]
        return f"frame {first}" if first == last else f"frames {first}-{last}"

    @property
    def role(self) -> str:
        """What they do, in as few words as a narrow column has room for."""
        frame = self.frame
        if frame == ORDINARY:
            return "ordinary"
        noise = f"noise {frame.multiplier:.2g}" if frame.multiplier else "clean"
        return noise + ", bent" * (not frame.is_line) + ", held" * (frame.behaviour == "hold")


def fold(schedule: FrameSchedule) -> list[Run]:
    """The clip's latent frames, those that do the same folded into one."""
    runs, first = [], 0
    for frame, group in groupby(schedule.frames):
        last = first + sum(1 for _ in group) - 1
        runs.append(Run(first, last, frame))
        first = last + 1
    return runs


# --- a schedule ------------------------------------------------------------------------------------------------------


@speaking(ENGLISH)  # the font that comes with Pillow has its letters alone
def draw_schedule(schedule: FrameSchedule, sigmas: Sequence[float], notes: Sequence[str] = ()) -> Tensor:
    """Draws what each latent frame does while the sampler goes down `sigmas`.

    Time goes from left to right, sampling from top to bottom, and a colour is a frame's sigma. Frames that do the same
    share a column, however many they are.

    Args:
        schedule: the frames' sigmas.
        sigmas: the sampler's grid, at least one value.
        notes: sentences to write below, one paragraph each; left out in a language whose letters the font lacks.

    Returns:
        A picture (1, H, W, 3), float in [0, 1], at most 1,200 pixels tall without its notes.
    """
    chart = _Chart.of(schedule, sigmas)
    notes = notes if all(map(str.isascii, notes)) else ()
    lines = [line for note in notes for line in textwrap.wrap(note, 92, subsequent_indent="    ")]
    below = chart.bottom + MARGIN
    image = Image.new("RGB", (WIDTH, below + LINE * len(lines) + (MARGIN if lines else 0)), PAPER)
    draw = ImageDraw.Draw(image)
    _draw_title(image, draw, schedule)
    _draw_heads(draw, chart)
    _draw_cells(image, draw, chart)
    for number, line in enumerate(lines):
        draw.text((MARGIN, below + LINE * number), line, INK, ImageFont.load_default(14))
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255)[None]


@dataclass(frozen=True)
class _Chart:
    """Where everything lies.

    Attributes:
        runs: a column each.
        edges: left edges of the columns in pixels, and the last one's right edge.
        sigmas: the sampler's, a row each.
        height: of a row.
    """

    runs: list[Run]
    edges: list[int]
    sigmas: list[float]
    height: int

    @classmethod
    def of(cls, schedule: FrameSchedule, sigmas: Sequence[float]) -> _Chart:
        runs = fold(schedule)
        runs = [runs[i] for i in evenly_spaced(len(runs), MOST_COLUMNS)]
        weights = np.array([1 if run.first == run.last else 2 for run in runs])
        ends = np.concatenate([[0], weights.cumsum()]) / weights.sum()
        edges = (LABEL + ends * (WIDTH - MARGIN - LABEL)).round().astype(int).tolist()
        rows = [min(max(float(sigmas[i]), 0.0), 1.0) for i in evenly_spaced(len(sigmas), MOST_ROWS)]
        return cls(runs, edges, rows, int(np.clip(ROWS_HEIGHT // len(rows), *ROW_HEIGHTS)))

    @property
    def is_wide(self) -> bool:
        """Whether columns have room for words."""
        return max(right - left for left, right in pairwise(self.edges)) >= WIDE

    @property
    def strip(self) -> int:
        return TITLE + LINE * (3 if self.is_wide else 1) + 2

    @property
    def top(self) -> int:
        return self.strip + STRIP + 4

    @property
    def bottom(self) -> int:
        return self.top + self.height * len(self.sigmas)

    @cached_property
    def values(self) -> np.ndarray:
        """Every run's sigma at every row, (rows, runs)."""
        return np.array([[run.frame.sigma(sigma) for run in self.runs] for sigma in self.sigmas])

    def columns(self) -> Iterator[tuple[Run, int, int, int]]:
        """(run, its number, left edge, right edge); the given ones last, so that none vanishes in a pixel it shares."""
        edges = enumerate(pairwise(self.edges))
        spans = [(self.runs[i], i, left, max(right, left + 1)) for i, (left, right) in edges]
        return iter(sorted(spans, key=lambda span: span[0].frame.needs_clean_latent))


def _draw_title(image: Image.Image, draw: ImageDraw.ImageDraw, schedule: FrameSchedule) -> None:
    font = ImageFont.load_default(13)
    draw.text((MARGIN, 14), _title(schedule), INK, ImageFont.load_default(17))
    scale = Image.fromarray(sigma_colours(np.linspace(0, 1, 120)[None].repeat(12, 0)))
    left = WIDTH - MARGIN - 46 - scale.width
    image.paste(scale, (left, 19))
    draw.rectangle((left - 1, 18, left + scale.width, 31), outline=FAINT)
    draw.text((left - 8, 25), "clean 0", FAINT, font, anchor="rm")
    draw.text((left + scale.width + 8, 25), "1 noise", FAINT, font, anchor="lm")


def _title(schedule: FrameSchedule) -> str:
    given = sum(schedule.needs_clean_latent)
    bent = len(schedule.keyframes) - given
    latents = "1 latent frame" if len(schedule) == 1 else f"{len(schedule)} latent frames"
    parts = [f"{given} given"] * bool(given) + [f"{bent} on sigmas of their own"] * bool(bent)
    return ", ".join([spoken_count(pixel_length(len(schedule))), latents, *(parts or ["text to video"])])


def _draw_heads(draw: ImageDraw.ImageDraw, chart: _Chart) -> None:
    """Over each column, as far as there is room: its latent frames, the frames they hold, and what they do."""
    normal, small = ImageFont.load_default(15), ImageFont.load_default(13)
    draw.text((LABEL - 10, TITLE + 10), "latent", FAINT, small, anchor="rm")
    draw.text((LABEL - 10, chart.strip - 8), "sigma" if chart.is_wide else "", FAINT, small, anchor="rm")
    taken: list[tuple[float, float]] = []
    for run, _, left, right in sorted(chart.columns(), key=lambda span: (span[1] not in (0, len(chart.runs) - 1), span[1])):
        half = draw.textlength(run.latents, normal) / 2
        middle = min((left + right) / 2, WIDTH - MARGIN / 2 - half)
        if all(middle + half + 10 <= low or middle - half - 10 >= high for low, high in taken):
            taken.append((middle - half, middle + half))
            draw.text((middle, TITLE + 10), run.latents, INK, normal, anchor="mm")
        if chart.is_wide:
            _draw_first_fit(draw, middle, 1, (run.frames, run.frames.split()[-1]), FAINT, right - left, small)
            _draw_first_fit(draw, middle, 2, (run.role,), INK, right - left, small)


def _draw_first_fit(draw, middle: float, line: int, texts: Sequence[str], colour, width: float, font) -> None:
    text = next((text for text in texts if draw.textlength(text, font) <= width - 4), "")
    draw.text((middle, TITLE + 10 + LINE * line), text, colour, font, anchor="mm")


def _draw_cells(image: Image.Image, draw: ImageDraw.ImageDraw, chart: _Chart) -> None:
    font, gap = ImageFont.load_default(13), 1 if WIDTH / len(chart.runs) > 12 else 0
    for run, number, left, right in chart.columns():
        right -= gap if number < len(chart.runs) - 1 else 0
        _draw_strip(draw, run, left, right, chart.strip)
        column = sigma_colours(chart.values[:, number]).repeat(chart.height, 0)
        image.paste(Image.fromarray(column[:, None].repeat(right - left, 1)), (left, chart.top))
        if right - left >= 40 and chart.height >= 17:
            for row, value in enumerate(chart.values[:, number]):
                place = (left + right) / 2, chart.top + (row + 0.5) * chart.height
                draw.text(place, f"{value:.2f}", "white" if value > 0.5 else INK, font, anchor="mm")
    draw.rectangle((LABEL - 1, chart.top - 1, WIDTH - MARGIN, chart.bottom), outline=FAINT)
    every = math.ceil(16 / chart.height)
    for row in range(0, len(chart.sigmas), every):
        place = LABEL - 10, chart.top + (row + 0.5) * chart.height
        draw.text(place, f"{chart.sigmas[row]:.2f}", FAINT, font, anchor="rm")


def _draw_strip(draw: ImageDraw.ImageDraw, run: Run, left: int, right: int, top: int) -> None:
    """The mark over frames that start from a picture, hollow where they are held."""
    if run.frame.needs_clean_latent:
        held = run.frame.behaviour == "hold"
        draw.rectangle((left, top, max(right - 1, left), top + STRIP - 1), fill=PAPER if held else INK, outline=INK)


# --- clips -----------------------------------------------------------------------------------------------------------


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
    sheet = Image.new("RGB", (len(frames) * (across + gap) + gap, len(rows) * (side + label + gap)), DARK)
    draw = ImageDraw.Draw(sheet)
    for row, (name, clip, given) in enumerate(rows):
        top = row * (side + label + gap) + label
        draw.text((gap, top - label + 3), name, LIGHT, ImageFont.load_default(13))
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


def main() -> None:
    parser = argparse.ArgumentParser(description="Draws a schedule.")
    parser.add_argument("output", type=Path)
    parser.add_argument("--length", type=int, default=81, help="frames of the video")
    parser.add_argument("--positions", default="0, -1", help="latent frames that are given")
    parser.add_argument("--noise", default="0.2, 0.5", help="their noise multipliers")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--shift", type=float, default=5.0)
    options = parser.parse_args()
    latents = latent_length(options.length)
    positions = [resolve_index(i, "latent", latents) for i in parse_positions(options.positions)]
    maps = [FrameMap.line(m) for m in parse_multipliers(options.noise, len(positions))]
    schedule = FrameSchedule.build(latents, dict(zip(positions, maps)))
    sigmas = pusa_sigmas(options.steps, options.shift).tolist()
    save_image(draw_schedule(schedule, sigmas), options.output)


if __name__ == "__main__":
    main()
