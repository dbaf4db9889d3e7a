"""All that is said can be translated, and the translations are complete."""

import json
import re

import pytest

from environment.comfyui import PACK
from languages import LANGUAGES, compare
from languages.templates import sources, templates, unsaid

SOURCES = sources()
BEGUN = compare.begun()
PAGES = sorted(compare.PAGES.rglob("*.md"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PACK).as_posix())
def test_every_error_is_said(path):
    assert unsaid(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "raised",
    [
        'ValueError("It is wrong.")', 'ValueError(f"{x} is wrong.")', 'LoraError(f"wrong: " + "so {y}")',
        'fault("{a} is wrong", a="in all" if x else say("b"))', 'ValueError(_about(number, f"it takes {n}."))',
    ],
)  # fmt: skip
def test_an_error_that_is_not_said_is_found(raised):
    assert unsaid(f"def f():\n    raise {raised}") == [2]


def test_what_is_said_is_found():
    assert len(SOURCES) > 40 and len(templates()) > 200
    assert "Keyframe {number}, {what} at {asked}: {where}; noise {noise}; {behaviour}." in templates()
    assert "The world has at most 2 objects, but {count} are described; take some out." in templates()


def test_the_english_catalogue_is_what_the_sources_say():
    english = compare.read(compare.ENGLISH / "messages.json")
    assert list(english) == templates(), "run: python -m languages"
    assert all(key == value for key, value in english.items())


def test_there_is_no_language_but_ours():
    assert set(BEGUN) == set(LANGUAGES)


@pytest.mark.parametrize("name", BEGUN)
def test_a_language_that_was_begun_is_complete(name):
    assert compare.faults(name) == [], f"run: python -m languages {name}"


def test_faults_are_found(tmp_path, monkeypatch):
    english, other = tmp_path / "locales" / "en", tmp_path / "locales" / "de"
    pages = tmp_path / "web" / "docs"
    for folder in (english, other, pages / "PusaNode"):
        folder.mkdir(parents=True)
    for name, value in {"PACK": tmp_path, "LOCALES": english.parent, "ENGLISH": english, "PAGES": pages}.items():
        monkeypatch.setattr(compare, name, value)
    write(english / "messages.json", {"{n} frames": "{n} frames", "a": "a", "b": "b", "c": "c", "{d:g}": "{d:g}"})
    write(other / "messages.json", {"{n} frames": "{m} Frames", "a": "to My Node", "c": " ", "e": "E", "{d:g}": "{d}"})
    node = {"display_name": "My Node", "inputs": {"x": {"tooltip": "x"}, "y": {"tooltip": "y"}}}
    write(english / "nodes.json", {"PusaNode": node})
    node = {"display_name": "Mein Node", "inputs": {"x": {"tooltip": "a | b"}, "y": {"tooltip": "My Mein Node"}}}
    write(other / "nodeDefs.json", {"PusaNode": node})
    for name, picture in {"PusaNode": "b", "PusaOther": "a"}.items():
        (pages / name).mkdir(exist_ok=True)
        (pages / f"{name}.md").write_text("![A](../a.png)", encoding="utf-8")
        (pages / name / "de.md").write_text(f"![B](../{picture}.png) My Node", encoding="utf-8")

    assert compare.begun() == ["de"]
    assert sorted(compare.faults("de")) == [
        "locales/de/messages.json calls a node 'My Node' in 'a'",
        "locales/de/messages.json has 'e', which English does not",
        "locales/de/messages.json has other placeholders than English in '{d:g}'",
        "locales/de/messages.json has other placeholders than English in '{n} frames'",
        "locales/de/messages.json lacks 'b'",
        "locales/de/messages.json says nothing for 'c'",
        "locales/de/nodeDefs.json has one of {}@|$, which the page does not show as they are, in "
        "'PusaNode / inputs / x / tooltip'",
        "web/docs/PusaNode/de.md shows other pictures than the English page",
        "web/docs/PusaOther/de.md calls a node 'My Node'",
    ]


def write(path, data):
    path.write_text(json.dumps(data), encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(compare.PAGES).as_posix())
def test_pictures_of_help_pages(page):
    """The page resolves their addresses from the folder docs, wherever the text lies."""
    assert compare.pictures(page)
    for address in compare.pictures(page):
        assert (compare.PAGES / address).resolve().is_file(), address


@pytest.mark.parametrize("name", compare.read(compare.ENGLISH / "nodes.json"))
def test_a_help_page_names_every_input_and_output_and_has_an_example(name):
    node = compare.read(compare.ENGLISH / "nodes.json")[name]
    text = (compare.PAGES / f"{name}.md").read_text(encoding="utf-8")
    assert text.startswith(f"# {node['display_name']}\n")
    assert "\n## Example" in text
    assert [entry for entry in node["inputs"] if f"**`{entry}`**" not in text] == []
    outputs = [entry["name"] for entry in node["outputs"].values()]
    assert [name for name in outputs if f"`{name}`" not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(compare.PAGES).as_posix())
def test_help_pages_have_no_tables(page):
    """The panel beside the graph is so narrow that a table has one word in a line."""
    assert not re.search(r"^\s*\|", page.read_text(encoding="utf-8"), re.MULTILINE)
