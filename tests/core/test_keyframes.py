"""Keyframes and where they land."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pusa_core.keyframes import check_keyframes, clip_keyframe, keyframes_from_text, still_keyframe, video_keyframes
from pusa_core.plan import plan_clip

LENGTH = 81


def clip(frames, offset=0):
    """Frames that carry their own number, (frames, 2, 2, 3)."""
    return torch.arange(offset, offset + frames, dtype=torch.float32)[:, None, None, None].expand(-1, 2, 2, 3)


def encode(pictures):
    """A stand-in for the VAE: each latent frame lists the first and the last number of the frames it holds."""
    assert len(pictures) % 4 == 1
    numbers = pictures[:, 0, 0, 0]
    first = torch.cat([numbers[:1], numbers[1::4]])
    last = torch.cat([numbers[:1], numbers[4::4]])
    return torch.stack([first, last])[None, :, :, None, None]  # (1, 2, n, 1, 1)


def landed(plan):
    """{latent frame: (first, last) number of the frames in it}"""
    return {i: tuple(plan.clean[0, :, i, 0, 0].tolist()) for i in plan.schedule.keyframes}


def test_no_keyframe_is_text_to_video():
    plan = plan_clip([], LENGTH, encode)
    assert plan.schedule.is_ordinary
    assert len(plan.schedule) == 21
    assert plan.clean is None


def test_start_and_end():
    plan = plan_clip(
        [still_keyframe(clip(1, 5), 0, "pixel", 0.2), still_keyframe(clip(1, 7), -1, "pixel", 0.5)], LENGTH, encode
    )
    assert landed(plan) == {0: (5, 5), 20: (7, 7)}
    assert [plan.schedule.frames[i].multiplier for i in (0, 1, 20)] == [0.2, 1.0, 0.5]
    assert plan.notes[1] == "Keyframe 2, a picture at pixel frame -1: latent frame 20 (frames 77-80); noise 0.5; evolve."


def test_the_demos_two_strings():
    plan = plan_clip(keyframes_from_text(clip(2), "0,20", "0.2,0.5"), LENGTH, encode)
    assert {i: f.multiplier for i, f in plan.schedule.keyframes.items()} == {0: 0.2, 20: 0.5}
    assert landed(plan) == {0: (0, 0), 20: (1, 1)}


def test_as_many_positions_as_pictures():
    with pytest.raises(ValueError, match="3 pictures were given with 2 positions"):
        keyframes_from_text(clip(3), "0,20", "0.2")


@pytest.mark.parametrize("frames, index, expected", [(13, 0, {0: (0, 0), 1: (1, 4), 2: (5, 8), 3: (9, 12)}),
                                                     (9, 17, {5: (1, 4), 6: (5, 8)}),
                                                     (8, 17, {5: (0, 3), 6: (4, 7)}),
                                                     (8, -8, {19: (0, 3), 20: (4, 7)})])  # fmt: skip
def test_a_clip_as_a_keyframe_keeps_its_motion(frames, index, expected):
    assert landed(plan_clip([clip_keyframe(clip(frames), index, "pixel", 0.1)], LENGTH, encode)) == expected


@pytest.mark.parametrize("frames, index, use", [(12, 0, "use 9 or 13"), (7, 5, "use 4 or 8"), (2, 5, "use 4 or 8")])
def test_a_clip_that_does_not_fit_is_told_what_would(frames, index, use):
    with pytest.raises(ValueError, match=use):
        clip_keyframe(clip(frames), index, "pixel", 0.2)


def test_extension_takes_the_last_13_frames():
    keyframe = video_keyframes(clip(49), "last", 13, "pixel", "start", 0, "0, 0.3, 0.4, 0.5")
    plan = plan_clip([keyframe], LENGTH, encode)
    assert landed(plan) == {0: (36, 36), 1: (37, 40), 2: (41, 44), 3: (45, 48)}
    assert [plan.schedule.frames[i].multiplier for i in range(5)] == [0, 0.3, 0.4, 0.5, 1]


def test_completion_gives_21_of_81_frames():
    first = video_keyframes(clip(81), "first", 9, "pixel", "start", 0, "0 to 0.2")
    last = video_keyframes(clip(81), "last", 12, "pixel", "end", 0, "0.3")
    plan = plan_clip([first, last], LENGTH, encode)
    assert landed(plan) == {0: (0, 0), 1: (1, 4), 2: (5, 8), 18: (69, 72), 19: (73, 76), 20: (77, 80)}
    assert len(last.pictures) < 81, "only a lead-in of the clip is encoded"


def test_transition_ends_on_the_second_clips_motion():
    keyframe = video_keyframes(clip(40), "first", 12, "pixel", "end", 0, "0.2")
    assert landed(plan_clip([keyframe], LENGTH, encode)) == {18: (1, 4), 19: (5, 8), 20: (9, 12)}


@pytest.mark.parametrize("take", ["first", "last"])
def test_a_clip_without_frames_to_lead_in_repeats_its_first(take):
    keyframe = video_keyframes(clip(12), take, 3, "latent", "end", 0, "0.2")
    assert landed(plan_clip([keyframe], LENGTH, encode)) == {18: (0, 3), 19: (4, 7), 20: (8, 11)}


@pytest.mark.parametrize("unit, count", [("pixel", 12), ("latent", 3)])
def test_the_note_says_where_in_words(unit, count):
    keyframe = video_keyframes(clip(40), "last", count, unit, "end", 0, "0.2, 0.2, 0.4")
    (note,) = plan_clip([keyframe], LENGTH, encode).notes
    where = "latent frame 18 (frames 69-72) to latent frame 20 (frames 77-80)"
    assert note == f"Keyframe 1, a clip at the end: {where}; noise 0.2, 0.2, 0.4; evolve."


def test_a_later_clip_is_led_in_by_up_to_17_frames():
    pictures = video_keyframes(clip(81), "last", 12, "pixel", "end", 0, "0.2").pictures
    assert pictures[:, 0, 0, 0].tolist() == list(range(81 - 12 - 17, 81))


@pytest.mark.parametrize("place, expected", [("start", {0: (0, 0), 20: (77, 80)}), ("end", {0: (0, 0), 20: (77, 80)})])
@pytest.mark.parametrize("unit, chosen", [("pixel", "0, 80"), ("latent", "0, 20"), ("pixel", "-81, -1")])
def test_chosen_frames_of_a_clip_as_long_as_the_new_one_stay_where_they_are(place, expected, unit, chosen):
    keyframe = video_keyframes(clip(81), "chosen", 1, unit, place, 0, "0.2", chosen=chosen)
    assert landed(plan_clip([keyframe], LENGTH, encode)) == expected


def test_only_what_chosen_frames_need_is_encoded():
    assert len(video_keyframes(clip(801), "chosen", 1, "pixel", "start", 0, "0.2", chosen="0, 20").pictures) == 21


def test_one_chosen_frame_can_become_the_first():
    keyframe = video_keyframes(clip(81), "chosen", 1, "pixel", "index", 0, "0.2", chosen="40")
    assert landed(plan_clip([keyframe], LENGTH, encode)) == {0: (40, 40)}


@pytest.mark.parametrize(
    "place, index, expected",
    [("start", 0, (0, 5, 10)), ("end", 0, (10, 15, 20)), ("index", 3, (3, 8, 13)), ("index", -11, (10, 15, 20))],
)
def test_chosen_frames_keep_their_distances(place, index, expected):
    keyframe = video_keyframes(clip(43), "chosen", 1, "latent", place, index, "0.3, 0.1, 0.2", chosen="10, 0, 5")
    plan = plan_clip([keyframe], LENGTH, encode)
    assert [f.multiplier for f in plan.schedule.keyframes.values()] == [0.1, 0.2, 0.3]
    assert "The clip's last 2 frames are not used" in plan.notes[0]
    assert landed(plan) == dict(zip(expected, [(0, 0), (17, 20), (37, 40)]))


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: video_keyframes(clip(8), "last", 13, "pixel", "start", 0, "0"), "clip has 8 frames.*need 13"),
        (lambda: video_keyframes(clip(8), "first", 12, "pixel", "end", 0, "0"), "clip has 8 frames.*need 13"),
        (lambda: video_keyframes(clip(8), "last", 0, "latent", "start", 0, "0"), "take at least 1"),
        (lambda: video_keyframes(clip(8), "last", 6, "pixel", "start", 0, "0"), "use 5 or 9"),
        (lambda: video_keyframes(clip(8), "last", 6, "pixel", "end", 0, "0"), "use 4 or 8"),
        (lambda: video_keyframes(clip(9), "chosen", 1, "latent", "start", 0, "0", chosen="1,1"), "twice"),
        (lambda: video_keyframes(clip(9), "chosen", 1, "latent", "start", 0, "0", chosen="3"), "outside the clip"),
        (lambda: video_keyframes(clip(9), "chosen", 1, "latent", "start", 0, "0"), "No chosen frames"),
        (lambda: video_keyframes(clip(9), "chosen", 1, "latent", "index", 0, "0", chosen="1,2"), "do not fit on frame 0"),
        (lambda: video_keyframes(clip(8), "chosen", 1, "pixel", "end", 0, "0", chosen="7"), "last 3 frames are not used"),
        (lambda: video_keyframes(clip(8), "last", 1, "pixel", "end", 0, "0"), "1 frame of a clip cannot.*use 4 or 8"),
        (lambda: video_keyframes(clip(13), "last", 13, "pixel", "start", 0, "0, 0.3"), "2 noise multipliers.*for 4"),
    ],
)
def test_video_keyframes_that_do_not_work_say_why(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(
    "keyframes, length, words",
    [
        ([], 80, "use 77 or 81"),
        ([(0, "pixel"), (0, "latent")], 81, r"Keyframes 1 and 2 both land on latent frame 0 \(frame 0\)"),
        ([(3, "pixel"), (1, "pixel")], 81, r"both land on latent frame 1 \(frames 1-4\)"),
        ([(81, "pixel")], 81, "Pixel frame 81 lies outside the clip"),
        ([(-22, "latent")], 81, "Latent frame -22 lies outside"),
    ],
)
def test_plans_that_do_not_work_say_why(keyframes, length, words):
    with pytest.raises(ValueError, match=words):
        plan_clip([still_keyframe(clip(1), index, unit, 0.2) for index, unit in keyframes], length, encode)


def test_a_clip_that_runs_past_the_end_is_refused():
    with pytest.raises(ValueError, match="3 latent frames at latent frame 19 .* runs past the clip's last"):
        plan_clip([clip_keyframe(clip(12), 73, "pixel", 0.2)], LENGTH, encode)


def test_a_later_clip_counted_back_to_the_start_is_refused():
    with pytest.raises(ValueError, match="place it at index 0"):
        plan_clip([clip_keyframe(clip(8), -81, "pixel", 0.2)], LENGTH, encode)


@given(
    st.lists(st.tuples(st.integers(-90, 90), st.sampled_from(["pixel", "latent"]), st.floats(0, 1)), max_size=5),
    st.integers(-5, 200),
)
def test_any_keyframes_are_placed_or_refused(keyframes, length):
    try:
        plan = plan_clip(
            [still_keyframe(clip(1, i), index, unit, m) for i, (index, unit, m) in enumerate(keyframes)], length, encode
        )
    except ValueError as error:
        assert str(error).endswith(".")
    else:
        assert len(plan.notes) == len(keyframes)
        ordinary = sum(m == 1 for _, _, m in keyframes)
        assert len(plan.schedule.keyframes) == len(keyframes) - ordinary


def test_a_thousand_keyframes():
    keyframes = [still_keyframe(clip(1, i), i, "latent", 0.2) for i in range(1000)]
    plan = plan_clip(keyframes, 3997, encode)
    assert landed(plan)[777] == (777, 777)


# --- what is no keyframe ------------------------------------------------------------------------------------------------


FRAME = torch.zeros(48, 64, 3)


@pytest.mark.parametrize("make", [
    lambda pictures: still_keyframe(pictures, 0, "pixel", 0.2),
    lambda pictures: clip_keyframe(pictures, 0, "pixel", 0.2),
    lambda pictures: keyframes_from_text(pictures, "0", "0.2"),
    lambda pictures: video_keyframes(pictures, "last", 1, "latent", "start", 0, "0.2"),
    lambda pictures: video_keyframes(pictures, "chosen", 1, "latent", "start", 0, "0.2", chosen="0"),
])  # fmt: skip
@pytest.mark.parametrize(
    "pictures, words",
    [(FRAME, "48 x 64 x 3"), (FRAME[None, :, :0], "no pixel"), (FRAME[None].byte(), "not uint8")]
    + [("a.png", "'a.png' was given"), (5, "5 was given instead of pictures")],
)
def test_keyframes_of_what_are_no_pictures(make, pictures, words):
    with pytest.raises(ValueError, match=words):
        make(pictures)


@pytest.mark.parametrize("changed, words", [
    ({"take": "some"}, '"take" is \'some\'; it must be one of first, last, chosen'),
    ({"place": ["end"]}, '"place" is .* it must be one of start, end, index'),
    ({"unit": "x" * 5000}, '"unit" is .* it must be one of pixel, latent'),
    ({"count": "4"}, "number of frames to take must be a whole number, not '4'"),
    ({"count": 4.5}, "number of frames to take must be a whole number, not 4.5"),
    ({"count": 2 * 10**6}, "2000000 frames of the clip were asked for; take at least 1 and at most"),
    ({"index": "4", "place": "index"}, "frame index must be a whole number, not '4'"),
    ({"multipliers": "nan"}, '"nan" is not a noise multiplier'),
    ({"behaviour": "jump"}, "'evolve' or 'hold', not 'jump'"),
])  # fmt: skip
def test_settings_that_are_none_say_what_they_may_be(changed, words):
    settings = {"take": "last", "count": 4, "unit": "pixel", "place": "end", "index": 0, "multipliers": "0.2", **changed}
    with pytest.raises(ValueError, match=words) as caught:
        plan_clip([video_keyframes(clip(9), **settings)], LENGTH, encode)
    assert len(str(caught.value)) < 200


def test_a_count_too_long_to_be_written():
    for count in (10**5000, -(10**5000)):
        with pytest.raises(ValueError, match="a very large number frames of the clip"):
            video_keyframes(clip(9), "last", count, "latent", "end", 0, "0.2")


@pytest.mark.parametrize("multiplier", [float("nan"), "0.2", None, 1.5])
def test_a_keyframes_noise_is_a_number(multiplier):
    for make in (still_keyframe, clip_keyframe):
        with pytest.raises(ValueError, match="noise multiplier of .* was given"):
            make(clip(1), 0, "pixel", multiplier)


def test_keyframes_are_keyframes():
    keyframes = [still_keyframe(clip(1), 0, "pixel", 0.2)]
    assert check_keyframes(keyframes) == check_keyframes(tuple(keyframes)) == keyframes
    assert check_keyframes([]) == []
    for given_instead in ("keyframes", 5, None, {}, clip(1), keyframes[0], "x" * 5000):
        with pytest.raises(ValueError, match="given instead of keyframes: connect a Pusa keyframe node") as caught:
            check_keyframes(given_instead)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 200
        with pytest.raises(ValueError, match="is among the keyframes: connect a Pusa keyframe node"):
            check_keyframes([*keyframes, given_instead] if given_instead is not keyframes[0] else [[given_instead]])
