"""A workflow, described once as a prompt (nodes, values, wires), as the two files that ComfyUI knows.

What the page needs beyond the prompt (which inputs are sockets, in which order widgets come) is in
definitions/nodes.json, a part of ComfyUI's /object_info; where nodes go is computed in layout.py.
"""

from __future__ import annotations

import functools
import json
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from layout import KINDS, Box, layout, note_box, view

HERE = Path(__file__).resolve().parent
DEFINITIONS = HERE / "definitions" / "nodes.json"
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
GROWING = "COMFY_AUTOGROW_V3"
PACK = {"cnr_id": "comfyui-pusa", "ver": "0.1.0"}
CORE = {"cnr_id": "comfy-core", "ver": "0.8.0"}
# What newer ComfyUIs have in place of an input of the definitions; older ones leave it unread.
NEWER_INPUTS = {"SaveVideo": {"format.codec": "auto"}}
COLOURS = {"Prompt": {"color": "#232", "bgcolor": "#353"}, "Negative prompt": {"color": "#322", "bgcolor": "#533"}}
# What the app calls the inputs that it shows.
LABELS = {
    "timeline": "Pictures and clips",
    "length": "Frames",
    "file": "Clip",
    "noise": "Noise by frame",
    "seed": "Seed",
    "noise_seed": "Seed",
    "steps": "Steps",
}


# --- a workflow as a prompt ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Download:
    """Where a model file comes from, and its folder in ComfyUI's models/."""

    url: str
    folder: str


@dataclass(frozen=True)
class Wire:
    """An output of a node; `value` is what a widget that takes it shows."""

    node: int
    slot: int
    value: Any = None


@dataclass
class Node:
    """A node of a workflow; `node["name"]` is its output of that name."""

    id: int
    kind: str
    inputs: dict[str, Any]
    title: str
    definition: dict[str, Any]

    def __getitem__(self, output: str) -> Wire:
        return Wire(self.id, [name for name, _ in self.definition["outputs"]].index(output))

    @property
    def sockets(self) -> list[str]:
        named = ((name, given) for name, given in self.definition["inputs"].items() if given["type"] not in WIDGETS)
        return [socket for name, given in named for socket in self._grown(name, given)]

    @property
    def widgets(self) -> list[str]:
        return [name for name, given in self.definition["inputs"].items() if given["type"] in WIDGETS]

    def _grown(self, name: str, given: dict[str, Any]) -> list[str]:
        """A growing input has a free socket after its connected ones, in the page as in its files."""
        if given["type"] != GROWING:
            return [name]
        connected = sum(key.startswith(f"{name}.") for key in self.inputs)
        return [f"{name}.{one}" for one in given["names"][: connected + 1]]

    def about(self, name: str) -> dict[str, Any]:
        """The definition of an input, or of one that it has grown."""
        inputs = self.definition["inputs"]
        return inputs[name] if name in inputs else {"type": inputs[name.split(".")[0]]["grows"], "optional": True}


@dataclass
class Workflow:
    """Nodes in the order of their ids, each after those that it takes from."""

    name: str
    downloads: dict[str, Download]
    note: str = ""
    form: list[tuple[Node, str]] = field(default_factory=list)  # the widgets shown when opened as an app
    nodes: list[Node] = field(default_factory=list)
    title: str = ""  # what people read: the file's name

    def add(self, kind: str, title: str = "", **inputs: Any) -> Node:
        """Adds a node; widgets that are not named get their defaults. What a growing input takes is named as in a prompt:
        `**{"images.image1": wire}`.

        Raises:
            ValueError: an input does not exist, or one that is needed is missing.
        """
        definition = definitions()[kind]
        about = definition["inputs"]
        unknown = sorted(name for name in inputs if name not in about and not _grows(definition, name))
        given = {name: described.get("default") for name, described in about.items()} | inputs
        missing = [
            name for name, value in given.items() if value is None and name in about and not about[name].get("optional")
        ]
        if unknown or missing:
            raise ValueError(f"{self.name}, {kind}: no input called {unknown}, no value for {missing}")
        present = {name: value for name, value in given.items() if value is not None}
        node = Node(len(self.nodes) + 1, kind, present, title or definition["title"], definition)
        self.nodes.append(node)
        return node

    def prompt(self) -> dict[str, dict]:
        """The workflow in ComfyUI's API form."""
        return {str(node.id): _prompt_entry(node) for node in self.nodes}


def _grows(definition: dict[str, Any], name: str) -> bool:
    owner, _, one = name.partition(".")
    return one in definition["inputs"].get(owner, {}).get("names", ())


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
    return trimmed | (_trimmed_growth(options["template"]) if kind == GROWING else {})


def _trimmed_growth(template: dict[str, Any]) -> dict[str, Any]:
    [(kind, *_)] = template["input"]["required"].values()
    return {"grows": kind, "names": template["names"]}


def read_definitions(address: str) -> None:
    """Rewrites definitions/nodes.json from a running ComfyUI that has this pack; what it lacks stays as it was."""
    with urllib.request.urlopen(f"{address.rstrip('/')}/object_info") as answer:
        found = json.load(answer)
    known = {kind: trimmed(found[kind]) if kind in found else definitions()[kind] for kind in KINDS}
    lines = ",\n".join(f"{json.dumps(kind)}: {json.dumps(about)}" for kind, about in known.items())
    DEFINITIONS.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8", newline="\n")
    definitions.cache_clear()


# --- a workflow as the page saves it ---------------------------------------------------------------------------------


def page_workflow(workflow: Workflow) -> dict[str, Any]:
    """The workflow as ComfyUI's page saves it, version 0.4."""
    boxes, links = layout(workflow), page_links(workflow)
    nodes = [page_node(node, boxes[node.id], links, workflow) for node in workflow.nodes]
    return {
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"comfyui-pusa/workflows/{workflow.name}")),
        "revision": 0,
        "last_node_id": len(nodes) + 1,
        "last_link_id": len(links),
        "nodes": [_note_node(workflow, len(nodes) + 1, note_box(boxes)), *nodes],
        "links": links,
        "groups": [],
        "config": {},
        "extra": {
            "ds": view(boxes),
            "linearData": {
                "inputs": [[node.id, widget] for node, widget in workflow.form],
                "outputs": [node.id for node in workflow.nodes if node.kind in ("SaveVideo", "PusaLongVideo", "PusaLoop")],
            },
        },
        "version": 0.4,
    }


def page_links(workflow: Workflow) -> list[list]:
    """[number, source, its output, target, its input, type] of every connected input."""
    return [
        [number, wire.node, wire.slot, node.id, slot, node.about(name)["type"]]
        for number, (node, name, slot, wire) in enumerate(_wires(workflow), 1)
    ]


def _wires(workflow: Workflow) -> Iterator[tuple[Node, str, int, Wire]]:
    """(node, input, its place among the sockets, where it comes from) of every connected input."""
    for node in workflow.nodes:
        for slot, name in enumerate([*node.sockets, *node.widgets]):
            if isinstance(node.inputs.get(name), Wire):
                yield node, name, slot, node.inputs[name]


def page_node(node: Node, box: Box, links: list[list], workflow: Workflow) -> dict[str, Any]:
    into = {slot: link for link, _, _, target, slot, _ in links if target == node.id}
    shown = [widget for owner, widget in workflow.form if owner is node]
    entry = {
        "id": node.id,
        "type": node.kind,
        "pos": list(box[:2]),
        "size": list(box[2:]),
        "flags": {},
        "order": node.id,
        "mode": 0,
        "inputs": [_socket(node, name, into.get(slot), shown) for slot, name in enumerate([*node.sockets, *node.widgets])],
        "outputs": [_output(node, slot, links) for slot in range(len(node.definition["outputs"]))],
        "properties": _properties(node, workflow.downloads),
        "widgets_values": _widget_values(node),
        **COLOURS.get(node.title, {}),
    }
    if node.title != node.definition["title"]:
        entry["title"] = node.title
    return entry


def _socket(node: Node, name: str, link: int | None, shown: list[str]) -> dict[str, Any]:
    """A socket as saved; its label is what the app and the node call it."""
    given = node.about(name)
    label = {"label": LABELS.get(name, node.title)} if name in shown else {"label": name.split(".")[1]} if "." in name else {}
    entry = {"name": name, **label, "type": given["type"], **({"shape": 7} if given.get("optional") else {}), "link": link}
    return {**entry, "widget": {"name": name}} if name in node.widgets else entry


def _output(node: Node, slot: int, links: list[list]) -> dict[str, Any]:
    name, kind = node.definition["outputs"][slot]
    out = [link for link, source, from_slot, *_ in links if (source, from_slot) == (node.id, slot)]
    return {"name": name, "type": kind, "links": out or None}


def _widget_values(node: Node) -> list[Any]:
    """In the page's order: some inputs bring a second widget, which follows; one that takes a wire has its default."""
    values = []
    for name in node.widgets:
        given = node.definition["inputs"][name]
        values.append(_shown(node.inputs[name], given))
        if "then" in given:
            values.append(given["then"])
    return values


def _shown(value: Any, given: dict[str, Any]) -> Any:
    if not isinstance(value, Wire):
        return value
    return given.get("default") if value.value is None else value.value


def _properties(node: Node, downloads: dict[str, Download]) -> dict[str, Any]:
    owner = PACK if node.kind.startswith("Pusa") else CORE
    files = [value for value in _widget_values(node) if isinstance(value, str) and value in downloads]
    models = [{"name": name, "url": downloads[name].url, "directory": downloads[name].folder} for name in files]
    return {**owner, "Node name for S&R": node.kind, **({"models": models} if models else {})}


def _note_node(workflow: Workflow, number: int, box: Box) -> dict[str, Any]:
    return {
        "id": number,
        "type": "MarkdownNote",
        "title": "Read me",
        "pos": list(box[:2]),
        "size": list(box[2:]),
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
