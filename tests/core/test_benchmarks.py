"""The benchmarks, which take too long to run here."""

import ast
from importlib.util import find_spec

import pytest

from environment.comfyui import PACK

FILES = sorted((PACK / "benchmarks").glob("*.py"))
BESIDE = {path.stem for path in FILES} | {path.name for path in PACK.iterdir() if path.is_dir()}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_benchmark_imports_what_there_is(path):
    """At its head, before ComfyUI can be imported."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        names = [node.module] if isinstance(node, ast.ImportFrom) else []
        names += [each.name for each in node.names] if isinstance(node, ast.Import) else []
        strays = [name for name in names if (top := name.split(".")[0]) not in BESIDE and find_spec(top) is None]
        assert not strays, f"{path.name} imports {strays[0]}, which is not there"
