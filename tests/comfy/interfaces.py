"""What saved workflows rely on: every node's inputs and outputs, in interfaces.json.

`python -m tests.comfy.interfaces` writes the file, unless workflows that were made before would lose something.
"""

from __future__ import annotations

import asyncio
import json
import math
import sys
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_suffix(".json")
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
KEPT = ("optional", "default", "min", "max", "control_after_generate")
OURS_AMONG_COMFYUIS = {"sampler": [], "scheduler": ["pusa"]}  # whose other options are not ours to keep


def saved() -> dict[str, Any]:
    return json.loads(FILE.read_text(encoding="utf-8"))


def interfaces(pack: Any) -> dict[str, Any]:
    """By node: inputs by name in their order, and [type, name] of each output."""
    schemas = [node.define_schema() for node in asyncio.run(pack.nodes.PusaExtension().get_node_list())]
    return {
        schema.node_id: {
            "inputs": {entry.id: _input(entry) for entry in schema.inputs},
            "outputs": [[output.io_type, output.display_name] for output in schema.outputs],
        }
        for schema in sorted(schemas, key=lambda schema: schema.node_id)
    }


def _input(entry: Any) -> dict[str, Any]:
    described = entry.as_dict()
    kept = {"type": entry.io_type} | {key: described[key] for key in KEPT if described.get(key) is not None}
    if entry.io_type == "COMBO" and "default" in described:  # without one, they are files
        kept["options"] = OURS_AMONG_COMFYUIS.get(entry.id, described["options"])
    if hasattr(entry, "template"):
        kept["names"] = entry.template.names
    return kept


def losses(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    """A sentence for everything that a workflow made with the old interfaces loses with the new ones."""
    for name, node in old.items():
        if name not in new:
            yield f"{name} is gone: workflows that have it show a missing node. Keep it, with is_deprecated=True."
            continue
        yield from _lost_inputs(name, node["inputs"], new[name]["inputs"])
        yield from _lost_outputs(name, node["outputs"], new[name]["outputs"])


def _lost_inputs(node: str, old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    for name, entry in old.items():
        if name not in new:
            yield (
                f"{node} has no input {name} any more: workflows lose what they set or connect there. Keep its id; what "
                "people read is display_name."
            )
        else:
            yield from (f"{node}.{name} {loss}" for loss in _lost_values(entry, new[name]))
    for name in new.keys() - old.keys():
        if not new[name].get("optional"):
            yield f"{node}.{name} is new and must be given: API prompts made before are refused. Make it optional."
    widgets = [name for name in old if _is_widget(old[name])]
    now = [name for name in new if _is_widget(new[name])]
    if now[: len(widgets)] != widgets and set(widgets) <= set(now):
        yield (
            f"{node} has its widgets in another order, {', '.join(now)} for {', '.join(widgets)}: the page's workflows keep "
            "values by position, which then land in the wrong widgets. Add new ones behind all others."
        )


def _is_widget(entry: dict[str, Any]) -> bool:
    return entry["type"] in WIDGETS


def _lost_values(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    if new["type"] != old["type"]:
        yield f"is {new['type']}, but was {old['type']}: its links are cut and its values refused. Add another input instead."
    if old.get("optional") and not new.get("optional"):
        yield "must be given now: API prompts without it are refused. Leave it optional."
    if gone := [option for option in old.get("options", []) if option not in new.get("options", [])]:
        yield f"does not offer {', '.join(gone)} any more: workflows that chose it are refused. Keep the option."
    (low, high), (lowest, highest) = _range(new), _range(old)
    if low > lowest or high < highest:
        yield (
            f"takes {low} to {high}, but took {lowest} to {highest}: workflows with other values are refused. Leave the "
            "range, and say in execute what does not work."
        )
    if new.get("control_after_generate") != old.get("control_after_generate"):
        yield "gets or loses its control_after_generate, which is a widget: all values behind it move by one. Leave it."
    if gone := [name for name in old.get("names", []) if name not in new.get("names", [])]:
        yield f"does not grow by {', '.join(gone)} any more: their links are cut. Leave the names."


def _range(entry: dict[str, Any]) -> tuple[float, float]:
    return entry.get("min", -math.inf), entry.get("max", math.inf)


def _lost_outputs(node: str, old: list[list[str]], new: list[list[str]]) -> Iterator[str]:
    for number, (before, now) in enumerate(zip_longest(old, new)):
        if before is not None and before != now:
            yield (
                f"{node}'s output {number} is {now and ' '.join(now)}, but was {' '.join(before)}: workflows link outputs by "
                "number and show their names. Leave it, and add new ones behind all others."
            )


def main() -> None:
    from environment.comfyui import import_comfyui
    from environment.pack import import_pack

    import_comfyui(cpu=True)
    now = interfaces(import_pack())
    if FILE.exists() and (lost := [*losses(saved(), now)]):
        sys.exit("\n".join([*lost, "Nothing was written."]))
    FILE.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
