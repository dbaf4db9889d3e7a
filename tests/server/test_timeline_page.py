"""The timeline in ComfyUI's real page, in both of its renderers, by hand and key; and what a run makes of it.

PUSA_FRONTEND=<folder> serves another page, as in test_page.py.
"""

import base64
import json
import os
import shutil

import pytest
from PIL import Image

from environment.comfyui import PACK
from environment.server import PACK_NAME, ComfyServer, PromptRefused
from tests.server.conftest import CLIP, write_demos
from tests.server.page import NoBrowser, open_page
from tests.timeline_cases import CASES

FORMAT = f"/extensions/{PACK_NAME}/timeline/format.js"
PICTURES = ("start_frame.jpg", "middle_frame.jpg", "end_frame.jpg")
LENGTH = 81
LANES = {"items": 60, "noise": 120}  # pixels below the lanes' top
NOISE_TOP, NOISE_TALL, GUTTER = 107, 48, 52

NEW = """async ([length, text]) => {
  const empty = {nodes: [], links: [], groups: [], config: {}, extra: {}, version: 0.4, last_node_id: 0, last_link_id: 0};
  await app.loadGraphData(empty);
  await new Promise(done => setTimeout(done, 100));
  const node = LiteGraph.createNode("PusaTimeline");
  app.graph.add(node);
  node.pos = [120, 140];
  const widget = name => node.widgets.find(other => other.name === name);
  widget("length").value = length;
  widget("length").callback?.(length);
  if (text) widget("timeline").value = text;
  app.canvas.ds.scale = 1;
  app.canvas.ds.offset = [0, 0];
  app.canvas.setDirty(true, true);
}"""
DROP = """async ([name, data, kind, x, y]) => {
  const bytes = Uint8Array.from(atob(data), letter => letter.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, {type: kind}));
  const target = document.elementFromPoint(x, y);
  const event = {dataTransfer: transfer, clientX: x, clientY: y, bubbles: true, cancelable: true};
  for (const kind of ["dragover", "drop"]) target.dispatchEvent(new DragEvent(kind, event));
}"""


class Hands:
    """A timeline on the page, touched as a user touches it."""

    def __init__(self, page):
        self.page, self.browser = page, page.browser_page

    def new(self, length=LENGTH, items=()):
        text = json.dumps({"version": 1, "items": list(items)}) if items else ""
        self.browser.evaluate(NEW, [length, text])
        self.browser.wait_for_selector(".pusa-timeline canvas")
        self.browser.wait_for_timeout(600)
        self.length = length

    def value(self):
        """What the prompt holds: its only timeline."""
        (node,) = (n for n in self.page.prompt().values() if n["class_type"] == "PusaTimeline")
        return json.loads(node["inputs"]["timeline"])["items"]

    def point(self, latent, y):
        box = self.browser.locator(".pt-lanes").first.bounding_box()
        column = (box["width"] - GUTTER) / ((self.length - 1) // 4 + 1)
        return box["x"] + GUTTER + (latent + 0.5) * column, box["y"] + y

    def noise(self, latent, noise):
        return self.point(latent, NOISE_TOP + NOISE_TALL * (1 - noise))

    def drag(self, start, end):
        mouse = self.browser.mouse
        mouse.move(*start)
        mouse.down()
        mouse.move((start[0] + end[0]) / 2, (start[1] + end[1]) / 2, steps=3)
        mouse.move(*end, steps=3)
        self.browser.wait_for_timeout(60)
        mouse.up()
        self.browser.wait_for_timeout(120)

    def drop(self, path, latent):
        kind = "video/mp4" if path.suffix == ".mp4" else "image/jpeg"
        data = base64.b64encode(path.read_bytes()).decode()
        before = len(self.value())
        self.browser.evaluate(DROP, [path.name, data, kind, *self.point(latent, LANES["items"])])
        for _ in range(60):
            if len(self.value()) > before:
                return
            self.browser.wait_for_timeout(100)
        pytest.fail(f"{path.name} did not arrive: {self.status()}")

    def press(self, *keys):
        for key in keys:
            self.browser.keyboard.press(key)
            self.browser.wait_for_timeout(120)

    def focus(self, index):
        self.browser.locator(".pt-item").nth(index).focus()

    def status(self):
        return self.browser.locator(".pt-status").first.inner_text()


@pytest.fixture(scope="module")
def served(server, comfyui):
    """The running server, or one with the page of PUSA_FRONTEND."""
    frontend = os.environ.get("PUSA_FRONTEND")
    if not frontend:
        yield server
        return
    own = ComfyServer(comfyui, extra_args=("--front-end-root", frontend))
    write_demos(own.base / "input")
    with own:
        yield own


@pytest.fixture(scope="module")
def page(served):
    served.post("/settings/Comfy.TutorialCompleted", True)  # else templates lie over everything
    try:
        with open_page(served.address, 1400, 900) as page:
            page.console = []
            page.browser_page.on("console", lambda m: m.type == "error" and page.console.append(m.text))
            yield page
    except NoBrowser as missing:
        if os.environ.get("PUSA_REQUIRE_COMFYUI") == "1":
            pytest.fail(f"the page was not tested: {missing}")
        pytest.skip(f"the page was not tested: {missing}")


@pytest.fixture(params=["canvas", "nodes 2.0"])
def hands(request, page):
    page.browser_page.evaluate(
        "on => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)", request.param != "canvas"
    )
    page.errors.clear()
    page.console.clear()
    yield Hands(page)
    assert page.errors == []
    ours = [text for text in page.console if "pusa" in text.lower() or "timeline" in text.lower()]
    assert ours == []


@pytest.fixture
def files(served):
    return [served.base / "input" / name for name in (*PICTURES, CLIP)]


def test_the_page_knows_the_same_latent_frames(page):
    """tests/timeline_cases.json, which pytest runs against pusa_core."""
    wrong = page.browser_page.evaluate(
        """async ([path, cases]) => {
          const format = await import(path), wrong = [];
          const {colourOf} = await import(path.replace("format", "draw"));
          const same = (got, wanted, what) => JSON.stringify(got) === JSON.stringify(wanted) || wrong.push([what, got]);
          for (const c of cases.frames) same(format.framesOf(c.latent), c.frames, c);
          for (const c of cases.frames) c.frames.forEach(frame => same(format.latentOf(frame), c.latent, c));
          for (const c of cases.places) {
            const {fits, first, count} = format.place({at: c.at, take: [0, c.frames]}, c.length);
            same(fits ? [first, first + count - 1] : null, c.latents, c);
          }
          const near = (a, b) => Math.abs(a - b) < 1e-6;
          for (const c of cases.maps) if (!near(format.sigmaAt(c.knots, c.sigma), c.value)) wrong.push(c);
          const grid = c => format.sigmaGrid(c.steps, c.shift).every((sigma, i) => near(sigma, c.sigmas[i]));
          wrong.push(...cases.grids.filter(c => !grid(c)));
          for (const c of cases.colours) same(colourOf(c.sigma), `rgb(${c.colour})`, c);
          return wrong;
        }""",
        [FORMAT, CASES],
    )
    assert wrong == []


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
    assert all(set(item) == {"at", "media", "noise", *(["take"] if i == 2 else [])} for i, item in enumerate(items))


TWO = ({"at": 0, "media": "start_frame.jpg", "noise": 0.2}, {"at": 40, "media": "end_frame.jpg", "noise": 0.3})
WITH_CLIP = (*TWO, {"at": -13, "media": CLIP, "take": [0, 13], "noise": [0, 0.3, 0.4, 0.5]})


def test_by_keys_alone(hands):
    hands.new(items=WITH_CLIP)
    hands.focus(1)
    hands.press("ArrowRight", "ArrowRight", "Alt+ArrowUp", "h")
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
    hands.browser.context.grant_permissions(["clipboard-read", "clipboard-write"])
    hands.new(items=TWO)
    hands.focus(1)
    hands.press("Control+c", "Control+v")
    assert [item["at"] for item in hands.value()] == [0, 40, 44]
    assert hands.browser.evaluate("app.graph.nodes.length") == 1


def test_undo_and_redo(hands):
    hands.new(items=TWO)
    hands.browser.evaluate("app.extensionManager.workflow.activeWorkflow.changeTracker.checkState()")
    hands.focus(1)
    hands.press("ArrowRight", "ArrowRight")
    places = lambda: [item["at"] for item in hands.value()]  # noqa: E731
    assert places() == [0, 48]
    seen = []
    for command in ("Undo", "Undo", "Redo"):
        hands.browser.evaluate("name => app.extensionManager.command.execute('Comfy.' + name)", command)
        hands.browser.wait_for_timeout(400)
        seen.append(places())
    assert seen == [[0, 44], [0, 40], [0, 44]]


def test_reload_copies_and_a_subgraph_keep_it(hands):
    hands.new(items=WITH_CLIP)
    before = hands.value()
    hands.browser.evaluate(
        "async () => app.loadGraphData(JSON.parse(JSON.stringify(app.graph.serialize())), true, true, 'again')"
    )
    hands.browser.wait_for_timeout(400)
    assert hands.value() == before == list(WITH_CLIP)
    hands.browser.evaluate(
        "app.canvas.selectItems([app.graph.nodes[0]]); app.canvas.copyToClipboard(); app.canvas.pasteFromClipboard()"
    )
    values = [json.loads(node["inputs"]["timeline"])["items"] for node in hands.page.prompt().values()]
    assert values == [before, before]
    hands.browser.evaluate("app.graph.remove(app.graph.nodes[1]); app.graph.convertToSubgraph(new Set([app.graph.nodes[0]]))")
    hands.browser.wait_for_timeout(400)
    assert hands.value() == before


def test_presets_arrange_what_is_there(hands):
    hands.new(items=TWO)
    hands.browser.get_by_role("button", name="Start-end").first.click()
    assert [(item["at"], item["noise"]) for item in hands.value()] == [(0, 0.2), (-1, 0.5)]
    hands.browser.get_by_role("button", name="Three keyframes").first.click()
    assert [item["at"] for item in hands.value()] == [0, 40, -1]
    assert "media" not in hands.value()[2] and "drop a file on each empty place" in hands.status()


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
    assert json.loads(inputs["timeline"])["items"][1] == {"at": 4, "input": 1, "noise": 0.3}
    assert prompt[inputs["images.image1"][0]]["class_type"] == "EmptyImage"


def test_steps_shift_and_the_switch_are_those_of_the_sampler_behind(hands):
    hands.new(items=TWO)
    told = hands.browser.evaluate(
        """async path => {
          const {Timeline} = await import(path), redraw = Timeline.prototype.redraw;
          let ui;
          Timeline.prototype.redraw = function () { ui = this; redraw.call(this); };
          const [node] = app.graph.nodes;
          const [sampler, model] = ["PusaKSampler", "UNETLoader"].map(name => LiteGraph.createNode(name));
          app.graph.add(sampler);
          app.graph.add(model);
          const set = (name, value) => {
            const widget = sampler.widgets.find(w => w.name === name);
            widget.value = value;
            widget.callback?.(value);
          };
          node.connect(0, sampler, sampler.inputs.findIndex(input => input.name === "latent"));
          model.connect(0, sampler, sampler.inputs.findIndex(input => input.name === "low_noise_model"));
          await new Promise(done => setTimeout(done, 100));
          const before = ui.sampling.boundary;
          set("steps", 4); set("boundary", 0.9);
          await new Promise(done => setTimeout(done, 100));
          Timeline.prototype.redraw = redraw;
          return {before, ...ui.sampling};
        }""",
        FORMAT.replace("format.js", "view.js"),
    )
    assert told["before"] == 0.875 and told["boundary"] == 0.9 and told["fps"] == 16
    assert told["sigmas"] == pytest.approx([1, 0.9375, 0.8333333, 0.625, 0], abs=1e-6)


def test_the_length_moves_what_is_at_the_end(hands):
    hands.new(items=(*TWO, {"at": -1, "media": "start_frame.jpg"}))
    hands.browser.evaluate(
        "const w = app.graph.nodes[0].widgets.find(w => w.name === 'length'); w.value = 41; w.callback(41)"
    )
    hands.browser.wait_for_timeout(300)
    assert hands.browser.locator(".pt-item").nth(2).get_attribute("aria-valuenow") == "40"
    assert [item["at"] for item in hands.value()] == [0, 40, -1], "nothing changes without a hand"


def test_a_long_video_scrolls_or_folds(hands):
    hands.new(401, items=({"at": 0, "media": "start_frame.jpg"}, {"at": 200, "media": "end_frame.jpg"}))
    overview = hands.browser.locator(".pt-overview").first
    assert overview.is_visible()
    hands.browser.get_by_role("button", name="Fold").first.click()
    assert not overview.is_visible()


@pytest.mark.parametrize("text", ["{", '{"version":1,"items":[{"at":"x"}]}'])
def test_a_text_that_cannot_be_shown_is_kept(hands, text):
    hands.new()
    hands.browser.evaluate("text => app.graph.nodes[0].widgets.find(w => w.name === 'timeline').value = text", text)
    assert "cannot be shown" in hands.status()
    assert next(iter(hands.page.prompt().values()))["inputs"]["timeline"] == text


def test_in_app_mode(hands):
    hands.new(items=TWO)
    if not hands.browser.evaluate("app.extensionManager.command.commands.some(c => c.id === 'Comfy.ToggleLinear')"):
        pytest.skip("this page has no app mode")
    graph = hands.browser.evaluate("app.graph.serialize()")
    shown = {"inputs": [[graph["nodes"][0]["id"], "timeline"]], "outputs": [graph["nodes"][0]["id"]]}
    graph["extra"] = {**graph.get("extra", {}), "linearMode": True, "linearData": shown}
    hands.page.load(graph, "app")
    hands.browser.wait_for_selector(".pt-item", timeout=10_000)
    hands.press("Escape")  # the page's own welcome
    hands.focus(1)
    hands.press("ArrowRight")
    assert [item["at"] for item in hands.value()] == [0, 44]
    hands.browser.evaluate("app.extensionManager.command.execute('Comfy.ToggleLinear')")


# --- a run -----------------------------------------------------------------------------------------------------------


PLANNER, DECODER, LAST_KEYFRAME = "6", "8", "33"


def demo_prompts(items, keyframes):
    """The demo's start-end workflow with a timeline, and with chained nodes."""
    timeline = json.loads((PACK / "workflows" / "api" / "demo_start_end.json").read_text(encoding="utf-8"))
    timeline = {key: node for key, node in timeline.items() if int(key) <= int(DECODER)}
    timeline["20"] = {"class_type": "PreviewImage", "inputs": {"images": [DECODER, 0]}}
    timeline["21"] = {"class_type": "PreviewAny", "inputs": {"source": [PLANNER, 3]}}
    chained = json.loads(json.dumps(timeline))
    timeline[PLANNER]["inputs"]["timeline"] = json.dumps({"version": 1, "items": items})
    chained[PLANNER]["class_type"] = "PusaSchedule"
    del chained[PLANNER]["inputs"]["timeline"]
    chained[PLANNER]["inputs"]["keyframes"] = [LAST_KEYFRAME, 0]
    return timeline, {**chained, **keyframes}


def load(name):
    return {"class_type": "LoadImage", "inputs": {"image": name}}


def keyframe(source, at, **more):
    settings = {"unit": "pixel", "noise_multiplier": 0.1, "behaviour": "evolve", **more}
    return {"class_type": "PusaKeyframe", "inputs": {"image": [source, 0], "frame_index": at, **settings}}


def test_the_demo_model_makes_the_same_of_timeline_and_chained_nodes(server):
    for number, colour in enumerate(("red", "green")):
        Image.new("RGB", (64, 64), colour).save(server.base / "input" / f"demo{number}.png")
    timeline, chained = demo_prompts(
        [{"at": 0, "media": "demo0.png", "noise": 0.1}, {"at": -1, "input": 1, "noise": 0.1}],
        {
            "30": load("demo0.png"),
            "31": load("demo1.png"),
            "32": keyframe("30", 0),
            LAST_KEYFRAME: keyframe("31", -1, previous=["32", 0]),
        },
    )
    timeline["31"] = load("demo1.png")
    timeline[PLANNER]["inputs"]["images.image1"] = ["31", 0]
    ours, theirs = server.run(timeline), server.run(chained)
    assert ours.outputs["21"]["text"] == theirs.outputs["21"]["text"]
    assert "pixel frame -1: latent frame 4" in ours.outputs["21"]["text"][0]
    made = [[Image.open(path).tobytes() for path in server.outputs({"20": run.outputs["20"]})] for run in (ours, theirs)]
    assert len(made[0]) == 17 and made[0] == made[1]


def test_faults_reach_the_page_before_a_run(server):
    timeline, _ = demo_prompts([{"at": 0, "media": "gone.png"}], {})
    with pytest.raises(PromptRefused) as told:
        server.run(timeline)
    error = told.value.errors["node_errors"][PLANNER]["errors"][0]
    assert error["details"].startswith('Item 1 of the timeline: the file "gone.png" is not in ComfyUI\'s input folder')


def test_the_page_asks_how_long_a_clip_is(server):
    shutil.copyfile(server.base / "input" / CLIP, server.base / "input" / "length.mp4")
    told = server.get("/pusa/media?name=length.mp4")
    assert told["frames"] > 13 and told["rate"] > 0
