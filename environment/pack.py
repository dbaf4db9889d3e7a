"""The pack as ComfyUI imports it."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from functools import cache
from types import ModuleType

from .comfyui import PACK


@cache
def import_pack() -> ModuleType:
    """The pack's package, under a path-like name; needs an importable ComfyUI.

    `pack.nodes` and `pack.pusa_core` are its subpackages. They are other module objects than a plain
    `import pusa_core` gives, so take classes that nodes pass around from here.
    """
    name = str(PACK).replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(name, PACK / "__init__.py", submodule_search_locations=[str(PACK)])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    for part in ("pusa_core", "nodes"):
        importlib.import_module(f"{name}.{part}")
    return module
