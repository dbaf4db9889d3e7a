"""The user's language: where ComfyUI keeps it, and the nodes' own words in it.

ComfyUI's page translates nodes by locales/<language>/nodeDefs.json into the languages that it has itself. In one that it
lacks, such as German, or where Pusa's own setting differs from the page's, the nodes come translated from here.
"""

from __future__ import annotations

import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import folder_paths
from aiohttp import web
from comfy_api.latest import io

from ..pusa_core.messages import ENGLISH, LOCALES, VARIABLE, find_language
from .server import running_server

PACK = Path(__file__).parents[1]
OWN, AUTO = "Pusa.Language", "auto"  # the pack's setting in the page, and its value where the page's language counts
SETTINGS = (OWN, "Comfy.Locale", "Pusa.PageLanguage")  # the last is what the page shows by itself: see web/language.js


def users_language() -> str:
    """The language tag in the settings of ComfyUI's page; with --multi-user nobody's, so English."""
    settings = _settings()
    return next((value for key in SETTINGS if isinstance(value := settings.get(key, AUTO), str) and value != AUTO), ENGLISH)


def chosen_language() -> str:
    """The language that was chosen for this pack, whatever the page's is; English where none was."""
    return find_language(os.environ.get(VARIABLE) or str(_settings().get(OWN, AUTO)))


def _settings() -> dict[str, Any]:
    path = Path(folder_paths.get_public_user_directory("default") or "", "comfy.settings.json")
    try:
        return _read(path, path.stat().st_mtime_ns)
    except (OSError, ValueError):  # none yet, or being written
        return {}


@lru_cache(maxsize=1)
def _read(path: Path, _changed: int) -> dict[str, Any]:
    settings = json.loads(path.read_text(encoding="utf-8"))
    return settings if isinstance(settings, dict) else {}


# --- the nodes' words -------------------------------------------------------------------------------------------------


def words_of(schema: io.Schema) -> dict[str, Any]:
    """What a node says of itself, as nodeDefs.json has it."""
    return {
        "display_name": schema.display_name,
        "description": schema.description,
        "inputs": {entry.id: _entry(entry.display_name or entry.id, entry.tooltip) for entry in schema.inputs},
        "outputs": {str(i): _entry(entry.display_name, entry.tooltip) for i, entry in enumerate(schema.outputs)},
    }


def _entry(name: str, tooltip: str | None) -> dict[str, str]:
    return {"name": name, "tooltip": tooltip} if tooltip else {"name": name}


def translate(schema: io.Schema, words: dict[str, Any]) -> io.Schema:
    """The schema in other words; outputs keep their names, by which workflows know them."""
    schema.display_name, schema.description = words["display_name"], words["description"]
    for entry in schema.inputs:
        said = words["inputs"][entry.id]
        entry.display_name, entry.tooltip = said["name"], said.get("tooltip")
    for number, output in enumerate(schema.outputs):
        output.tooltip = words["outputs"][str(number)].get("tooltip")
    return schema


def speaking(node: type[io.ComfyNode]) -> type[io.ComfyNode]:
    """A node that describes itself in the chosen language."""

    class Speaking(node):  # type: ignore[misc, valid-type]
        @classmethod
        def define_schema(cls):
            schema, words = super().define_schema(), node_words(chosen_language())
            return translate(schema, words[schema.node_id]) if schema.node_id in words else schema

    Speaking.__name__, Speaking.__qualname__, Speaking.__module__ = node.__name__, node.__qualname__, node.__module__
    return Speaking


@lru_cache
def node_words(name: str) -> dict[str, Any]:
    """nodeDefs.json of a language; English is in the nodes themselves."""
    return {} if name == ENGLISH else json.loads((LOCALES / name / "nodeDefs.json").read_text(encoding="utf-8"))


# --- the help pages ---------------------------------------------------------------------------------------------------


async def help_page(request: web.Request) -> web.StreamResponse:
    """A node's help in the chosen language, where the page asks for English; 404 makes it take the English one."""
    name = request.match_info["node"]
    page = PACK / "web" / "docs" / name / f"{chosen_language()}.md"
    if not name.isidentifier() or not page.is_file():
        raise web.HTTPNotFound
    return web.FileResponse(page)


def add_routes() -> None:
    """Not where a program imports ComfyUI without starting its server."""
    running = running_server()
    if running is not None:
        running.routes.get(f"/extensions/{PACK.name}/docs/{{node}}/{ENGLISH}.md")(help_page)
