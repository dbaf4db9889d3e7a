"""What the timeline's files hold, without a page."""

import json
import re

import pytest

from environment.comfyui import PACK
from pusa_core.timeline import parse_timeline

FOLDER = PACK / "web" / "timeline"
SERVED = sorted(path for path in (PACK / "web").rglob("*") if path.suffix in (".js", ".css"))
WORDS = json.loads((PACK / "locales" / "en" / "main.json").read_text(encoding="utf-8"))["pusaTimeline"]
PRESETS = json.loads((FOLDER / "presets.json").read_text(encoding="utf-8"))


def text_of(*endings: str) -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted(FOLDER.iterdir()) if path.suffix in endings)


def test_the_page_loads_little():
    sizes = {path.name: path.stat().st_size for path in SERVED}
    assert sum(sizes.values()) <= 50_000, sizes


@pytest.mark.parametrize("path", sorted(FOLDER.iterdir()), ids=lambda path: path.name)
def test_files_stay_short(path):
    assert path.read_text(encoding="utf-8").count("\n") <= 400


def test_every_word_is_there_and_is_used():
    """The keys of words are quoted in the code, in data- attributes of the elements, or are names of presets."""
    code = text_of(".js", ".html")
    asked = set(re.findall(r'\bt\(\s*"(\w+)"', code)) | set(re.findall(r'data-(?:words|label|tip)="(\w+)"', code))
    asked |= {preset["name"] for preset in PRESETS}
    assert asked <= set(WORDS)
    unused = [key for key in WORDS if key not in asked and f'"{key}"' not in code]
    assert unused == []


@pytest.mark.parametrize("preset", [preset for preset in PRESETS if "node" not in preset], ids=lambda preset: preset["name"])
def test_presets_are_timelines_of_the_core(preset):
    slots = preset.get("slots", [{"at": 0}])
    items = [{"media": "a.mp4", **slot, "at": 40 if slot["at"] == "middle" else slot["at"]} for slot in slots]
    assert len(parse_timeline(json.dumps({"version": 1, "items": items}))) == len(items)


@pytest.mark.parametrize("name", [preset["name"] for preset in PRESETS if "node" in preset])
def test_presets_set_what_nodes_have(server, name):
    [sets] = [preset for preset in PRESETS if preset["name"] == name]
    inputs = server.object_info(sets["node"])["input"]["required"]
    widgets = sets.keys() - {"name", "glyph", "node"}
    for widget in widgets:
        kind, options = inputs[widget]
        assert kind == "INT" and options["min"] <= sets[widget] <= options["max"]
    assert widgets
