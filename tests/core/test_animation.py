"""Moving pictures: right frames, right order, borders where frames were given."""

import torch
from PIL import Image

from pusa_core.animation import GAP, TITLE, side_by_side, write_animation


def clip(value):
    return torch.full((3, 8, 16, 3), value) * torch.tensor([0.2, 0.6, 1.0])[:, None, None, None]


def test_clips_stand_beside_each_other_with_borders_on_given_frames():
    frames = side_by_side([("one", clip(1.0), [0]), ("two", clip(0.5), [])], side=16)
    assert frames.shape == (3, 16 + TITLE + GAP, 2 * (32 + 2 * GAP), 3)
    middle = TITLE + 8
    for number, level in enumerate((0.2, 0.6, 1.0)):
        assert abs(frames[number, middle, GAP + 4, 0] - level) < 0.01
        assert abs(frames[number, middle, 32 + 3 * GAP + 4, 0] - level / 2) < 0.01
    border = frames[:, middle, GAP - 2]
    assert border[0].min() == 1.0 and border[1:].max() < 0.2


def test_an_animation_keeps_frames_and_times(tmp_path):
    write_animation(clip(1.0), tmp_path / "a" / "clip.webp", fps=10, hold=0.5, lossless=True)
    with Image.open(tmp_path / "a" / "clip.webp") as image:
        assert image.n_frames == 3 and image.info["loop"] == 0
        levels, times = [], []
        for number in range(3):
            image.seek(number)
            levels.append(image.convert("RGB").getpixel((5, 5))[0])
            times.append(image.info["duration"])
    assert levels == [51, 153, 255]
    assert times == [100, 100, 600]
