"""JSON from users' files and texts, read in bounded time and memory."""

from __future__ import annotations

import json
import math
from typing import Any

from .messages import describe, fault, say, shorten

MAX_DIGITS = 18  # of a whole number: what 64 bits hold


def read_object(text: object, what: str, limit: int, example: str = "") -> dict[str, Any]:
    """The object that a JSON text holds; its numbers are finite and of at most 18 digits.

    Args:
        what: what messages call it, such as mark("The schedule").
        limit: characters that it may have.
        example: what the message says to write for a text that is no object.

    Raises:
        ValueError: the text is no such object, holds a number out of range, is too long or nested too deeply.
    """
    if not isinstance(text, str):
        raise fault("{what} must be a text, a JSON object, not {text}.", what=say(what), text=describe(text))
    if len(text) > limit:
        raise fault(
            "{what} has {count} characters, which is more than the {limit} that are read.",
            what=say(what),
            count=len(text),
            limit=limit,
        )
    try:
        data = json.loads(text, parse_int=_integer, parse_float=_number)
    except RecursionError as error:
        raise fault("{what} is not valid JSON: it is nested too deeply.", what=say(what)) from error
    except ValueError as error:
        remedy = _remedy(example)
        raise fault("{what} is not valid JSON: {error}.{remedy}", what=say(what), error=error, remedy=remedy) from error
    if not isinstance(data, dict):
        given, remedy = describe(data), _remedy(example)
        raise fault("{what} must be a JSON object, not {data}.{remedy}", what=say(what), data=given, remedy=remedy)
    return data


def _remedy(example: str) -> str:
    return " " + say("Write an object, as {example}.", example=example) if example else ""


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise fault("the number {digits} is too large", digits=shorten(digits))
    return int(digits)


def _number(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise fault("the number {digits} is too large", digits=shorten(digits))
    return number
