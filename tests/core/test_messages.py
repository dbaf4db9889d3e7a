"""Messages in the user's language."""

import json

import pytest
import torch

from pusa_core import messages
from pusa_core.frames import latent_length, spoken_count
from pusa_core.keyframes import still_keyframe
from pusa_core.messages import both, either, fault, find_language, follow, language, say, speaking
from pusa_core.plan import plan_clip
from pusa_core.timeline import parse_timeline

GERMAN = {
    "1 frame": "1 Frame",
    "{count} frames": "{count} Frames",
    "{choices} or {last}": "{choices} oder {last}",
    "A length of {length} frames is not 4n+1, which Wan's VAE needs; use {lower} or {upper}.": (
        "Eine L\u00e4nge von {length} Frames ist nicht 4n+1: {lower} oder {upper}."
    ),
    "Item {number} of the timeline:": "Element {number} der Timeline:",
    '"{key}" is {value}; it must be a whole number from {low} to {high}.': "{key}: {low} bis {high}, nicht {value}.",
    "{what} must be a whole number, not {value}.": "{what} muss eine ganze Zahl sein, nicht {value}.",
    "The length of a clip": "Die L\u00e4nge eines Clips",
    "Keyframe {number}, {what} at {asked}: {where}; noise {noise}; {behaviour}.": (
        "Keyframe {number}, {what} bei {asked}: {where}; Rauschen {noise}; {behaviour}."
    ),
    "a picture": "ein Bild",
    "pixel frame {index}": "Pixel-Frame {index}",
}


@pytest.fixture
def german(tmp_path, monkeypatch):
    """A catalogue of a few messages; the rest stays English."""
    for name in ("de", "zh", "zh-TW"):
        (tmp_path / name).mkdir()
        text = json.dumps(GERMAN if name == "de" else {}, ensure_ascii=False)
        (tmp_path / name / "messages.json").write_text(text, encoding="utf-8")
    monkeypatch.setattr(messages, "LOCALES", tmp_path)
    monkeypatch.setattr(messages, "_hosts", [])
    monkeypatch.delenv("PUSA_LANGUAGE", raising=False)
    messages.languages.cache_clear()
    messages.find_language.cache_clear()
    messages._catalogue.cache_clear()
    yield
    messages.languages.cache_clear()
    messages.find_language.cache_clear()
    messages._catalogue.cache_clear()


def test_english_is_said_as_it_is_written(german):
    assert language() == "en"
    assert spoken_count(5) == "5 frames"
    assert say('{{"a": {value}}}', value="{b}") == '{"a": {b}}'


def test_what_was_translated_is_said_in_the_language(german, monkeypatch):
    monkeypatch.setenv("PUSA_LANGUAGE", "de_AT.UTF-8")

    assert (spoken_count(1), spoken_count(5)) == ("1 Frame", "5 Frames")
    with pytest.raises(ValueError, match=r"^Eine L\u00e4nge von 7 Frames ist nicht 4n\+1: 5 oder 9\.$"):
        latent_length(7)
    with pytest.raises(ValueError, match="^Die L\u00e4nge eines Clips muss eine ganze Zahl sein, nicht 2.5.$"):
        latent_length(2.5)
    assert str(fault("a very large number")) == "a very large number"


def test_a_message_in_a_message(german, monkeypatch):
    monkeypatch.setenv("PUSA_LANGUAGE", "de")

    with pytest.raises(ValueError, match="^Element 1 der Timeline: at: -1000001 bis 1000001, nicht 2.5.$"):
        parse_timeline('{"version": 1, "items": [{"at": 2.5, "input": 1}]}')


def test_a_report(german):
    with speaking("de"):
        plan = plan_clip([still_keyframe(torch.zeros(1, 8, 8, 3), 0, "pixel", 0.2)], 5, lambda p: torch.zeros(1, 1, 1, 1, 1))

    assert plan.notes == ("Keyframe 1, ein Bild bei Pixel-Frame 0: latent frame 0 (frame 0); Rauschen 0.2; evolve.",)


def test_lists(german):
    assert [either("a"), either("a", 2), either("a", "b", "c")] == ["a", "a or 2", "a, b or c"]
    assert [both("a"), both("a", 2), both("a", "b", "c")] == ["a", "a and 2", "a, b and c"]
    with speaking("de"):
        assert either(4, 8) == "4 oder 8"


@pytest.mark.parametrize(
    ("tag", "name"),
    [
        ("de", "de"), ("de-CH", "de"), ("DE_de.UTF-8", "de"), ("zh", "zh"), ("zh-CN", "zh"), ("zh-Hans-SG", "zh"),
        ("zh-TW", "zh-TW"), ("zh_tw", "zh-TW"), ("zh-Hant", "zh-TW"), ("zh-HK", "zh-TW"), ("fr", "en"), ("", "en"),
        ("C.UTF-8", "en"), ("../../secret", "en"), ("en-GB", "en"),
    ],
)  # fmt: skip
def test_tags_of_languages(german, tag, name):
    assert find_language(tag) == name


def test_who_says_which_language(german, monkeypatch):
    wanted = ["fr"]
    follow(lambda: wanted[0])

    assert language() == "en"
    wanted[0] = "zh-CN"  # asked anew each time: a user may change it while the server runs
    assert language() == "zh"
    monkeypatch.setenv("PUSA_LANGUAGE", "de")
    assert language() == "de"
    with speaking("en"):
        assert language() == "en"
    assert language() == "de"
