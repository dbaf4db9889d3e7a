"""Means of figures with what is known of them: 95 % intervals by Student's t, paired where clips are the same."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean and where it is likely to be."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]"


def mean_interval(values: Tensor) -> Interval:
    """The mean of one figure for each clip, (B,); B at least 2. Where all are equal, so are the ends."""
    import scipy.stats  # takes a second to load

    mean = float(values.double().mean())
    if values.double().std() == 0:
        return Interval(mean, mean, mean)
    test = scipy.stats.ttest_1samp(values.double().numpy(), 0.0)
    found = test.confidence_interval(CONFIDENCE)
    return Interval(mean, float(found.low), float(found.high))


def paired_difference(values: Tensor, others: Tensor) -> Interval:
    """The mean of values - others, (B,) each, of the same clips in the same order."""
    return mean_interval(values.double() - others.double())
