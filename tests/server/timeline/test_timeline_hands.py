"""The timeline by pointer, finger, key and clipboard."""

import json

import pytest

from pusa_core.media import media_length
from tests.server.conftest import CLIP
from tests.server.timeline.hands import DROP, LANES, TWO, WITH_CLIP


def test_three_pictures_a_clip_and_a_ramp_by_hand(hands, files):
    hands.new()
    for path, dropped, to in zip(files, (2, 6, 9), (0, 10, 20)):
        hands.drop(path, dropped)
        hands.drag(hands.point(dropped, LANES["items"]), hands.point(to, LANES["items"]))
    assert [(item["at"], item["media"].split("/")[0]) for item in hands.value()] == [(0, "pusa"), (40, "pusa"), (-1, "pusa")]
    assert "frame 80 → latent 20 (77-80)" in hands.status()
    hands.drop(files[3], 14)
    hands.drag(hands.noise(14, 0.1), hands.noise(17, 0.7))
    hands.drag(hands.noise(10, 0.3), hands.noise(10, 0.6))
    items = hands.value()
    assert [item["at"] for item in items] == [0, 40, 56, -1]
    assert items[2]["take"] == [0, 13] and items[2]["noise"] == [0.1, 0.3, 0.5, 0.7]
    assert [items[i]["noise"] for i in (0, 1, 3)] == [0.3, 0.6, 0.3]
    assert all(
        set(item) == {"at", "media", "noise", "behaviour", *(["take"] if i == 2 else [])} for i, item in enumerate(items)
    )
    assert {item["behaviour"] for item in items} == {"hold"}


def test_a_file_that_is_no_picture_is_told(hands):
    hands.new(items=TWO)
    hands.browser.evaluate(DROP, ["notes.txt", "aGk=", "text/plain", *hands.point(5, LANES["items"])])
    hands.browser.wait_for_timeout(300)
    assert hands.status() == "notes.txt was not uploaded: text/plain." and len(hands.value()) == 2


def test_by_keys_alone(hands):
    hands.new(items=WITH_CLIP)
    hands.focus(1)
    hands.press("ArrowRight", "ArrowRight", "Alt+ArrowUp", "h", "Shift+H", "h")
    assert hands.value()[1] == {"at": 48, "media": "end_frame.jpg", "noise": 0.35, "behaviour": "hold"}
    shown = hands.browser.locator(".pt-item").nth(1)
    assert shown.get_attribute("role") == "slider" and shown.get_attribute("aria-valuenow") == "48"
    assert shown.get_attribute("aria-valuetext") == "frame 48 → latent 12 (45-48), noise 0.35, hold"
    hands.press("ArrowLeft", "Home")
    assert hands.value()[1]["at"] == 4 and "Latent 0 is taken" in hands.status()
    hands.press("ArrowLeft")
    assert "at the start" in hands.status()
    hands.focus(2)
    hands.press("Alt+ArrowRight", "ArrowLeft")
    assert (hands.value()[2]["at"], hands.value()[2]["noise"]) == (64, [0, 0.317, 0.433, 0.55])
    hands.browser.locator(".pt-handle.pt-end").nth(2).focus()
    hands.press("ArrowLeft")
    assert (hands.value()[2]["take"], hands.value()[2]["noise"]) == ([0, 9], [0, 0.317, 0.433])
    hands.press("Delete")
    assert len(hands.value()) == 2


def test_del_where_nothing_is_left_does_not_reach_the_node(hands):
    hands.new(items=TWO[:1])
    hands.browser.evaluate("app.canvas.selectItems([app.graph.nodes[0]])")
    hands.focus(0)
    hands.press("Delete", "Delete", "Backspace")
    assert hands.value() == [] and hands.browser.evaluate("app.graph.nodes.length") == 1


def test_what_lies_at_the_end_stays_there(hands):
    hands.new(items=TWO)
    hands.focus(1)
    hands.press("End")
    assert hands.value()[1]["at"] == -1


def test_by_touch(hands):
    hands.new(items=TWO)
    finger = hands.browser.context.new_cdp_session(hands.browser)
    finger.send("Emulation.setTouchEmulationEnabled", {"enabled": True})
    path = [hands.point(latent, LANES["items"]) for latent in (10, 12, 14, 15)]
    for kind, points in [("touchStart", path[:1]), *(("touchMove", [point]) for point in path[1:]), ("touchEnd", [])]:
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y} for x, y in points]})
        hands.browser.wait_for_timeout(60)
    finger.send("Emulation.setTouchEmulationEnabled", {"enabled": False})
    assert [item["at"] for item in hands.value()] == [0, 60]


def test_a_clip_is_cut_at_its_ends(hands):
    hands.new(items=({"at": 20, "media": CLIP, "take": [8, 21], "noise": [0, 0.3, 0.4, 0.5]},))
    edge = lambda latent: (hands.point(latent, 0)[0] + 8, hands.point(latent, LANES["items"])[1])  # noqa: E731
    hands.drag(edge(8), edge(6))
    assert hands.value()[0]["take"] == [8, 13] and hands.value()[0]["noise"] == [0, 0.3]
    box = hands.browser.locator(".pt-handle.pt-start").first.bounding_box()
    start = box["x"] + box["width"] / 2, box["y"] + 20
    hands.drag(start, (start[0] - (edge(5)[0] - edge(4)[0]), start[1]))
    assert hands.value()[0] == {"at": 16, "media": CLIP, "take": [4, 13], "noise": [0, 0, 0.3]}


def test_items_are_copied_and_pasted(hands):
    hands.new(items=TWO)
    hands.focus(1)
    hands.press("Control+c", "Control+v")
    assert [item["at"] for item in hands.value()] == [0, 40, 44]
    hands.press("Control+x")
    assert [item["at"] for item in hands.value()] == [0, 40]
    hands.press("Control+v")
    assert [item["at"] for item in hands.value()] == [0, 40, 44], "behind what is selected"
    assert hands.browser.evaluate("app.graph.nodes.length") == 1


def test_a_picture_is_pasted_from_the_clipboard(hands):
    hands.new(items=TWO)
    hands.focus(1)
    hands.paste_picture()
    pasted = hands.settled(3)[2]
    assert (pasted["at"], pasted["noise"]) == (44, 0.3) and pasted["media"].startswith("pusa/image")
    assert hands.browser.evaluate("app.graph.nodes.length") == 1, "the page itself pastes nothing"


def test_a_double_click_and_plus_ask_for_files(hands, files):
    for ask, places in ((double_click, [0, 24, 40]), (plus, [0, 40, 44])):
        hands.new(items=TWO)
        hands.browser.wait_for_timeout(300)
        with hands.browser.expect_file_chooser() as asked:
            ask(hands)
        asked.value.set_files([files[1]])
        assert [item["at"] for item in hands.settled(3)] == places


def double_click(hands):
    hands.browser.mouse.dblclick(*hands.point(6, LANES["items"]))


def plus(hands):
    hands.focus(1)
    hands.press("+")


def test_what_is_taken_is_told_aloud(hands):
    hands.new(items=TWO)
    told = hands.browser.locator(".pt-status").first
    assert told.get_attribute("role") == "status" and told.get_attribute("aria-live") == "polite"
    hands.focus(1)
    hands.press("Home")
    assert hands.status() == "Latent 0 is taken. end_frame.jpg: frame 4 → latent 1 (1-4), noise 0.3"
    hands.new(1, items=TWO[:1])
    hands.focus(0)
    hands.press("Control+c", "Control+v")
    assert "There is no room for start_frame.jpg" in hands.status() and len(hands.value()) == 1


def test_a_drag_is_told_while_it_lasts(hands):
    hands.new(items=TWO)
    mouse, numbers = hands.browser.mouse, [hands.browser.get_by_label(name, exact=True) for name in ("Frame", "Noise")]
    mouse.move(*hands.point(10, LANES["items"]))
    mouse.down()
    mouse.move(*hands.point(0, LANES["items"]), steps=4)
    hands.browser.wait_for_timeout(100)
    assert hands.status() == "frame 4 → latent 1 (1-4) (next free)"
    assert [number.first.input_value() for number in numbers] == ["4", "0.3"]
    mouse.up()
    mouse.move(*hands.noise(1, 0.3))
    mouse.down()
    mouse.move(*hands.noise(1, 0.8), steps=4)
    hands.browser.wait_for_timeout(100)
    assert hands.status() == "noise 0.8" and numbers[1].first.input_value() == "0.8"
    mouse.up()


def test_the_ends_of_a_clip_speak(hands):
    hands.new(items=WITH_CLIP)
    ends = [hands.browser.locator(f".pt-handle.pt-{side}").nth(2) for side in ("start", "end")]
    assert [end.get_attribute("role") for end in ends] == ["slider", "slider"]
    assert [end.get_attribute("aria-label") for end in ends] == [f"{side} of 3: {CLIP}" for side in ("Start", "End")]
    assert ends[0].get_attribute("aria-valuetext") == "13 frames"


def test_presets_arrange_what_is_there(hands):
    hands.new(items=TWO)
    hands.browser.get_by_role("button", name="Start-end").first.click()
    assert [(item["at"], item["noise"]) for item in hands.value()] == [(0, 0.2), (-1, 0.5)]
    hands.browser.get_by_role("button", name="Three keyframes").first.click()
    assert [item["at"] for item in hands.value()] == [0, 40, -1]
    assert "media" not in hands.value()[2] and "drop a file on each empty place" in hands.status()


@pytest.mark.parametrize("length", [33, 161])
def test_a_clip_is_restyled_from_end_to_end(hands, files, length):
    """Its noise is a curve, and no more frames are taken than the clip or the video has."""
    hands.new(length, items=WITH_CLIP[2:])
    hands.browser.wait_for_timeout(300)
    hands.browser.get_by_role("button", name="Restyle").first.click()
    [item] = hands.value()
    assert (item["at"], item["noise"]) == (0, "0: 0, 1: 0.7, -2: 0.7, -1: 0") and "behaviour" not in item
    assert item["take"] == [0, min(length, (media_length(files[3])[0] - 1) // 4 * 4 + 1)]


def test_an_extension_with_an_anchor(hands):
    """The clip's first frame, and its last 12 behind it."""
    hands.new(items=WITH_CLIP[2:])
    hands.browser.get_by_role("button", name="Anchored extension").first.click()
    assert [(item["at"], item["take"], item["noise"]) for item in hands.value()] == [(0, [0, 1], 0.2), (1, [-12, None], 0.2)]


def test_what_is_new_is_held_and_the_published_rule_is_a_preset(hands):
    hands.new(items=TWO)
    assert not any("behaviour" in item for item in hands.value())  # what was saved stays as it is
    hands.browser.get_by_role("button", name="Start-end").first.click()
    assert [item["behaviour"] for item in hands.value()] == ["hold", "hold"]
    places = [{key: value for key, value in item.items() if key != "behaviour"} for item in hands.value()]
    hands.browser.get_by_role("button", name="Published").first.click()
    assert hands.value() == places and "all items follow it" in hands.status()


def test_later_than_the_start_a_clip_may_be_4n_frames(hands):
    """Pusa's completion: the first 9 and the last 12 frames of 81."""
    hands.new(items=({"at": 0, "media": CLIP, "take": [0, 13]},))
    hands.browser.get_by_role("button", name="Completion").first.click()
    taken = lambda: [(item["at"], item["take"]) for item in hands.value()]  # noqa: E731
    assert taken() == [(0, [0, 9]), (-12, [-12, None])]
    hands.focus(1)
    assert "frame 69 → latent 18 to 20 (69-80)" in hands.status()
    ends = hands.browser.locator(".pt-handle.pt-end")
    assert [ends.nth(i).get_attribute("aria-valuetext") for i in (0, 1)] == ["9 frames", "12 frames"]
    hands.press("Home")
    assert taken() == [(0, [0, 9]), (12, [-12, None])], "it keeps them where four frames share a latent frame"
    hands.focus(0)
    hands.press("Delete", "Home")
    assert taken() == [(0, [-9, None])], "the first latent frame holds one"


def test_a_connected_picture_gets_a_button_that_places_it(hands):
    hands.new(items=TWO)
    hands.browser.evaluate(
        """const [node] = app.graph.nodes, source = LiteGraph.createNode("EmptyImage");
        app.graph.add(source);
        source.connect(0, node, node.inputs.findIndex(input => input.name === "images.image1"));"""
    )
    hands.browser.get_by_role("button", name="Add image1").first.click()
    prompt = hands.page.prompt()
    (inputs,) = (node["inputs"] for node in prompt.values() if node["class_type"] == "PusaTimeline")
    assert json.loads(inputs["timeline"])["items"][1] == {"at": 4, "input": 1, "noise": 0.3, "behaviour": "hold"}
    assert prompt[inputs["images.image1"][0]]["class_type"] == "EmptyImage"
