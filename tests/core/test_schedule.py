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


def test_a_tiny_denoise_takes_no_more_memory(monkeypatch):
    def no_whole_grid(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(torch, "linspace", no_whole_grid)
    for denoise in (1e-9, 5e-324):
        sigmas = pusa_sigmas(10, denoise=denoise)
        assert sigmas.shape == (11,)
        assert (sigmas.diff() < 0).all()
        assert 0 < sigmas[0] <= 50 * denoise + 1e-14


@given(st.integers(1, 60), st.sampled_from([1.0, 3.0, 5.0, 8.0]), st.sampled_from([1.0, 0.5, 0.35]))
def test_the_grid_is_wans(steps, shift, denoise):
    s = torch.linspace(1, 0, int(steps / denoise) + 1, dtype=torch.float64)
    assert torch.equal(pusa_sigmas(steps, shift, denoise), (shift * s / (1 + (shift - 1) * s))[-(steps + 1) :].float())


def test_denoise_keeps_the_end_of_a_longer_grid():
    assert torch.equal(pusa_sigmas(5, denoise=0.5), pusa_sigmas(10)[-6:])


@pytest.mark.parametrize(
    "steps, shift, denoise",
    [(0, 5, 1), (-1, 5, 1), (10**9, 5, 1), (4, 0, 1), (4, float("nan"), 1)],
)
def test_a_grid_out_of_range_is_refused(steps, shift, denoise):
    with pytest.raises(ValueError, match="steps were asked for|shift of"):
        pusa_sigmas(steps, shift, denoise)


@pytest.mark.parametrize("steps", ["4", 4.5, None, True])
def test_steps_are_counted(steps):
    with pytest.raises(ValueError, match="number of steps must be a whole number, not"):
        pusa_sigmas(steps)


def test_steps_beyond_what_python_writes():
    with pytest.raises(ValueError, match="very large number"):
        pusa_sigmas(10**5000)


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


def with_keyframe(value):
    return f'{{"version": 1, "latent_frames": 5, "keyframes": {{"0": {value}}}}}'


NINES = "9" * 5000
DEEP = "[" * 900 + "]" * 900


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
    with pytest.raises(ValueError, match=words) as caught:
        FrameSchedule.from_json(text)
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message and len(message) < 300, message


HOSTILE = {
    "5000 digits": (f'{{"version": {NINES}}}', "the number 9999.* is too large"),
    "minus 5000 digits": (f'{{"version": -{NINES}}}', "the number -9999.* is too large"),
    "5000 digits and a point": (f'{{"version": {NINES}.0}}', "the number 9999.* is too large"),
    "4000 digits": (f'{{"version": {NINES[:4000]}}}', "the number 9999.* is too large"),
    "out of range": ('{"version": 1e400}', "the number 1e400 is too large"),
    "deep version": (f'{{"version": {DEEP}}}', "has version"),
    "long version": (f'{{"version": "{NINES}"}}', "has version '999"),
    "no text": (5, "must be a text"),
    "long text": ("x" * (2**24 + 1), "has 16777217 characters"),
    "long latent_frames": (f'{{"version": 1, "latent_frames": "{NINES}"}}', '"latent_frames" is'),
    "sigmas a number": (with_keyframe('{"sigmas": 5}'), '"sigmas" is 5; it must be a list of pairs'),
    "sigmas null": (with_keyframe('{"sigmas": null}'), '"sigmas" is None; it must be a list of pairs'),
    "sigmas an object": (with_keyframe('{"sigmas": {"ab": 1}}'), "must be a list of pairs"),
    "sigmas a long text": (with_keyframe(f'{{"sigmas": "{NINES}"}}'), "must be a list of pairs"),
    "sigma a number": (with_keyframe('{"sigmas": [5]}'), "5 is not a pair of numbers"),
    "sigma a text": (with_keyframe('{"sigmas": ["ab"]}'), "'ab' is not a pair of numbers"),
    "sigma a truth": (with_keyframe('{"sigmas": [[1, true]]}'), "is not a pair of numbers"),
    "sigma deep": (with_keyframe(f'{{"sigmas": [{DEEP}]}}'), "is not a pair of numbers"),
    "sigma out of range": (with_keyframe('{"sigmas": [[0, 0], [1, 1e400]]}'), "the number 1e400 is too large"),
    "no multiplier": (with_keyframe("{}"), "noise multiplier of None was given"),
    "multiplier a text": (with_keyframe('{"multiplier": "0.2"}'), "noise multiplier of '0.2' was given"),
    "multiplier a truth": (with_keyframe('{"multiplier": true}'), "noise multiplier of True was given"),
    "behaviour deep": (with_keyframe(f'{{"multiplier": 0, "behaviour": {DEEP}}}'), "'evolve' or 'hold', not"),
    "behaviour long": (with_keyframe(f'{{"multiplier": 0, "behaviour": "{NINES}"}}'), "'evolve' or 'hold', not"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_json_gets_one_short_sentence(name):
    text, words = HOSTILE[name]
    with pytest.raises(ValueError, match=words) as caught:
        FrameSchedule.from_json(text)
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message and len(message) < 250, message
