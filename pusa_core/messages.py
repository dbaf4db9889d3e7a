"""Texts and values as messages show them: on one line and short, whatever was given."""

from __future__ import annotations

import reprlib

_REPR = reprlib.Repr()
_REPR.maxlevel = 2
_REPR.maxstring = _REPR.maxlong = _REPR.maxother = 40


def shorten(text: str, limit: int = 40) -> str:
    """The text, its end replaced by dots if it is longer than `limit` characters."""
    return text if len(text) <= limit else text[: limit - 3] + "..."


def describe(value: object) -> str:
    """A value of any type and size, as Python writes it, in at most 80 characters."""
    try:
        return shorten(" ".join(_REPR.repr(value).split()), 80)
    except ValueError:  # Python writes no number of more than 4300 digits
        return "a very large number"
