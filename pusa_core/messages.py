"""What people are told: in their language, and on one line and short, whatever was given.

English is written where it is said and is the key to every translation: locales/<language>/messages.json maps it to the
same sentence in another language, with the same {placeholders}.
"""

from __future__ import annotations

import json
import os
import reprlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path

LOCALES = Path(__file__).resolve().parents[1] / "locales"
ENGLISH = "en"
VARIABLE = "PUSA_LANGUAGE"
TRADITIONAL = {"hant", "hk", "mo"}  # Chinese that is written as in Taiwan, whatever its tag says next to zh

_REPR = reprlib.Repr()
_REPR.maxlevel = 2
_REPR.maxstring = _REPR.maxlong = _REPR.maxother = 40

_speaking: ContextVar[str | None] = ContextVar("_speaking", default=None)
_hosts: list[Callable[[], str]] = []


def say(template: str, /, **values: object) -> str:
    """A message in the user's language; in English where there is no translation.

    Args:
        template: English, with {placeholders} as `str.format` reads them; a brace is written twice.
        values: for the placeholders; those that are messages come from `say`, too.
    """
    return _catalogue(language()).get(template, template).format(**values)


def fault(template: str, /, **values: object) -> ValueError:
    """What is wrong with what was given, in the user's language: to be raised."""
    return ValueError(say(template, **values))


def mark(template: str) -> str:
    """A template that is said elsewhere: returned as it is, and found by those who translate."""
    return template


def language() -> str:
    """The language of messages: that of `speaking`, else the environment's PUSA_LANGUAGE, else the host's, else English."""
    return _speaking.get() or find_language(os.environ.get(VARIABLE) or (_hosts[0]() if _hosts else ENGLISH))


def follow(host: Callable[[], str]) -> None:
    """Lets a host say which language its user wants, as a tag such as "zh-TW"; it is asked at every message."""
    _hosts[:] = [host]


@contextmanager
def speaking(name: str) -> Iterator[None]:
    """One of our languages for what is said meanwhile, whatever the user's is."""
    token = _speaking.set(name)
    try:
        yield
    finally:
        _speaking.reset(token)


@lru_cache(maxsize=64)
def find_language(tag: str) -> str:
    """The language among ours that fits a tag ("de", "de-AT", "zh_TW.UTF-8", "zh-Hant"); English where none does."""
    parts = tag.partition(".")[0].replace("_", "-").lower().split("-")
    known = {name.lower(): name for name in languages()}
    if parts[0] == "zh" and TRADITIONAL & {*parts}:
        parts = ["zh", "tw"]
    return known.get("-".join(parts)) or known.get(parts[0]) or ENGLISH


@lru_cache
def languages() -> tuple[str, ...]:
    """Those that messages were translated to, and English."""
    return ENGLISH, *sorted(path.parent.name for path in LOCALES.glob("*/messages.json"))


@lru_cache
def _catalogue(name: str) -> dict[str, str]:
    """Translations by English template."""
    return {} if name == ENGLISH else json.loads((LOCALES / name / "messages.json").read_text(encoding="utf-8"))


def either(*choices: object) -> str:
    """Choices as a sentence has them: "a", "a or b", "a, b or c"."""
    *first, last = map(str, choices)
    return say("{choices} or {last}", choices=", ".join(first), last=last) if first else last


def both(*things: object) -> str:
    """Things as a sentence has them: "a", "a and b", "a, b and c"."""
    *first, last = map(str, things)
    return say("{things} and {last}", things=", ".join(first), last=last) if first else last


def shorten(text: str, limit: int = 40) -> str:
    """The text, its end replaced by dots if it is longer than `limit` characters."""
    return text if len(text) <= limit else text[: limit - 3] + "..."


def describe(value: object) -> str:
    """A value of any type and size, as Python writes it, in at most 80 characters."""
    try:
        return shorten(" ".join(_REPR.repr(value).split()), 80)
    except ValueError:  # Python writes no number of more than 4300 digits
        return say("a very large number")
