"""Long video step by step, against the same staircase sampled as one clip."""

import pytest
import torch

from pusa_core.frames import pixel_length
from pusa_core.plan import plan_clip
from pusa_core.roll_files import RollFolder, settings_key
from pusa_core.rolling import GRID, Roll, Studio, noise_by_frame, window_steps
from pusa_core.staircase import Staircase, Window
from tests import forcing
from tests.core.test_staircase import MultiStep, encode, euler, given, velocity

SHAPE = (2, 2)


def noise(frame):
    return torch.randn(1, 4, 1, *SHAPE, generator=torch.Generator().manual_seed(100 + frame))


def step(_, plan, latents):
    """Euler's step, as a host takes it."""
    table, clean = plan.table, torch.zeros_like(latents) if plan.clean is None else plan.clean
    sigma, lower = GRID
    at = table.at(sigma, GRID)
    x = at.to_virtual(latents, clean)
    v = velocity(at.to_frame(x, clean), at.ratio * sigma)
    return table.at(lower).to_frame(x + at.velocity(x, clean, v, sigma) * (lower - sigma), clean)


def pictures(latent):
    """In place of a VAE: a latent frame as its only picture, and back."""
    return latent.permute(0, 2, 3, 4, 1)


def studio(**changed):
    parts = {"noise": noise, "euler": step, "decode": pictures, "encode": lambda p: p.permute(0, 4, 1, 2, 3)}
    return Studio(**{**parts, **changed})


CASES = [  # steps, delay, block, window, anchors, given
    (4, 1, 1, 6, (0,), 2),
    (4, 1, 1, 5, (), 1),
    (6, 2, 1, 5, (0,), 1),
    (5, 2, 1, 6, (), 0),
    (4, 2, 2, 8, (0, 1), 2),
]


@pytest.mark.parametrize("steps, delay, block, size, anchors, start", CASES)
def test_a_video_step_by_step_is_the_clip(steps, delay, block, size, anchors, start):
    """`encode` gives back what was made, so that all that is shown is as it is in one clip."""
    staircase, frames, more = Staircase(steps, 5.0, delay, block, Window(size, anchors)), 14, 8
    plan = plan_clip(given(start), pixel_length(frames + more), encode, staircase)
    whole = torch.cat([noise(f) for f in range(frames + more)], 2)
    expected = euler(plan, whole, change=MultiStep())[:, :, :frames]
    keyframes = {f: (plan.clean[:, :, f : f + 1], 0.0) for f in range(start)}
    made = list(Roll(staircase, frames, keyframes, studio()))
    assert [m.frame for m in made] == list(range(frames))
    torch.testing.assert_close(torch.cat([m.latent for m in made], 2), expected, rtol=0, atol=5e-5)


def test_what_is_held_does_not_grow():
    staircase = Staircase(4, 5.0, 1, window=Window(6, (0,)))
    held = []
    roll = Roll(staircase, 60, {0: (noise(99), 0.0)}, studio())
    for made in roll:
        held.append((made.frame, len(roll.finished) + len(roll.moving) + len(roll.denoised) + len(roll.alone)))
    assert [frame for frame, _ in held] == list(range(60))
    held = [count for _, count in held]
    assert max(held[10:]) == max(held[10:20]) < 25


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


def plainly(first, count, moving, beside=None):
    """A rolling window with the first frame as its anchor, written out; `beside`: (frame, latent that is shown beside it)."""
    grid, size, steps = forcing.sigma_grid(moving, 5.0), moving + 2, MultiStep()
    x = {0: first} | {f: noise(f) for f in range(1, count + moving)}
    for evaluation in range(count + moving - 2):
        end = max(evaluation + 2, size)
        shown = [0, *range(max(end - size + 1, 1), end)]
        taken = [moving if f == 0 else min(max(evaluation - f + 1, 0), moving) for f in shown]
        moves = beside is not None and beside[0] in shown and taken[shown.index(beside[0])] < moving
        latents = [x[f] for f in shown] + ([beside[1]] * 2 if moves else [])
        sigmas = [grid[n] for n in taken] + [0.0] * (len(latents) - len(shown))
        v = velocity(torch.cat(latents, 2), torch.tensor([sigmas]))
        for place, (f, n) in enumerate(zip(shown, taken)):
            if f - 1 <= evaluation and n < moving:
                own = v[:, :, place : place + 1]
                x[f] = steps(f, x[f], own, (grid[n], grid[n + 1]), x[f] + own * (grid[n + 1] - grid[n]))
    return torch.cat([x[f] for f in range(count)], 2)


@pytest.mark.parametrize("moving", [3, 4])
@pytest.mark.parametrize("key", [None, 7, 11])
def test_the_rule_written_out(moving, key):
    first, picture = noise(99), noise(50)
    keyframes = {0: (first, 0.0)} | ({} if key is None else {key: (picture, 0.0)})
    made = torch.cat([m.latent for m in Roll(Staircase.rolling(moving), 12, keyframes, studio(), beside=True)], 2)
    expected = plainly(first, 12, moving, None if key is None else (key, picture))
    torch.testing.assert_close(made, expected, rtol=0, atol=2e-5)


def test_a_clip_on_the_way_is_shown_in_its_place():
    keyframes = {frame: (noise(50 + frame), 0.0) for frame in (0, 6, 7)}
    made = [torch.cat([m.latent for m in Roll(SINGLE, 10, keyframes, studio(), beside=b)], 2) for b in (False, True)]
    assert torch.equal(*made) and torch.equal(made[0][:, :, 6:8], torch.cat([noise(56), noise(57)], 2))


def test_positions():
    """An anchor is no further off than it is, and no further than the distance; what is beside a frame is where it is."""
    shown = {s.frames: s.positions for s in window_steps(Staircase.rolling(3), 1, 30, distance=8)}
    assert shown[0, 1, 2, 3, 4] == (0, 1, 2, 3, 4)
    assert shown[0, 4, 5, 6, 7] == (0, 4, 5, 6, 7)
    assert shown[0, 20, 21, 22, 23] == (0, 8, 9, 10, 11)
    assert {s.positions for s in window_steps(Staircase.rolling(3), 1, 30)} == {None}
    seen = []
    watched = studio(euler=lambda now, plan, latents: seen.append((now, plan)) or step(now, plan, latents))
    list(Roll(Staircase.rolling(3), 24, {0: (noise(9), 0.0), 20: (noise(8), 0.0)}, watched, distance=8, beside=True))
    for now, plan in seen:
        moves = 20 in now.frames and now.sigmas[1, now.frames.index(20)] > 0
        assert len(plan) == now.sigmas.shape[1] == len(now.frames) + 2 * moves
        if moves:
            assert plan.positions[-2:] == (8 + now.frames.index(20) - 1, 8 + now.frames.index(20))
            assert torch.equal(plan.clean[:, :, -1:], noise(8))


@pytest.mark.parametrize("start, first", [(0, [0, 0, 4, 8]), (1, [0, 4, 8, 12]), (3, [8, 12, 16, 20])])
def test_the_frame_from_which_motion_goes_on(start, first):
    """The last picture that is finished, when the window moves up; of 4 frames that move, the first has 4 steps to go."""
    parts = list(window_steps(Staircase(4, 5.0, 1, window=Window(6, (0,))), start, start + 4))
    assert [part.goes_on_from for part in parts[3:]] == first
    assert {part.goes_on_from for part in parts[:3]} == {first[0]}


def test_noise_is_that_of_a_frame():
    make = noise_by_frame(5, (2, 4, 3, 3))
    assert make(7).shape == (2, 4, 1, 3, 3) and torch.equal(make(7), noise_by_frame(5, (2, 4, 3, 3))(7))
    assert len({float(noise_by_frame(seed, (1, 1, 1, 1))(frame)) for seed in (0, 1, 2**63 - 1) for frame in range(9)}) == 27


def test_steps_are_made_one_by_one():
    first = next(window_steps(Staircase(4, 5.0, 1, window=Window(6, (0,))), 1, 10**6))
    assert first.frames == (0, 1, 2, 3, 4, 5) and first.sigmas.shape == (3, 6) and first.finished == ()


def test_a_staircase_without_a_window():
    with pytest.raises(ValueError, match="along a staircase with a window and a delay"):
        next(window_steps(Staircase(4, 5.0, 1), 1, 10))


# --- stopped and gone on -------------------------------------------------------------------------------------------------

BLOCKS = Staircase(4, 5.0, 2, 2, Window(8, (0, 1)))
SINGLE = Staircase(4, 5.0, 1, window=Window(6, (0,)))


class Died(Exception):
    pass


def run(folder, staircase, most=None):
    """Frames of a video that dies before it takes its step number `most`; what was made is in the folder."""
    taken = []

    def dies(now, plan, latents):
        taken.append(now)
        if most is not None and len(taken) > most:
            raise Died
        return step(now, plan, latents)

    keyframes = {0: (noise(99), 0.0), 1: (noise(98), 0.0), 9: (noise(97), 0.3)}
    before = folder.load(2)
    roll = Roll(staircase, 14, keyframes, studio(euler=dies), before)
    made = []
    for frame in roll:
        made.append(frame.latent)
        if frame.frame >= max(2, before.frames):
            folder.save(frame, roll.progress)
    return torch.cat(made, 2), len(taken)


@pytest.mark.parametrize("staircase", [BLOCKS, SINGLE])
@pytest.mark.parametrize("most", [0, 1, 3, 5, 6])
def test_a_run_that_died_goes_on(staircase, most, tmp_path):
    whole, all_steps = run(RollFolder(tmp_path / "whole"), staircase)
    with pytest.raises(Died):
        run(RollFolder(tmp_path / "video"), staircase, most)
    again, steps_again = run(RollFolder(tmp_path / "video"), staircase)
    assert torch.equal(again, whole)
    assert steps_again < all_steps or most < 4  # a step without a finished frame is taken again


def test_a_damaged_state(tmp_path):
    folder = RollFolder(tmp_path)
    (tmp_path / "progress.safetensors").write_bytes(b"cut off")
    with pytest.raises(ValueError, match="cannot be read .* delete that folder"):
        folder.load(1)


def test_another_video_has_another_key():
    base = {"seed": 1, "text": torch.ones(2, 3), "shape": [1, 2]}
    keys = [settings_key({**base, **change}) for change in ({}, {"seed": 2}, {"text": torch.zeros(2, 3)}, {"shape": [2, 1]})]
    assert len({*keys}) == 4 and settings_key(dict(reversed(base.items()))) == keys[0]
