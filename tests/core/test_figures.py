"""The schedule's picture shows the schedule."""

import pytest

from pusa_core.figures import HEADER, LABEL, draw_schedule
from pusa_core.schedule import FrameMap, FrameSchedule, pusa_sigmas


def cell(picture, row, column, rows, steps):
    """The colour at the left edge of a cell of the grid."""
    height = min(26, max(8, 1400 // rows))
    x = LABEL + (column + 0.02) * (picture.shape[2] - LABEL - 16) / steps
    return picture[0, HEADER + row * height + 1, round(x) + 1]


def test_a_clean_keyframe_has_the_colour_of_the_end():
    sigmas = pusa_sigmas(10).tolist()
    picture = draw_schedule(FrameSchedule.build(5, {2: FrameMap.line(0)}), sigmas)
    end = cell(picture, 0, 10, 5, 11)
    assert (cell(picture, 2, 0, 5, 11) == end).all()
    assert (cell(picture, 1, 0, 5, 11) != end).any()


@pytest.mark.parametrize("latents", [1, 21, 1000])
@pytest.mark.parametrize("steps", [1, 10, 50])
def test_every_size_can_be_drawn(latents, steps):
    picture = draw_schedule(FrameSchedule.build(latents), pusa_sigmas(steps).tolist(), ["a note " * 60])
    assert picture.shape[0] == 1 and picture.shape[3] == 3
    assert picture.shape[1] < 2000
    assert picture.min() >= 0
    assert picture.max() <= 1
