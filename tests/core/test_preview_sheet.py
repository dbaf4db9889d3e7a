"""Every latent frame is where the sheet says, whole, and nothing of its neighbours."""

import numpy as np
import pytest
import torch
from PIL import Image

from pusa_core.preview_sheet import GAP, MOST_FRAMES, PreviewSheet, evenly_spaced


def decode(folded, scale=1):
    """A stand-in decoder: the first three channels are the colours, in [0, 1]."""
    assert folded.shape[:3] == (1, 3, 1)
    pixels = (folded[0, :, 0].movedim(0, 2) * 255).round().to(torch.uint8).numpy()
    return Image.fromarray(pixels.repeat(scale, 0).repeat(scale, 1))


def grey(frame):
    return 60 + 7 * (frame % 26)


def clip(frames, height, width):
    """Latents whose every frame has one grey of its own, and a second video that is white."""
    values = torch.tensor([grey(i) for i in range(frames)], dtype=torch.float32) / 255
    latents = values[None, None, :, None, None].expand(1, 3, frames, height, width)
    return torch.cat([latents, torch.ones_like(latents)])


def tile(sheet, picture, place):
    row, column = divmod(place, sheet.columns)
    left, top = column * (sheet.tile[0] + GAP), row * (sheet.tile[1] + GAP)
    return np.asarray(picture)[top : top + sheet.tile[1], left : left + sheet.tile[0]]


@pytest.mark.parametrize(
    "frames, height, width", [(1, 60, 104), (5, 8, 8), (21, 60, 104), (21, 104, 60), (81, 30, 40), (3, 2, 90)]
)
@pytest.mark.parametrize("scale", [1, 8])
@pytest.mark.parametrize("most_cells", [2**18, 2**11])
def test_every_frame_is_in_its_place(frames, height, width, scale, most_cells):
    sheet = PreviewSheet.of(frames, height, width, most_cells=most_cells)
    picture = sheet.draw(decode(sheet.fold(clip(frames, height, width)), scale))
    assert picture.size == sheet.size and max(picture.size) <= 512
    assert sheet.columns * sheet.rows >= len(sheet.frames) > sheet.columns * (sheet.rows - 1)
    for place, frame in enumerate(sheet.frames):
        pixels = tile(sheet, picture, place)
        assert (pixels[-1] == grey(frame)).all() and (pixels[:, -1] == grey(frame)).all()  # the number is at the top left
        assert np.median(pixels) == grey(frame)


def test_a_decoder_that_looks_two_cells_around_does_not_mix_frames():
    sheet = PreviewSheet.of(21, 30, 52)
    folded = sheet.fold(clip(21, 30, 52))
    blurred = torch.nn.functional.avg_pool2d(folded[:, :, 0], 5, stride=1, padding=2, count_include_pad=False)[:, :, None]
    picture = sheet.draw(decode(blurred))
    for place in range(21):
        pixels = tile(sheet, picture, place).astype(int)
        assert abs(pixels[-1] - grey(place)).max() <= 1 and abs(pixels[:, -1] - grey(place)).max() <= 1


def test_a_frame_is_seen_whole():
    latents = torch.zeros(1, 3, 21, 60, 104)
    latents[..., 0, :] = latents[..., -1, :] = latents[..., :, 0] = latents[..., :, -1] = 1
    sheet = PreviewSheet.of(21, 60, 104, side=21 * 120)  # large enough to lose nothing
    pixels = tile(sheet, sheet.draw(decode(sheet.fold(latents))), 7)
    assert (pixels[0] > 200).all() and (pixels[-1] > 200).all() and (pixels[:, 0] > 200).all() and (pixels[:, -1] > 200).all()


def test_given_frames_have_a_border():
    sheet = PreviewSheet.of(21, 60, 104, given=[0, 20])
    picture = sheet.draw(decode(sheet.fold(torch.zeros(1, 3, 21, 60, 104))))
    bordered = [frame for frame in sheet.frames if (tile(sheet, picture, frame)[-1] == 255).all()]
    assert bordered == [0, 20]


@pytest.mark.parametrize("frames, height, width", [(21, 60, 104), (81, 90, 160), (401, 60, 104), (1, 500, 900)])
@pytest.mark.parametrize("most_cells", [2**13, 2**18])
def test_what_is_decoded_is_bounded(frames, height, width, most_cells):
    sheet = PreviewSheet.of(frames, height, width, most_cells=most_cells)
    assert len(sheet.frames) == min(frames, MOST_FRAMES)
    height, width = sheet.cells
    assert most_cells / 4 < sheet.columns * sheet.rows * height * width <= most_cells or sheet.reduced == 1


def test_21_latent_frames_are_all_shown_and_401_folded_to_even_steps():
    assert PreviewSheet.of(21, 60, 104).frames == tuple(range(21))
    shown = PreviewSheet.of(401, 60, 104).frames
    assert (shown[0], shown[-1]) == (0, 400)
    assert set(np.diff(shown)) <= {16, 17}


def test_evenly_spaced_never_repeats():
    for count in range(1, 200):
        shown = evenly_spaced(count, 25)
        assert len(set(shown)) == len(shown) == min(count, 25) and shown[-1] == count - 1
