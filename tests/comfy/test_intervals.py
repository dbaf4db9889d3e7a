"""The benchmarks' intervals; scipy comes with ComfyUI."""

import pytest
import torch

from pusa_core.intervals import mean_interval, paired_difference


def test_the_interval_is_students():
    """Ten values; t is 2.262 for 9 degrees of freedom."""
    values = torch.tensor([7.0, 7.5, 8, 9, 10, 10, 11, 12, 12.5, 13])
    half = 2.2622 * float(values.std()) / 10**0.5
    found = mean_interval(values)
    assert (found.mean, found.low, found.high) == pytest.approx((10.0, 10 - half, 10 + half), abs=1e-3)
    assert str(found) == f"10.00 [{10 - half:.2f}, {10 + half:.2f}]"


def test_intervals_hold_what_they_promise():
    """In about 95 of 100 draws the true mean is inside."""
    generator = torch.Generator().manual_seed(0)
    found = [mean_interval(3 + torch.randn(64, generator=generator)) for _ in range(400)]
    assert 0.92 < sum(one.low < 3 < one.high for one in found) / 400 < 0.98


def test_differences_are_paired():
    """What differs from clip to clip, in both alike, does not widen the interval."""
    clips = 100 * torch.rand(64, generator=torch.Generator().manual_seed(0))
    better = clips - 1 + 0.1 * torch.randn(64, generator=torch.Generator().manual_seed(1))
    found = paired_difference(clips, better)
    assert found.mean == pytest.approx(1, abs=0.05) and found.low > 0.9 and found.high < 1.1
