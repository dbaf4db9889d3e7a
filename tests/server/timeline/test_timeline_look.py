"""What the timeline shows: the schedule as colour, the switch of the experts, long videos, themes."""

import json

import pytest

from environment.comfyui import PACK
from languages import LANGUAGES
from tests.server.timeline.hands import GUTTER, HEAT_TALL, LANES, TWO

NOISY, CLEAN = (0, 32, 77), (255, 234, 70)
CURVED = {"keyframes": {"5": {"sigmas": [[0, 0], [0.95, 0.02], [1, 1]]}}}
EXECUTED = """async schedule => {
  const {api} = await import("/scripts/api.js");
  const node = String(app.graph.nodes.find(node => node.type === "PusaTimeline").id);
  const output = {schedule: [JSON.stringify(schedule)], text: ["report"]};
  api.dispatchEvent(new CustomEvent("executed", {detail: {node, display_node: node, output}}));
}"""


def near(colour, wanted, most=12):
    return max(abs(a - b) for a, b in zip(colour, wanted)) <= most


def test_sigma_is_colour_and_follows_the_hand(hands):
    hands.new(items=({"at": 0, "media": "start_frame.jpg", "noise": 0},))
    assert near(hands.colour(0, 0), CLEAN) and near(hands.colour(0, 9), CLEAN)
    assert near(hands.colour(5, 0), NOISY) and not near(hands.colour(5, 9), NOISY, 60)
    mouse = hands.browser.mouse
    mouse.move(*hands.noise(0, 0))
    mouse.down()
    mouse.move(*hands.noise(0, 1), steps=4)
    hands.browser.wait_for_timeout(100)
    assert near(hands.colour(0, 0), NOISY, 45), "before the hand lets go, under the mark of what it draws on"
    mouse.up()


def test_what_a_run_would_refuse_is_seen_and_told(hands):
    """A video made shorter than its items' places, and a file that is gone."""
    ends = [{"at": at, "media": "end_frame.jpg"} for at in (-1, 60)]
    hands.new(41, items=(*TWO, *ends))
    shown = hands.browser.locator(".pt-item")
    wrong = [i for i in range(4) if "outside" in shown.nth(i).get_attribute("class").split()]
    assert wrong == [1, 2, 3] and hands.status() == "end_frame.jpg: Latent 10 is taken."
    boxes = [shown.nth(i).bounding_box() for i in (1, 2, 3)]
    assert all(one["x"] + one["width"] <= other["x"] + 0.5 for one, other in zip(boxes, boxes[1:])), "none lies on another"
    hands.new(items=(TWO[0], {"at": 40, "media": "gone.png"}))
    hands.browser.wait_for_timeout(300)
    assert hands.status().startswith('gone.png: the file "gone.png" is not in')
    assert "outside" in shown.nth(1).get_attribute("class").split()


def test_a_picture_that_is_not_connected_any_more_is_seen_and_told(hands):
    hands.new(items=(TWO[0], {"at": 40, "input": 1}))
    hands.connect("EmptyImage", "images.image1")
    shown = hands.browser.locator(".pt-item").nth(1)
    assert "outside" not in shown.get_attribute("class").split()
    hands.browser.evaluate(
        "() => app.graph.nodes[0].disconnectInput(app.graph.nodes[0].inputs.findIndex(i => i.link != null))"
    )
    hands.browser.wait_for_timeout(300)
    assert hands.status() == "image1: nothing is connected"
    assert "outside" in shown.get_attribute("class").split()


def test_a_bent_map_is_shown_as_it_is(hands):
    hands.new(items=TWO)
    hands.connect("PusaKeyframe", to="keyframes")
    hands.browser.evaluate(EXECUTED, CURVED)
    hands.browser.wait_for_timeout(300)
    assert near(hands.colour(5, 0), NOISY) and near(hands.colour(5, 4), CLEAN), "sigma 0.88 is almost clean there"
    assert not near(hands.colour(6, 4), CLEAN, 100)
    assert hands.status() == "report"


def preset(hands, name):
    hands.browser.get_by_role("button", name=name, exact=True).first.click()
    hands.browser.wait_for_timeout(200)


def test_frames_that_take_their_steps_one_after_another(hands):
    """The node behind has when; a preset sets it there, or says which node is needed. 21 latent frames, the first given."""
    hands.new(items=({"at": 0, "media": "start_frame.jpg", "noise": 0},))
    preset(hands, "Staircase")
    assert hands.status() == "Staircase: connect the latent to Pusa Diffusion Forcing first."
    hands.connect("PusaDiffusionForcing")
    assert near(hands.colour(1, 29, 30), hands.colour(20, 29, 30)), "all together"
    preset(hands, "Staircase")
    assert hands.status() == "Staircase: set on Pusa Diffusion Forcing."
    steps = 30 + 3 * 5  # blocks of 5: latent frames 1 to 5, ..., 16 to 20
    assert near(hands.colour(20, 14, steps), NOISY) and not near(hands.colour(20, 38, steps), NOISY, 20)
    assert near(hands.colour(5, 31, steps), CLEAN) and not near(hands.colour(6, 31, steps), CLEAN)
    assert near(hands.colour(0, 0, steps), CLEAN)
    hands.undo()
    assert near(hands.colour(20, 20, 30), hands.colour(1, 20, 30)), "together again"


def test_a_rolling_window(hands):
    """4 of 40 frames move at once; the first is given."""
    hands.new(157, items=({"at": 0, "media": "start_frame.jpg", "noise": 0.2},))
    hands.connect("PusaLongVideo")
    steps = 4 + 38
    for i in (1, 10, 39):
        begins = i - 1
        assert begins == 0 or near(hands.colour(i, begins - 1, steps), NOISY)
        assert not near(hands.colour(i, begins + 3, steps), NOISY, 60)
        assert i == 39 or near(hands.colour(i, begins + 4, steps), CLEAN)
    assert near(hands.colour(0, 0, steps), CLEAN), "where the video begins, it stays"


def white_lines(hands):
    """Heights, from the first step to the last as 0 to 1, at which white runs across the schedule."""
    return hands.browser.evaluate(
        """tall => {
          const canvas = document.querySelector(".pt-lanes canvas"), {width, height} = canvas;
          const rows = Math.round(tall * canvas.height / canvas.clientHeight), left = width >> 1;
          const {data} = canvas.getContext("2d").getImageData(left, height - rows, 40, rows);
          const white = row => [...Array(40).keys()].filter(x => data[160 * row + 4 * x + 2] > 250);  // blue of white alone
          return [...Array(rows).keys()].filter(row => white(row).length > 12).map(row => row / rows);
        }""",
        HEAT_TALL,
    )


def test_a_line_where_the_low_noise_model_takes_over(hands):
    hands.new(items=TWO[:1])
    hands.connect("PusaKSampler")
    assert white_lines(hands) == []
    hands.connect("PusaKSampler", low_noise_model="UNETLoader")
    (first, *rest) = white_lines(hands)
    assert 0.48 <= first <= 0.52 and all(line - first < 0.06 for line in rest), "the sixth of ten steps is below 0.875"


def test_above_60_latent_frames_it_scrolls_with_an_overview(hands):
    items = ({"at": 0, "media": "start_frame.jpg"}, {"at": -1, "media": "end_frame.jpg"})
    hands.new(237, items=items)
    overview, lanes = (hands.browser.locator(f".pt-{part}").first for part in ("overview", "lanes"))
    assert not overview.is_visible()
    hands.new(401, items=items)
    assert overview.is_visible()
    box, (left, right) = lanes.bounding_box(), (hands.browser.locator(".pt-item").nth(i) for i in (0, 1))
    end = box["x"] + box["width"]
    assert right.bounding_box()["x"] > end
    strip = overview.bounding_box()
    y = strip["y"] + strip["height"] / 2
    hands.drag((strip["x"] + GUTTER + 10, y), (strip["x"] + strip["width"] - 3, y))
    shown = right.bounding_box()
    assert shown["x"] + shown["width"] == pytest.approx(end, abs=4) and left.bounding_box()["x"] < box["x"]
    hands.focus(0)
    hands.browser.wait_for_timeout(100)
    assert left.bounding_box()["x"] >= box["x"], "what has the focus is shown"
    hands.browser.get_by_role("button", name="Fold").first.click()
    assert not overview.is_visible()


def test_a_long_video_follows_what_is_moved(hands):
    hands.new(401, items=({"at": 0, "media": "start_frame.jpg"}, {"at": 200, "media": "end_frame.jpg"}))
    lanes, item = (hands.browser.locator(part).first.bounding_box() for part in (".pt-lanes", ".pt-item"))
    mouse, place = hands.browser.mouse, lambda: int(hands.browser.get_by_label("Frame", exact=True).first.input_value())
    mouse.move(item["x"] + 20, item["y"] + 30)
    mouse.down()
    mouse.move(lanes["x"] + lanes["width"] - 4, item["y"] + 30, steps=3)
    hands.browser.wait_for_timeout(200)
    before = place()
    hands.browser.wait_for_timeout(400)
    assert place() > before > 100, "the hand rests at the edge, the video goes on"
    mouse.move(lanes["x"] + lanes["width"] + 300, item["y"] + 300, steps=3)
    hands.browser.wait_for_timeout(400)
    mouse.up()
    assert [item["at"] for item in hands.value()] == [200, -1], "let go outside the node"
    hands.focus(1)
    for key, index in (("Home", 0), ("End", 1)):
        hands.press(key)
        hands.browser.wait_for_timeout(100)
        shown = hands.browser.locator(".pt-item").nth(index).bounding_box()
        assert lanes["x"] <= shown["x"] and shown["x"] + shown["width"] <= lanes["x"] + lanes["width"] + 1, key


def test_pressing_an_item_that_is_half_seen_does_not_move_it(hands):
    hands.new(401, items=({"at": 148, "media": "start_frame.jpg"},))
    lanes = hands.browser.locator(".pt-lanes").first.bounding_box()
    right, y = lanes["x"] + lanes["width"] - 4, lanes["y"] + LANES["items"]
    hands.drag((right, y), (right + 2, y))
    assert hands.value()[0]["at"] == 148 and "frame 148" in hands.status()


def test_the_numbers_of_narrow_items_are_whole(hands):
    hands.new(401, items=[{"at": 4 * latent, "media": "start_frame.jpg"} for latent in range(12)])
    cut = hands.browser.evaluate(CUT)
    assert cut == []


CUT = """() => [...document.querySelectorAll(".pt-item")].filter(item => {
  const text = document.createRange(), tag = item.querySelector(".tag");
  text.selectNodeContents(tag);
  const [inner, outer] = [text, item].map(part => part.getBoundingClientRect());
  return inner.left < outer.left - 0.5 || inner.right > outer.right + 0.5;
}).map(item => item.title)"""


def test_where_it_is_narrow_frame_and_noise_keep_their_labels(hands):
    """As in an app's column."""
    hands.new(items=TWO)
    labels, beyond = hands.browser.evaluate(NARROW)
    assert [label for label, width in labels if width > 20] == ["Frame", "Noise"]
    assert beyond == []


NARROW = """() => {
  const root = document.querySelector(".pusa-timeline");
  Object.assign(root.style, {position: "fixed", width: "420px"});
  const right = root.getBoundingClientRect().right, width = part => part.getBoundingClientRect().width;
  const beyond = [...root.querySelectorAll(".settings *")].filter(part => part.getBoundingClientRect().right > right);
  const labels = [...root.querySelectorAll("label span")].map(part => [part.textContent, width(part)]);
  return [labels, beyond.map(part => part.textContent)];
}"""


def test_the_names_of_lanes_are_seen_whole_in_every_language(hands):
    hands.new(items=TWO)
    words = {name: json.loads((PACK / "locales" / name / "main.json").read_text(encoding="utf-8")) for name in LANGUAGES}
    cut = {name: hands.browser.evaluate(CUT_LABELS, words[name]["pusaTimeline"]) for name in words}
    assert cut == dict.fromkeys(LANGUAGES, [])


CUT_LABELS = """words => {
  const left = document.querySelector(".pt-lanes").getBoundingClientRect().left;
  return [...document.querySelectorAll(".labels [data-words]")].filter(label => {
    label.textContent = words[label.dataset.words];
    return label.getBoundingClientRect().left < left - 1;
  }).map(label => label.textContent);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_is_seen_in_high_contrast(hands, scheme):
    """A canvas does not follow forced colours by itself."""
    hands.browser.emulate_media(forced_colors="active", color_scheme=scheme)
    try:
        hands.new(items=TWO)
        ink, paper, labels = hands.browser.evaluate(CONTRAST)
    finally:
        hands.browser.emulate_media(forced_colors="none", color_scheme="light")
    assert contrast(ink, paper) > 7
    assert max(contrast(label, paper) for label in labels) > 4.5


CONTRAST = """() => {
  const root = document.querySelector(".pusa-timeline"), {color, backgroundColor} = getComputedStyle(root);
  const rgb = text => text.match(/[\\d.]+/g).slice(0, 3).map(Number);
  const canvas = root.querySelector(".pt-lanes canvas"), ratio = canvas.width / canvas.clientWidth;
  const {data} = canvas.getContext("2d").getImageData(0, 0, 50 * ratio, 24 * ratio);
  const labels = [...root.querySelectorAll(".labels [data-words]")].map(label => rgb(getComputedStyle(label).color));
  for (let i = 0; i < data.length; i += 4) if (data[i + 3] > 200) labels.push([...data.slice(i, i + 3)]);
  return [rgb(color), rgb(backgroundColor), labels];
}"""


def contrast(one, other):
    """As WCAG defines it."""
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def luminance(colour):
    parts = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), parts))
