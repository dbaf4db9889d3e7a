"""Experts on two devices, and ComfyUI's CFG split over them, with a schedule; see tests/pretend."""

import json
from importlib.util import find_spec

import pytest

from tests.pretend.scenarios import write_models

EXACT = 1e-5  # relative; devices evaluate conds one by one
NAMES = (
    "high-noise model on the other card", "low-noise model on the other card", "split, then LoRA", "LoRA, then split",
    "split: Pusa KSampler", "split: stock sampler", "split: bent map", "split: rolling window", "split: batch",
    "split: two stages", "split: two experts", "split: context windows", "split: diffusion forcing", "split: after an error",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(beside_a_card, tmp_path_factory):
    """run(module, ...) -> the JSON that such a module of tests/pretend prints."""
    if find_spec("comfy_extras.nodes_multigpu") is None:
        pytest.skip("this ComfyUI has no nodes for several GPUs")
    folder = tmp_path_factory.mktemp("two_cards")
    write_models(folder)

    def run(module, *arguments):
        done = beside_a_card.run(f"tests.pretend.{module}", *arguments, folder)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.fixture(scope="module")
def reports(run):
    return run("two_cards")


@pytest.mark.parametrize("name", NAMES)
def test_two_devices_give_what_one_gives(reports, name):
    assert reports[name]["distance"] < EXACT
    assert reports[name]["devices"] == ["cpu", "pretend"], "both evaluate the model"


def test_all_are_looked_at(reports):
    assert reports.keys() == {*NAMES}


def test_loaders_of_comfyui_multigpu_give_what_comfyuis_give(comfyui, run):
    """Each expert on a device of its own, and models in parts on both."""
    folder = comfyui / "custom_nodes" / "ComfyUI-MultiGPU"
    if not (folder / "distorch_2.py").is_file():
        pytest.skip(f"ComfyUI-MultiGPU is not in {folder.parent}: install it to test its loaders")
    reports = run("multigpu", folder)
    assert {name: report["distance"] for name, report in reports.items() if report["distance"] >= EXACT} == {}
    assert all(report["devices"] == ["pretend"] for name, report in reports.items() if not name.startswith("an expert"))
    divided = [report["weights"] for name, report in reports.items() if name.startswith(("half", "divided"))]
    assert divided.count(["cpu", "pretend"]) > len(divided) / 2  # a second expert puts the first aside
    assert reports["an expert on each: two experts"]["devices"] == ["cpu", "pretend"]
