"""The virtual latent against flow matching with known answers, without any model."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pusa_core.schedule import BEHAVIOURS, FrameMap, FrameSchedule, pusa_sigmas
from pusa_core.virtual_latent import ScheduleTable, per_frame

torch.manual_seed(0)
CLEAN, NOISE = torch.randn(2, 1, 3, 4, 2, 2, dtype=torch.float64)


def table(*frames: FrameMap) -> ScheduleTable:
    return ScheduleTable.of([FrameSchedule(frames)])


@given(st.floats(0.01, 1), st.floats(0.01, 1))
def test_a_virtual_latent_is_an_ordinary_one_of_the_same_noise(m, sigma):
    at = table(FrameMap.line(m)).at(sigma)
    virtual = (1 - sigma) * CLEAN + sigma * NOISE
    frame = (1 - m * sigma) * CLEAN + m * sigma * NOISE
    assert torch.allclose(at.to_frame(virtual, CLEAN), frame, atol=1e-6)
    assert torch.allclose(at.to_virtual(frame, CLEAN), virtual, atol=1e-5 / m)


def test_the_ends_are_exact():
    one, zero = (table(FrameMap.line(m)).at(0.7) for m in (1.0, 0.0))
    assert torch.equal(one.to_frame(NOISE, CLEAN), NOISE)
    assert torch.equal(one.to_virtual(NOISE, CLEAN), NOISE)
    assert torch.equal(zero.to_frame(NOISE * float("inf"), CLEAN), CLEAN)
    assert torch.equal(zero.to_virtual(NOISE, CLEAN), CLEAN)


def velocity(x, sigma):
    """A smooth field that depends on both; its flow has no closed form, so a fine Euler run is the reference."""
    return torch.sin(2 * x) * (1 + sigma) - 0.5 * x


def euler_on_frames(frame: FrameMap, sigmas):
    """Pusa's published step, one frame: x moves with the change of its own sigma."""
    start = frame.sigma(float(sigmas[0]))
    x = (1 - start) * CLEAN + start * NOISE
    for a, b in zip(sigmas[:-1].tolist(), sigmas[1:].tolist()):
        x = x + velocity(x, frame.sigma(a)) * (frame.sigma(b) - frame.sigma(a))
    return x


def euler_on_virtual(frame: FrameMap, sigmas):
    """As a host does it, with both forms of the equation: a sampler's Euler on denoised values must be that on velocities."""
    schedule, first = table(frame), float(sigmas[0])
    noise, content = schedule.at(first).start(NOISE, CLEAN, first)
    s = by_velocity = (1 - first) * content + first * noise
    for a, b in zip(sigmas[:-1], sigmas[1:]):
        at = schedule.at(a, sigmas)
        x = at.to_frame(s, CLEAN)
        v = velocity(x, a * per_frame(at.ratio))
        denoised = at.denoised(s, CLEAN, x, x - a * v)
        by_velocity = by_velocity + at.velocity(by_velocity, CLEAN, v, a) * (b - a)
        s = s + (s - denoised) / a * (b - a)
        torch.testing.assert_close(by_velocity, s, atol=1e-6, rtol=1e-6)
    return schedule.at(sigmas[-1]).to_frame(s, CLEAN)


@pytest.mark.parametrize("steps", [1, 4, 10, 30])
@pytest.mark.parametrize("m", [0.0, 0.1, 0.2, 0.5, 1.0])
def test_a_straight_frame_takes_the_published_step(m, steps):
    sigmas = pusa_sigmas(steps).double()
    assert torch.allclose(euler_on_virtual(FrameMap.line(m), sigmas), euler_on_frames(FrameMap.line(m), sigmas), atol=1e-6)


@pytest.mark.parametrize("knots", [((0, 0), (0.5, 0), (1, 1)), ((0, 0), (0.3, 0.4), (1, 0.6)), ((0, 0), (0.85, 1), (1, 1))])
def test_a_bent_frame_follows_its_map_step_by_step(knots):
    sigmas = pusa_sigmas(10).double()
    assert torch.allclose(euler_on_virtual(FrameMap(knots), sigmas), euler_on_frames(FrameMap(knots), sigmas), atol=1e-6)


@pytest.mark.parametrize("first", [2, 5, 8])
def test_a_bent_frame_that_starts_below_sigma_one_has_its_own_noise(first):
    """Its own sigma, not the sampler's, says how much noise it starts with."""
    frame, sigmas = FrameMap(((0, 0), (0.4, 0.05), (0.9, 0.6), (1, 0.8))), pusa_sigmas(10).double()[first:]
    assert torch.allclose(euler_on_virtual(frame, sigmas), euler_on_frames(frame, sigmas), atol=1e-6)


def test_noise_and_content_of_other_frames_start_as_they_are():
    at = table(FrameMap(), FrameMap.line(0.2), FrameMap.line(0.0), FrameMap.line(0.5, "hold")).at(0.6)
    noise, content = at.start(NOISE, CLEAN, 0.6)
    assert torch.equal(noise, NOISE.expand_as(noise)) and torch.equal(content, CLEAN.expand_as(content))


def test_the_steps_of_a_bent_frame_add_up_to_its_map():
    frame, grid = FrameMap(((0, 0), (0.37, 0.1), (0.6, 0.9), (1, 1))), pusa_sigmas(7)
    moved = [table(frame).at(a, grid).slope * (a - b) for a, b in zip(grid[:-1], grid[1:])]
    assert sum(moved).item() == pytest.approx(1.0, abs=1e-6)


def test_a_held_frame_stays_on_its_line_and_ends_clean():
    frame = FrameMap(((0, 0), (0.5, 0.1), (1, 0.4)), "hold")
    for sigma in (1.0, 0.7, 0.3, 0.0):
        at = table(frame).at(sigma)
        virtual = (1 - sigma) * CLEAN + sigma * NOISE  # what a solver has whose denoised value is always clean
        expected = (1 - frame.sigma(sigma)) * CLEAN + frame.sigma(sigma) * NOISE
        assert at.pinned.all()
        assert torch.allclose(at.to_frame(virtual, CLEAN), expected, atol=1e-6)
        assert torch.equal(at.denoised(virtual, CLEAN, expected, NOISE), CLEAN)


def test_a_step_ends_at_the_next_lower_sigma():
    """Also from between two sigmas, where a solver may look; past the end there is none."""
    frame, grid = FrameMap(((0, 0), (0.5, 0), (1, 1))), torch.tensor([1.0, 0.75, 0.5, 0.0])
    for sigma, slope in ((1.0, 2.0), (0.75, 2.0), (0.875, 2.0), (0.6, 2.0), (0.5, 0.0), (0.0, 1.0)):
        assert table(frame).at(sigma, grid).slope.item() == pytest.approx(slope)


KNOTS = st.lists(st.floats(0.02, 0.98), max_size=4, unique=True).flatmap(
    lambda x: st.lists(st.floats(0, 1), min_size=len(x) + 1, max_size=len(x) + 1).map(
        lambda y: tuple(zip((0.0, *sorted(x), 1.0), (0.0, *sorted(y))))
    )
)


@given(st.lists(st.tuples(KNOTS, st.sampled_from(BEHAVIOURS)), min_size=1, max_size=4), st.floats(0, 1), st.integers(1, 6))
def test_the_table_says_what_the_maps_say(maps, sigma, steps):
    frames = [FrameMap(knots, behaviour) for knots, behaviour in maps]
    at = table(*frames).at(sigma, pusa_sigmas(steps))
    for i, frame in enumerate(frames):
        assert at.ratio[0, i] * sigma == pytest.approx(frame.sigma(sigma), abs=2e-6)
        assert at.pinned[0, i] == frame.is_pinned
        assert at.scale[0, i] == pytest.approx(float(at.ratio[0, i]) if frame.behaviour == "hold" else frame.multiplier)


def test_ordinary_frames_have_coefficients_of_exactly_one():
    for sigma in (1.0, 0.937, 1e-3):
        at = table(FrameMap(), FrameMap(((0, 0), (0.3, 0.1), (1, 0.9)))).at(sigma, pusa_sigmas(10))
        assert all(getattr(at, name)[0, 0].item() == 1.0 for name in ("scale", "ratio", "own", "slope"))


def test_frames_of_a_table_are_found_by_number():
    schedules = [FrameSchedule.build(3, {i: FrameMap.line(0.1 * (i + 1))}) for i in range(2)]
    numbers = torch.tensor([[2, 0], [3, 4]])  # the second schedule begins at 3
    assert ScheduleTable.of(schedules).frames(numbers).multiplier == pytest.approx(torch.tensor([[1.0, 0.1], [1.0, 0.2]]))
