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

COUNT = """
from tests.pretend import comfyui, real_size
from tests import real_wan
from environment.pack import import_pack
from functools import partial
import json
sizes = {}
for precision, state in (("bf16", "NORMAL_VRAM"), ("bf16", "NO_VRAM"), ("fp8 scaled", "NORMAL_VRAM"), ("fp8", "LOW_VRAM")):
    real_size.use_card(24 * 2**30, state)
    model = real_wan.open_wan(real_wan.WIDTHS["14B"], precision, 2)
    plan = real_wan.clip_plan(import_pack(), real_wan.SIZES["480p"])
    patched = import_pack().pusa_core.hosts.comfyui.apply_schedule(model, plan)
    others = (patched, real_wan.with_expanded_modulation(model, plan))
    uses = [real_size.measured(each, partial(real_wan.sample, each, plan.clean)) for each in (model, *others)]
    sizes[precision + " " + state] = [(use.weights, use.over, use.made) for use in uses]
print(json.dumps(sizes))
"""
WEIGHTS = {"bf16 NORMAL_VRAM": 2, "bf16 NO_VRAM": 0, "fp8 scaled NORMAL_VRAM": 1, "fp8 LOW_VRAM": 1}  # bytes of a matrix's


def run(*command):
    done = subprocess.run([sys.executable, *command], cwd=PACK, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def uses(comfyui):
    """{precision and mode: (bytes of weights on the card, at most beside them, written) plain, with a schedule, expanded}"""
    return json.loads(run("-c", COUNT).splitlines()[-1])


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


@pytest.fixture
def gpu(comfyui, monkeypatch):
    monkeypatch.syspath_prepend(PACK / "benchmarks")
    return importlib.import_module("gpu")


def test_the_gpu_benchmark_runs_where_there_is_no_gpu(comfyui, tmp_path):
    report, options = tmp_path / "gpu.json", ["--cpu", "--small", "--rounds", "1", "--first", "1"]
    text = run("benchmarks/gpu.py", *options, "--json", str(report))
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
