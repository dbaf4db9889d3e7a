"""Pictures fitted to the clip's size."""

import pytest
import torch
from torch.nn.functional import interpolate

from pusa_core import resize
from pusa_core.resize import RESIZE, check_pictures, fit_images


@pytest.mark.parametrize("method", RESIZE)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pictures_of_another_size_are_fitted(method, channels):
    wide = torch.zeros(2, 40, 160, channels)
    wide[:, :, 60:100] = 1.0  # a white square in the middle
    fitted = fit_images(wide, 64, 48, method)
    assert fitted.shape == (2, 48, 64, 3)
    white = (fitted[1] > 0.5).all(-1).float()
    height, width = white.amax(1).sum().item(), white.amax(0).sum().item()
    assert (height, width) == {"crop": (48, 48), "letterbox": (16, 16), "stretch": (48, 16)}[method]
    assert white[:, :32].sum() == white[:, 32:].sum(), "the square stays in the middle"


def test_a_picture_of_the_right_size_is_not_touched():
    picture = torch.rand(1, 48, 64, 4)
    assert torch.equal(fit_images(picture, 64, 48, "crop"), picture[..., :3])


def whole(pictures, columns, rows):
    """(N, rows, columns, 3), resampled in one go."""
    planes = interpolate(pictures.movedim(-1, 1), (rows, columns), mode="bicubic", antialias=True)
    return planes.clamp(0, 1).movedim(1, -1)


@pytest.mark.parametrize(
    "size, columns, rows, exact",
    [((1080, 1920), 85, 48, True), ((96, 300), 150, 48, True), ((300, 96), 64, 200, True), ((48, 65), 65, 48, True),
     ((30, 40), 64, 48, False), ((20, 90), 216, 48, False), ((45, 10), 64, 288, False)],
)  # fmt: skip
def test_crop_is_the_middle_of_the_whole(size, columns, rows, exact):
    pictures = torch.rand(2, *size, 3, generator=torch.Generator().manual_seed(0))
    left, top = (columns - 63) // 2, (rows - 47) // 2  # of an odd rest the larger half
    expected = whole(pictures, columns, rows)[:, top : top + 48, left : left + 64]
    fitted = fit_images(pictures, 64, 48, "crop")
    assert torch.equal(fitted, expected) if exact else torch.allclose(fitted, expected, atol=1e-5)


@pytest.mark.parametrize("turned", [False, True])
def test_a_long_picture_is_cut_where_the_whole_would_be(turned):
    """A wave, which shows how far a cut is off: by less than a pixel of the clip."""
    wave = 0.5 + 0.4 * torch.sin(torch.arange(401) * 1.3)
    pictures = wave[None, None, :, None].expand(1, 5, -1, 3)
    pictures, (width, height), (columns, rows) = (
        (pictures.transpose(1, 2), (48, 64), (48, 3850)) if turned else (pictures, (64, 48), (3850, 48))
    )
    expected = whole(pictures, columns, rows)
    left, top = (columns - width) // 2, (rows - height) // 2
    expected = expected[:, top : top + height, left : left + width]
    slope = max(expected.diff(dim=1).abs().max(), expected.diff(dim=2).abs().max())
    assert (fit_images(pictures, width, height, "crop") - expected).abs().max() < slope


@pytest.mark.parametrize("method", RESIZE)
@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1), (2, 9_001), (9_001, 3), (1, 1)])
@pytest.mark.parametrize("width, height", [(832, 480), (64, 960), (960, 64)])
def test_no_picture_becomes_much_larger_than_itself_and_the_clip(monkeypatch, method, size, width, height):
    largest = 0

    def watched(planes, sides, **options):
        nonlocal largest
        one_side_done = planes.shape[2] * sides[1]  # torch resamples the columns first
        largest = max(largest, one_side_done, sides[0] * sides[1])
        return interpolate(planes, sides, **options)

    monkeypatch.setattr(resize, "interpolate", watched)
    assert fit_images(torch.rand(1, *size, 3), width, height, method).shape == (1, height, width, 3)
    assert 0 < largest <= 12 * (size[0] * size[1] + width * height)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (47, 64)])
@pytest.mark.parametrize("method", RESIZE)
def test_odd_sizes(size, method):
    fitted = fit_images(torch.rand(1, *size, 3), 64, 48, method)
    assert fitted.shape == (1, 48, 64, 3)
    assert fitted.min() >= 0
    assert fitted.max() <= 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_pixels_that_are_no_numbers_are_refused(value):
    with pytest.raises(ValueError, match="not numbers"):
        fit_images(torch.full((1, 48, 64, 3), value), 64, 48, "crop")


@pytest.mark.parametrize("pictures, words", [
    (torch.zeros(48, 64, 3), "these have 48 x 64 x 3: add or remove a dimension"),
    (torch.zeros(1, 1, 48, 64, 3), "these have 1 x 1 x 48 x 64 x 3"),
    (torch.zeros(()), "these have no dimension"),
    (torch.zeros([1] * 64), "these have 1 x 1"),
    (torch.zeros(1, 48, 0, 3), "no pixel in pictures of the shape 1 x 48 x 0 x 3"),
    (torch.zeros(1, 0, 64, 3), "no pixel in pictures of the shape 1 x 0 x 64 x 3"),
    (torch.zeros(0, 48, 64, 3), "no pixel in pictures of the shape 0 x 48 x 64 x 3"),
    (torch.zeros(1, 48, 64, 0), "no pixel in pictures of the shape 1 x 48 x 64 x 0"),
    (torch.zeros(1, 48, 64, 3, dtype=torch.uint8), "not uint8"),
    (torch.zeros(1, 48, 64, 3, dtype=torch.bool), "not bool"),
    ("picture.png", "'picture.png' was given instead of pictures"),
    ("x" * 5000, "was given instead of pictures"),
    (None, "None was given instead of pictures"),
    (3, "3 was given instead of pictures"),
    ([[0.5]], "was given instead of pictures"),
], ids=lambda value: value[:20] if isinstance(value, str) else None)  # fmt: skip
@pytest.mark.parametrize("check", [check_pictures, lambda pictures: fit_images(pictures, 64, 48, "crop")])
def test_what_are_no_pictures(check, pictures, words):
    with pytest.raises(ValueError, match=words) as caught:
        check(pictures)
    assert str(caught.value).endswith(".") and len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "low, high, words",
    [(0, 255, "from 0 to 255,.*divide them by 255"), (-1, 1, "from -1 to 1,.*check the node")]
    + [(0, 1.2, "from 0 to 1.2,.*check the node"), (-1e30, 1e30, "from -1e.30 to 1e.30")],
)
def test_pixels_out_of_range_are_refused(low, high, words):
    pictures = torch.linspace(low, high, 48 * 64 * 3).view(1, 48, 64, 3)
    with pytest.raises(ValueError, match=words):
        fit_images(pictures, 64, 48, "crop")


def test_what_nodes_leave_beyond_black_and_white_is_cut_off():
    pictures = torch.linspace(-0.09, 1.09, 48 * 64 * 3).view(1, 48, 64, 3)
    assert torch.equal(fit_images(pictures, 64, 48, "crop"), pictures.clamp(0, 1))
