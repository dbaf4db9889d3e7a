"""PEFT's patterns of module names, matched in bounded time.

PEFT takes a pattern for a regular expression that matches the last parts of a module's dotted name, and the first that
matches counts. Python's regular expressions can run for ever ("(a+)+$"), so here
- a pattern of letters, digits, "_", "-" and dots, escaped or not, is plain text, with "^" before it for the whole name;
- others may use . [...] \\d \\w \\s ( ) (?: ) | * + ? ^ $, and are followed in all ways at once as a set of positions, of
  which there are no more than letters, instead of trying one way after another (Thompson, CACM 11(6), 1968);
- all else, such as {2,3}, back references and looking ahead, is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from .messages import say, shorten

MAX_PATTERN = 200  # characters of a pattern that is no plain text
MAX_DEPTH = 8  # of its parentheses
MAX_WORK = 1_000_000  # positions to look at for all the names of a file, a second or two

Positions = frozenset[int]
Step = Callable[[str, Positions], Positions]

_PLAIN = re.compile(r"\^?(?:[\w-]|\\?\.)+")
_TOKEN = re.compile(r"\\[dwsDWS]|\\[^\w\s]|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?:|[^\\\[]", re.DOTALL)


class PatternError(ValueError):
    """A pattern that is not understood, or takes too long; the message says why, without a full stop."""


class ModulePatterns:
    """Values for the modules whose names match a pattern.

    Args:
        values: by pattern; the first that matches a name counts.

    Raises:
        PatternError: a pattern is not understood.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = list(values.values())
        self._plain: dict[str, int] = {}
        self._expressions: dict[int, Step] = {}
        self._work = 0
        for number, pattern in enumerate(values):
            if _PLAIN.fullmatch(pattern):
                self._plain.setdefault(pattern.replace("\\.", "."), number)
            else:
                self._expressions[number] = _Parser(pattern, self._spend).parse()

    def get(self, name: str, default: Any) -> Any:
        """The value for a module; `default` if no pattern matches its dotted name.

        Raises:
            PatternError: the patterns are so many or so tangled that it would take too long.
        """
        starts = [0, *(match.end() for match in re.finditer(r"\.", name))]
        plain = [self._plain.get(text) for text in (f"^{name}", *(name[start:] for start in starts))]
        first = min((number for number in plain if number is not None), default=len(self._values))
        for number, step in self._expressions.items():
            if number < first and len(name) in step(name, frozenset(starts)):
                return self._values[number]
        return self._values[first] if first < len(self._values) else default

    def _spend(self, work: int) -> None:
        self._work += work
        if self._work > MAX_WORK:
            raise PatternError(say("its patterns of module names take too long to match"))


class _Parser:
    """Turns a pattern into a function from the positions reached in a name to those reached behind the pattern."""

    def __init__(self, pattern: str, spend: Callable[[int], None]) -> None:
        self.pattern, self.spend = pattern, spend
        self.tokens = [match[0] for match in _TOKEN.finditer(pattern[: MAX_PATTERN + 1])]
        self.tokens.reverse()
        if len(pattern) > MAX_PATTERN or sum(map(len, self.tokens)) != len(pattern):
            raise self.error()

    def error(self) -> PatternError:
        return PatternError(
            say('the pattern "{pattern}" is not understood, use names of modules', pattern=shorten(self.pattern))
        )

    def parse(self) -> Step:
        step = self.alternatives(0)
        if self.tokens:
            raise self.error()
        return step

    def take(self, *tokens: str) -> str:
        """The next token, if it is one of these."""
        return self.tokens.pop() if self.tokens and self.tokens[-1] in tokens else ""

    def alternatives(self, depth: int) -> Step:
        if depth > MAX_DEPTH:
            raise self.error()
        branches = [self.sequence(depth)]
        while self.take("|"):
            branches.append(self.sequence(depth))
        return lambda name, at: frozenset().union(*(branch(name, at) for branch in branches))

    def sequence(self, depth: int) -> Step:
        steps = []
        while self.tokens and self.tokens[-1] not in ("|", ")"):
            steps.append(self.repeated(self.item(depth)))

        def run(name: str, at: Positions) -> Positions:
            for step in steps:
                self.spend(1 + len(at))
                at = step(name, at)
            return at

        return run

    def item(self, depth: int) -> Step:
        token = self.tokens.pop()
        if token in ("(", "(?:"):
            inside = self.alternatives(depth + 1)
            if not self.take(")"):
                raise self.error()
            return inside
        if token == "^":
            return lambda name, at: at & {0}
        if token == "$":
            return lambda name, at: at & {len(name)}
        if token in ("*", "+", "?", "{", "}"):
            raise self.error()
        return self.character(token)

    def character(self, token: str) -> Step:
        try:
            one = re.compile(token)
        except re.error as error:
            raise self.error() from error
        return lambda name, at: frozenset(i + 1 for i in at if i < len(name) and one.match(name[i]))

    def repeated(self, step: Step) -> Step:
        sign = self.take("*", "+", "?")
        if not sign:
            return step
        self.take("?")  # tries few before many, which makes no difference to what can be reached

        def run(name: str, at: Positions) -> Positions:
            reached, new = frozenset[int](), at
            while new:
                self.spend(len(new))
                new = step(name, new) - reached
                reached |= new
                if sign == "?":
                    break
            return reached if sign == "+" else reached | at

        return run
