"""What a run did on the pretend card."""

from __future__ import annotations

import gc
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from . import STEPS
from .device import card

Run = Callable[[int], Tensor]
Weights = Callable[[], Iterator[Tensor]]


@dataclass
class Report:
    """One scenario.

    Attributes:
        failed: the traceback of its error.
        device: where its result was.
        peak, budget: bytes of the card, at most and at all.
        left: bytes on the card after it that were not there before, but for models' weights, by the line that made them.
        growth: how often more the host waited in the run of more steps, by kind and caller.
    """

    failed: str | None = None
    device: str = ""
    peak: int = 0
    budget: int = 0
    left: dict[str, int] = field(default_factory=dict)
    growth: dict[str, int] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def examine(run: Run, weights: Weights) -> tuple[Report, Tensor | None]:
    """Runs a scenario with ever more steps; its report, and the last result on the host."""
    before, result = _others(weights), None
    card.watch()
    report = Report(budget=card.budget)
    try:
        result, report.growth = waits_by_step(run)
        report.device = str(result.device)
        result = result.cpu()
    except Exception:
        report.failed = traceback.format_exc()
    report.peak = card.peak
    report.left = dict(_others(weights) - before)
    return report, result


def waits_by_step(run: Run) -> tuple[Tensor, dict[str, int]]:
    """The result of the most steps, and what the host waits for more often with more steps."""
    counts = []
    for steps in STEPS:
        card.waits.clear()
        result = run(steps)
        counts.append(Counter(card.waits))
    few, many = counts[-2:]
    return result, {f"{kind}: {caller}": count for (kind, caller), count in (many - few).items()}


def _others(weights: Weights) -> Counter[str]:
    gc.collect()
    return card.owners(weights())
