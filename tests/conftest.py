"""Makes a real ComfyUI importable for the tests that need one, and says loudly when there is none."""

from __future__ import annotations

import ast
import gc
import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import settings

# The models are tiny: a second thread costs more than it gives, and on a busy machine ten times as much.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# No time limit for an example on a busy machine; in CI the same examples every time.
settings.register_profile("pusa", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("pusa")

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

# Before ComfyUI's folder is on the path: it has a package called `tests` too.
from environment.comfyui import find_comfyui, how_to_get, import_comfyui  # noqa: E402
from environment.pack import import_pack  # noqa: E402

COMFYUI = find_comfyui()
NEED_COMFYUI = (TESTS / "comfy", TESTS / "server")
NO_COMFYUI = "there is no ComfyUI"


def pytest_configure(config):
    config.pluginmanager.register(RootIsNoTestPackage())
    if COMFYUI is not None:
        import_comfyui(cpu=True)
    elif os.environ.get("PUSA_REQUIRE_COMFYUI") == "1":
        raise pytest.UsageError(f"PUSA_REQUIRE_COMFYUI=1, but no ComfyUI was found. {how_to_get()}")


def pytest_collection_finish():
    """What was imported and collected stays: looking through it for garbage again and again took a fifth of all time."""
    gc.collect()
    gc.freeze()


class RootIsNoTestPackage:
    """Keeps pytest from importing the pack's own __init__.py as a test package of that folder's name."""

    def pytest_collect_directory(self, path, parent):
        return pytest.Dir.from_parent(parent, path=path) if path == ROOT else None


# --- without ComfyUI -------------------------------------------------------------------------------------------------


def pytest_pycollect_makemodule(module_path, parent):
    if COMFYUI is None and any(folder in module_path.parents for folder in NEED_COMFYUI):
        return UnimportableModule.from_parent(parent, path=module_path)
    return None


class UnimportableModule(pytest.File):
    """A test file that imports ComfyUI where there is none: each test function is listed and skipped."""

    def collect(self):
        for node in ast.walk(ast.parse(self.path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                yield SkippedTest.from_parent(self, name=node.name)


class SkippedTest(pytest.Item):
    def runtest(self):
        pytest.skip(NO_COMFYUI)

    def reportinfo(self):
        return self.path, None, self.name


def pytest_terminal_summary(terminalreporter):
    skipped = [r for r in terminalreporter.stats.get("skipped", []) if NO_COMFYUI in str(r.longrepr)]
    if skipped:
        terminalreporter.section("NO COMFYUI", sep="!", red=True, bold=True)
        terminalreporter.line(f"{len(skipped)} tests were skipped: they need a ComfyUI, and none was found.")
        terminalreporter.line(how_to_get())


# --- fixtures --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def comfyui() -> Path:
    """The folder of the ComfyUI under test."""
    if COMFYUI is None:
        pytest.skip(NO_COMFYUI)
    return COMFYUI


@pytest.fixture(scope="session")
def pack(comfyui):
    """The pack, imported as ComfyUI imports it; see `import_pack`."""
    return import_pack()


@pytest.fixture(scope="session")
def forked():
    """Runs programs that train or sample with Diffusers, and launchers of several."""
    from tests.forked import Forked

    optional = [name for name in ("accelerate", "torchao") if find_spec(name)]
    trainer = ["trainer.train", "torch.utils.tensorboard"] if "accelerate" in optional else []
    with Forked("torch.distributed.launcher.api", "pusa_core.hosts.diffusers", *optional, *trainer) as forked:
        yield forked


@pytest.fixture
def inference_mode():
    """Runs a test without gradients, as ComfyUI runs nodes."""
    import torch

    with torch.inference_mode():
        yield
