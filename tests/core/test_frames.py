"""Pixel and latent frames, and the text people type for them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pusa_core import frames

ANY_TEXT = st.text(max_size=30) | st.text("0123456789,.-+eE ainftNAN_x", max_size=30)


@pytest.mark.parametrize("length, latents", [(1, 1), (5, 2), (13, 4), (41, 11), (81, 21)])
def test_published_lengths(length, latents):
    assert frames.latent_length(length) == latents
    assert frames.pixel_length(latents) == length


@given(st.integers(1, 10_000))
def test_every_pixel_frame_lies_in_exactly_one_latent_frame(latents):
    last = frames.pixel_frames(latents - 1)
    assert last[-1] == frames.pixel_length(latents) - 1
    assert all(frames.latent_frame(p) == latents - 1 for p in last)
    assert latents == 1 or frames.latent_frame(last[0] - 1) == latents - 2


@given(st.integers(-(10**12), 10**12))
def test_a_length_is_4n_plus_1_or_told_what_to_be(length):
    if 1 <= length <= frames.MAX_LENGTH and length % 4 == 1:
        assert frames.pixel_length(frames.latent_length(length)) == length
    else:
        with pytest.raises(ValueError, match=r"use \d+ or \d+|from 1 to"):
            frames.latent_length(length)


def test_a_wrong_length_names_its_neighbours():
    with pytest.raises(ValueError, match="80 frames is not 4n.1.*use 77 or 81"):
        frames.latent_length(80)


@pytest.mark.parametrize(
    "index, unit, latent",
    [(0, "pixel", 0), (1, "pixel", 1), (4, "pixel", 1), (5, "pixel", 2), (80, "pixel", 20), (-1, "pixel", 20)]
    + [(-81, "pixel", 0), (-12, "pixel", 18), (20, "latent", 20), (-1, "latent", 20), (-21, "latent", 0)],
)
def test_an_index_resolves(index, unit, latent):
    assert frames.resolve_index(index, unit, 21) == latent


@pytest.mark.parametrize("index, unit", [(81, "pixel"), (-82, "pixel"), (21, "latent"), (-22, "latent"), (10**30, "latent")])
def test_an_index_outside_the_clip_is_refused(index, unit):
    with pytest.raises(ValueError, match=f"lies outside the clip, which has {81 if unit == 'pixel' else 21} {unit} frames"):
        frames.resolve_index(index, unit, 21)


def test_the_demos_strings():
    assert frames.parse_positions("0,20") == [0, 20]
    assert frames.parse_positions(" 0 , -1 ") == [0, -1]
    assert frames.parse_multipliers("0.2,0.5", 2) == [0.2, 0.5]


def test_multipliers_as_one_value_a_list_and_a_ramp():
    assert frames.parse_multipliers("0.2", 3) == [0.2] * 3
    assert frames.parse_multipliers("0, 0.3, .4, 5e-1", 4) == [0, 0.3, 0.4, 0.5]
    assert frames.parse_multipliers("0 to 0.3", 4) == pytest.approx([0, 0.1, 0.2, 0.3])
    assert frames.parse_multipliers("0.4 to 0.1", 1) == [0.4]


@pytest.mark.parametrize(
    "text", ["", " ", ",", "0,", ",0", "0,,1", "1.5", "one", "\u0663", "1\u00b2", "0x1", "1_0", "1" * 40]
)
def test_positions_that_are_none(text):
    with pytest.raises(ValueError, match="position|empty entry"):
        frames.parse_positions(text)


@pytest.mark.parametrize(
    "text", ["", "nan", "inf", "-inf", "1.1", "-0.1", "0.2;0.5", "\u0660.\u0662", "1e99", "0,nan", "0 to", "to 1"]
)
def test_multipliers_that_are_none(text):
    with pytest.raises(ValueError, match="noise multiplier"):
        frames.parse_multipliers(text, 2)


def test_a_wrong_number_of_multipliers_names_both_counts():
    with pytest.raises(ValueError, match="3 noise multipliers were given for 2 latent frames"):
        frames.parse_multipliers("0,0,0", 2)


@given(ANY_TEXT)
def test_any_text_is_read_or_refused_as_positions(text):
    try:
        values = frames.parse_positions(text)
    except ValueError as error:
        assert str(error).endswith(".")
    else:
        assert values == [int(field) for field in text.split(",")]


@given(ANY_TEXT, st.integers(1, 8))
def test_any_text_is_read_or_refused_as_multipliers(text, count):
    try:
        values = frames.parse_multipliers(text, count)
    except ValueError as error:
        assert str(error).endswith(".")
    else:
        assert len(values) == count
        assert all(0 <= v <= 1 for v in values)


@given(st.floats())
def test_a_multiplier_is_from_0_to_1(value):
    if 0 <= value <= 1:
        assert frames.check_multiplier(value) == value
    else:
        with pytest.raises(ValueError, match="must be from 0"):
            frames.check_multiplier(value)


def test_no_finite_number_is_lost():
    assert math.isclose(frames.parse_multipliers("0.123456789", 1)[0], 0.123456789)


@pytest.mark.parametrize("value", ["0.2", None, True, [0.2], 2, 0.2j])
def test_a_multiplier_is_a_number(value):
    with pytest.raises(ValueError, match="noise multiplier of .* was given; it must be from 0") as caught:
        frames.check_multiplier(value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("value", ["3", 3.0, None, True, [3], float("nan")])
def test_counts_and_indices_are_whole_numbers(value):
    for call, words in ((lambda: frames.latent_length(value), "length of a clip"),
                        (lambda: frames.resolve_index(value, "latent", 5), "frame index")):  # fmt: skip
        with pytest.raises(ValueError, match=f"{words} must be a whole number, not") as caught:
            call()
        assert len(str(caught.value)) < 200


def test_numbers_too_long_to_be_written_are_refused():
    with pytest.raises(ValueError, match="noise multiplier of a very large number was given"):
        frames.check_multiplier(10**5000)
    with pytest.raises(ValueError, match="A clip of a very large number frames"):
        frames.latent_length(10**5000)
    with pytest.raises(ValueError, match="lies outside the clip"):
        frames.resolve_index(10**5000, "latent", 5)
    with pytest.raises(ValueError, match="'pixel' or 'latent' frames, not"):
        frames.resolve_index(0, "9" * 5000, 5)


def test_a_ramp_is_read_in_one_pass():
    """Spaces without end, which a regular expression would try to split in every way."""
    assert frames.parse_multipliers(f"0{' ' * 10**6}to{' ' * 10**6}0.4", 3) == pytest.approx([0, 0.2, 0.4])
    with pytest.raises(ValueError, match="is not a noise multiplier"):
        frames.parse_multipliers(f"0{' ' * 10**6}x", 3)
