"""Staircases as schedules, against a plain implementation of diffusion forcing with a network that is a formula."""

import math

import pytest
import torch

from pusa_core.frames import pixel_length
from pusa_core.keyframes import still_keyframe
from pusa_core.plan import join_plans, plan_clip, same_plan
from pusa_core.schedule import ORDINARY, FrameMap, FrameSchedule, pusa_sigmas
from pusa_core.staircase import Staircase, Window
from tests import forcing

CASES = [(ar_step, block, prefix) for ar_step in (0, 1, 2, 3, 5, 9) for block in (1, 2, 3) for prefix in (0, 6)]


def velocity(x, sigmas):
    """Something that depends on every frame's neighbours, noise and place."""
    mixed = x.cumsum(2) / 3 + x.flip(2) / 5
    return torch.tanh(mixed + sigmas[:, None, :, None, None]) - 0.3 * x


def encode(pictures):
    generator = torch.Generator().manual_seed(len(pictures))
    return torch.randn(1, 4, (len(pictures) - 1) // 4 + 1, 2, 2, generator=generator)


def given(latents):
    """Keyframes, without noise, of the first latent frames."""
    picture = torch.zeros(1, 8, 8, 3)
    return [still_keyframe(picture, i, "latent", 0.0) for i in range(latents)]


def euler(plan, noise, shown=True, change=lambda index, frame, v, sigmas, after: after):
    """Euler's method on virtual latents, as a host does it; `change` may make other steps of it."""
    table, clean = plan.table, torch.zeros_like(noise[:1]) if plan.clean is None else plan.clean
    x = torch.where(plan.keyframed[:, None, :, None, None], clean, noise)
    for sigma, lower in zip(plan.grid[:-1], plan.grid[1:]):
        at, after = table.at(sigma, plan.grid), table.at(lower, plan.grid)
        frame, window = at.to_frame(x, clean), plan.shown if shown else None
        seen = torch.arange(len(plan)) if window is None else window.at(sigma)
        v = torch.zeros_like(x)
        v[:, :, seen] = velocity(frame[:, :, seen], (at.ratio * sigma)[:, seen].expand(len(x), -1))
        x = x + at.velocity(x, clean, v, sigma) * (lower - sigma)
        for f in range(len(plan)):
            if not plan.keyframed[0, f]:
                sigmas = [plan.schedule.frames[f].sigma(float(s)) for s in (sigma, lower)]
                one = [t[:, :, f : f + 1] for t in (frame, v, after.to_frame(x, clean))]
                x[:, :, f : f + 1] = change(f, one[0], one[1], sigmas, one[2])
    return table.at(0.0).to_frame(x, clean)


class MultiStep:
    """DPM-Solver++(2M) as its authors write it (arXiv 2211.01095, algorithm 2), alpha = 1 - sigma; history by frame."""

    def __init__(self):
        self.history = {}

    def __call__(self, index, frame, v, sigmas, euler):
        now, after = sigmas
        if after >= now:
            return euler
        before, earlier = self.history.get(index, (1.0, None))
        self.history[index] = now, frame - now * v
        if before > 0.999999 or after < 1e-6:
            return euler
        half_log_snr = [math.log((1 - sigma) / sigma) for sigma in (before, now, after)]
        h = half_log_snr[2] - half_log_snr[1]
        r = (half_log_snr[1] - half_log_snr[0]) / h
        d = (1 + 1 / (2 * r)) * (frame - now * v) - 1 / (2 * r) * earlier
        return after / now * frame - (1 - after) * (math.exp(-h) - 1) * d


@pytest.mark.parametrize("ar_step, block, prefix", CASES)
def test_diffusion_forcing(ar_step, block, prefix):
    frames, steps, shift = 12, 5, 8.0
    plan = plan_clip(given(prefix), pixel_length(frames), encode, Staircase(steps, shift, ar_step, block))
    noise = torch.randn(2, 4, frames, 2, 2, generator=torch.Generator().manual_seed(1))
    clean = torch.zeros(1, 4, frames, 2, 2) if plan.clean is None else plan.clean
    setting = {"steps": steps, "shift": shift, "ar_step": ar_step, "block": block, "prefix": prefix}
    expected = forcing.sample(velocity, clean, noise, **setting)
    assert len(plan.grid) - 1 == len(forcing.rows(frames, steps, ar_step, block, prefix))
    torch.testing.assert_close(euler(plan, noise), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("size", [6, 8, 20])
@pytest.mark.parametrize("prefix", [0, 2])
def test_a_long_clip_in_a_window(size, prefix):
    """Frames further back than the window are not shown any more; neither way shows more than it holds."""
    frames, steps = 17, 4
    shape = Staircase(steps, 5.0, 1, window=Window(size))
    plan = plan_clip(given(prefix), pixel_length(frames), encode, shape)
    noise = torch.randn(1, 4, frames, 2, 2, generator=torch.Generator().manual_seed(1))
    clean = torch.zeros(1, 4, frames, 2, 2) if plan.clean is None else plan.clean
    expected = forcing.sample(
        velocity, clean, noise, steps=steps, shift=5.0, ar_step=1, prefix=prefix, size=min(size, frames)
    )
    torch.testing.assert_close(euler(plan, noise), expected, rtol=0, atol=2e-5)
    if size < frames:
        assert plan.shown.frames.shape == (len(plan.grid) - 1, size)
        assert not torch.allclose(euler(plan, noise, shown=False), expected, atol=1e-2)  # the window matters


def test_an_anchor_stays_in_the_window():
    shape = Staircase(4, delay=1, window=Window(6, (0,)))
    shown = shape.shown(given=2, count=15).tolist()
    assert shown[:4] == [[0, 1, 2, 3, 4, 5]] * 4
    assert shown[4] == [0, 2, 3, 4, 5, 6]
    assert shown[-1] == [0, 12, 13, 14, 15, 16]
    assert {len(frames) for frames in shown} == {6}


def test_what_moves_is_always_shown():
    for steps, delay, block in ((4, 1, 1), (6, 2, 1), (5, 3, 2), (7, 9, 3)):
        size = block * (-(-steps // min(delay, steps)))
        shape = Staircase(steps, delay=delay, block=block, window=Window(size + 2, (0,)))
        count = 20
        for evaluation, shown in enumerate(shape.shown(1, count).tolist()):
            moving = [i + 1 for i in range(count) if shape.start(i) <= evaluation < shape.start(i) + steps]
            assert {*moving} <= {*shown}, (steps, delay, block, evaluation)


def test_frames_that_go_together_follow_the_sampler():
    plan = plan_clip([], 21, encode, Staircase(7, 3.0))
    assert plan.schedule.is_ordinary
    assert torch.equal(plan.grid, pusa_sigmas(7, 3.0)) and plan.shown is None


def test_a_keyframe_has_its_share_of_its_frames_noise():
    shape = Staircase(4, delay=2)
    plan = plan_clip([still_keyframe(torch.zeros(1, 8, 8, 3), 3, "latent", 0.5, "hold")], 17, encode, shape)
    ordinary = shape.map(3, 5)
    assert plan.schedule.frames[3] == ordinary.scaled(0.5, "hold")
    for sigma in plan.grid.tolist():
        assert plan.schedule.frames[3].sigma(sigma) == pytest.approx(0.5 * ordinary.sigma(sigma))


def test_it_is_read_again():
    plan = plan_clip(given(1), 17, encode, Staircase(4, delay=1))
    assert FrameSchedule.from_json(plan.schedule.to_json()) == plan.schedule


def test_a_line_is_the_ordinary_map_scaled():
    assert FrameMap.line(0.3, "hold") == ORDINARY.scaled(0.3, "hold") == FrameMap(((0.0, 0.0), (1.0, 0.3)), "hold")


def test_plans_of_other_timetables_do_not_join():
    plans = [plan_clip([], 17, encode, Staircase(4, delay=delay)) for delay in (1, 2, 1)]
    assert same_plan(plans[0], plans[2]) and not same_plan(plans[0], plans[1])
    assert join_plans([plans[0], plans[2]], [1, 1]) is plans[0]
    with pytest.raises(ValueError, match="at different times: give them all the same kind"):
        join_plans(plans, [1, 1, 1])


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: Staircase(0), "0 steps were asked for"),
        (lambda: Staircase(4, shift=0.0), "A shift of 0.0"),
        (lambda: Staircase(4, delay=-1), "each -1 evaluations after"),
        (lambda: Staircase(4, block=0), "Blocks of 0 latent frames"),
        (lambda: Staircase(4, delay=1.5), "must be a whole number, not 1.5"),
        (lambda: Window(1, (0,)), "has no room beside its anchors"),
        (lambda: Staircase(50, delay=50).grid(10_000), "500000 model evaluations; at most 100000"),
    ],
)
def test_what_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
