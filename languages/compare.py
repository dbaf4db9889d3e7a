"""What a language lacks, has too much, or says with other placeholders."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from string import Formatter
from typing import Any

from environment.comfyui import PACK

LOCALES = PACK / "locales"
ENGLISH = LOCALES / "en"
FILES = {"messages.json": "messages.json", "nodes.json": "nodeDefs.json", "main.json": "main.json"}  # English: the others
PAGES = PACK / "web" / "docs"
SPECIAL = re.compile(r"[{}@|$]")  # the page's translator gives these a meaning
LINK = re.compile(r"!\[[^\]]*\]\(([^)\s]+)")


def begun() -> list[str]:
    """The languages that have been begun."""
    return sorted(path.name for path in LOCALES.glob("*/") if path != ENGLISH)


def faults(name: str) -> list[str]:
    """A line for everything that is wrong with a language's translations; none if they are complete."""
    return [*(line for source in FILES for line in compare(name, source)), *compare_pages(name)]


def compare(name: str, source: str) -> Iterator[str]:
    """The faults of one file of a language; of a source that is not there, none."""
    if not (ENGLISH / source).is_file():
        return
    path = LOCALES / name / FILES[source]
    english, other = flatten(read(ENGLISH / source)), flatten(read(path))
    where, nodes = path.relative_to(PACK).as_posix(), titles(name)
    yield from (f"{where} lacks {key!r}" for key in english.keys() - other.keys())
    yield from (f"{where} has {key!r}, which English does not" for key in other.keys() - english.keys())
    for key in english.keys() & other.keys():
        if not other[key].strip():
            yield f"{where} says nothing for {key!r}"
        elif placeholders(other[key]) != placeholders(english[key]):
            yield f"{where} has other placeholders than English in {key!r}"
        elif source == "nodes.json" and SPECIAL.search(other[key]):
            yield f"{where} has one of {{}}@|$, which the page does not show as they are, in {key!r}"
        yield from (f"{where} calls a node {title!r} in {key!r}" for title in misnamed(other[key], nodes))


def titles(name: str) -> dict[str, str]:
    """English titles of nodes, with those of a language where they differ."""
    english, other = (flatten(read(path)) for path in (ENGLISH / "nodes.json", LOCALES / name / FILES["nodes.json"]))
    keys = [key for key in english if key.endswith("display_name") and english[key] != other.get(key, english[key])]
    return {english[key]: other[key] for key in keys}


def misnamed(text: str, titles: dict[str, str]) -> list[str]:
    """The nodes that a text calls by their English titles, which a page of another language shows nowhere."""
    for title in titles.values():
        text = text.replace(title, "")
    return [title for title in titles if title in text]


def compare_pages(name: str) -> Iterator[str]:
    """Which help pages are missing, or show other pictures than the English ones."""
    nodes = titles(name)
    for page in sorted(PAGES.glob("*.md")):
        other = PAGES / page.stem / f"{name}.md"
        where = other.relative_to(PACK).as_posix()
        if not other.is_file():
            yield f"{where} is missing"
        elif pictures(other) != pictures(page):
            yield f"{where} shows other pictures than the English page"
        else:
            named = misnamed(other.read_text(encoding="utf-8"), nodes)
            yield from (f"{where} calls a node {title!r}" for title in named)


def pictures(page: Path) -> list[str]:
    """The addresses of a help page's pictures."""
    return LINK.findall(page.read_text(encoding="utf-8"))


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def flatten(data: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """{"a": {"b": "text"}} -> {"a / b": "text"}."""
    flat: dict[str, str] = {}
    for key, value in data.items():
        flat |= flatten(value, f"{prefix}{key} / ") if isinstance(value, dict) else {prefix + key: value}
    return flat


def placeholders(text: str) -> set[tuple[str, str | None]] | str:
    """Names and formats of the placeholders in a text; a sentence if its braces do not fit together."""
    try:
        return {(name, form) for _, name, form, _ in Formatter().parse(text) if name is not None}
    except ValueError as error:
        return str(error)
