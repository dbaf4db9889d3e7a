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
def reports(beside_a_card, tmp_path_factory):
    if find_spec("comfy_extras.nodes_multigpu") is None:
        pytest.skip("this ComfyUI has no nodes for several GPUs")
    folder = tmp_path_factory.mktemp("two_cards")
    write_models(folder)
    done = beside_a_card.run("tests.pretend.two_cards", folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", NAMES)
def test_two_devices_give_what_one_gives(reports, name):
    assert reports[name]["distance"] < EXACT
    assert reports[name]["devices"] == ["cpu", "pretend"], "both evaluate the model"


def test_all_are_looked_at(reports):
    assert reports.keys() == {*NAMES}
