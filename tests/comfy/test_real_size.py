"""What models of real size take of a card, counted without one, and the commands that measure it."""

import importlib
import json
import math
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from environment.comfyui import PACK
from tests.pretend import BUDGETS

WEIGHTS = {"bf16 NORMAL_VRAM": 2, "bf16 NO_VRAM": 0, "fp8 scaled NORMAL_VRAM": 1, "fp8 LOW_VRAM": 1}  # bytes of a matrix's


def output_of(done):
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def report_of(done):
    return json.loads(output_of(done).splitlines()[-1])


@pytest.fixture(scope="module")
def uses(beside_a_card):
    """The report of tests/pretend/real_steps.py."""
    return report_of(beside_a_card.run("tests.pretend.real_steps"))


@pytest.mark.parametrize("case", WEIGHTS)
def test_a_schedule_takes_half_a_percent_more_than_a_plain_step(uses, case):
    (plain_weights, plain, _), (weights, ours, _), _ = uses[case]
    assert weights == plain_weights
    assert plain < ours <= 1.005 * plain


@pytest.mark.parametrize("case", WEIGHTS)
def test_it_takes_gigabytes_less_than_modulation_expanded_to_tokens(uses, case):
    _, (_, ours, _), (_, expanded, _) = uses[case]
    assert expanded - ours > 2e9


@pytest.mark.parametrize("case", WEIGHTS)
def test_blocks_do_not_copy_a_frames_modulation_to_its_tokens(uses, case):
    """Only the head does, once: three times the clip's tokens in bf16."""
    (*_, plain), (*_, ours), (*_, expanded) = uses[case]
    assert ours - plain < 1.3 * 3 * 2 * 32760 * 5120 < 0.3 * (expanded - plain)


def test_weights_are_as_large_as_their_precision(uses):
    matrices = 2 * (8 * 5120**2 + 2 * 5120 * 13824)  # of two blocks
    for case, size in WEIGHTS.items():
        weights = uses[case][0][0]
        assert weights == 0 if size == 0 else size * matrices < weights < size * matrices + 5e8, case


@pytest.fixture(scope="module")
def run_on_budgets(beside_a_card, tmp_path_factory):
    """The report of tests/pretend/real_budgets.py."""
    return report_of(beside_a_card.run("tests.pretend.real_budgets", tmp_path_factory.mktemp("budgets")))


@pytest.mark.parametrize("lora", ["", ", LoRA"])
@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("precision", ["bf16", "fp8 scaled"])
def test_a_schedule_takes_at_most_a_hundredth_more_wherever_weights_are(run_on_budgets, precision, budget, lora):
    """Of the smaller model, in which latents weigh more beside activations."""
    cases = [f"{precision}, {budget}, {way}{lora}" for way in ("plain", "schedule")]
    if cases[0] not in run_on_budgets:
        pytest.skip("this ComfyUI has no dynamic VRAM")
    (size, plain_weights, plain), (_, weights, ours) = (run_on_budgets[case] for case in cases)
    low, high = {"24 GB": (0.99, 1), "--novram": (0, 0)}.get(budget, (0.1, 0.9))
    assert low <= weights / size <= high, "the card holds as much as this test is about"
    assert weights == plain_weights
    assert plain < ours <= 1.01 * plain


@pytest.fixture
def gpu(comfyui, monkeypatch):
    monkeypatch.syspath_prepend(PACK / "benchmarks")
    return importlib.import_module("gpu")


def test_the_gpu_benchmark_runs_where_there_is_no_gpu(comfyui, tmp_path):
    report, options = tmp_path / "gpu.json", ["--cpu", "--small", "--rounds", "1", "--first", "1"]
    command = [sys.executable, "benchmarks/gpu.py", *options, "--json", str(report)]
    text = output_of(subprocess.run(command, cwd=PACK, capture_output=True, text=True))
    found = json.loads(report.read_text())
    ways = [result["way"] for result in found["results"]]
    assert ways == [
        "plain",
        "Pusa schedule",
        "a timestep for every frame",
        "modulation expanded to tokens",
        "a timestep for every token",
    ]
    assert found["left_out"] == {} and all(f"| {way} |" in text for way in ways)


GROUP_SECONDS, PROCESS = 100, 40  # of a group's process, and until its steps begin


@pytest.fixture
def clock(gpu, monkeypatch):
    """Groups that take seconds by their work, and no time; those that were measured."""
    now, taken = [0.0], []
    whole = gpu.GROUPS[0].work

    def run_group(number, options, left):
        group = gpu.GROUPS[number]
        steps = (GROUP_SECONDS - PROCESS) * group.work / whole
        if PROCESS + steps > left:
            return [], "stopped"
        now[0] += PROCESS + steps
        taken.append(group.name)
        return [{"way": way, "group": {}, "place": "a card", "steps": steps} for way in group.ways], ""

    monkeypatch.setattr(gpu, "run_group", run_group)
    monkeypatch.setattr(gpu.time, "monotonic", lambda: now[0])
    return taken


def measure(gpu, file, minutes, small=False):
    found = gpu.Measured.open(file, small)
    return gpu.run_groups(found, SimpleNamespace(minutes=minutes, first=len(gpu.GROUPS)))


def test_a_group_that_would_not_end_in_time_is_left_out_and_a_smaller_one_is_not(gpu, clock, tmp_path):
    left_out = measure(gpu, tmp_path / "gpu.json", 4)
    assert clock[0] == gpu.GROUPS[0].name and clock[-1] != gpu.GROUPS[len(clock) - 1].name, "some were skipped on the way"
    assert {*clock, *left_out} == {group.name for group in gpu.GROUPS}
    assert all(re.fullmatch(r"takes about \d+ s, \d+ s left", why) for why in left_out.values())


def test_the_next_run_goes_on_with_what_is_missing(gpu, clock, tmp_path):
    file = tmp_path / "gpu.json"
    measure(gpu, file, 4)
    first = [*clock]
    assert {row["place"] for row in json.loads(file.read_text())["results"]} == {"a card"}, "written on the way"
    assert measure(gpu, file, 60) == {}
    assert sorted(clock) == sorted(group.name for group in gpu.GROUPS), "each once"
    assert clock[: len(first)] == first
    with pytest.raises(SystemExit, match="was measured without --small: give another --json"):
        measure(gpu, file, 60, small=True)


@pytest.fixture
def quantised(comfyui, monkeypatch):
    monkeypatch.syspath_prepend(PACK / "benchmarks")
    return importlib.import_module("memory_quantised")


def stored_bytes(parts):
    return sum(math.prod(shape) * dtype.itemsize for shape, dtype in parts)


def test_a_matrix_takes_what_the_libraries_take(quantised):
    gguf = pytest.importorskip("gguf", reason="gguf is not installed: pip install gguf")
    rows, columns = 96, 256
    layer = torch.nn.Linear(columns, rows, dtype=torch.bfloat16)
    weights = layer.weight.detach().float().numpy()
    for kind in ("Q8_0", "Q4_0"):
        real = gguf.quants.quantize(weights, gguf.GGMLQuantizationType[kind])
        assert stored_bytes(quantised.of_gguf(kind, rows, columns)) == real.nbytes
    quantization = pytest.importorskip("torchao.quantization", reason="torchao is not installed: pip install .[train]")
    quantization.quantize_(layer, quantization.Int8WeightOnlyConfig())
    names, _ = layer.weight.__tensor_flatten__()
    real = sum(part.nbytes for name in names if (part := getattr(layer.weight, name)) is not None)
    assert stored_bytes(quantised.of_int8_weight_only(rows, columns)) == real
