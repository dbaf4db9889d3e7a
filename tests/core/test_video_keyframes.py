"""Frames of a video as keyframes: whatever is asked for, the right frames land in the right places or it is refused."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pusa_core.frames import latent_frame, pixel_length, resolve_index
from pusa_core.keyframes import LEAD_IN, clip_keyframe, video_keyframes
from pusa_core.plan import plan_clip

LENGTH = 81


def clip(frames):
    """Frames that carry their own number, (frames, 2, 2, 3)."""
    return torch.arange(frames, dtype=torch.float32)[:, None, None, None].expand(-1, 2, 2, 3)


def latents_of(pictures):
    """A stand-in for the VAE: each latent frame lists the numbers of the frames it holds, four times the first's."""
    assert len(pictures) % 4 == 1
    numbers = pictures[:, 0, 0, 0]
    return torch.cat([numbers[:1].expand(1, 4), numbers[1:].unflatten(0, (-1, 4))]).T[None, :, :, None, None]


def contents(keyframe, length):
    """{latent frame: numbers of the frames in it}"""
    plan = plan_clip([keyframe], length, latents_of)
    return {i: plan.clean[0, :, i, 0, 0].tolist() for i in plan.schedule.keyframes}


def group(first):
    return [float(first + i) for i in range(4)]


@st.composite
def calls(draw, places=("start", "end", "index")):
    """A clip, frames of it, and a place in a new clip."""
    unit, place = draw(st.sampled_from(["pixel", "latent"])), draw(st.sampled_from(places))
    latents = draw(st.integers(1, 12))
    total = pixel_length(latents) if unit == "pixel" else latents
    index = draw(st.just(0) | st.integers(-total, total - 1)) if place == "index" else draw(st.integers(-99, 99))
    return draw(st.integers(1, 60)), unit, place, index, latents


def wanted_latents(count, unit, at_start):
    """How many latent frames a count of frames makes; None if it makes no whole ones."""
    if unit == "latent":
        return count
    if at_start:
        return None if count % 4 != 1 else count // 4 + 1
    return None if count % 4 > 1 or count == 1 else count // 4


@given(calls(), st.sampled_from(["first", "last"]), st.integers(1, 45), st.sampled_from([0.0, 0.25]))
def test_first_and_last_frames_land_whole_and_in_order_or_are_refused(call, take, count, multiplier):
    frames, unit, place, index, latents = call
    at_start = place == "start" or (place == "index" and index == 0)
    wanted = wanted_latents(count, unit, at_start)
    anchor = {"start": 0, "end": latents - (wanted or 0)}.get(place)
    anchor = resolve_index(index, unit, latents) if anchor is None else anchor
    fits = wanted is not None and 0 <= anchor <= latents - wanted and (at_start or anchor > 0)
    needed = 4 * (wanted or 0) - 3 * at_start
    make = lambda: contents(  # noqa: E731
        video_keyframes(clip(frames), take, count, unit, place, index, str(multiplier)), pixel_length(latents)
    )
    if not fits or frames < needed:
        with pytest.raises(ValueError, match=r"\.$"):
            make()
        return
    led_in = not at_start and frames > needed  # of the first frames, one is the lead-in
    begin = frames - needed if take == "last" else int(led_in)
    offset = 0 if at_start else anchor
    expected = {offset + k: group(begin + 4 * k - 3 * at_start) for k in range(wanted)}
    if at_start:
        expected[0] = [float(begin)] * 4
    assert make() == expected


@given(calls(places=("end", "index")), st.integers(1, 11))
def test_a_lead_in_is_what_comes_before_and_shifts_nothing(call, count):
    frames, _, place, index, latents = call
    try:
        keyframe = video_keyframes(clip(frames), "last", count, "latent", place, index, "0.2")
    except ValueError:
        return
    if place == "index" and index == 0:
        return
    numbers = keyframe.pictures[:, 0, 0, 0].tolist()
    spare = frames - 4 * count
    lead_in = len(numbers) - 4 * count
    assert lead_in == (max(n for n in range(1, LEAD_IN + 1, 4) if n <= spare) if spare else 1)
    assert numbers == [float(max(n, 0)) for n in range(frames - 4 * count - lead_in, frames)]
    assert keyframe.kept == tuple(range((lead_in + 3) // 4, (lead_in + 3) // 4 + count))


@pytest.mark.parametrize("spare, lead_in", [(0, [0]), (1, [0]), (2, [1]), (3, [2]), (4, [3]), (5, [0, 1, 2, 3, 4]),
                                            (8, [3, 4, 5, 6, 7]), (16, list(range(3, 16))), (17, list(range(17))),
                                            (40, list(range(23, 40)))])  # fmt: skip
def test_the_lead_in_of_the_last_frames(spare, lead_in):
    keyframe = video_keyframes(clip(spare + 8), "last", 2, "latent", "end", 0, "0.2")
    assert keyframe.pictures[:, 0, 0, 0].tolist() == [*lead_in, *range(spare, spare + 8)]
    assert contents(keyframe, LENGTH) == {19: group(spare), 20: group(spare + 4)}


@pytest.mark.parametrize("take, unit, index, expected", [
    ("first", "pixel", 0, {0: [0.0] * 4, 1: group(1)}),
    ("last", "pixel", 0, {0: [15.0] * 4, 1: group(16)}),
    ("first", "pixel", 1, {1: group(1)}),
    ("last", "pixel", 1, {1: group(16)}),
    ("last", "pixel", 4, {1: group(16)}),
    ("last", "pixel", 5, {2: group(16)}),
    ("last", "latent", 0, {0: [3.0] * 4, 1: group(4), 2: group(8), 3: group(12), 4: group(16)}),
    ("last", "latent", 1, {1: group(0), 2: group(4), 3: group(8), 4: group(12), 5: group(16)}),
    ("last", "latent", -1, None),
])  # fmt: skip
def test_place_index_at_the_first_frame_and_later(take, unit, index, expected):
    make = lambda: contents(video_keyframes(clip(20), take, 5, unit, "index", index, "0.2"), LENGTH)  # noqa: E731
    if expected is None:
        with pytest.raises(ValueError, match="runs past"):
            make()
    else:
        assert make() == expected


@pytest.mark.parametrize("index, expected", [(0, {0: [0.0] * 4, 1: group(1)}), (1, {1: group(1)}), (-1, {20: group(1)})])
def test_a_clip_as_a_keyframe_at_the_first_frame_and_later(index, expected):
    assert contents(clip_keyframe(clip(5), index, "pixel", 0.2), LENGTH) == expected


@given(calls(), st.data())
def test_chosen_frames_keep_what_they_hold_and_their_distances_or_are_refused(call, data):
    frames, unit, place, index, latents = call
    given_latents = (frames - 1) // 4 + 1
    total = pixel_length(given_latents) if unit == "pixel" else given_latents
    named = data.draw(st.lists(st.integers(-total, total - 1), min_size=1, max_size=4))
    kept = [resolve_index(i, unit, given_latents) for i in named]
    noises = [round(0.1 * i, 1) for i in range(len(named))]
    first = min(kept)
    anchor = {"start": first, "end": first + latents - given_latents}.get(place)
    anchor = resolve_index(index, unit, latents) if anchor is None else anchor
    becomes_first = place == "index" and index == 0 and first > 0
    fits = anchor >= 0 and anchor + max(kept) - first < latents and len(set(kept)) == len(kept)
    fits = fits and (anchor > 0 or first == 0 or (becomes_first and len(kept) == 1))
    make = lambda: plan_clip(  # noqa: E731
        [video_keyframes(clip(frames), "chosen", 1, unit, place, index, ",".join(map(str, noises)), chosen=str(named)[1:-1])],
        pixel_length(latents), latents_of,
    )  # fmt: skip
    if not fits:
        with pytest.raises(ValueError, match=r"\.$"):
            make()
        return
    plan = make()
    for latent, noise in zip(kept, noises):
        target = anchor + latent - first
        expected = [0.0 if latent == 0 else 4.0 * latent] * 4 if latent == 0 or becomes_first else group(4 * latent - 3)
        assert plan.clean[0, :, target, 0, 0].tolist() == expected
        assert plan.schedule.frames[target].multiplier == noise
    assert len(plan.schedule.keyframes) == len(kept)


@given(st.integers(1, 60), st.integers(0, 59))
def test_only_frames_up_to_the_last_chosen_are_encoded(frames, frame):
    if frame >= frames - (frames - 1) % 4:
        return
    keyframe = video_keyframes(clip(frames), "chosen", 1, "pixel", "start", 0, "0.2", chosen=str(frame))
    assert keyframe.pictures[:, 0, 0, 0].tolist() == list(range(4 * latent_frame(frame) + 1))
