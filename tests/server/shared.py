"""The shared workflows: their names, titles and files."""

from __future__ import annotations

import json
import sys
from functools import cache
from typing import Any

from environment.comfyui import PACK

WORKFLOWS = PACK / "workflows"
path = list(sys.path)
sys.path.insert(0, str(WORKFLOWS))
try:
    import catalogue
    import demo
    import layout
    import litegraph
finally:
    sys.path[:] = path  # these add the pack's folder, whose "nodes" is not ComfyUI's

TITLES = {describe.__name__: title for describe, title in catalogue.TITLES.items()}
LONG = [name for name in TITLES if name.endswith("long_video")]
LOOPS = [name for name in TITLES if name.endswith("loop")]
COMPARED = [name for name in TITLES if name.endswith("compare_samplers")]
# with other models than a Wan and its Pusa LoRA
OTHERS = [name for name in TITLES if (name.startswith("skyreels") and name not in LONG) or "_5b_" in name]
NAMES = [name for name in TITLES if name.startswith("wan") and name not in (*LONG, *LOOPS, *OTHERS, *COMPARED)]
# with the pack's own model
DEMOS = [name for name in TITLES if name.startswith("demo") and name not in (*LONG, *LOOPS, *COMPARED)]
RELEASED = PACK / "tests" / "server" / "released"  # workflows as they were saved before there was a timeline
PREVIEW = 320  # pixels that a sampler grows by

__all__ = [
    "COMPARED",
    "DEMOS",
    "LONG",
    "LOOPS",
    "NAMES",
    "OTHERS",
    "PREVIEW",
    "RELEASED",
    "TITLES",
    "WORKFLOWS",
    "demo",
    "layout",
    "litegraph",
]


@cache
def read(path: str) -> Any:
    return json.loads((WORKFLOWS / path).read_text(encoding="utf-8"))


def graph_of(name: str) -> dict[str, Any]:
    return read(f"{TITLES[name]}.json")


def released(path: str) -> Any:
    return json.loads((RELEASED / path).read_text(encoding="utf-8"))


def api_of(name: str) -> dict[str, Any]:
    return read(f"api/{name}.json")


# --- where things are ------------------------------------------------------------------------------------------------


def saved_boxes(graph: dict[str, Any], preview: int = PREVIEW) -> dict[int, tuple[float, ...]]:
    """left, top (of the title), right, bottom of every node, with the room that a sampler's preview takes."""
    grows = ("PusaKSampler", "SamplerCustomAdvanced")
    return {
        node["id"]: (x, y - layout.TITLE, x + width, y + height + preview * (node["type"] in grows))
        for node in graph["nodes"]
        for (x, y), (width, height) in [(node["pos"], node["size"])]
    }


def saved_curves(graph: dict[str, Any]) -> list[tuple[int, int, list[tuple[float, float]]]]:
    """(source id, target id, points) of every link; sockets are 20 pixels apart."""
    nodes = {node["id"]: node for node in graph["nodes"]}
    curves = []
    for _, source, out, target, into, _ in graph["links"]:
        (x, y), (right, _) = nodes[source]["pos"], nodes[source]["size"]
        end = nodes[target]["pos"]
        curves.append((source, target, curve((x + right, y + 14 + 20 * out), (end[0], end[1] + 14 + 20 * into))))
    return curves


def curve(start, end, points: int = 60) -> list[tuple[float, float]]:
    """A link as the page draws it: a Bezier curve that leaves to the right and comes from the left, each handle a quarter
    of the distance long."""
    reach = 0.25 * ((end[0] - start[0]) ** 2 + (end[1] - start[1]) ** 2) ** 0.5
    steps = [i / points for i in range(points + 1)]
    xs = (start[0], start[0] + reach, end[0] - reach, end[0])
    ys = (start[1], start[1], end[1], end[1])
    return [(_bezier(xs, t), _bezier(ys, t)) for t in steps]


def _bezier(p, t: float) -> float:
    return p[0] * (1 - t) ** 3 + 3 * p[1] * t * (1 - t) ** 2 + 3 * p[2] * t**2 * (1 - t) + p[3] * t**3


def overlaps(boxes: dict[int, tuple[float, ...]]) -> list[tuple[int, int]]:
    """Ids of nodes that lie on each other."""
    return [
        (one, other)
        for one, a in boxes.items()
        for other, b in boxes.items()
        if one < other and a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
    ]


def links_under_nodes(boxes, curves) -> set[tuple[int, int, int]]:
    """(source, target, node) of every link that runs under a node which it does not belong to."""
    return {
        (source, target, node)
        for source, target, points in curves
        for node, (left, top, right, bottom) in boxes.items()
        if node not in (source, target) and any(left < x < right and top < y < bottom for x, y in points)
    }
