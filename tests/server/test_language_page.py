"""The pack in another language in ComfyUI's real page: every word of it, by catalogues that mark what was translated.

PUSA_FRONTEND=<folder> serves another page, as in test_page.py.
"""

import json
import os
import shutil

import pytest

from environment.comfyui import PACK
from environment.server import ComfyServer, ExecutionFailed, PromptRefused
from languages.compare import ENGLISH, FILES
from tests.server.page import NoBrowser, open_page

MARKS = {"zh": "\u4e2d", "de": "\u00dc"}
# Chinese by the browser, which stands in no setting until the page tells the server; German is none of the page's languages
USERS = {"zh": ({}, "zh-CN"), "de": ({"Pusa.Language": "de"}, "en-US")}
WORDS = """async types => {
  const empty = {nodes: [], links: [], groups: [], config: {}, extra: {}, version: 0.4, last_node_id: 0, last_link_id: 0};
  await app.loadGraphData(empty);
  return types.map(type => {
    const node = LiteGraph.createNode(type);
    app.graph.add(node);
    const shown = slot => slot.label ?? slot.localized_name ?? slot.name;
    const data = node.constructor.nodeData;
    return {
      title: node.title, description: data.description,
      inputs: Object.fromEntries(node.inputs.map(input => [input.name, shown(input)])),
      widgets: Object.fromEntries((node.widgets ?? []).map(widget => [widget.name, widget.label ?? widget.name])),
    };
  });
}"""
OF_THE_PAGE = {"control_after_generate"}


def marked(value, mark):
    """Every text with a mark before it."""
    return {key: marked(v, mark) for key, v in value.items()} if isinstance(value, dict) else f"{mark} {value}"


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The pack with such catalogues, and a help page in each language."""
    kept = ("__init__.py", "pyproject.toml", "nodes", "pusa_core", "demo_model", "web", "locales")
    folder = tmp_path_factory.mktemp("pack") / "pack"
    folder.mkdir()
    for name in kept:
        take = shutil.copytree if (PACK / name).is_dir() else shutil.copy
        take(PACK / name, folder / name)
    for language, mark in MARKS.items():
        other = folder / "locales" / language
        other.mkdir(exist_ok=True)
        for source, target in FILES.items():
            text = json.loads((ENGLISH / source).read_text(encoding="utf-8"))
            (other / target).write_text(json.dumps(marked(text, mark)), encoding="utf-8")
        page = folder / "web" / "docs" / "PusaKeyframe" / f"{language}.md"
        page.parent.mkdir(exist_ok=True)
        page.write_text(f"# {mark} Keyframe\n\n![{mark}](../pictures/schedule.png)\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module", params=sorted(MARKS))
def translated(request, comfyui, copy):
    """(page, server, mark) with a user of this language."""
    settings, locale = USERS[request.param]
    frontend = os.environ.get("PUSA_FRONTEND")
    server = ComfyServer(comfyui, copy, extra_args=("--front-end-root", frontend) if frontend else ())
    path = server.base / "user" / "default" / "comfy.settings.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"Comfy.TutorialCompleted": True, **settings}))
    try:
        with server, open_page(server.address, locale=locale) as page:
            yield page, server, MARKS[request.param]
    except NoBrowser as missing:
        if os.environ.get("PUSA_REQUIRE_COMFYUI") == "1":
            pytest.fail(f"the page was not tested: {missing}")
        pytest.skip(f"the page was not tested: {missing}")


def test_nodes_and_their_inputs(translated):
    page, _, mark = translated
    english = json.loads((ENGLISH / "nodes.json").read_text(encoding="utf-8"))

    for words, shown in zip(english.values(), page.browser_page.evaluate(WORDS, list(english))):
        assert shown["title"] == f"{mark} {words['display_name']}"
        assert shown["description"] == f"{mark} {words['description']}"
        names = {**shown["inputs"], **shown["widgets"]}
        labels = {name: names[name] for name in names if name in words["inputs"] and name not in OF_THE_PAGE}
        assert labels == {name: f"{mark} {words['inputs'][name]['name']}" for name in labels}
        assert len(labels) >= len(words["inputs"]) - 1, shown  # growing inputs have other names
    assert page.errors == []


def test_the_timelines_words(translated):
    page, _, mark = translated
    page.browser_page.evaluate(WORDS, ["PusaTimeline"])
    page.browser_page.wait_for_selector(".pusa-timeline button")
    shown = page.browser_page.locator(".pusa-timeline").first.inner_text()

    words = json.loads((ENGLISH / "main.json").read_text(encoding="utf-8"))["pusaTimeline"]
    assert [words[key] for key in ("imageToVideo", "startEnd", "frame", "noise") if f"{mark} {words[key]}" not in shown] == []


def test_a_tooltip(translated):
    page, _, mark = translated
    english = json.loads((ENGLISH / "nodes.json").read_text(encoding="utf-8"))
    browser = page.browser_page
    browser.evaluate(WORDS, ["PusaKeyframe"])
    x, y = browser.evaluate(
        """() => {
      const [node] = app.graph.nodes, widget = node.widgets.find(w => w.name === "noise_multiplier");
      node.pos = [300, 200]; app.canvas.ds.scale = 1; app.canvas.ds.offset = [0, 0];
      const box = app.canvas.canvas.getBoundingClientRect();
      app.canvas.draw(true, true);
      return [box.x + 300 + node.size[0] / 2, box.y + 200 + (widget.last_y ?? widget.y) + 10];
    }"""
    )
    tooltip = browser.locator(".node-tooltip")
    for _ in range(10):  # a busy page misses a hand that comes to rest at once
        browser.mouse.move(x - 3, y)
        browser.mouse.move(x, y)
        browser.wait_for_timeout(1_000)
        if tooltip.is_visible():
            break
    assert tooltip.inner_text() == f"{mark} {english['PusaKeyframe']['inputs']['noise_multiplier']['tooltip']}"


def test_a_help_page_with_its_picture(translated):
    page, _, mark = translated
    browser = page.browser_page
    browser.evaluate(WORDS, ["PusaKeyframe"])
    browser.evaluate("() => app.canvas.selectItems?.([app.graph.nodes[0]])")
    browser.wait_for_selector('[data-testid="info-button"]', timeout=10_000).evaluate("button => button.click()")
    picture = browser.wait_for_selector(".node-help-content img, .markdown-content img", timeout=10_000)

    assert picture.get_attribute("alt") == mark
    browser.wait_for_function("picture => picture.naturalWidth > 0", arg=picture, timeout=10_000)


def test_an_error_and_a_report(translated):
    page, server, mark = translated
    prompt = {
        "1": {"class_type": "PusaDemoScene", "inputs": {"text": "a red circle", "seed": 1}},
        "2": {"class_type": "PusaKeyframe", "inputs": {
            "image": ["1", 1], "frame_index": 0, "unit": "pixel", "noise_multiplier": 0.2, "behaviour": "evolve",
        }},
        "3": {"class_type": "VAELoader", "inputs": {"vae_name": "pusa_demo_vae.safetensors"}},
        "4": {"class_type": "PusaSchedule", "inputs": {
            "vae": ["3", 0], "width": 64, "height": 64, "length": 17, "batch_size": 1, "resize": "crop",
            "keyframes": ["2", 0],
        }},
        "5": {"class_type": "PreviewAny", "inputs": {"source": ["4", 3]}},
    }  # fmt: skip
    report = server.run(prompt).outputs["5"]["text"][0]
    assert report.startswith(f"{mark} Keyframe 1, {mark} a picture at {mark} pixel frame 0: ")

    prompt["1"]["inputs"]["text"] = "a red square"
    with pytest.raises(ExecutionFailed) as failed:
        server.run(prompt)
    assert failed.value.error["exception_message"].startswith(f'{mark} The demo model does not know the word "square"')

    del prompt["4"]["inputs"]["keyframes"]
    inputs = {**prompt["4"]["inputs"], "length": 7, "timeline": '{"version":1,"items":[]}'}
    with pytest.raises(PromptRefused) as refused:
        server.run({"3": prompt["3"], "4": {"class_type": "PusaTimeline", "inputs": inputs}})
    (fault,) = refused.value.errors["node_errors"]["4"]["errors"]
    assert f"{mark} A length of 7 frames is not 4n+1" in fault["details"]
