"""The sigma grid, frame maps, schedules and their JSON form."""

import json
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pusa_core.schedule import ORDINARY, FrameMap, FrameSchedule, pusa_sigmas

multipliers = st.floats(0, 1)
behaviours = st.sampled_from(["evolve", "hold"])
lines = st.builds(FrameMap.line, multipliers, behaviours)


@st.composite
def bent_maps(draw):
    inner = sorted(draw(st.sets(st.integers(1, 999), max_size=4)))
    values = sorted(draw(st.lists(multipliers, min_size=len(inner) + 1, max_size=len(inner) + 1)))
    knots = zip([0.0, *(i / 1000 for i in inner), 1.0], [0.0, *values])
    return FrameMap(tuple(knots), draw(behaviours))


maps = lines | bent_maps()
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
)


def test_the_published_four_steps():
    assert (1000 * pusa_sigmas(4)).tolist() == pytest.approx([1000, 937.5, 833.333, 625, 0], abs=1e-3)


@pytest.mark.parametrize("steps, high", [(10, 5), (4, 2), (30, 13)])
def test_the_published_split_between_experts(steps, high):
    assert int((pusa_sigmas(steps)[:-1] >= 0.875).sum()) == high


@given(st.integers(1, 200), st.floats(0.1, 20), st.floats(0.05, 1))
def test_the_grid_falls_to_zero(steps, shift, denoise):
    sigmas = pusa_sigmas(steps, shift, denoise)
    assert sigmas.shape == (steps + 1,)
    assert sigmas.dtype == torch.float32
    assert (sigmas.diff() < 0).all()
    assert sigmas[-1] == 0
    assert denoise < 1 or sigmas[0] == 1


def test_denoise_keeps_the_end_of_a_longer_grid():
    assert torch.equal(pusa_sigmas(5, denoise=0.5), pusa_sigmas(10)[-6:])


@pytest.mark.parametrize("steps, shift, denoise", [(0, 5, 1), (-1, 5, 1), (10**9, 5, 1), (4, 0, 1), (4, float("nan"), 1)])
def test_a_grid_out_of_range_is_refused(steps, shift, denoise):
    with pytest.raises(ValueError, match="steps were asked for|shift of"):
        pusa_sigmas(steps, shift, denoise)


@pytest.mark.parametrize("denoise", [0, -1, 1.01, float("nan")])
def test_a_denoise_out_of_range_is_refused(denoise):
    with pytest.raises(ValueError, match="denoise of"):
        pusa_sigmas(4, 5, denoise)


@given(multipliers, st.floats(1e-6, 1) | st.just(0.0))
def test_a_multiplier_is_a_straight_line(m, sigma):
    frame = FrameMap.line(m)
    assert frame.sigma(sigma) == pytest.approx(m * sigma, abs=1e-12)
    assert frame.ratio(sigma) == pytest.approx(m, abs=1e-9)
    assert frame.is_line


@given(maps, st.floats(0, 1), st.floats(0, 1))
def test_every_map_is_monotone_and_passes_through_its_knots(frame, a, b):
    low, high = sorted((a, b))
    assert 0 <= frame.sigma(low) <= frame.sigma(high) + 1e-12 <= 1 + 1e-11
    assert all(frame.sigma(x) == pytest.approx(y, abs=1e-12) for x, y in frame.knots)


def test_a_staircase_between_its_knots():
    frame = FrameMap(((0, 0), (0.5, 0), (1, 1)))
    assert [frame.sigma(s) for s in (0, 0.25, 0.5, 0.75, 1)] == [0, 0, 0, 0.5, 1]
    assert not frame.is_line
    assert frame.ratio(0) == 0


@pytest.mark.parametrize(
    "knots",
    [(), ((0, 0),), ((0, 0), (0.5, 1)), ((0.1, 0), (1, 1)), ((0, 0), (1, 1.5)), ((0, 0), (1, float("nan")))]
    + [((0, 0), (0.5, 0.8), (1, 0.2)), ((0, 0), (0.5, 0), (0.5, 1), (1, 1)), ((0, 0.1), (1, 1)), ((0, -1), (1, 1))],
)
def test_knots_that_are_no_map(knots):
    with pytest.raises(ValueError, match="knots|sigmas|sigma"):
        FrameMap(knots)


@given(st.integers(1, 40), st.dictionaries(st.integers(0, 39), maps, max_size=6))
def test_a_schedule_survives_json_and_pickle(latents, keyframes):
    keyframes = {i: frame for i, frame in keyframes.items() if i < latents}
    schedule = FrameSchedule.build(latents, keyframes)
    assert FrameSchedule.from_json(schedule.to_json()) == schedule
    assert pickle.loads(pickle.dumps(schedule)) == schedule
    assert schedule.keyframes == {i: frame for i, frame in keyframes.items() if frame != ORDINARY}
    assert schedule.is_ordinary == (not schedule.keyframes)


def test_json_names_only_the_keyframes():
    schedule = FrameSchedule.build(21, {0: FrameMap.line(0.2), 20: FrameMap(((0, 0), (0.5, 0.1), (1, 1)), "hold")})
    data = json.loads(schedule.to_json())
    assert data["keyframes"] == {
        "0": {"multiplier": 0.2, "behaviour": "evolve"},
        "20": {"sigmas": [[0, 0], [0.5, 0.1], [1, 1]], "behaviour": "hold"},
    }


@given(json_values)
def test_any_json_is_a_schedule_or_refused(data):
    with pytest.raises(ValueError, match=r"\S"):
        FrameSchedule.from_json(json.dumps(data))


@given(st.dictionaries(st.text(max_size=12), json_values | st.fixed_dictionaries({"multiplier": json_values}), max_size=3))
def test_any_keyframes_are_read_or_refused(keyframes):
    text = json.dumps({"version": 1, "latent_frames": 5, "keyframes": keyframes})
    try:
        schedule = FrameSchedule.from_json(text)
    except ValueError as error:
        assert str(error)
    else:
        assert all(0 <= frame.multiplier <= 1 for frame in schedule.frames)


@pytest.mark.parametrize(
    "text, words",
    [("", "not valid JSON"), ("[]", "JSON object"), ("[" * 100_000, "not valid JSON"), ('{"version": 2}', "version 2")]
    + [(f'{{"version": 1, "latent_frames": {n}}}', "latent_frames") for n in ("0", "-1", "1.5", "true", "1e9", '"5"', "NaN")]
    + [('{"version": 1, "latent_frames": 5, "keyframes": {"5": {"multiplier": 0}}}', "latent frames 0 to 4")]
    + [('{"version": 1, "latent_frames": 5, "keyframes": {"\u0663": {"multiplier": 0}}}', "not a latent frame index")]
    + [('{"version": 1, "latent_frames": 5, "keyframes": {"0": {"multiplier": NaN}}}', "Keyframe 0")]
    + [('{"version": 1, "latent_frames": 5, "keyframes": {"0": {"multiplier": 0, "behaviour": "jump"}}}', "Keyframe 0")],
)
def test_bad_json_says_what_is_wrong(text, words):
    with pytest.raises(ValueError, match=words):
        FrameSchedule.from_json(text)
