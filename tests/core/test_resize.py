"""Pictures fitted to the clip's size."""

import pytest
import torch

from pusa_core.resize import RESIZE, fit_images


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
