"""Writes the English sources of translation, and says what languages lack: python -m languages [zh de ...]"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from environment.comfyui import import_comfyui

from . import LANGUAGES
from .compare import ENGLISH, faults
from .templates import templates


def english() -> dict[str, dict[str, Any]]:
    """The sources by the names of their files; needs an importable ComfyUI."""
    return {"messages.json": {template: template for template in templates()}, "nodes.json": nodes()}


def nodes() -> dict[str, Any]:
    from environment.pack import import_pack

    pack = import_pack()
    listed = asyncio.run(pack.nodes.PusaExtension().get_node_list())
    schemas = [node.define_schema() for node in listed]
    return {schema.node_id: pack.nodes.language.words_of(schema) for schema in schemas}


def as_json(data: dict[str, Any]) -> str:
    return json.dumps(data, ensure_ascii=False, indent=2) + "\n"


def main() -> None:
    import_comfyui(cpu=True)
    ENGLISH.mkdir(parents=True, exist_ok=True)
    for name, data in english().items():
        (ENGLISH / name).write_text(as_json(data), encoding="utf-8", newline="\n")
    sys.exit("\n".join(line for language in sys.argv[1:] or LANGUAGES for line in faults(language)))


if __name__ == "__main__":
    main()
