"""The timeline's place in the page: its value in the prompt, undo, reload, copies, subgraphs, app mode, other nodes."""

import json

import pytest

from environment.server import PACK_NAME
from tests.server.timeline.hands import LANES, TWO, WITH_CLIP
from tests.timeline_cases import CASES

SCRIPTS = f"/extensions/{PACK_NAME}/timeline"
ENTER = """() => {
  const [outer] = app.graph.nodes;
  app.canvas.setGraph(outer.subgraph);
  outer.subgraph.nodes[0].pos = [120, 140];
  app.canvas.ds.scale = 1;
  app.canvas.ds.offset = [0, 0];
  app.canvas.setDirty(true, true);
}"""


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
          const noises = c => format.noiseOf(c, c.values.length).every((value, i) => near(value, c.values[i]));
          wrong.push(...cases.noises.filter(c => !noises(c)));
          const starts = c => c.starts.map((_, i) => format.startOf(c, i));
          for (const c of cases.stairs) same(starts(c), c.starts, c);
          for (const c of cases.colours) same(colourOf(c.sigma), `rgb(${c.colour})`, c);
          return wrong;
        }""",
        [f"{SCRIPTS}/format.js", CASES],
    )
    assert wrong == []


def test_undo_and_redo(hands):
    hands.new(items=TWO)
    hands.browser.evaluate("app.extensionManager.workflow.activeWorkflow.changeTracker.checkState()")
    hands.focus(1)
    hands.press("ArrowRight", "ArrowRight")
    places = lambda: [item["at"] for item in hands.value()]  # noqa: E731
    assert places() == [0, 48]
    seen = []
    for command in ("Undo", "Undo", "Redo"):
        hands.undo(command)
        seen.append(places())
    assert seen == [[0, 44], [0, 40], [0, 44]]


def test_a_gesture_is_one_step_to_undo(hands):
    hands.new(items=WITH_CLIP)
    hands.browser.evaluate("app.extensionManager.workflow.activeWorkflow.changeTracker.checkState()")
    hands.drag(hands.point(10, LANES["items"]), hands.point(5, LANES["items"]))
    moved = hands.value()
    hands.drag(hands.noise(17, 0.1), hands.noise(20, 0.7))
    drawn = hands.value()
    assert moved[1]["at"] == 20 and drawn[2]["noise"] == [0.1, 0.3, 0.5, 0.7]
    seen = []
    for command in ("Undo", "Undo", "Redo", "Redo"):
        hands.undo(command)
        seen.append(hands.value())
    assert seen == [moved, list(WITH_CLIP), moved, drawn]


def test_what_is_shown_after_an_undo_is_the_value_and_can_be_dragged(hands):
    hands.new(items=TWO)
    hands.browser.evaluate("app.extensionManager.workflow.activeWorkflow.changeTracker.checkState()")
    shown = hands.browser.locator(".pt-item").nth(1)
    for command, there in (("", 5), ("Undo", 10), ("Redo", 5), ("Undo", 10)):
        if command:
            hands.undo(command)
        else:
            hands.drag(hands.point(10, LANES["items"]), hands.point(5, LANES["items"]))
        assert [shown.get_attribute("aria-valuenow"), hands.value()[1]["at"]] == [str(4 * there), 4 * there]
    hands.drag(hands.point(10, LANES["items"]), hands.point(15, LANES["items"]))
    assert [item["at"] for item in hands.value()] == [0, 60]


def test_reload_and_copies_keep_it(hands):
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


def test_in_a_subgraph(hands):
    hands.new(items=TWO)
    hands.browser.evaluate("app.graph.convertToSubgraph(new Set([app.graph.nodes[0]]))")
    hands.browser.wait_for_timeout(400)
    assert hands.value() == list(TWO)
    hands.browser.evaluate(ENTER)
    hands.browser.wait_for_timeout(800)
    hands.drag(hands.point(10, LANES["items"]), hands.point(5, LANES["items"]))
    assert [item["at"] for item in hands.value()] == [0, 20]
    hands.focus(1)
    hands.press("ArrowRight")
    hands.browser.evaluate("app.canvas.setGraph(app.rootGraph ?? app.graph.rootGraph ?? app.graph)")
    assert [item["at"] for item in hands.value()] == [0, 24]


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
        f"{SCRIPTS}/view.js",
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


def test_a_length_that_comes_by_wire_is_followed(hands):
    """Where another node of one number gives it; where the number is not known before a run, the widget's stays."""
    hands.new(items=(*TWO, {"at": -1, "media": "start_frame.jpg"}))
    end = hands.browser.locator(".pt-item").nth(2)
    hands.connect("PrimitiveInt", "length")
    assert end.get_attribute("aria-valuenow") == f"{hands.length - 1}", "a new one gives 0"
    hands.browser.evaluate(
        "const w = app.graph.nodes.find(node => node.type === 'PrimitiveInt').widgets[0]; w.value = 41; w.callback(41)"
    )
    hands.browser.wait_for_timeout(300)
    assert end.get_attribute("aria-valuenow") == "40"
    hands.browser.evaluate("app.graph.nodes[0].disconnectInput(app.graph.nodes[0].findInputSlot('length'))")
    hands.browser.wait_for_timeout(300)
    assert end.get_attribute("aria-valuenow") == f"{hands.length - 1}"


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
    graph = json.loads(hands.browser.evaluate("JSON.stringify(app.graph.serialize())"))  # undefined is not null
    shown = {"inputs": [[graph["nodes"][0]["id"], "timeline"]], "outputs": [graph["nodes"][0]["id"]]}
    graph["extra"] = {**graph.get("extra", {}), "linearMode": True, "linearData": shown}
    hands.page.load(graph, "app")
    hands.browser.wait_for_selector(".pt-item", timeout=10_000)
    hands.press("Escape")  # the page's own welcome
    hands.focus(1)
    hands.press("ArrowRight")
    assert [item["at"] for item in hands.value()] == [0, 44]
    hands.drag(hands.point(11, LANES["items"]), hands.point(5, LANES["items"]))
    hands.drag(hands.noise(5, 0.3), hands.noise(5, 0.6))
    assert [(item["at"], item["noise"]) for item in hands.value()] == [(0, 0.2), (20, 0.6)]
    hands.browser.evaluate("app.extensionManager.command.execute('Comfy.ToggleLinear')")


def test_the_pack_s_own_samples_are_shown(hands):
    hands.new(items=[{"at": 0, "media": "boat_start.jpg [pusa]"}, {"at": 20, "media": "start_frame.jpg"}])
    hands.browser.wait_for_timeout(500)
    widths = hands.browser.evaluate("[...document.querySelectorAll('.pt-item img')].map(image => image.naturalWidth)")
    assert len(widths) == 2 and all(widths)


def test_words_in_the_user_s_language(page):
    """Those that a language lacks are English."""
    browser = page.browser_page
    german = {"de": {"pusaTimeline": {"noiseOfOne": "Rauschen {from}"}}}
    english = {"en": {"pusaTimeline": {"noiseOfOne": "noise {from}", "fold": "Fold"}}}
    browser.route("**/i18n", lambda route: route.fulfill(json=german | english))
    setting = "([name, value]) => app.extensionManager.setting.set(name, value)"
    browser.evaluate(setting, ["Pusa.Language", "de"])
    words = browser.evaluate(
        f"import('{SCRIPTS}/words.js?german').then(({{t}}) => [t('noiseOfOne', {{from: 0.2}}), t('fold')])"
    )
    browser.evaluate(setting, ["Pusa.Language", "auto"])
    browser.unroute("**/i18n")
    assert words == ["Rauschen 0.2", "Fold"]
