"""Fewer model evaluations: which sampler on which grid comes closest to a fine run, for each kind of latent frame.

A host samples; here is what is tried, how far each result is from that of the fine run, and which is closest. That is
agreement with the fine run in latents and no judgement of beauty; and it holds for the model, the prompt and the noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product, starmap
from typing import Any

import torch
from torch import Tensor

from .frames import comma_fields
from .intervals import mean_interval
from .messages import fault, mark, say, shorten
from .schedule import FrameSchedule
from .virtual_latent import per_frame

# Kinds of latent frames.
KEPT, NOISY = mark("keyframes that stay"), mark("noisy keyframes")
BESIDE, OTHER = mark("frames beside keyframes"), mark("other frames")
PAINTED = mark("all that change")

MOST_WAYS, MOST_BUDGETS, MOST_EVALUATIONS = 200, 12, 200


@dataclass(frozen=True)
class Way:
    """A sampler and a scheduler, by the host's names, and a flow shift."""

    sampler: str
    scheduler: str
    shift: float

    def __str__(self) -> str:
        return f"{self.sampler}, {self.scheduler}, {self.shift:g}"


@dataclass(frozen=True)
class Candidate:
    """A way with as many steps as fit into some model evaluations.

    Attributes:
        sigmas: the sampler's grid, (steps + 1,).
        evaluations: of the model that it takes.
    """

    way: Way
    sigmas: Tensor
    evaluations: int


Grid = Callable[[Way, int], Tensor]  # the sigmas of so many steps
Cost = Callable[[Way, Tensor], int]  # the model evaluations of a run along sigmas


@dataclass(frozen=True)
class Settings:
    """What is compared.

    Attributes:
        budgets: model evaluations that a run may take, rising.
        at_most: the best run within so many is wanted.
        fine: the fine run's sampler, scheduler and shift.
        fine_evaluations: what it may take; a run with half as many tells how far it can be trusted.

    Raises:
        ValueError: there are too many, the fine run is not finer than the others, or no budget is small enough.
    """

    ways: tuple[Way, ...]
    budgets: tuple[int, ...]
    at_most: int
    fine: Way
    fine_evaluations: int

    def __post_init__(self) -> None:
        if len(self.ways) > MOST_WAYS or len(self.budgets) > MOST_BUDGETS:
            raise fault(
                "{ways} ways to sample at {budgets} numbers of evaluations were asked for: compare at most {most_ways} at "
                "{most_budgets}.",
                ways=len(self.ways),
                budgets=len(self.budgets),
                most_ways=MOST_WAYS,
                most_budgets=MOST_BUDGETS,
            )
        if self.fine_evaluations < 2 * self.budgets[-1]:
            raise fault(
                "The fine run has {fine} evaluations, but the runs to compare with it have up to {most}: give it at least "
                "twice as many.",
                fine=self.fine_evaluations,
                most=self.budgets[-1],
            )
        if self.at_most < self.budgets[0]:
            raise fault(
                "The best within {at_most} evaluations was asked for, but at least {fewest} are compared: raise at_most, or "
                "add fewer evaluations.",
                at_most=self.at_most,
                fewest=self.budgets[0],
            )


def parse_ways(samplers: str, schedulers: str, shifts: str) -> tuple[Way, ...]:
    """Every combination of names and shifts: "euler, heun" with "pusa, beta" and "3, 5".

    Raises:
        ValueError: a list is empty, or a shift is not a number above 0.
    """
    numbers = [_number(entry) for entry in comma_fields(shifts, mark("shifts"), "3, 5")]
    names = (
        comma_fields(samplers, mark("samplers"), "euler, heun"),
        comma_fields(schedulers, mark("schedulers"), "pusa, beta"),
    )
    return tuple(dict.fromkeys(starmap(Way, product(*names, numbers))))


def parse_budgets(evaluations: str) -> tuple[int, ...]:
    """The numbers of "4, 6, 8, 10", rising.

    Raises:
        ValueError: one is not a whole number from 1 to 200.
    """
    return tuple(sorted({_count(entry) for entry in comma_fields(evaluations, mark("evaluations"), "4, 6, 8, 10")}))


def _number(entry: str) -> float:
    try:
        value = float(entry)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise fault('"{entry}" is no shift: use numbers above 0, such as "3, 5".', entry=shorten(entry))
    return value


def _count(entry: str) -> int:
    value = int(entry) if entry.isascii() and entry.isdigit() and len(entry) < 9 else 0
    if not 1 <= value <= MOST_EVALUATIONS:
        raise fault(
            '"{entry}" is no number of evaluations: use whole numbers from 1 to {most}, such as "4, 6, 8, 10".',
            entry=shorten(entry),
            most=MOST_EVALUATIONS,
        )
    return value


# --- what is tried ---------------------------------------------------------------------------------------------------


def fitting(way: Way, budget: int, grid: Grid, cost: Cost) -> Candidate | None:
    """A way with the most steps that take at most `budget` evaluations; None where even one step takes more."""
    for steps in range(budget, 0, -1):
        sigmas = grid(way, steps)
        if (evaluations := cost(way, sigmas)) <= budget:
            return Candidate(way, sigmas, evaluations)
    return None


@dataclass(frozen=True)
class Trials:
    """What is sampled, for each seed.

    Attributes:
        fine, half: the fine run, and one of the same way with half as many evaluations.
        tried: by (way, budget); a way that fits two budgets with the same steps is one run.
    """

    fine: Candidate
    half: Candidate
    tried: Mapping[tuple[Way, int], Candidate]

    @classmethod
    def of(cls, settings: Settings, grid: Grid, cost: Cost) -> Trials:
        """Raises: ValueError: nothing fits into the evaluations."""
        fine, half = (fitting(settings.fine, settings.fine_evaluations // n, grid, cost) for n in (1, 2))
        found = {key: fitting(*key, grid, cost) for key in product(settings.ways, settings.budgets)}
        tried = {key: candidate for key, candidate in found.items() if candidate is not None}
        if fine is None or half is None or not any(budget <= settings.at_most for _, budget in tried):
            raise fault("None of these samplers takes so few evaluations: allow more of them.")
        return cls(fine, half, tried)

    @property
    def runs(self) -> dict[tuple[Way, int], Candidate]:
        """The different ones, by way and number of steps."""
        return {(way, len(candidate.sigmas)): candidate for (way, _), candidate in self.tried.items()}

    @property
    def evaluations(self) -> int:
        """Of the model, for one seed."""
        return sum(run.evaluations for run in (self.fine, self.half, *self.runs.values()))


# --- how far it is from the fine run ---------------------------------------------------------------------------------


def frame_kinds(schedules: Sequence[FrameSchedule]) -> dict[str, Tensor]:
    """Which frames are of each kind, (1 or B, F); kinds that no frame is of are left out.

    Raises:
        ValueError: every frame stays on its picture.
    """
    kept = torch.tensor([[frame.is_pinned for frame in schedule.frames] for schedule in schedules])
    given = torch.tensor([schedule.needs_clean_latent for schedule in schedules]) | kept
    near = torch.zeros_like(given)
    near[:, 1:] |= given[:, :-1]
    near[:, :-1] |= given[:, 1:]
    kinds = {KEPT: kept, NOISY: given & ~kept, BESIDE: near & ~given, OTHER: ~near & ~given, PAINTED: ~kept}
    if kept.all():
        raise fault("Every frame of the schedule stays on its picture: there is nothing to compare.")
    return {name: frames for name, frames in kinds.items() if frames.any()}


def relative_errors(latents: Tensor, fine: Tensor, frames: Tensor | None = None) -> Tensor:
    """Each clip's distance to that of the fine run over the latter's norm, (B,).

    Args:
        latents, fine: (B, C, F, H, W).
        frames: those to look at, (1 or B, F); None for all. A clip without any is nan.
    """
    if frames is not None:
        latents, fine = (torch.where(per_frame(frames), each, 0.0) for each in (latents, fine))
    return (latents - fine).flatten(1).norm(dim=1) / fine.flatten(1).norm(dim=1)


Errors = dict[str, Tensor]  # by kind of frame: relative, of each clip that has such frames, (clips,)


@dataclass(frozen=True)
class Comparison:
    """What was found.

    Attributes:
        errors: of each run, by way and budget.
        doubt: how far the fine run is from the one with half as many evaluations.
    """

    trials: Trials
    errors: Mapping[tuple[Way, int], Errors]
    doubt: Errors

    @property
    def kinds(self) -> list[str]:
        return [*self.doubt]

    @property
    def budgets(self) -> list[int]:
        return sorted({budget for _, budget in self.errors})

    def ranked(self, budget: int) -> list[Way]:
        """The ways within a budget, the closest to the fine run over all frames that change first."""
        means = {way: float(errors[PAINTED].mean()) for (way, b), errors in self.errors.items() if b == budget}
        return sorted(means, key=means.__getitem__)

    def best(self, at_most: int) -> Candidate:
        """The closest to the fine run within the largest budget that is at most this many evaluations."""
        budget = max(budget for budget in self.budgets if budget <= at_most)
        return self.trials.tried[self.ranked(budget)[0], budget]


def compare(
    trials: Trials, kinds: Mapping[str, Tensor], sample: Callable[[Candidate, int], Tensor], seeds: Sequence[int]
) -> Comparison:
    """Samples everything with each seed's noise; keeps the latents of two runs at a time.

    Args:
        kinds: see `frame_kinds`.
        sample: (candidate, seed) -> latents, (B, C, F, H, W).
    """

    runs = trials.runs
    rows: dict[Any, list[list[Tensor]]] = {key: [] for key in (None, *runs)}
    for seed in seeds:
        fine = sample(trials.fine, seed)
        for key, candidate in [(None, trials.half), *runs.items()]:
            latents = sample(candidate, seed)
            rows[key].append([relative_errors(latents, fine, frames) for frames in kinds.values()])
    by_run = {key: dict(zip(kinds, map(_joined, zip(*found)))) for key, found in rows.items()}
    errors = {(way, budget): by_run[way, len(run.sigmas)] for (way, budget), run in trials.tried.items()}
    return Comparison(trials, errors, by_run[None])


def _joined(errors: Iterable[Tensor]) -> Tensor:
    values = torch.cat([*errors])
    return values[~values.isnan()]


# --- in words --------------------------------------------------------------------------------------------------------


def percent(errors: Tensor) -> str:
    """Relative errors of clips, (clips,), as one figure, with its interval where there are several."""
    values = 100 * errors
    return str(mean_interval(values)) if len(values) > 1 and values.max() >= 0.005 else f"{values.mean():.2g}"


def table(comparison: Comparison, spoken: Callable[[str], str] = say) -> list[list[str]]:
    """Rows of a table, the first its header: each budget's ways, the closest first."""
    about = mark("evaluations"), mark("sampler, scheduler, shift"), mark("steps")
    rows = [[spoken(word) for word in (*about, *comparison.kinds)]]
    for budget in comparison.budgets:
        for way in comparison.ranked(budget):
            run, errors = comparison.trials.tried[way, budget], comparison.errors[way, budget]
            rows.append([str(run.evaluations), str(way), str(len(run.sigmas) - 1), *map(percent, errors.values())])
    return rows


def report(comparison: Comparison, at_most: int) -> str:
    """What was found, with the table, in the user's language."""
    best, trials = comparison.best(at_most), comparison.trials
    lines = [
        say(
            "Closest to the fine run within {most} evaluations: {way}, {steps} steps, {evaluations} evaluations.",
            most=at_most, way=best.way, steps=len(best.sigmas) - 1, evaluations=best.evaluations,
        ),
        say(
            "Distance in latents to a fine run ({way}, {evaluations} evaluations), relative, in percent. It says how far "
            "runs agree with the fine one, not how good they look, and holds for this model, prompt and noise.",
            way=trials.fine.way, evaluations=trials.fine.evaluations,
        ),
        say(
            "The same with {evaluations} evaluations is {distance} % away from it: smaller differences mean nothing.",
            evaluations=trials.half.evaluations, distance=percent(comparison.doubt[PAINTED]),
        ),
    ]  # fmt: skip
    return "\n".join([*lines, "", *(" | ".join(row) for row in table(comparison))])
