"""The pack on a card that is not the CPU, in ComfyUI's ways to use one and with Diffusers' offload; see tests/pretend."""

import json
import subprocess
import sys
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch

from environment.comfyui import PACK
from tests.pretend import BUDGETS, STEPS
from tests.pretend.scenarios import FAULTS, SCENARIOS, Studio, write_models

ROOMY, TIGHT, DYNAMIC = ("default", "--gpu-only"), ("--lowvram", "--novram"), "dynamic"
MODES = [*ROOMY, *TIGHT, DYNAMIC]
SAMPLED = [name for name in SCENARIOS if name != "Pusa Schedule"]
COMPARED = [name for name, scenario in SCENARIOS.items() if scenario.plain is not None]
EXACT = 1e-5  # relative; cards with little memory evaluate conds one by one


@pytest.fixture(scope="module")
def models(comfyui, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretend")
    write_models(folder)
    return folder


@pytest.fixture(scope="module")
def run_on_card(beside_a_card, models):
    """run_on_card(mode) -> the reports of all its scenarios and their results; runs once."""

    @cache
    def run(mode):
        if mode == DYNAMIC:
            skip_without_dynamic_vram()
        program = "tests.pretend", mode, str(models)
        if mode == "diffusers":  # without ComfyUI
            done = subprocess.run([sys.executable, "-m", *program], cwd=PACK, capture_output=True, text=True)
        else:
            done = beside_a_card.run(*program)
        assert done.returncode == 0, done.stderr[-3000:]
        reports = {name: SimpleNamespace(**report) for name, report in json.loads(done.stdout.splitlines()[-1]).items()}
        return reports, torch.load(models / f"{mode}.pt")

    return run


def skip_without_dynamic_vram():
    if not hasattr(import_module("comfy.model_patcher"), "ModelPatcherDynamic"):
        pytest.skip("this ComfyUI has no dynamic VRAM")


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


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_card_gives_what_the_cpu_gives(run_on_card, on_cpu, mode, scenario):
    reports, results = run_on_card(mode)
    assert reports[scenario].failed is None, reports[scenario].failed
    assert distance(results[scenario], on_cpu(scenario)) < EXACT
    if scenario in SAMPLED:
        assert reports[scenario].device == reports["plain"].device, "where ComfyUI's own result is"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_nothing_but_weights_is_left_on_the_card(run_on_card, mode, scenario):
    assert run_on_card(mode)[0][scenario].left == {}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scenario", COMPARED)
def test_no_evaluation_makes_the_host_wait_more_than_comfyuis_own(run_on_card, mode, scenario):
    report = run_on_card(mode)[0][scenario]
    assert sum(report.plain_growth.values()) > 0, "ComfyUI alone waits, too: the counting works"
    assert added_waits(report) <= SCENARIOS[scenario].added_waits, (report.growth, report.plain_growth)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scenario", SAMPLED)
def test_weights_are_on_the_card_as_far_as_the_mode_wants_them_there(run_on_card, mode, scenario):
    report = run_on_card(mode)[0][scenario]
    assert report.peak <= report.budget
    last = report.models[-1]
    share = last["on_card"] / last["size"]
    some = 0.05 < share < 0.95
    assert {"--novram": share == 0, "--lowvram": some, DYNAMIC: some}.get(mode, share > 0.99), share
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


# How far a LoRA that is added in every forward is from one that is merged, and rounded to the weights' precision.
ROUNDING = {"bf16": 0.02, "fp8": 0.2, "fp8 scaled": 0.2, "GGUF": EXACT}

# Of a model's weights, that are on a card.
SHARES = {"24 GB": (0.99, 1), "16 GB": (0.5, 0.9), "8 GB": (0.02, 0.5), "--novram": (-1, 0.01), DYNAMIC: (0.5, 0.9)}


@pytest.fixture(scope="module")
def run_on_budgets(beside_a_card, tmp_path_factory):
    """The reports of tests/pretend/budgets.py."""
    done = beside_a_card.run("tests.pretend.budgets", tmp_path_factory.mktemp("budgets"))
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("precision", ROUNDING)
class TestBudgets:
    """A schedule and a LoRA on cards that hold all of a model's weights, some, or few.

    ComfyUI-GGUF's models are placed as without dynamic VRAM, whose patcher they do not have.
    """

    @pytest.fixture
    def report(self, run_on_budgets, precision, budget):
        if budget == DYNAMIC:
            skip_without_dynamic_vram()
        if precision == "GGUF" and f"GGUF, {budget}" not in run_on_budgets:
            pytest.skip("ComfyUI-GGUF is not in ComfyUI's custom_nodes: install it to test GGUF files")
        return SimpleNamespace(**run_on_budgets[f"{precision}, {budget}"])

    def test_gives_what_the_cpu_gives(self, report, precision, budget):
        assert report.distances["schedule"] < EXACT
        numbers = 2**0.5 if budget == DYNAMIC else 1  # merged weights are rounded by other random numbers than the CPU's
        assert report.distances["LoRA"] < (numbers * ROUNDING[precision] if report.offloaded else EXACT)

    def test_the_lora_is_computed_in_every_forward_for_offloaded_weights_alone(self, report, precision, budget):
        low, high = SHARES[budget]
        assert low < report.share < high, "the card holds as much as this test is about"
        own = precision == "GGUF" or budget == DYNAMIC  # whose layers add it themselves
        assert report.patched_in_forward == {"loaded": 0, "offloaded": 0 if own else report.offloaded}
        assert (report.offloaded > 0) == (budget != "24 GB") and (report.loaded > 0) == (budget != "--novram")

    def test_takes_what_plain_sampling_takes(self, report):
        assert report.asked["LoRA"] == report.asked["schedule"] == report.asked["plain"]
        assert report.peaks["LoRA"] - report.peaks["plain"] < 4 * report.latent, "of the two conds' latents, two copies"
        assert report.left == {}


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


@pytest.mark.skipif(find_spec("diffusers") is None, reason="Diffusers is not installed: pip install .[diffusers]")
@pytest.mark.parametrize("way", ["sequential", "groups"])
def test_diffusers_other_offloads_give_what_the_cpu_gives(run_on_card, way):
    reports, results = run_on_card("diffusers")
    assert distance(results[way], results["LoRA on the CPU"]) < EXACT
    assert 0 < reports[way].peak < 0.8 * reports["LoRA"].peak, "far less than with an expert on the card"
    own = ("/schedulers/", "accelerate/")  # sequential offload keeps a weight there
    assert [line for line in reports[way].left if not any(part in line for part in own)] == []
