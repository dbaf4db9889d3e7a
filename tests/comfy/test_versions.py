"""ComfyUI versions that are too old are refused when they load the pack, in words."""

import subprocess
import sys

import pytest

from environment.comfyui import PACK
from environment.versions import oldest_supported, version_of

# What ComfyUI does with a custom node folder, in a process of its own.
LOAD = """
import asyncio, importlib.util, sys
sys.path.insert(0, sys.argv[1])
from comfy.cli_args import args
args.cpu = True
spec = importlib.util.spec_from_file_location("pack", sys.argv[2] + "/__init__.py", submodule_search_locations=[sys.argv[2]])
pack = importlib.util.module_from_spec(spec)
sys.modules["pack"] = pack
spec.loader.exec_module(pack)
asyncio.run(pack.comfy_entrypoint())
"""


def test_the_code_and_the_metadata_agree(pack):
    assert oldest_supported() == pack.nodes.OLDEST_COMFYUI


def test_the_comfyui_under_test_is_supported(comfyui):
    assert version_of(comfyui) >= oldest_supported()


def test_an_older_comfyui_says_that_it_is_too_old(comfyui):
    """Looks for one beside the ComfyUI under test, as ComfyUI-<version>."""
    folders = [folder for folder in comfyui.parent.glob("ComfyUI-*") if (folder / "main.py").is_file()]
    old = [folder for folder in folders if version_of(folder) < oldest_supported()]
    if not old:
        pytest.skip(f"there is no older ComfyUI in {comfyui.parent}")
    run = subprocess.run([sys.executable, "-c", LOAD, str(old[0]), str(PACK)], capture_output=True, text=True)
    version = version_of(old[0])
    assert run.returncode != 0
    assert run.stderr.strip().endswith(f"Pusa needs ComfyUI 0.8.0 or newer, but this is {version}: update ComfyUI.")
