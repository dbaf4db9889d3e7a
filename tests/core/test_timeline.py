"""The timeline's text, and the keyframes it becomes."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pusa_core.figures import sigma_colours
from pusa_core.frames import latent_frame, latent_length, pixel_frames, resolve_index
from pusa_core.keyframes import LEAD_IN, still_keyframe, video_keyframes
from pusa_core.plan import plan_clip
from pusa_core.schedule import FrameMap, pusa_sigmas
from pusa_core.staircase import Staircase
from pusa_core.timeline import check_places, item_keyframe, outline, parse_timeline, with_lead_in
from tests.timeline_cases import CASES

EXAMPLE = """{"version":1,"items":[{"at":0,"media":"pusa/a.png","noise":0.2},
{"at":40,"input":1,"noise":0.3,"behaviour":"hold"},
{"at":-13,"media":"clip.mp4","take":[0,13],"noise":[0,0.3,0.4,0.5]}]}"""


def one(**entry):
    (item,) = parse_timeline(json.dumps({"version": 1, "items": [{"at": 0, "media": "a.png", **entry}]}))
    return item


def pictures(count):
    return torch.rand(count, 4, 6, 3, generator=torch.Generator().manual_seed(count))


def test_the_example_becomes_the_keyframes_that_nodes_would_make():
    items, clip = parse_timeline(EXAMPLE), pictures(17)
    given = [item_keyframe(items[0], clip[:1]), item_keyframe(items[1], clip[1:2]), item_keyframe(items[2], clip[:13])]
    chained = [
        still_keyframe(clip[:1], 0, "pixel", 0.2),
        still_keyframe(clip[1:2], 40, "pixel", 0.3, "hold"),
        video_keyframes(clip, "chosen", 13, "pixel", "index", -13, "0, 0.3, 0.4, 0.5", chosen="0, 1, 5, 9"),
    ]
    for ours, theirs in zip(given, chained):
        assert torch.equal(ours.pictures, theirs.pictures)
        for field in ("kept", "index", "unit", "multipliers", "behaviour"):
            assert getattr(ours, field) == getattr(theirs, field)
    encode = lambda p: p[::4, :1, :1, 0][None, None]  # noqa: E731
    plan, other = (plan_clip(keyframes, 81, encode) for keyframes in (given, chained))
    assert plan.schedule == other.schedule and torch.equal(plan.clean, other.clean) and plan.notes == other.notes
    assert sorted(plan.schedule.keyframes) == [0, 10, 17, 18, 19, 20]


@pytest.mark.parametrize("start, total", [(88, 100), (1, 13), (0, 12), (5, 17), (80, 100)])
def test_4n_frames_later_than_the_start_are_those_of_the_video_keyframes_node(start, total):
    """Pusa's completion gives the last 12 frames, after frames that lead in; of a clip's very start the first is repeated."""
    clip = pictures(total)
    item = one(at=-12, take=[start, start + 12], noise=0.3)
    read, taken = with_lead_in(item.frames(total)), item.frames(total)
    ours = item_keyframe(item, clip[read.start : read.stop], len(taken))
    theirs = video_keyframes(clip[: taken.stop], "last", 12, "pixel", "index", -12, "0.3")
    assert torch.equal(ours.pictures, theirs.pictures) and len(ours.pictures) <= 12 + LEAD_IN
    for field in ("kept", "index", "unit", "multipliers", "behaviour"):
        assert getattr(ours, field) == getattr(theirs, field)
    assert sorted(plan_clip([ours], 81, lambda p: p[::4, :1, :1, 0][None, None]).schedule.keyframes) == [18, 19, 20]


@pytest.mark.parametrize("at", [0, -21])
def test_4n_frames_do_not_fit_the_start(at):
    with pytest.raises(ValueError, match="^Item 1 of the timeline: it takes 12 frames, which is not 4n.1: use 9 or 13"):
        placed({"at": at, "frames": 12, "length": 21})


@pytest.mark.parametrize("text", ["", "  \n", '{"version":1,"items":[]}'])
def test_nothing_is_text_to_video(text):
    assert parse_timeline(text) == ()


def test_noise_is_a_number_numbers_or_a_ramp():
    assert one(noise=[0, 0.5]).multipliers(2) == (0, 0.5)
    assert one(noise="0 to 0.5").multipliers(3) == (0, 0.25, 0.5)
    assert one(noise=0.3).multipliers(2) == (0.3, 0.3)
    assert one().multipliers(1) == (0.2,)


@pytest.mark.parametrize(
    "take, frames",
    [
        ([0, 13], range(13)),
        ([-13, None], range(7, 20)),
        ([3, -4], range(3, 16)),
        ([19, 20], range(19, 20)),
        ([-12, None], range(8, 20)),
        (None, None),
    ],
)
def test_take_is_a_slice(take, frames):
    if take is None:
        assert one().frames(17) == range(17)
    else:
        assert one(take=take, at=4).frames(20) == frames


@pytest.mark.parametrize("take, total", [([0, 21], 20), ([20, None], 20), ([-21, None], 20), ([8, -13], 20), ([0, None], 20)])
def test_what_a_clip_has_not_is_told(take, total):
    with pytest.raises(
        ValueError, match="^Item 1 of the timeline: .*(but the clip has 20 frames|names no frame|clip's 20, .*use 17 )"
    ):
        one(take=take).frames(total)


FAULTS = {
    "not JSON": ("{", "not valid JSON"),
    "a list": ("[]", r'must be a JSON object, not \[\]\. Write an object, as {"version": 1, "items"'),
    "deep": ("[" * 100_000, "not valid JSON"),
    "endless number": ('{"version":' + "9" * 100_000 + "}", "not valid JSON"),
    "long": ('{"version":1,"items":[' + " " * 1_000_000 + "]}", "more than the 1000000"),
    "version": ('{"version":2,"items":[]}', "version 2; this pack reads version 1"),
    "no items": ('{"version":1}', 'a list of "items"'),
    "more keys": ('{"version":1,"items":[],"fps":16}', "nothing else"),
    "many": ('{"version":1,"items":[' + "1," * 1001 + "1]}", "at most 1000"),
    "no object": ('{"version":1,"items":[3]}', "^Item 1 of the timeline: it must be an object"),
}  # fmt: skip


@pytest.mark.parametrize("text, words", FAULTS.values(), ids=FAULTS)
def test_texts_that_are_no_timeline(text, words):
    with pytest.raises(ValueError, match=words) as told:
        parse_timeline(text)
    assert len(str(told.value)) < 300


@pytest.mark.parametrize(
    "entry, words",
    [
        ({"at": 1.5}, '"at" is 1.5; it must be a whole number'),
        ({"at": True}, '"at" is true'),
        ({"at": None}, '"at" is null'),
        ({"at": 10**17}, '"at" is 1000'),
        ({"input": 1}, 'either "media", a file, or "input"'),
        ({"media": None}, "it is an empty place: drop a picture or clip on it"),
        ({"media": 3}, '"media" is 3'),
        ({"media": None, "input": 0}, '"input" is 0; it must be a whole number from 1 to'),
        ({"behavior": "hold"}, '"behavior" is not known; use at, media'),
        ({"behaviour": "stay"}, 'is "stay"; it must be "evolve" or "hold"'),
        ({"behaviour": ["hold"]}, 'it must be "evolve" or "hold"'),
        ({"noise": 1.2}, "noise multiplier of 1.2"),
        ({"noise": 10**17}, "noise multiplier of 2"),
        ({"noise": float("nan")}, "noise multiplier of nan"),
        ({"noise": []}, r'"noise" is \[\]; use a number'),
        ({"noise": [0.1, "x"]}, '"noise" is "x"; use a number'),
        ({"noise": "0 to x"}, '"x" is not a noise multiplier'),
        ({"take": 13}, r'"take" is 13; it must be \[first, after the last\]'),
        ({"take": [0, 1, 2]}, r"it must be \[first, after the last\]"),
        ({"take": [0, 0]}, '"take" names no frame'),
        ({"take": [5, 2]}, '"take" names no frame'),
        ({"take": [0, 12]}, "12 frames, which is not 4n.1: use 9 or 13"),
        ({"take": [0.5, 13]}, '"take" is 0.5'),
    ],
)
def test_every_fault_names_its_item(entry, words):
    good = {"at": 40, "media": "b.png"}
    text = json.dumps({"version": 1, "items": [good, {"at": 0, "media": "a.png", **entry}]})
    with pytest.raises(ValueError, match="^Item 2 of the timeline: .*" + words) as told:
        parse_timeline(text)
    assert "\n" not in str(told.value) and len(str(told.value)) < 200


def test_noise_for_another_number_of_latent_frames_is_told():
    item = one(noise=[0, 0.3], take=[0, 13])
    with pytest.raises(ValueError, match='^Item 1 of the timeline: "noise" has 2 values, but the item fills 4'):
        item_keyframe(item, pictures(13))


@pytest.mark.parametrize(
    "entries, words",
    [
        ([{"at": 0}, {"at": 90}], "^Item 2 of the timeline: Pixel frame 90 lies outside"),
        (
            [{"at": 0}, {"at": 72, "take": [0, 13]}],
            "^Item 2 of the timeline: A keyframe clip of 4 latent frames .* runs past",
        ),
        ([{"at": 0}, {"at": 0, "take": [0, 85]}], "^Item 2 of the timeline: it takes 85 frames, but the video has 81"),
        ([{"at": 37}, {"at": 40}], "Keyframes 1 and 2 both land on latent frame 10"),
    ],
)
def test_places_are_the_plans_and_name_the_item(entries, words):
    items = parse_timeline(json.dumps({"version": 1, "items": [{"media": "a.png", **entry} for entry in entries]}))
    with pytest.raises(ValueError, match=words):
        check_places([item_keyframe(item, outline(item)) for item in items], 81)


def test_a_clip_that_nobody_has_seen_is_as_long_as_its_noise_says():
    assert len(outline(one(media=None, input=1))) == 1
    assert len(outline(one(media=None, input=1, noise=[0, 0.3, 0.4]))) == 9
    assert len(outline(one(media=None, input=1, noise="0, 0.3, 0.4"))) == 9
    assert len(outline(one(media=None, input=1, noise="0 to 0.3"))) == 1
    assert len(outline(one(media=None, input=1, noise="0: 0, 3: 1, -1: 0.2"))) == 17
    assert len(outline(one(), total=17)) == 17


def test_a_held_clip_leaves_its_frames_of_noise_1_free():
    """And a single picture none: it is to be there."""
    clip = item_keyframe(one(noise=[0.5, 1, 0.9], behaviour="hold", take=[0, 9]), pictures(9))
    assert [clip.behaviour_of(m) for m in clip.multipliers] == ["hold", "evolve", "hold"]
    assert item_keyframe(one(noise=1, behaviour="hold"), pictures(1)).behaviour_of(1.0) == "hold"


@pytest.mark.parametrize("case", CASES["places"], ids=str)
def test_the_page_and_the_plan_place_alike(case):
    """The same cases run in the browser, against web/timeline/format.js."""
    if case["latents"] is None:
        with pytest.raises(ValueError, match="^Item 1 of the timeline: "):
            placed(case)
        return
    first = resolve_index(case["at"], "pixel", latent_length(case["length"]))
    assert [first, first + len(placed(case).kept) - 1] == case["latents"]


def placed(case):
    item = one(at=case["at"], take=[0, case["frames"]], noise=0.2)
    keyframe = item_keyframe(item, outline(item))
    check_places([keyframe], case["length"])
    return keyframe


@pytest.mark.parametrize("case", CASES["noises"], ids=str)
def test_the_page_and_the_core_read_the_same_noise(case):
    assert one(noise=case["noise"]).multipliers(len(case["values"])) == pytest.approx(case["values"])


@pytest.mark.parametrize("case", CASES["frames"], ids=str)
def test_the_page_and_the_core_know_the_same_latent_frames(case):
    span = pixel_frames(case["latent"])
    assert [span[0], span[-1]] == case["frames"]
    assert all(latent_frame(frame) == case["latent"] for frame in span)


@pytest.mark.parametrize("case", CASES["colours"], ids=str)
def test_the_page_and_the_core_paint_alike(case):
    assert sigma_colours(case["sigma"]).tolist() == case["colour"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["at", "media", "input", "take", "noise", "behaviour", "version", "items"]), inner)
    ),
    max_leaves=12,
)


@given(st.fixed_dictionaries({"at": JSON}, optional={k: JSON for k in ("media", "input", "take", "noise", "behaviour")}))
def test_any_json_is_read_or_told(entry):
    text = json.dumps({"version": 1, "items": [entry]})
    try:
        parse_timeline(text)
    except ValueError as error:
        assert str(error).startswith(("Item 1 of the timeline: ", "The timeline is not valid JSON: the number "))


@pytest.mark.parametrize("case", CASES["maps"], ids=str)
def test_the_page_and_the_core_read_maps_alike(case):
    frame = FrameMap(tuple(map(tuple, case["knots"])))
    assert frame.sigma(case["sigma"]) == pytest.approx(case["value"], abs=1e-9)


@pytest.mark.parametrize("case", CASES["grids"], ids=str)
def test_the_page_and_the_core_draw_the_same_grid(case):
    assert pusa_sigmas(case["steps"], case["shift"]).tolist() == pytest.approx(case["sigmas"], abs=1e-6)


@pytest.mark.parametrize("case", CASES["stairs"], ids=str)
def test_the_page_and_the_core_let_frames_begin_alike(case):
    staircase = Staircase(case["steps"], 5.0, case["ar_step"], case["causal_block_size"])
    assert [staircase.start(index) for index in range(len(case["starts"]))] == case["starts"]
