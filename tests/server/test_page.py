"""The shared workflows in ComfyUI's real page.

The page is the one that the ComfyUI under test serves; PUSA_FRONTEND=<folder> serves another (a `static` folder of
the comfyui-frontend-package that an older ComfyUI asks for).
"""

import base64
import json
import os
import re
import shutil
import warnings
from pathlib import Path

import pytest
import torch

from demo_model import MODELS
from environment.server import PACK_NAME, ComfyServer
from pusa_core.video_files import VideoWriter
from tests.server.page import EMPTY, READ_GRAPH, NoBrowser, open_page
from tests.server.shared import (
    RELEASED,
    TITLES,
    WORKFLOWS,
    api_of,
    curve,
    graph_of,
    links_under_nodes,
    overlaps,
    read,
    released,
)
from tests.server.stand_in import WEIGHTS

DROPPED = """([name, data]) => {
  const bytes = Uint8Array.from(atob(data), letter => letter.charCodeAt(0));
  return app.handleFile(new File([bytes], name, {type: "video/mp4"}));
}"""


@pytest.fixture(scope="module")
def page(server, comfyui):
    from tests.server.conftest import write_demos

    frontend = os.environ.get("PUSA_FRONTEND")
    try:
        if not frontend:
            add_inputs(server.base, comfyui)
            with open_page(server.address) as page:
                yield page
            return
        own = ComfyServer(comfyui, extra_args=("--front-end-root", frontend))
        write_demos(own.base / "input")
        add_inputs(own.base, comfyui)
        with own, open_page(own.address) as page:
            yield page
    except NoBrowser as missing:
        if os.environ.get("PUSA_REQUIRE_COMFYUI") == "1":
            pytest.fail(f"the page was not tested: {missing}")
        warnings.warn(f"THE PAGE WAS NOT TESTED: {missing}", stacklevel=1)
        pytest.skip(f"the page was not tested: {missing}")


def add_inputs(base: Path, comfyui: Path) -> None:
    """Every file that a workflow names, empty where it is a model: only the page is tested here."""
    shutil.copyfile(comfyui / "input" / "example.png", base / "input" / "example.png")
    for name in TITLES:
        for node in graph_of(name)["nodes"]:
            for model in node["properties"].get("models", []):
                path = base / "models" / model["directory"] / model["name"]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()


def test_there_are_workflows():
    assert len(TITLES) >= 25
    assert {path.stem for path in (WORKFLOWS / "api").glob("*.json")} == set(TITLES)


def test_the_page_lists_them_as_templates(server):
    """In the file system's order, which no name decides everywhere."""
    listed = server.get("/workflow_templates")[PACK_NAME]
    assert sorted(listed) == sorted(TITLES.values())


def test_sorted_by_name_those_that_need_no_download_lead(page):
    """Sorted as a user does it: the page reads its setting only once."""
    browser = page.browser_page
    browser.evaluate("app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    browser.get_by_text(PACK_NAME, exact=True).first.click()
    cards = browser.locator("[data-testid^='template-workflow-']")
    cards.filter(has_text="no download").first.wait_for()
    browser.get_by_role("combobox").last.click()
    browser.get_by_role("option", name="A \u2192 Z").click()
    free = sorted(title for title in TITLES.values() if "no download" in title)
    browser.wait_for_function(
        "([selector, title]) => document.querySelector(selector)?.dataset.testid.endsWith(title)",
        arg=["[data-testid^='template-workflow-']", free[0]],
    )
    shown = [card.get_attribute("data-testid").removeprefix("template-workflow-") for card in cards.all()]
    browser.keyboard.press("Escape")
    assert shown[: len(free)] == free and len(shown) > len(free), "the page shows more when one scrolls"


def opened(page, graph, api, name):
    """(graph as the page has it, its prompt): all nodes are known, and wires and kinds are those of the files."""
    page.forget_errors()
    loaded, prompt = page.load(graph, name), page.prompt()
    assert [node["type"] for node in loaded["nodes"] if not node["known"]] == []
    assert sorted(loaded["wires"]) == sorted(wires(graph))
    assert {key: node["class_type"] for key, node in prompt.items()} == {key: node["class_type"] for key, node in api.items()}
    return loaded, prompt


def test_a_video_of_a_rolling_window_opens_its_workflow(page, tmp_path):
    """Dropped on the page, as other videos do; it is written in fragments."""
    graph, path = graph_of("demo_loop"), tmp_path / "loop.mp4"
    with VideoWriter(path, 8, tags={"workflow": json.dumps(graph), "prompt": json.dumps(api_of("demo_loop"))}) as writer:
        writer.write(torch.zeros(9, 64, 64, 3))
    page.load(EMPTY)
    page.browser_page.evaluate(DROPPED, [path.name, base64.b64encode(path.read_bytes()).decode()])
    page.browser_page.wait_for_function(f"app.graph.nodes.length === {len(graph['nodes'])}")
    assert sorted(page.browser_page.evaluate(READ_GRAPH)["wires"]) == sorted(wires(graph))


@pytest.mark.parametrize("name", TITLES)
def test_workflow_in_the_page(page, name):
    graph, api = graph_of(name), api_of(name)
    loaded, prompt = opened(page, graph, api, name)
    for key, node in api.items():
        same_inputs(prompt[key], node, key)
    for node in graph["nodes"]:
        shown = next(n for n in loaded["nodes"] if n["id"] == node["id"])["widgets"]
        assert list(shown.values())[: len(node["widgets_values"])] == node["widgets_values"], node["type"]
    assert overlaps(boxes_of(loaded)) == []
    assert page.errors == []


@pytest.mark.parametrize("name", sorted(path.stem for path in RELEASED.glob("*.json")))
def test_a_workflow_of_an_earlier_version_in_the_page(page, name):
    """Every value lands in the widget that it was saved from."""
    api = released(f"api/{name}.json")
    _, prompt = opened(page, released(f"{name}.json"), api, name)
    for key, node in api.items():
        if node["class_type"].startswith("Pusa"):  # ComfyUI's own change with its versions
            assert {name: prompt[key]["inputs"].get(name) for name in node["inputs"]} == node["inputs"], node["class_type"]
    assert page.errors == []


@pytest.mark.parametrize("newer", [False, True], ids=["canvas", "nodes 2.0"])
@pytest.mark.parametrize("name", ["demo_start_end", "demo_extension"])
def test_nothing_lies_on_or_under_a_node_after_a_run(page, name, newer):
    """The preview and the video's player are there."""
    browser = page.browser_page
    browser.evaluate("on => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)", newer)
    page.load(graph_of(name), name)
    browser.evaluate("app.queuePrompt(0)")
    browser.wait_for_function("app.graph.nodes.find(node => node.type === 'SaveVideo').videoContainer || "
                              "document.querySelector('video')", timeout=60_000)  # fmt: skip
    browser.wait_for_timeout(500)
    boxes = boxes_of(browser.evaluate(READ_GRAPH))
    links = [(source, target, curve(start, end)) for source, target, start, end in browser.evaluate(READ_LINKS)]
    browser.evaluate("app.extensionManager.setting.set('Comfy.VueNodes.Enabled', false)")
    assert overlaps(boxes) == []
    assert links_under_nodes(boxes, links) == set()


READ_LINKS = """() => app.graph.nodes.flatMap(node => (node.inputs ?? []).flatMap((input, slot) => {
  const link = input.link != null && (app.graph.links.get?.(input.link) ?? app.graph.links[input.link]);
  const source = link && app.graph.getNodeById(link.origin_id);
  if (!source) return [];
  const ends = [source.getConnectionPos(false, link.origin_slot), node.getConnectionPos(true, slot)];
  return [[Number(source.id), Number(node.id), ...ends.map(end => [...end])]];
}))"""


def boxes_of(loaded):
    return {node["id"]: node["box"] for node in loaded["nodes"]}


def wires(graph):
    """A graph file's links by name: [source id, output, target id, input]."""
    nodes = {node["id"]: node for node in graph["nodes"]}
    return [
        [source, nodes[source]["outputs"][out]["name"], target, nodes[target]["inputs"][into]["name"]]
        for _, source, out, target, into, _ in graph["links"]
    ]


def same_inputs(page_node, node, key):
    """The page's inputs are the file's; a newer ComfyUI's own nodes may have more, which then have their defaults. So
    may the file, for those that run it without a page."""
    known = read("definitions/nodes.json")[node["class_type"]]["inputs"]
    extra = {name for name in page_node["inputs"] if name not in known}
    assert not (extra and node["class_type"].startswith("Pusa")), f"node {key}: {extra}"
    shown = {name: value for name, value in page_node["inputs"].items() if name in known or name in node["inputs"]}
    ours = {name: value for name, value in node["inputs"].items() if name in known or name in shown}
    assert shown == ours, f"{node['class_type']} {key}"


@pytest.mark.parametrize("name", TITLES)
def test_note_names_every_file(name):
    """The note and the page's download offers name exactly the model files that the nodes load and the pack lacks."""
    graph, api = graph_of(name), api_of(name)
    loaded = {v for node in api.values() for v in node["inputs"].values() if isinstance(v, str) and WEIGHTS.search(v)}
    loaded -= {path.name for path in MODELS.rglob("*")}
    assert bool(loaded) != name.startswith("demo")
    offered = {model["name"] for node in graph["nodes"] for model in node["properties"].get("models", [])}
    note = next(node for node in graph["nodes"] if node["type"] == "MarkdownNote")["widgets_values"][0]
    assert offered == loaded
    assert set(re.findall(r"\[([^\]]+)\]\(https:", note)) == loaded
