"""The command line, which is read off the settings."""

import ast
import inspect
import re
import subprocess
import sys
from dataclasses import fields

import pytest

from environment.comfyui import PACK
from pusa_core.training import RULES
from trainer.settings import CacheSettings, MemorySettings, Settings

HOSTS_MODULES = {"comfy", "comfy_extras", "nodes", "folder_paths", "latent_preview"}


def run(*code):
    return subprocess.run([sys.executable, *code], cwd=PACK, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("command, settings", [("cache", CacheSettings), ("train", Settings), ("memory", MemorySettings)])
def test_help_explains_every_option(command, settings):
    done = run("-m", "trainer", command, "--help")
    assert done.returncode == 0
    flags = set(re.findall(r"--[a-z0-9-]+", done.stdout))
    assert {f"--{field.name.replace('_', '-')}" for field in fields(settings) if field.name != "clips"} <= flags
    explained = re.findall(r"^    (\w+): ", inspect.getdoc(settings).partition("Attributes:")[2], re.MULTILINE)
    assert {field.name for field in fields(settings)} <= set(explained)


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["cache", "--help"], ["train", "--rank", "x"]])
def test_help_and_mistakes_import_no_torch(arguments):
    code = (
        f"import sys\nsys.argv = ['trainer', *{arguments}]\nfrom trainer.__main__ import main\n"
        "try:\n    main()\nexcept SystemExit:\n    sys.exit('torch' in sys.modules)"
    )
    assert run("-c", code).returncode == 0


def test_the_rules_are_those_of_the_method():
    done = run("-m", "trainer", "train", "--help")
    assert f"{{{','.join(RULES)}}}" in done.stdout


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["train", "--model", "m", "--cache", "c", "--output", "o", "--rank", "0"], "--rank 0 was given"),
        (["cache", "c", "--vae", "v", "--text-encoder", "t", "--output", "o", "--fps", "0"], "--fps 0.0 was given"),
        (["cache", "c", "--vae", "v", "--text-encoder", "t", "--output", "o", "--windows", "-1"], "--windows -1 was given"),
    ],
)
def test_numbers_that_cannot_be_used(arguments, said):
    done = run("-m", "trainer", *arguments)
    assert done.returncode != 0 and said in done.stderr


def imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def test_comfyui_is_reached_through_its_host_alone():
    training = [
        path for folder in ("trainer", "demo_model") for path in (PACK / folder).glob("*.py") if path.stem != "studio"
    ]
    assert not {path.name for path in training for name in imports(path) if name.partition(".")[0] in HOSTS_MODULES}
