"""A second-order step by frame: its order, and where it is Euler's."""

import pytest
import torch

from pusa_core.multistep import second_order


def denoised(x, sigma):
    return torch.sin(x + 2 * sigma)


def integrated(steps, first_order=False):
    """x from sigma 0.8 to 0.2 in equal steps."""
    grid = torch.linspace(0.8, 0.2, steps + 1, dtype=torch.float64).tolist()
    x, earlier = torch.full((1, 1, 1, 1, 1), 0.3, dtype=torch.float64), None
    for before, now, after in zip([1.0, *grid], grid, grid[1:]):
        euler = x + (x - denoised(x, now)) / now * (after - now)
        x, earlier = second_order(x, euler, None if first_order else earlier, (before, now, after))
    return float(x)


def test_the_error_falls_with_the_square_of_the_step():
    """Half the step, a quarter of the error; Euler's halves."""
    true = integrated(20_000)
    assert true == pytest.approx(integrated(20_000, first_order=True), abs=1e-3)
    for first_order, expected in ((False, 4), (True, 2)):
        errors = [abs(integrated(steps, first_order) - true) for steps in (40, 80)]
        assert errors[0] / errors[1] == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize(
    "earlier, sigmas", [(None, (0.9, 0.6, 0.3)), (torch.ones(1), (1.0, 0.6, 0.3)), (torch.ones(1), (0.9, 0.6, 0.0))]
)
def test_where_it_is_eulers(earlier, sigmas):
    x, noise = torch.tensor([0.4]), torch.tensor([-1.2])
    euler = x + noise * (sigmas[2] - sigmas[1])
    after, clean = second_order(x, euler, earlier, sigmas)
    assert after is euler
    torch.testing.assert_close(clean, x - sigmas[1] * noise)


def test_nothing_is_lost_at_the_ends():
    """Sigmas next to 1 and to 0 give finite steps."""
    x = torch.randn(4, generator=torch.Generator().manual_seed(0))
    for sigmas in ((0.999999, 0.99999, 0.9), (0.5, 0.4, 1e-6), (0.3, 1e-5, 1e-6)):
        after, clean = second_order(x, x * 0.9, x * 0.5, sigmas)
        assert after.isfinite().all() and clean.isfinite().all()
