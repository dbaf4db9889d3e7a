"""The picture of a comparison of samplers: a row for each way to sample, a column for each number of evaluations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .evaluations import PAINTED, Comparison, Way
from .figures import FAINT, INK, MARGIN, PAPER, sigma_colours
from .messages import ENGLISH, say, speaking

NAME, CELL, ROW, GAP = 250, 44, 24, 18  # pixels: the column of names, a cell's size, between kinds of frames
TOP, HEAD = 50, 44  # heights: of the title, of the heads of columns
MOST_ROWS = 40
DARKEST = 100.0  # percent


@speaking(ENGLISH)  # the font that comes with Pillow has its letters alone
def draw_comparison(comparison: Comparison) -> Tensor:
    """Draws how far each way is from the fine run, in percent, by kind of frame and evaluations: darker is further.

    The closest way within each number of evaluations has a frame. Ways are sorted by their mean over these; the first 40 are
    shown.

    Returns:
        A picture (1, H, W, 3), float in [0, 1].
    """
    layout = _Layout.of(comparison)
    image = Image.new("RGB", (layout.width, layout.height), PAPER)
    draw = ImageDraw.Draw(image)
    fine = comparison.trials.fine
    title = f"Distance to a fine run ({fine.way}, {fine.evaluations} evaluations), percent of its latents"
    draw.text((MARGIN, 14), title, INK, ImageFont.load_default(16))
    draw.text((MARGIN, TOP + HEAD - 14), "sampler, scheduler, shift", FAINT, ImageFont.load_default(13), anchor="lm")
    for number, way in enumerate(layout.ways):
        draw.text((MARGIN, layout.middle(number)), str(way), INK, ImageFont.load_default(14), anchor="lm")
    for place, kind in enumerate(layout.kinds):
        _draw_kind(draw, layout, place, kind, comparison)
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255)[None]


@dataclass(frozen=True)
class _Layout:
    """Where everything lies: kinds of frames from left to right, the one that is ranked by first."""

    ways: list[Way]
    kinds: list[str]
    budgets: list[int]

    @classmethod
    def of(cls, comparison: Comparison) -> _Layout:
        kinds = [PAINTED, *(kind for kind in comparison.kinds if kind != PAINTED)]
        found: dict[Way, list[float]] = {}
        for (way, _), errors in comparison.errors.items():
            found.setdefault(way, []).append(float(errors[PAINTED].mean()))
        ways = sorted(found, key=lambda way: sum(found[way]) / len(found[way]))
        return cls(ways[:MOST_ROWS], kinds, comparison.budgets)

    @property
    def width(self) -> int:
        return max(self.left(len(self.kinds)) - GAP + MARGIN, 700)

    @property
    def height(self) -> int:
        return TOP + HEAD + ROW * len(self.ways) + MARGIN

    def left(self, place: int, column: int = 0) -> int:
        """The left edge of a column of a kind's."""
        return MARGIN + NAME + place * (CELL * len(self.budgets) + GAP) + CELL * column

    def top(self, row: int) -> int:
        return TOP + HEAD + ROW * row

    def middle(self, row: int) -> float:
        return self.top(row) + ROW / 2


def _draw_kind(draw: ImageDraw.ImageDraw, layout: _Layout, place: int, kind: str, comparison: Comparison) -> None:
    """The columns of one kind of frames."""
    draw.text((layout.left(place), TOP + 8), say(kind), INK, ImageFont.load_default(13), anchor="lm")
    for column, budget in enumerate(layout.budgets):
        left, best = layout.left(place, column), comparison.ranked(budget)[0]
        draw.text((left + CELL / 2, TOP + HEAD - 14), str(budget), FAINT, ImageFont.load_default(13), anchor="mm")
        for row, way in enumerate(layout.ways):
            if (way, budget) in comparison.errors:
                error = 100 * float(comparison.errors[way, budget][kind].mean())
                _draw_cell(draw, (left, layout.top(row)), error, is_best=way == best)


def _draw_cell(draw: ImageDraw.ImageDraw, corner: tuple[int, int], error: float, is_best: bool) -> None:
    shade = float(np.log10(1 + 9 * min(error, DARKEST) / DARKEST))
    left, top = corner
    box = (left, top, left + CELL - 2, top + ROW - 2)
    draw.rectangle(box, fill=tuple(sigma_colours([shade])[0].tolist()), outline=INK if is_best else None, width=3)
    text = f"{error:.1f}" if error < 99.95 else f"{error:.0f}"
    colour = "white" if shade > 0.5 else INK
    draw.text((left + CELL / 2 - 1, top + ROW / 2 - 1), text, colour, ImageFont.load_default(13), anchor="mm")
