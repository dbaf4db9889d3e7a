"""The pack on a card that is not the CPU, in ComfyUI's ways to use one and with Diffusers' offload; see tests/pretend."""

import json
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch

from environment.comfyui import PACK
from tests.pretend import STEPS
from tests.pretend.scenarios import FAULTS, SCENARIOS, Studio, write_models

ROOMY, TIGHT = ("default", "--gpu-only"), ("--lowvram", "--novram")
SAMPLED = [name for name in SCENARIOS if name != "Pusa Schedule"]
COMPARED = [name for name, scenario in SCENARIOS.items() if scenario.plain is not None]
EXACT = 1e-5  # relative; cards with little memory evaluate conds one by one


@pytest.fixture(scope="module")
def models(comfyui, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretend")
    write_models(folder)
    return folder


@pytest.fixture(scope="module")
def run_on_card(models):
    """run_on_card(mode) -> the reports of all its scenarios and their results; runs once."""

    @cache
    def run(mode):
        command = [sys.executable, "-m", "tests.pretend", mode, str(models)]
        done = subprocess.run(command, cwd=PACK, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        reports = {name: SimpleNamespace(**report) for name, report in json.loads(done.stdout.splitlines()[-1]).items()}
        return reports, torch.load(models / f"{mode}.pt")

    return run


@pytest.fixture(scope="module")
def on_cpu(pack, models):
    """on_cpu(scenario) -> its result where there is no card."""
    with torch.inference_mode():
        studio = Studio(pack, models)

    @cache
    def run(name):
        with torch.inference_mode():
            return SCENARIOS[name].run(studio, STEPS[-1])

    return run


def distance(a, b):
    return ((a - b).norm() / b.norm()).item()


def added_waits(report):
    """How often more the host waits for one evaluation of the model than in ComfyUI, or Diffusers, alone."""
    return sum(report.growth.values()) - sum(report.plain_growth.values())


@pytest.mark.parametrize("mode", [*ROOMY, *TIGHT])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_card_gives_what_the_cpu_gives(run_on_card, on_cpu, mode, scenario):
    reports, results = run_on_card(mode)
    assert reports[scenario].failed is None, reports[scenario].failed
    assert distance(results[scenario], on_cpu(scenario)) < EXACT
    if scenario in SAMPLED:
        assert reports[scenario].device == reports["plain"].device, "where ComfyUI's own result is"


@pytest.mark.parametrize("mode", [*ROOMY, *TIGHT])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_nothing_but_weights_is_left_on_the_card(run_on_card, mode, scenario):
    assert run_on_card(mode)[0][scenario].left == {}


@pytest.mark.parametrize("mode", [*ROOMY, *TIGHT])
@pytest.mark.parametrize("scenario", COMPARED)
def test_no_evaluation_makes_the_host_wait_more_than_comfyuis_own(run_on_card, mode, scenario):
    report = run_on_card(mode)[0][scenario]
    assert sum(report.plain_growth.values()) > 0, "ComfyUI alone waits, too: the counting works"
    assert added_waits(report) <= SCENARIOS[scenario].added_waits, (report.growth, report.plain_growth)


@pytest.mark.parametrize("mode", [*ROOMY, *TIGHT])
@pytest.mark.parametrize("scenario", SAMPLED)
def test_weights_are_on_the_card_as_far_as_the_mode_wants_them_there(run_on_card, mode, scenario):
    report = run_on_card(mode)[0][scenario]
    assert report.peak <= report.budget
    last = report.models[-1]
    share = last["on_card"] / last["size"]
    assert {"--novram": share == 0, "--lowvram": 0.05 < share < 0.95}.get(mode, share > 0.99), share
    assert (last["patched_in_forward"] > 0) == (scenario == "LoRA" and mode in TIGHT)


@pytest.mark.parametrize("fault", FAULTS)
def test_the_reports_show_faults(run_on_card, fault):
    report = run_on_card("default")[0][fault]
    shown = {
        "reads": added_waits(report) == 1 and any("read" in wait and "scenarios.py" in wait for wait in report.growth),
        "leaks": any("scenarios.py" in line for line in report.left),
        "mixes": "expected all tensors on one device" in str(report.failed),
        "overflows": "OutOfMemoryError" in str(report.failed),
    }
    assert [name for name, seen in shown.items() if seen] == [fault]


@pytest.mark.skipif(find_spec("diffusers") is None, reason="Diffusers is not installed: pip install .[diffusers]")
@pytest.mark.parametrize("scenario", ["text to video", "keyframes", "LoRA"])
class TestDiffusersOffload:
    """Two experts and a VAE on a card that has room for one of them."""

    def test_gives_what_the_cpu_gives(self, run_on_card, scenario):
        reports, results = run_on_card("diffusers")
        assert reports[scenario].failed is None, reports[scenario].failed
        assert distance(results[scenario], results[f"{scenario} on the CPU"]) < EXACT

    def test_leaves_the_card_empty(self, run_on_card, scenario):
        report = run_on_card("diffusers")[0][scenario]
        assert [line for line in report.left if "/schedulers/" not in line] == [], "but for Diffusers' own sigmas"
        assert report.on_card == 0
        assert max(report.models) < report.peak <= report.budget < sum(report.models)

    def test_waits_no_more_than_diffusers_own(self, run_on_card, scenario):
        report = run_on_card("diffusers")[0][scenario]
        assert added_waits(report) <= 0, (report.growth, report.plain_growth)
