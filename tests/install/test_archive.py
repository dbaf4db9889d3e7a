"""What the registry's archive holds, how large it is, and that it needs nothing that ComfyUI does not bring."""

import ast
import re
from importlib.metadata import PackageNotFoundError, requires

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from environment.comfyui import PACK
from tests.install.archive import archived_files, tracked, write_archive

LEFT_OUT = {".ci", ".github", "benchmarks", "languages", "tests"}
MODEL = {
    "demo_model/models/diffusion_models/pusa_demo_t2v.safetensors",
    "demo_model/models/loras/pusa_demo_first_frame_lora.safetensors",
    "demo_model/models/loras/pusa_demo_lora.safetensors",
    "demo_model/models/vae/pusa_demo_vae.safetensors",
}


def test_what_is_left_out():
    """And nothing else: what is neither code of the workshop nor a file of git's goes to users."""
    shipped = set(archived_files())
    gone = {name for name in tracked() if name not in shipped}
    assert {name.split("/")[0] for name in gone} == LEFT_OUT | {".comfyignore", ".gitignore"}
    assert not [name for name in shipped if name.split("/")[0] in LEFT_OUT]


def test_weights_are_those_of_the_small_model_alone():
    assert {name for name in archived_files() if name.endswith((".safetensors", ".pt", ".pth", ".bin"))} == MODEL


def test_its_size_is_what_the_readme_says(tmp_path):
    told = re.search(r"archive has (\d+) MB", (PACK / "README.md").read_text(encoding="utf-8"))
    assert told, 'README.md says how large it is: "archive has 16 MB"'
    assert abs(write_archive(tmp_path / "node.zip").stat().st_size / 1e6 - int(told[1])) < 0.6


def test_its_programs_import_nothing_that_is_left_out():
    for name in archived_files():
        if name.endswith(".py"):
            assert not LEFT_OUT & {*imported((PACK / name).read_text(encoding="utf-8"))}, name


def imported(source):
    """Top names of a module's absolute imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield str(node.module).split(".")[0]


def test_an_import_of_what_is_left_out_is_found():
    assert {*imported("import a.b\ndef f():\n    from c.d import e\n    from . import g")} == {"a", "c"}


def test_installing_it_runs_and_installs_nothing():
    """ComfyUI Manager and comfy-cli run these; the dependencies of pyproject.toml come with ComfyUI."""
    assert not {"requirements.txt", "install.py", "uninstall.py", "prestartup_script.py"} & {*archived_files()}


def test_dependencies_come_with_comfyui(comfyui):
    lines = (comfyui / "requirements.txt").read_text(encoding="utf-8").splitlines()
    brought = closure(line for line in lines if line.strip() and not line.startswith(("#", "-")))
    declared = re.search(r"^dependencies = \[(.*)\]", (PACK / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    ours = {canonicalize_name(Requirement(name).name) for name in re.findall(r'"(.+?)"', declared[1])}
    assert len(ours) > 4
    assert ours <= brought


def closure(lines):
    """Names of the packages that requirements bring, with those that these need."""
    found, todo = set(), list(lines)
    while todo:
        requirement = Requirement(todo.pop().partition("#")[0])
        name = canonicalize_name(requirement.name)
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        try:
            todo += requires(name) or []
        except PackageNotFoundError:  # optional on this machine
            continue
    return found
