"""The shared workflows in ComfyUI's real page.

The page is the one that the ComfyUI under test serves; PUSA_FRONTEND=<folder> serves another (a `static` folder of
the comfyui-frontend-package that an older ComfyUI asks for).
"""

import json
import os
import re
import shutil
import warnings
from itertools import combinations
from pathlib import Path

import pytest

from demo_model import MODELS
from environment.comfyui import PACK
from tests.server.page import NoBrowser, open_page
from tests.server.stand_in import WEIGHTS

WORKFLOWS = PACK / "workflows"
NAMES = sorted(path.stem for path in WORKFLOWS.glob("*.json"))


def read(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def page(server, comfyui):
    from environment.server import ComfyServer
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
    for name in NAMES:
        for node in read(WORKFLOWS / f"{name}.json")["nodes"]:
            for model in node["properties"].get("models", []):
                path = base / "models" / model["directory"] / model["name"]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()


def test_there_are_workflows():
    assert len(NAMES) == 17
    assert sorted(path.stem for path in (WORKFLOWS / "api").glob("*.json")) == NAMES


def test_the_page_lists_them_as_templates(server):
    from environment.server import PACK_NAME

    assert sorted(server.get("/workflow_templates")[PACK_NAME]) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_workflow_in_the_page(page, name):
    graph, api = read(WORKFLOWS / f"{name}.json"), read(WORKFLOWS / "api" / f"{name}.json")
    page.errors.clear()
    loaded = page.load(graph, name)
    prompt = page.prompt()

    assert [node["type"] for node in loaded["nodes"] if not node["known"]] == []
    assert sorted(loaded["wires"]) == sorted(wires(graph))
    assert sorted(prompt) == sorted(api)
    for key, node in api.items():
        assert prompt[key]["class_type"] == node["class_type"]
        same_inputs(prompt[key], node, key)
    for node in graph["nodes"]:
        shown = next(n for n in loaded["nodes"] if n["id"] == node["id"])["widgets"]
        assert list(shown.values())[: len(node["widgets_values"])] == node["widgets_values"], node["type"]
    assert overlaps(loaded["nodes"]) == []
    assert page.errors == []


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
    known = read(WORKFLOWS / "definitions" / "nodes.json")[node["class_type"]]["inputs"]
    extra = {name for name in page_node["inputs"] if name not in known}
    assert not (extra and node["class_type"].startswith("Pusa")), f"node {key}: {extra}"
    shown = {name: value for name, value in page_node["inputs"].items() if name in known or name in node["inputs"]}
    ours = {name: value for name, value in node["inputs"].items() if name in known or name in shown}
    assert shown == ours, f"{node['class_type']} {key}"


def overlaps(nodes):
    """Titles of nodes that lie on each other."""
    return [
        (a["title"], b["title"])
        for a, b in combinations(nodes, 2)
        if a["box"][0] < b["box"][2] and b["box"][0] < a["box"][2]
        and a["box"][1] < b["box"][3] and b["box"][1] < a["box"][3]
    ]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_note_names_every_file(name):
    """The note and the page's download offers name exactly the model files that the nodes load and the pack lacks."""
    graph, api = read(WORKFLOWS / f"{name}.json"), read(WORKFLOWS / "api" / f"{name}.json")
    loaded = {v for node in api.values() for v in node["inputs"].values() if isinstance(v, str) and WEIGHTS.search(v)}
    loaded -= {path.name for path in MODELS.rglob("*")}
    assert bool(loaded) != name.startswith("demo")
    offered = {model["name"] for node in graph["nodes"] for model in node["properties"].get("models", [])}
    note = next(node for node in graph["nodes"] if node["type"] == "MarkdownNote")["widgets_values"][0]
    assert offered == loaded
    assert set(re.findall(r"\[([^\]]+)\]\(https:", note)) == loaded
