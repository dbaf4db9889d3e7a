"""A sheet of a clip's latent frames: what a sampler shows while it works."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

MOST_FRAMES = 25
SHAPE = 0.625  # height of the box that a sheet fills, relative to its width: nodes are wider than tall
GAP, LABEL_FROM = 2, 28  # pixels between frames; size from which a frame gets its number
MARGIN = 2  # cells around each frame that are cut off again, so that a decoder does not mix neighbours
BACKGROUND = (32, 34, 40)


@dataclass(frozen=True)
class PreviewSheet:
    """How latent frames are laid out, in order, from left to right and top to bottom.

    Attributes:
        frames: the latent frames that are shown, all or evenly spaced ones.
        given: those of the clip that start from a picture; they get a white border.
        columns, rows: of the sheet.
        reduced: how many cells, along each side, become one before a frame is decoded.
        cells: (height, width) of a frame then.
        tile: (width, height) of a frame on the sheet, in pixels.
    """

    frames: tuple[int, ...]
    given: frozenset[int]
    columns: int
    rows: int
    reduced: int
    cells: tuple[int, int]
    tile: tuple[int, int]

    @classmethod
    def of(
        cls, frames: int, height: int, width: int, *, given: Collection[int] = (), side: int = 512, most_cells: int = 2**18
    ) -> PreviewSheet:
        """The sheet of a clip of so many latent frames of so many cells.

        Args:
            side: the most pixels that the sheet may be wide or tall.
            most_cells: how many latent cells may be decoded for it: a bound for its time and memory.
        """
        shown = evenly_spaced(frames, MOST_FRAMES)
        columns = min(range(1, len(shown) + 1), key=lambda n: -_scale(len(shown), n, height, width))
        rows = math.ceil(len(shown) / columns)
        scale = side * _scale(len(shown), columns, height, width)
        tile = max(int(width * scale) - GAP, 1), max(int(height * scale) - GAP, 1)
        reduced = min(math.ceil(math.sqrt(columns * rows * height * width / most_cells)), height, width)
        cells = height // reduced, width // reduced
        return cls(tuple(shown), frozenset(given), columns, rows, reduced, cells, tile)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the sheet in pixels."""
        return self.columns * (self.tile[0] + GAP) - GAP, self.rows * (self.tile[1] + GAP) - GAP

    def fold(self, latents: Tensor) -> Tensor:
        """The first clip's frames as one frame, which any decoder of pictures takes: (B, C, F, h, w) -> (1, C, 1, H, W)."""
        frames = torch.stack([latents[0, :, i] for i in self.frames])  # (F', C, h, w)
        frames = F.pad(F.avg_pool2d(frames, self.reduced) if self.reduced > 1 else frames, (MARGIN,) * 4, mode="replicate")
        frames = F.pad(frames, (0, 0, 0, 0, 0, 0, 0, self.columns * self.rows - len(frames)))
        return rearrange(frames, "(r k) c h w -> 1 c 1 (r h) (k w)", k=self.columns)

    def draw(self, decoded: Image.Image) -> Image.Image:
        """The sheet, from what a decoder made of `fold`'s frame, at whatever scale."""
        sheet = Image.new("RGB", self.size, BACKGROUND)
        draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
        scale = decoded.width / self.columns / (self.cells[1] + 2 * MARGIN)  # pixels of a cell
        for place, frame in enumerate(self.frames):
            row, column = divmod(place, self.columns)
            left, top = column * (self.tile[0] + GAP), row * (self.tile[1] + GAP)
            tile = decoded.crop(self._box(row, column, scale)).resize(self.tile, Image.Resampling.BICUBIC)
            sheet.paste(tile, (left, top))
            if frame in self.given:
                box = (left, top, left + self.tile[0] - 1, top + self.tile[1] - 1)
                draw.rectangle(box, outline="white", width=2)
            if min(self.tile) >= LABEL_FROM:
                draw.text((left + 5, top + 3), str(frame), "white", font, stroke_width=1, stroke_fill=BACKGROUND)
        return sheet

    def _box(self, row: int, column: int, scale: float) -> tuple[int, int, int, int]:
        """Where a frame without its margin lies on what was decoded."""
        height, width = self.cells
        left, top = column * (width + 2 * MARGIN) + MARGIN, row * (height + 2 * MARGIN) + MARGIN
        return tuple(round(scale * v) for v in (left, top, left + width, top + height))  # type: ignore[return-value]


def evenly_spaced(count: int, most: int) -> list[int]:
    """Up to `most` of the indices 0 ... count - 1, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return [round(i * (count - 1) / (most - 1)) for i in range(most)]


def _scale(count: int, columns: int, height: int, width: int) -> float:
    """Size of a cell, relative to a sheet's width, when `count` frames are laid into so many columns."""
    return min(1 / (columns * width), SHAPE / (math.ceil(count / columns) * height))
