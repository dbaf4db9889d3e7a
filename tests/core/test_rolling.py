"""Long video in segments, against the same staircase sampled as one clip."""

import pytest
import torch

from pusa_core.frames import pixel_length
from pusa_core.plan import plan_clip
from pusa_core.roll_files import RollFolder, settings_key
from pusa_core.rolling import Roll, Studio, segments
from pusa_core.staircase import Staircase, Window
from tests.core.test_staircase import encode, euler, given, velocity

SHAPE = (2, 2)


def noise(frame):
    return torch.randn(1, 4, 1, *SHAPE, generator=torch.Generator().manual_seed(100 + frame))


def sample(segment, plan, latents):
    """Euler's method along a segment, as a host does it."""
    table, clean = plan.table, torch.zeros_like(latents) if plan.clean is None else plan.clean
    x = table.at(segment.grid[0], segment.grid).to_virtual(latents, clean)
    for sigma, lower in zip(segment.grid[:-1], segment.grid[1:]):
        at = table.at(sigma, segment.grid)
        v = velocity(at.to_frame(x, clean), at.ratio * sigma)
        x = x + at.velocity(x, clean, v, sigma) * (lower - sigma)
    return table.at(segment.grid[-1]).to_frame(x, clean)


def pictures(latent):
    """In place of a VAE: a latent frame as its only picture, and back."""
    return latent.permute(0, 2, 3, 4, 1)


def studio(**changed):
    parts = {"noise": noise, "sample": sample, "decode": pictures, "encode": lambda p: p.permute(0, 4, 1, 2, 3)}
    return Studio(**{**parts, **changed})


CASES = [  # steps, delay, block, window, anchors, given
    (4, 1, 1, 6, (0,), 2),
    (4, 1, 1, 5, (), 1),
    (6, 2, 1, 5, (0,), 1),
    (5, 2, 1, 6, (), 0),
    (4, 2, 2, 8, (0, 1), 2),
]


@pytest.mark.parametrize("steps, delay, block, size, anchors, start", CASES)
def test_a_video_in_segments_is_the_clip(steps, delay, block, size, anchors, start):
    """`encode` gives back what was made, so that all that is shown is as it is in one clip."""
    staircase, frames, more = Staircase(steps, 5.0, delay, block, Window(size, anchors)), 14, 8
    plan = plan_clip(given(start), pixel_length(frames + more), encode, staircase)
    whole = torch.cat([noise(f) for f in range(frames + more)], 2)
    expected = euler(plan, whole)[:, :, :frames]
    keyframes = {f: (plan.clean[:, :, f : f + 1], 0.0) for f in range(start)}
    made = list(Roll(staircase, frames, keyframes, studio()))
    assert [m.frame for m in made] == list(range(frames))
    torch.testing.assert_close(torch.cat([m.latent for m in made], 2), expected, rtol=0, atol=5e-5)


def test_what_is_held_does_not_grow():
    staircase = Staircase(4, 5.0, 1, window=Window(6, (0,)))
    held = []
    roll = Roll(staircase, 60, {0: (noise(99), 0.0)}, studio())
    for made in roll:
        held.append((made.frame, len(roll.finished) + len(roll.moving) + len(roll.alone)))
    assert [frame for frame, _ in held] == list(range(60))
    held = [count for _, count in held]
    assert max(held[10:]) == max(held[10:20]) < 20


def test_the_newest_frame_is_shown_as_a_picture():
    seen = []
    staircase = Staircase(4, 5.0, 1, window=Window(6, (0,)))
    list(
        Roll(staircase, 8, {0: (noise(99), 0.0)}, studio(encode=lambda p: seen.append(p.shape) or torch.zeros(1, 4, 1, 2, 2)))
    )
    assert seen == [(1, 1, 2, 2, 4)] * 5  # of frames 2 to 6, whose predecessors are not in the window


def test_keyframes_on_the_way():
    """They end on their pictures; a noisy one is shown with its share of its noise on the way."""
    key, staircase = noise(50), Staircase(4, 5.0, 1, window=Window(6, (0,)))
    first = {0: (noise(99), 0.0)}
    plain = torch.cat([m.latent for m in Roll(staircase, 12, first, studio())], 2)
    exact = torch.cat([m.latent for m in Roll(staircase, 12, {**first, 7: (key, 0.0)}, studio())], 2)
    noisy = torch.cat([m.latent for m in Roll(staircase, 12, {**first, 7: (key, 0.4)}, studio())], 2)
    assert torch.equal(exact[:, :, 7:8], key)
    torch.testing.assert_close(noisy[:, :, 7:8], key)
    assert not torch.allclose(noisy[:, :, 6], exact[:, :, 6], atol=1e-4)  # it was seen with its noise
    assert not torch.allclose(exact[:, :, 6], plain[:, :, 6])  # what comes before it knows it
    torch.testing.assert_close(exact[:, :, :3], plain[:, :, :3])  # but not before it is in the window


def test_segments_are_made_one_by_one():
    first = next(segments(Staircase(4, 5.0, 1, window=Window(6, (0,))), 1, 10**6))
    assert first.frames == (0, 1, 2, 3, 4, 5) and first.sigmas.shape == (2, 6) and first.finished == ()


def test_a_staircase_without_a_window():
    with pytest.raises(ValueError, match="along a staircase with a window and a delay"):
        next(segments(Staircase(4, 5.0, 1), 1, 10))


# --- stopped and gone on -------------------------------------------------------------------------------------------------

BLOCKS = Staircase(4, 5.0, 2, 2, Window(8, (0, 1)))
SINGLE = Staircase(4, 5.0, 1, window=Window(6, (0,)))


class Died(Exception):
    pass


def run(folder, staircase, most=None):
    """Frames of a video that dies before it takes its segment number `most`; what was made is in the folder."""
    taken = []

    def dies(segment, plan, latents):
        taken.append(segment)
        if most is not None and len(taken) > most:
            raise Died
        return sample(segment, plan, latents)

    keyframes = {0: (noise(99), 0.0), 1: (noise(98), 0.0), 9: (noise(97), 0.3)}
    before = folder.load(2)
    roll = Roll(staircase, 14, keyframes, studio(sample=dies), before)
    made = []
    for frame in roll:
        made.append(frame.latent)
        if frame.frame >= max(2, before.frames):
            folder.save(frame, roll.progress)
    return torch.cat(made, 2), len(taken)


@pytest.mark.parametrize("staircase", [BLOCKS, SINGLE])
@pytest.mark.parametrize("most", [0, 1, 3, 5, 6])
def test_a_run_that_died_goes_on(staircase, most, tmp_path):
    whole, all_segments = run(RollFolder(tmp_path / "whole"), staircase)
    with pytest.raises(Died):
        run(RollFolder(tmp_path / "video"), staircase, most)
    again, segments_again = run(RollFolder(tmp_path / "video"), staircase)
    assert torch.equal(again, whole)
    assert segments_again < all_segments or most < 4  # a segment without a finished frame is made again


def test_a_damaged_state(tmp_path):
    folder = RollFolder(tmp_path)
    (tmp_path / "state.safetensors").write_bytes(b"cut off")
    with pytest.raises(ValueError, match="cannot be read .* delete that folder"):
        folder.load(1)


def test_another_video_has_another_key():
    base = {"seed": 1, "text": torch.ones(2, 3), "shape": [1, 2]}
    keys = [settings_key({**base, **change}) for change in ({}, {"seed": 2}, {"text": torch.zeros(2, 3)}, {"shape": [2, 1]})]
    assert len({*keys}) == 4 and settings_key(dict(reversed(base.items()))) == keys[0]
