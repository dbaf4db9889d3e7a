"""A workflow, described once as a prompt (nodes, values, wires), as the two files that ComfyUI knows.

What the page needs beyond the prompt (which inputs are sockets, in which order widgets come) is in
definitions/nodes.json, a part of ComfyUI's /object_info; where nodes go is computed here.
"""

from __future__ import annotations

import functools
import json
import re
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
DEFINITIONS = HERE / "definitions" / "nodes.json"
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
PACK = {"cnr_id": "comfyui-pusa", "ver": "0.1.0"}
CORE = {"cnr_id": "comfy-core", "ver": "0.8.0"}
# What newer ComfyUIs have in place of an input of the definitions; older ones leave it unread.
NEWER_INPUTS = {"SaveVideo": {"format.codec": "auto"}}


# --- a workflow as a prompt ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Download:
    """Where a model file comes from, and its folder in ComfyUI's models/."""

    url: str
    folder: str


@dataclass(frozen=True)
class Wire:
    """An output of a node."""

    node: int
    slot: int


@dataclass
class Node:
    """A node of a workflow; `node["name"]` is its output of that name."""

    id: int
    kind: str
    inputs: dict[str, Any]
    title: str
    row: int
    definition: dict[str, Any]

    def __getitem__(self, output: str) -> Wire:
        return Wire(self.id, [name for name, _ in self.definition["outputs"]].index(output))

    @property
    def sockets(self) -> list[str]:
        return [name for name, given in self.definition["inputs"].items() if given["type"] not in WIDGETS]

    @property
    def widgets(self) -> list[str]:
        return [name for name, given in self.definition["inputs"].items() if given["type"] in WIDGETS]


@dataclass
class Workflow:
    """Nodes in the order of their ids, each after those that it takes from."""

    name: str
    downloads: dict[str, Download]
    note: str = ""
    form: list[tuple[Node, str]] = field(default_factory=list)  # the widgets shown when opened as an app
    nodes: list[Node] = field(default_factory=list)

    def add(self, kind: str, title: str = "", row: int = 0, **inputs: Any) -> Node:
        """Adds a node; widgets that are not named get their defaults. row: see `COLUMNS`.

        Raises:
            ValueError: an input does not exist, or one that is needed is missing.
        """
        definition = definitions()[kind]
        unknown = sorted(set(inputs) - set(definition["inputs"]))
        given = {name: inputs.get(name, about.get("default")) for name, about in definition["inputs"].items()}
        missing = [name for name, value in given.items() if value is None and not definition["inputs"][name].get("optional")]
        if unknown or missing:
            raise ValueError(f"{self.name}, {kind}: no input called {unknown}, no value for {missing}")
        present = {name: value for name, value in given.items() if value is not None}
        node = Node(len(self.nodes) + 1, kind, present, title or definition["title"], row, definition)
        self.nodes.append(node)
        return node

    def prompt(self) -> dict[str, dict]:
        """The workflow in ComfyUI's API form."""
        return {str(node.id): _prompt_entry(node) for node in self.nodes}


def _prompt_entry(node: Node) -> dict[str, Any]:
    inputs = {name: [str(v.node), v.slot] if isinstance(v, Wire) else v for name, v in node.inputs.items()}
    inputs |= NEWER_INPUTS.get(node.kind, {})
    return {"class_type": node.kind, "inputs": inputs, "_meta": {"title": node.title}}


# --- definitions -----------------------------------------------------------------------------------------------------


@functools.cache
def definitions() -> dict[str, dict]:
    """The nodes' inputs and outputs, see `trimmed`."""
    return json.loads(DEFINITIONS.read_text(encoding="utf-8"))


def trimmed(info: dict[str, Any]) -> dict[str, Any]:
    """What the builder needs of a node's /object_info: {"title", "inputs": {name: {...}}, "outputs": [[name, type]]}."""
    inputs = {
        name: _trimmed_input(group, *described)
        for group in ("required", "optional")
        for name, described in info["input"].get(group, {}).items()
    }
    outputs = [list(output) for output in zip(info["output_name"], info["output"])]
    return {"title": info["display_name"] or info["name"], "inputs": inputs, "outputs": outputs}


def _trimmed_input(group: str, kind: str | list[str], options: dict[str, Any] | None = None) -> dict[str, Any]:
    options = options or {}
    trimmed: dict[str, Any] = {"type": kind if isinstance(kind, str) else "COMBO"}
    trimmed |= {"default": options["default"]} if "default" in options else {}
    trimmed |= {"optional": True} if group == "optional" else {}
    trimmed |= {"then": "fixed"} if options.get("control_after_generate") else {}
    trimmed |= {"then": "image"} if options.get("image_upload") or options.get("video_upload") else {}
    return trimmed


def read_definitions(address: str) -> None:
    """Rewrites definitions/nodes.json from a running ComfyUI that has this pack."""
    with urllib.request.urlopen(f"{address.rstrip('/')}/object_info") as answer:
        found = json.load(answer)
    kinds = [kind for kinds in PLACES.values() for kind in kinds.split()]
    lines = ",\n".join(f"{json.dumps(kind)}: {json.dumps(trimmed(found[kind]))}" for kind in kinds)
    DEFINITIONS.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8", newline="\n")
    definitions.cache_clear()


# --- the layout ------------------------------------------------------------------------------------------------------

# From left to right. A column holds groups below each other. The columns of one group share rows, which start at the
# same height, so that a picture stands beside the keyframe that it makes.
COLUMNS = (
    (420, ("note",)),
    (400, ("models", "prompt")),
    (300, ("pictures",)),
    (330, ("keyframes",)),
    (600, ("schedule",)),
    (360, ("sampling", "output")),
)
GROUPS = (
    ("Models", ("models",)),
    ("Prompt", ("prompt",)),
    ("Keyframes and schedule", ("pictures", "keyframes", "schedule")),
    ("Sampling", ("sampling",)),
    ("Output", ("output",)),
)
PLACES = {
    "models": "UNETLoader LoraLoaderModelOnly PusaLoraLoader PusaLoraLoaderHighLow CLIPLoader VAELoader",
    "prompt": "CLIPTextEncode PusaDemoPrompt",
    "pictures": "LoadImage LoadVideo GetVideoComponents PusaDemoScene",
    "keyframes": "PusaKeyframe PusaVideoKeyframes PusaKeyframesFromText",
    "schedule": "PusaSchedule",
    "sampling": "PusaKSampler PusaSigmas PusaApplySchedule CFGGuider RandomNoise KSamplerSelect SamplerCustomAdvanced",
    "output": "VAEDecode ImageScaleBy CreateVideo SaveVideo",
}
# Heights where a node has more to show than its inputs: text, pictures, and what later ComfyUIs add.
HEIGHTS = {
    "CLIPTextEncode": 170,
    "PusaDemoPrompt": 170,
    "PusaDemoScene": 260,
    "LoadImage": 320,
    "LoadVideo": 300,
    "GetVideoComponents": 106,
    "PusaSchedule": 720,
    "CreateVideo": 102,
    "SaveVideo": 330,
}
# Title bar; between nodes (the newer renderer's are taller); above, beside and between groups.
TITLE, GAP, HEAD, EDGE, AISLE = 30, 40, 50, 12, 60
ORIGIN = (0, 0)


def place_of(kind: str) -> str:
    return next(place for place, kinds in PLACES.items() if kind in kinds.split())


def height_of(node: Node) -> int:
    """The least height that the page gives a node: rows of sockets, then widgets."""
    rows = max(len(node.sockets), len(node.definition["outputs"]))
    count = len(node.widgets) + sum("then" in node.definition["inputs"][name] for name in node.widgets)
    return max(HEIGHTS.get(node.kind, 0), 6 + 20 * rows + (24 * count + 8 if count else 0))


def layout(workflow: Workflow) -> dict[int, tuple[int, int, int, int]]:
    """Where each node goes: id -> (x, y, width, height), y below its title bar."""
    boxes: dict[int, tuple[int, int, int, int]] = {}
    tops = _row_tops(workflow)
    x = ORIGIN[0]
    for width, places in COLUMNS:
        y, used = ORIGIN[1] + HEAD, places == ("note",)
        for place in places:
            members = [node for node in workflow.nodes if place_of(node.kind) == place]
            row = 0
            for node in members:
                if node.row > row:
                    row, y = node.row, tops[node.row]
                boxes[node.id] = (x, y + TITLE, width, height_of(node))
                y += TITLE + height_of(node) + GAP
            if members:
                used, y = True, y - GAP + EDGE + AISLE // 2 + HEAD
        x += (width + (AISLE if places[-1] not in ("pictures", "keyframes") else AISLE // 2)) if used else 0
    return boxes


def _row_tops(workflow: Workflow) -> list[int]:
    """The height at which each row of pictures and keyframes starts."""
    tops = [ORIGIN[1] + HEAD]
    for row in range(max(node.row for node in workflow.nodes)):
        heights = {"pictures": 0, "keyframes": 0}
        for node in workflow.nodes:
            if node.row == row and place_of(node.kind) in heights:
                heights[place_of(node.kind)] += TITLE + height_of(node) + GAP
        tops.append(tops[-1] + max(heights.values()) + GAP)
    return tops


def groups_of(workflow: Workflow, boxes: dict[int, tuple[int, int, int, int]]) -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = []
    for title, places in GROUPS:
        inside = [boxes[node.id] for node in workflow.nodes if place_of(node.kind) in places]
        if inside:
            left, top = min(b[0] for b in inside) - EDGE, min(b[1] for b in inside) - TITLE - HEAD + EDGE
            right, bottom = max(b[0] + b[2] for b in inside) + EDGE, max(b[1] + b[3] for b in inside) + EDGE
            bounding = [left, top, right - left, bottom - top]
            groups.append({"id": len(groups) + 1, "title": title, "bounding": bounding, "color": "#8fb3c9",
                           "font_size": 24, "flags": {}})  # fmt: skip
    return groups


# --- a workflow as the page saves it ---------------------------------------------------------------------------------


def page_workflow(workflow: Workflow) -> dict[str, Any]:
    """The workflow as ComfyUI's page saves it, version 0.4."""
    boxes = layout(workflow)
    links = [
        [number, wire.node, wire.slot, node.id, slot, node.definition["inputs"][name]["type"]]
        for number, (node, name, slot, wire) in enumerate(_wires(workflow), 1)
    ]
    nodes = [_page_node(node, boxes[node.id], links, workflow.downloads) for node in workflow.nodes]
    return {
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"comfyui-pusa/workflows/{workflow.name}")),
        "revision": 0,
        "last_node_id": len(nodes) + 1,
        "last_link_id": len(links),
        "nodes": [_note_node(workflow, len(nodes) + 1), *nodes],
        "links": links,
        "groups": groups_of(workflow, boxes),
        "config": {},
        "extra": {
            "ds": {"scale": 0.6, "offset": [100, 100]},
            "linearData": {
                "inputs": [[node.id, widget] for node, widget in workflow.form],
                "outputs": [node.id for node in workflow.nodes if node.kind == "SaveVideo"],
            },
        },
        "version": 0.4,
    }


def _wires(workflow: Workflow) -> Iterator[tuple[Node, str, int, Wire]]:
    """(node, input, its place among the sockets, where it comes from) of every connected input."""
    for node in workflow.nodes:
        for slot, name in enumerate([*node.sockets, *node.widgets]):
            if isinstance(node.inputs.get(name), Wire):
                yield node, name, slot, node.inputs[name]


def _page_node(node: Node, box: tuple[int, int, int, int], links: list[list], downloads: dict) -> dict[str, Any]:
    into = {slot: link for link, _, _, target, slot, _ in links if target == node.id}
    entry = {
        "id": node.id,
        "type": node.kind,
        "pos": list(box[:2]),
        "size": list(box[2:]),
        "flags": {},
        "order": node.id,
        "mode": 0,
        "inputs": [_socket(node, name, into.get(slot)) for slot, name in enumerate([*node.sockets, *node.widgets])],
        "outputs": [_output(node, slot, links) for slot in range(len(node.definition["outputs"]))],
        "properties": _properties(node, downloads),
        "widgets_values": _widget_values(node),
    }
    if node.title != node.definition["title"]:
        entry["title"] = node.title
    return entry


def _socket(node: Node, name: str, link: int | None) -> dict[str, Any]:
    given = node.definition["inputs"][name]
    widget = {"widget": {"name": name}} if name in node.widgets else {}
    return {"name": name, "type": given["type"], **({"shape": 7} if given.get("optional") else {}), "link": link, **widget}


def _output(node: Node, slot: int, links: list[list]) -> dict[str, Any]:
    name, kind = node.definition["outputs"][slot]
    out = [link for link, source, from_slot, *_ in links if (source, from_slot) == (node.id, slot)]
    return {"name": name, "type": kind, "links": out or None}


def _widget_values(node: Node) -> list[Any]:
    """In the page's order: some inputs bring a second widget, which follows; one that takes a wire has its default."""
    values = []
    for name in node.widgets:
        value, given = node.inputs[name], node.definition["inputs"][name]
        values.append(given.get("default") if isinstance(value, Wire) else value)
        if "then" in given:
            values.append(given["then"])
    return values


def _properties(node: Node, downloads: dict[str, Download]) -> dict[str, Any]:
    owner = PACK if node.kind.startswith("Pusa") else CORE
    files = [value for value in node.inputs.values() if isinstance(value, str) and value in downloads]
    models = [{"name": name, "url": downloads[name].url, "directory": downloads[name].folder} for name in files]
    return {**owner, "Node name for S&R": node.kind, **({"models": models} if models else {})}


def _note_node(workflow: Workflow, number: int) -> dict[str, Any]:
    shown = re.sub(r"\(https?:[^)]*\)", "", workflow.note)
    lines = sum(1 + len(line) // 66 for line in shown.splitlines())
    return {
        "id": number,
        "type": "MarkdownNote",
        "title": "Read me",
        "pos": [ORIGIN[0], ORIGIN[1] + TITLE + EDGE],
        "size": [COLUMNS[0][0], 60 + 14 * lines],
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": [],
        "outputs": [],
        "properties": dict(CORE),
        "widgets_values": [workflow.note],
        "color": "#432",
        "bgcolor": "#653",
    }


def as_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
