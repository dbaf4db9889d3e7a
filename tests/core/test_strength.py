"""Strength by frame: the curve, what a latent frame takes of it, and the clip in the video's length."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pusa_core.frames import MOST_POINTS, fewest_latents, latent_frame, parse_curve, parse_multipliers, pixel_length
from pusa_core.plan import plan_clip
from pusa_core.retime import at_times, bridged
from pusa_core.strength import Strength, parse_strength

ANY_TEXT = st.text("0123456789,.:-+e to", max_size=40)


def clip(frames):
    """Frames that carry their own number, (frames, 2, 2, 3)."""
    return torch.arange(frames, dtype=torch.float32)[:, None, None, None].expand(-1, 2, 2, 3)


def encode(pictures):
    """A stand-in for the VAE: each latent frame is the number of its last frame."""
    assert len(pictures) % 4 == 1
    return pictures[::4, 0, 0, 0][None, None, :, None, None]


def numbers(keyframe):
    return keyframe.pictures[:, 0, 0, 0].tolist()


# --- the curve -------------------------------------------------------------------------------------------------------


def test_between_points_a_curve_is_a_line_and_beyond_them_level():
    assert parse_curve("2: 0, 4: 1, -2: 0.5", 8) == pytest.approx([0, 0, 0, 0.5, 1, 0.75, 0.5, 0.5])
    assert parse_curve("3: 0.4", 6) == [0.4] * 6


def test_points_are_met_exactly():
    assert parse_curve("0: 0.1, 3: 0.7, 9: 0.3", 10)[::3] == [0.1, 0.7, pytest.approx(0.5), 0.3]


@pytest.mark.parametrize(
    "text, words",
    [
        ("0: 0, 3", '"3" is no point of a noise curve; write a frame and its noise'),
        ("0: 0, 3:", "is no point of a noise curve"),
        ("0.5: 0", '"0.5: 0" is no point'),
        ("x: 0", '"x: 0" is no point'),
        ("0: 1.5", "noise multiplier of 1.5 was given; it must be from 0"),
        ("0: 0: 1", '"0: 1" is not a noise multiplier'),
        ("0: 0,, 3: 1", "empty entry between commas"),
        (":", "is no point"),
        ("3: 0, 1: 1", "has frame 1 after frame 3, of 8 frames: name each once, in their order"),
        ("7: 0, -1: 1", "has frame -1 after frame 7, of 8 frames"),
        ("8: 0", "Frame 8 of the noise curve lies outside its 8 frames: use 0 to 7, or -8 to -1"),
        ("-9: 0", "Frame -9 of the noise curve lies outside"),
        (
            ", ".join(f"{i}: 0" for i in range(MOST_POINTS + 1)),
            f"has {MOST_POINTS + 1} points; at most {MOST_POINTS} are read",
        ),
    ],
)
def test_curves_that_are_none(text, words):
    with pytest.raises(ValueError, match=words) as caught:
        parse_curve(text, 8)
    assert len(str(caught.value)) < 250


@given(ANY_TEXT, st.integers(1, 9))
def test_any_text_is_a_multiplier_for_each_frame_or_refused(text, count):
    try:
        values = parse_multipliers(text, count)
    except ValueError as error:
        assert str(error).endswith(".")
    else:
        assert len(values) == count and all(0 <= value <= 1 for value in values)
        assert fewest_latents(text) <= count


@given(ANY_TEXT)
def test_the_fewest_frames_that_a_text_is_for(text):
    """What is said of no clip in particular holds for one of that length."""
    try:
        count = fewest_latents(text)
    except ValueError:
        return
    if count < 1000:
        assert len(parse_multipliers(text, count)) == count


def test_the_fewest_frames_of_a_far_point_take_no_memory():
    assert fewest_latents("999999999: 0") == 10**9


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("0: 0, 4: 0, 5: 1, 12: 1, 13: 0", [0, 0, 1, 1, 0]),
        ("0: 0, 5: 0, 6: 1, 7: 1, 8: 0", [0, 0, 1, 0, 0]),  # a part of its frames is bad: all of it is made anew
        ("0: 0, 1: 0.7, -5: 0.7, -4: 0", [0, 0.7, 0.7, 0.7, 0]),
        ("0: 0, 16: 0.8", [0, 0.2, 0.4, 0.6, 0.8]),
        ("0 to 0.8", [0, 0.2, 0.4, 0.6, 0.8]),
        ("0, 0.2, 1, 1, 0.2", [0, 0.2, 1, 1, 0.2]),
        ("0.5", [0.5] * 5),
    ],
)
def test_a_latent_frame_takes_the_highest_noise_of_its_frames(text, wanted):
    assert parse_strength(text, 5, "pixel") == pytest.approx(wanted)


def test_points_may_count_latent_frames():
    assert parse_strength("0: 0, 2: 1, -1: 0", 5, "latent") == [0, 0.5, 1, 0.5, 0]


# --- the clip in the video's length ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings, total, shown, multipliers",
    [
        ({}, 9, list(range(9)), 3),
        ({}, 12, list(range(9)), 3),
        ({"length": 5}, 12, list(range(5)), 2),
        ({"length": 17}, 7, list(range(5)), 2),
        ({"length": 9, "retime": "stretch"}, 5, [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4], 3),
        ({"length": 5, "retime": "stretch"}, 9, [0, 2, 4, 6, 8], 2),
        ({"length": 5, "retime": "stretch"}, 2, [0, 0.25, 0.5, 0.75, 1], 2),
        ({"length": 5, "retime": "stretch"}, 1, [0] * 5, 2),
        ({"retime": "stretch"}, 6, list(range(5)), 2),
    ],
)
def test_a_clip_is_cut_or_stretched(settings, total, shown, multipliers):
    keyframe = Strength("0.4", between=0, **settings).keyframe(clip(total))
    assert numbers(keyframe) == pytest.approx(shown)
    assert keyframe.multipliers == (0.4,) * multipliers


@given(st.integers(1, 40), st.integers(1, 12))
def test_a_stretched_clip_has_all_its_frames_and_begins_and_ends_with_it(total, latents):
    length = pixel_length(latents)
    found = numbers(Strength("0", length=length, retime="stretch").keyframe(clip(total)))
    assert len(found) == length and found[0] == 0 and found == sorted(found)
    assert found[-1] == pytest.approx(total - 1 if length > 1 else 0)


@pytest.mark.parametrize("every, held", [(2, {0, 1, 2, 3, 4}), (4, {0, 1, 2, 3, 4}), (8, {0, 2, 4}), (16, {0, 4})])
def test_latent_frames_that_hold_no_frame_of_the_clip_are_freer(every, held):
    strength = Strength("0.1", length=17, retime="stretch", between=0.9)
    found = strength.keyframe(clip(17)[::every]).multipliers
    assert {latent for latent, value in enumerate(found) if value == 0.1} == held
    assert {value for latent, value in enumerate(found) if latent not in held} <= {0.9}


@given(st.integers(2, 30), st.integers(2, 12))
def test_a_latent_frame_is_held_if_it_shows_a_frame_of_the_clip(total, latents):
    length = pixel_length(latents)
    strength = Strength("0", length=length, retime="stretch")
    held = {latent_frame(round(i * (length - 1) / (total - 1))) for i in range(total)} if length > total else range(latents)
    assert [value == 0 for value in strength.multipliers(total)] == [latent in held for latent in range(latents)]


def test_frames_that_are_not_needed_are_not_kept():
    def frames():
        for number in range(1000):
            assert number < 9, "no more are looked at"
            yield clip(10)[number : number + 1]

    assert numbers(Strength("0", length=9).keyframe_of(frames(), 1000)) == list(range(9))


def test_a_file_that_ends_early_stays_on_its_last_frame():
    assert at_times(clip(3).split(1), [0, 1, 2, 3, 4])[:, 0, 0, 0].tolist() == [0, 1, 2, 2, 2]
    with pytest.raises(ValueError, match="The clip has no frames"):
        at_times([], [0.0])


def test_frames_without_a_say_are_bridged():
    assert bridged(clip(9), [3, 4, 5])[:, 0, 0, 0].tolist() == list(range(9)), "an even motion goes on"
    stuck = clip(9).clone()
    stuck[3:6] = 100
    assert bridged(stuck, [3, 4, 5])[:, 0, 0, 0].tolist() == pytest.approx(list(range(9)))
    assert bridged(stuck, range(6))[:, 0, 0, 0].tolist() == [6] * 7 + [7, 8]
    assert bridged(stuck, range(2, 9))[:, 0, 0, 0].tolist() == [0] + [1] * 8
    assert bridged(stuck, []) is stuck and bridged(stuck, range(9)) is stuck


# --- in a plan -------------------------------------------------------------------------------------------------------


def test_every_frame_starts_from_the_clip():
    plan = plan_clip([Strength("4: 0.2, 5: 1, 12: 1, 13: 0.6").keyframe(clip(17))], 17, encode)
    assert [frame.multiplier for frame in plan.schedule.frames] == [0.2, 0.2, 1, 1, 0.6]
    assert [frame.behaviour for frame in plan.schedule.frames] == ["hold", "hold", "evolve", "evolve", "evolve"]
    assert plan.clean[0, 0, :, 0, 0].tolist() == [0, 4, 8, 12, 16]  # frames of a clip that moves evenly
    assert plan.schedule.is_straight
    assert plan.notes == (
        "Keyframe 1, a clip at the start: latent frame 0 (frame 0) to latent frame 4 (frames 13-16); "
        "noise 0.2, 0.2, 1, 1, 0.6; hold up to 0.2, above it evolve.",
    )


@pytest.mark.parametrize(
    "settings, encoded",
    [
        ({"noise": "0, 0.2, 1, 1, 0.2"}, [0, 4, 8, 12, 16]),
        ({"noise": "0, 0.2, 1, 0.9, 0.2"}, [0, 4, 4, 4, 16]),
        ({"noise": "0, 0.2, 0.9, 0.9, 0.2"}, [0, 4, 4, 4, 16]),
        ({"noise": "0, 0.2, 1, 1, 0.2", "hold_up_to": 1}, [0, 4, 4, 4, 16]),  # held frames have a say
    ],
)
def test_what_bad_frames_show_reaches_no_others(settings, encoded):
    """The VAE is causal: the latents after a bad one would see it."""
    stutters = clip(17).clone()
    stutters[5:13] = 4
    plan = plan_clip([Strength(**settings).keyframe(stutters)], 17, encode)
    assert plan.clean[0, 0, :, 0, 0].tolist() == pytest.approx(encoded)


def test_after_a_shorter_clip_the_video_is_new():
    plan = plan_clip([Strength("0", length=17).keyframe(clip(11))], 17, encode)
    assert [frame.multiplier for frame in plan.schedule.frames] == [0, 0, 0, 1, 1]
    assert "Of the clip's 11 frames the first 9 are used." in plan.notes[0]


def test_the_report_says_that_a_clip_was_stretched():
    keyframe = Strength("0.5", length=17, retime="stretch").keyframe(clip(5))
    assert "The clip's 5 frames were given the time of 17." in plan_clip([keyframe], 17, encode).notes[0]


def test_a_long_list_of_multipliers_does_not_fill_the_report():
    [note] = plan_clip([Strength("0: 0, -1: 1").keyframe(clip(801))], 801, encode).notes
    assert len(note) < 400


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"noise": "0: 2"}, "noise multiplier of 2.0"),
        ({"noise": ""}, "noise multipliers"),
        ({"noise": "0, 1"}, "2 noise multipliers were given for 3 latent frames"),
        ({"noise": "9: 0"}, "Frame 9 of the noise curve lies outside its 9 frames"),
        ({"unit": "seconds"}, '"unit" is .seconds.; it must be one of pixel, latent'),
        ({"retime": "slow"}, '"retime" is .slow.; it must be one of keep, stretch'),
        ({"length": 16}, "16 frames is not 4n.1"),
        ({"length": "9"}, "must be a whole number"),
        ({"between": 2}, "noise multiplier of 2"),
        ({"hold_up_to": -1}, "noise multiplier of -1"),
    ],
)
def test_what_is_wrong_is_told(settings, words):
    with pytest.raises(ValueError, match=words):
        Strength(**{"noise": "0.5", **settings}).keyframe(clip(9))


def test_what_are_no_pictures():
    with pytest.raises(ValueError, match="instead of pictures"):
        Strength("0.5").keyframe("clip.mp4")
