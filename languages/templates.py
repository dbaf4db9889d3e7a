"""Every template that the sources give to `say`, `fault` or `mark`, read without running them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from environment.comfyui import PACK

FOLDERS = ("pusa_core", "nodes", "demo_model")
OTHER_PROGRAMS = ("pusa_core/hosts/diffusers", "demo_model/pipeline.py")  # in English, as the libraries that they stand on
SAYING = {"say", "fault", "mark", "WorldError"}
QUIET = {"SystemExit", "UnpicklingError", "NotImplementedError"}  # of commands, or never shown
WORDS = re.compile(r"[A-Za-z] | [A-Za-z]")


def sources() -> list[Path]:
    """The files whose messages are translated."""
    files = (path for folder in FOLDERS for path in sorted((PACK / folder).rglob("*.py")))
    return [path for path in files if not path.relative_to(PACK).as_posix().startswith(OTHER_PROGRAMS)]


def templates() -> list[str]:
    """All of them, sorted."""
    return sorted({template for path in sources() for template in _said(ast.parse(path.read_text(encoding="utf-8")))})


def _said(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _name(node.func) in SAYING and node.args:
            template = node.args[0]
            if isinstance(template, ast.Constant) and isinstance(template.value, str):
                yield template.value


def _name(function: ast.expr) -> str:
    return function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")


def unsaid(text: str) -> list[int]:
    """Lines of a source that raise an error with words that do not go through `say`."""
    raised = [
        node.exc for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)
    ]
    return [error.lineno for error in raised if _name(error.func) not in QUIET and _has_words(error)]


def _has_words(node: ast.AST) -> bool:
    """Whether there is a text of several words in it, beside those that are said."""
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str) and bool(WORDS.search(node.value))
    if isinstance(node, ast.Call) and _name(node.func) in SAYING:
        return any(_has_words(keyword.value) for keyword in node.keywords)
    return any(_has_words(part) for part in ast.iter_child_nodes(node))
