"""What is compared, how far it is from the fine run, and which is best."""

import math
from dataclasses import replace

import pytest
import torch

from pusa_core.evaluations import (
    BESIDE,
    KEPT,
    NOISY,
    OTHER,
    PAINTED,
    Settings,
    Trials,
    Way,
    compare,
    fitting,
    frame_kinds,
    parse_budgets,
    parse_ways,
    relative_errors,
    report,
    table,
)
from pusa_core.evaluations_figure import MOST_ROWS, draw_comparison
from pusa_core.figures import sigma_colours
from pusa_core.schedule import FrameMap, FrameSchedule, pusa_sigmas

FINE = Way("two", "pusa", 5.0)
SETTINGS = Settings(parse_ways("one, two", "pusa", "3, 5"), parse_budgets("4, 6, 8, 10"), 8, FINE, 40)
ORDINARY = {PAINTED: torch.ones(1, 1, dtype=torch.bool)}


def grid(way, steps):
    return pusa_sigmas(steps, way.shift)


def cost(way, sigmas):
    """A sampler "two" asks the model twice at each step but the last."""
    steps = len(sigmas) - 1
    return 2 * steps - 1 if way.sampler == "two" else steps


def sampled(candidate, seed):
    """A clip whose distance from 1 is that of the sampler, the shift and the evaluations, and differs by seed."""
    error = (1 if candidate.way.sampler == "one" else 2) * candidate.way.shift / candidate.evaluations
    return torch.full((1, 1, 1, 1, 2), 1 + error * (1 + 0.1 * seed))


def test_ways_are_all_combinations_once():
    assert parse_ways(" euler,heun , euler", "pusa", "3, 5.5") == (
        Way("euler", "pusa", 3), Way("euler", "pusa", 5.5), Way("heun", "pusa", 3), Way("heun", "pusa", 5.5),
    )  # fmt: skip
    assert parse_budgets("8, 4,8") == (4, 8)


@pytest.mark.parametrize(
    "parse, words",
    [
        (lambda: parse_ways("", "pusa", "5"), "No samplers were given"),
        (lambda: parse_ways("euler,", "pusa", "5"), "empty entry"),
        (lambda: parse_ways("euler", "pusa", "0"), '"0" is no shift'),
        (lambda: parse_ways("euler", "pusa", "nan"), '"nan" is no shift'),
        (lambda: parse_budgets("4, 5.5"), '"5.5" is no number of evaluations'),
        (lambda: parse_budgets("0"), "whole numbers from 1 to 200"),
        (lambda: replace(SETTINGS, fine_evaluations=19), "has 19 evaluations.*up to 10.*twice as many"),
        (lambda: replace(SETTINGS, at_most=3), "within 3 evaluations.*at least 4 are compared"),
        (lambda: replace(SETTINGS, ways=parse_ways("a", "b", ",".join(map(str, range(1, 202))))), "compare at most 200"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_a_sentence(parse, words):
    with pytest.raises(ValueError, match=words):
        parse()


def test_a_sampler_gets_as_many_steps_as_fit_into_the_evaluations():
    assert [len(fitting(Way("two", "pusa", 5), n, grid, cost).sigmas) - 1 for n in (1, 4, 5, 10)] == [1, 2, 3, 5]
    assert fitting(Way("two", "pusa", 5), 4, grid, cost).evaluations == 3
    assert fitting(Way("two", "pusa", 5), 2, grid, lambda *_: 3) is None


def test_equal_runs_are_made_once_and_the_cost_is_known_before():
    trials = Trials.of(replace(SETTINGS, budgets=(5, 6)), grid, cost)
    assert [run.evaluations for run in trials.runs.values()] == [5, 6, 5, 6, 5, 5]  # two's 3 steps fit both
    assert trials.evaluations == 32 + 39 + 19
    asked = []

    def counted(candidate, seed):
        asked.append(candidate.evaluations)
        return sampled(candidate, seed)

    compare(trials, ORDINARY, counted, [0, 1])
    assert sum(asked) == 2 * trials.evaluations


def test_nothing_that_fits_is_said_so():
    with pytest.raises(ValueError, match="None of these samplers takes so few"):
        Trials.of(SETTINGS, grid, lambda way, sigmas: 9)


def test_frames_are_told_apart_by_what_they_do():
    line = FrameMap.line
    schedule = FrameSchedule.build(8, {0: line(0), 3: line(0.4), 7: line(0.2, "hold")})
    kinds = {name: frames[0].nonzero().flatten().tolist() for name, frames in frame_kinds([schedule]).items()}
    assert kinds == {KEPT: [0, 7], NOISY: [3], BESIDE: [1, 2, 4, 6], OTHER: [5], PAINTED: [1, 2, 3, 4, 5, 6]}
    assert list(frame_kinds([FrameSchedule.build(3)])) == [OTHER, PAINTED]
    assert frame_kinds([schedule, FrameSchedule.build(8)])[KEPT].sum(1).tolist() == [2, 0]
    with pytest.raises(ValueError, match="Every frame of the schedule stays"):
        frame_kinds([FrameSchedule.build(1, {0: line(0)})])


def test_errors_are_relative_and_of_the_frames_that_are_asked_for():
    fine = torch.tensor([[[3.0, 4.0], [8.0, 6.0]]])[:, :, :, None, None].expand(2, 1, 2, 2, 1, 1).flatten(1, 2)
    other = fine.clone()
    other[1, :, 1] *= 1.5
    frames = torch.tensor([[False, True]])
    assert relative_errors(other, fine, frames).tolist() == pytest.approx([0, 0.5])
    assert relative_errors(other, fine, ~frames).tolist() == [0, 0]
    assert 0 < float(relative_errors(other, fine)[1]) < 0.5
    of_one = torch.tensor([[False, True], [False, False]])
    assert relative_errors(other, fine, of_one).isnan().tolist() == [False, True]


def test_the_closest_within_the_evaluations_is_best():
    found = compare(Trials.of(SETTINGS, grid, cost), ORDINARY, sampled, [0])
    best = found.best(8)
    assert (str(best.way), len(best.sigmas) - 1, best.evaluations) == ("one, pusa, 3", 8, 8)
    assert found.best(9) == best and found.best(10).evaluations == 10
    assert [str(way) for way in found.ranked(4)] == ["one, pusa, 3", "one, pusa, 5", "two, pusa, 3", "two, pusa, 5"]


def test_the_report_says_what_was_measured_and_how_far_it_can_be_trusted():
    found = compare(Trials.of(SETTINGS, grid, cost), ORDINARY, sampled, [0])
    text = report(found, 8)
    assert "within 8 evaluations: one, pusa, 3, 8 steps, 8 evaluations" in text
    assert "fine run (two, pusa, 5, 39 evaluations)" in text and "not how good they look" in text
    fine, half = 1 + 10 / 39, 1 + 10 / 19
    assert f"The same with 19 evaluations is {100 * (half - fine) / fine:.2g} % away" in text
    header, first, *rest = table(found)
    assert header == ["evaluations", "sampler, scheduler, shift", "steps", "all that change"]
    assert first[:3] == ["4", "one, pusa, 3", "4"] and len(rest) == 15


def test_several_noises_or_clips_give_an_interval():
    found = compare(Trials.of(SETTINGS, grid, cost), ORDINARY, sampled, [0, 1, 2])
    errors = found.errors[SETTINGS.ways[0], 4][PAINTED]
    assert len(errors) == 3
    assert table(found)[1][-1].startswith(f"{100 * errors.mean():.2f} [")


def test_a_clip_without_a_kind_of_frames_does_not_count_in_it():
    kinds = {NOISY: torch.tensor([[True], [False]]), PAINTED: torch.ones(1, 1, dtype=torch.bool)}
    found = compare(Trials.of(SETTINGS, grid, cost), kinds, lambda c, s: sampled(c, s).expand(2, 1, 1, 1, 2), [0])
    assert {kind: len(errors) for kind, errors in found.doubt.items()} == {NOISY: 1, PAINTED: 2}


def test_the_picture_is_darker_where_a_run_is_further_away():
    found = compare(Trials.of(SETTINGS, grid, cost), ORDINARY, sampled, [0])
    picture = draw_comparison(found)
    assert picture.shape[0] == 1 and picture.shape[3] == 3 and picture.min() >= 0 and picture.max() <= 1
    colours = {tuple(colour) for colour in (255 * picture[0]).round().byte().flatten(0, 1).tolist()}
    shades = [math.log10(1 + 9 * min(float(errors[PAINTED]), 1)) for errors in found.errors.values()]
    assert {*map(tuple, sigma_colours(shades).tolist())} <= colours


def test_the_picture_shows_the_best_where_there_are_very_many():
    many = replace(SETTINGS, ways=parse_ways("one", "pusa", ",".join(map(str, range(1, 101)))))
    found = compare(Trials.of(many, grid, cost), ORDINARY, sampled, [0])
    few = compare(Trials.of(replace(many, ways=many.ways[:MOST_ROWS]), grid, cost), ORDINARY, sampled, [0])
    assert torch.equal(draw_comparison(found), draw_comparison(few))
