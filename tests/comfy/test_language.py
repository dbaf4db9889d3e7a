"""Which language a user of ComfyUI reads, and the nodes' words in it."""

import asyncio
import json

import pytest


@pytest.fixture
def language(pack):
    return pack.nodes.language


@pytest.fixture
def settings(language, monkeypatch, tmp_path):
    """settings({...}): what the page stored for its user."""
    monkeypatch.delenv("PUSA_LANGUAGE", raising=False)
    monkeypatch.setattr(language.folder_paths, "get_public_user_directory", lambda user: str(tmp_path / user))

    def store(text):
        language._read.cache_clear()
        path = tmp_path / "default" / "comfy.settings.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text if isinstance(text, str) else json.dumps(text), encoding="utf-8")

    return store


@pytest.mark.parametrize(
    ("stored", "wanted"),
    [
        ({}, "en"),
        ({"Comfy.Locale": "ja"}, "ja"),
        ({"Pusa.PageLanguage": "ko"}, "ko"),
        ({"Comfy.Locale": "ja", "Pusa.PageLanguage": "ko"}, "ja"),
        ({"Pusa.Language": "de", "Comfy.Locale": "ja"}, "de"),
        ({"Pusa.Language": "auto", "Comfy.Locale": "ja"}, "ja"),
        ({"Comfy.Locale": 3}, "en"),
        ("[]", "en"),
        ('{"Comfy.Lo', "en"),
    ],
)
def test_the_users_language(language, settings, stored, wanted):
    settings(stored)
    assert language.users_language() == wanted


def test_without_settings(language, settings):
    assert language.users_language() == "en"
    assert language.chosen_language() == "en"


def test_a_user_without_a_folder(language, settings, monkeypatch):
    monkeypatch.setattr(language.folder_paths, "get_public_user_directory", lambda user: None)
    assert language.users_language() == "en"


def test_messages_follow_it(pack, language, settings, monkeypatch):
    asyncio.run(pack.comfy_entrypoint())
    monkeypatch.setattr(pack.pusa_core.messages, "languages", lambda: ("en", "ko"))
    settings({"Comfy.Locale": "ko"})
    assert pack.pusa_core.messages.language() == "ko"


def marked(value):
    return {key: marked(v) for key, v in value.items()} if isinstance(value, dict) else f"- {value}"


def test_a_node_describes_itself_in_the_chosen_language(pack, language, settings, monkeypatch):
    nodes = asyncio.run(pack.nodes.PusaExtension().get_node_list())
    english = {node.define_schema().node_id: language.words_of(node.define_schema()) for node in nodes}
    ids = [node.__name__ for node in nodes]
    monkeypatch.setattr(language, "node_words", lambda name: marked(english) if name == "de" else {})
    monkeypatch.setattr(language, "find_language", lambda tag: tag)
    settings({"Pusa.Language": "de"})

    for node in nodes:
        schema, words = node.define_schema(), english[node.__name__]
        said = language.words_of(schema)
        outputs = said.pop("outputs")
        assert said == {key: value for key, value in marked(words).items() if key != "outputs"}
        assert [output["name"] for output in outputs.values()] == [o["name"] for o in words["outputs"].values()]
        assert all(output["tooltip"].startswith("- ") for output in outputs.values() if "tooltip" in output)
    assert ids == list(english)
    settings({})
    assert {node.__name__: language.words_of(node.define_schema()) for node in nodes} == english


def test_the_english_words_are_those_of_the_nodes(pack, language, settings):
    from languages.compare import ENGLISH, SPECIAL, flatten, read

    nodes = asyncio.run(pack.nodes.PusaExtension().get_node_list())
    written = read(ENGLISH / "nodes.json")
    assert written == {node.__name__: language.words_of(node.define_schema()) for node in nodes}, "run: python -m languages"
    assert [text for text in flatten(written).values() if SPECIAL.search(text)] == []
