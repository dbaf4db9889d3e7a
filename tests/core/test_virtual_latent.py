"""The virtual latent against flow matching with known answers, without any model."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pusa_core.schedule import FrameMap, FrameSchedule, pusa_sigmas
from pusa_core.virtual_latent import coefficients, step_end, to_frame, to_virtual

torch.manual_seed(0)
CLEAN, NOISE = torch.randn(2, 1, 3, 4, 2, 2, dtype=torch.float64)


@given(st.floats(0.01, 1), st.floats(0.01, 1))
def test_a_virtual_latent_is_an_ordinary_one_of_the_same_noise(m, sigma):
    scale = torch.tensor(m, dtype=torch.float64)
    virtual = (1 - sigma) * CLEAN + sigma * NOISE
    frame = (1 - m * sigma) * CLEAN + m * sigma * NOISE
    assert torch.allclose(to_frame(virtual, CLEAN, scale), frame, atol=1e-12)
    assert torch.allclose(to_virtual(frame, CLEAN, scale), virtual, atol=1e-10 / m)


def test_the_ends_are_exact():
    one, zero = torch.tensor(1.0, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64)
    assert torch.equal(to_frame(NOISE, CLEAN, one), NOISE)
    assert torch.equal(to_virtual(NOISE, CLEAN, one), NOISE)
    assert torch.equal(to_frame(NOISE * float("inf"), CLEAN, zero), CLEAN)
    assert torch.equal(to_virtual(NOISE, CLEAN, zero), CLEAN)


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
    schedule, grid = FrameSchedule((frame,)), sigmas.tolist()
    s = (1 - grid[0]) * CLEAN + grid[0] * NOISE
    for a, b in zip(grid[:-1], grid[1:]):
        c = coefficients(schedule, a, step_end(grid, a))
        x = to_frame(s, CLEAN, c.scale.double())
        s = s + c.slope.double() * velocity(x, a * c.ratio.double()) * (b - a)
    return to_frame(s, CLEAN, coefficients(schedule, grid[-1]).scale.double())


@pytest.mark.parametrize("steps", [1, 4, 10, 30])
@pytest.mark.parametrize("m", [0.0, 0.1, 0.2, 0.5, 1.0])
def test_a_straight_frame_takes_the_published_step(m, steps):
    sigmas = pusa_sigmas(steps).double()
    assert torch.allclose(euler_on_virtual(FrameMap.line(m), sigmas), euler_on_frames(FrameMap.line(m), sigmas), atol=1e-6)


@pytest.mark.parametrize("knots", [((0, 0), (0.5, 0), (1, 1)), ((0, 0), (0.3, 0.4), (1, 0.6)), ((0, 0), (0.85, 1), (1, 1))])
def test_a_bent_frame_follows_its_map_step_by_step(knots):
    sigmas = pusa_sigmas(10).double()
    assert torch.allclose(euler_on_virtual(FrameMap(knots), sigmas), euler_on_frames(FrameMap(knots), sigmas), atol=1e-6)


def test_the_steps_of_a_bent_frame_add_up_to_its_map():
    frame, grid = FrameMap(((0, 0), (0.37, 0.1), (0.6, 0.9), (1, 1))), pusa_sigmas(7).tolist()
    moved = [coefficients(FrameSchedule((frame,)), a, b).slope.item() * (a - b) for a, b in zip(grid[:-1], grid[1:])]
    assert sum(moved) == pytest.approx(1.0, abs=1e-6)


def test_a_held_frame_stays_on_its_line_and_ends_clean():
    frame = FrameMap(((0, 0), (0.5, 0.1), (1, 0.4)), "hold")
    schedule = FrameSchedule((frame,))
    for sigma in (1.0, 0.7, 0.3, 0.0):
        c = coefficients(schedule, sigma)
        virtual = (1 - sigma) * CLEAN + sigma * NOISE  # what a solver has whose denoised value is always clean
        expected = (1 - frame.sigma(sigma)) * CLEAN + frame.sigma(sigma) * NOISE
        assert c.pinned.item()
        assert torch.allclose(to_frame(virtual, CLEAN, c.scale.double()), expected, atol=1e-6)


def test_the_end_of_a_step_is_found_on_the_grid():
    grid = pusa_sigmas(4).tolist()
    assert step_end(grid, 1.0) == grid[1]
    assert step_end(grid, grid[1]) == grid[2]
    assert step_end(grid, (grid[1] + grid[2]) / 2) == grid[2]
    assert step_end(grid, 0.0) is None
