"""What models of real size take of a card, counted without one, and the commands that measure it."""

import json
import subprocess
import sys

import pytest

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
    sizes[precision + " " + state] = [(use.weights, use.over) for use in uses]
print(json.dumps(sizes))
"""
WEIGHTS = {"bf16 NORMAL_VRAM": 2, "bf16 NO_VRAM": 0, "fp8 scaled NORMAL_VRAM": 1, "fp8 LOW_VRAM": 1}  # bytes of a matrix's


def run(*command):
    done = subprocess.run([sys.executable, *command], cwd=PACK, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def uses(comfyui):
    """{precision and mode: (bytes of weights on the card, at most beside them) plain, with a schedule, expanded}"""
    return json.loads(run("-c", COUNT).splitlines()[-1])


@pytest.mark.parametrize("case", WEIGHTS)
def test_a_schedule_takes_half_a_percent_more_than_a_plain_step(uses, case):
    (plain_weights, plain), (weights, ours), _ = uses[case]
    assert weights == plain_weights
    assert plain < ours <= 1.005 * plain


@pytest.mark.parametrize("case", WEIGHTS)
def test_it_takes_gigabytes_less_than_modulation_expanded_to_tokens(uses, case):
    _, (_, ours), (_, expanded) = uses[case]
    assert expanded - ours > 2e9


def test_weights_are_as_large_as_their_precision(uses):
    matrices = 2 * (8 * 5120**2 + 2 * 5120 * 13824)  # of two blocks
    for case, size in WEIGHTS.items():
        weights = uses[case][0][0]
        assert weights == 0 if size == 0 else size * matrices < weights < size * matrices + 5e8, case


def test_the_gpu_benchmark_runs_where_there_is_no_gpu(comfyui, tmp_path):
    report = tmp_path / "gpu.json"
    text = run("benchmarks/gpu.py", "--cpu", "--small", "--rounds", "1", "--first", "1", "--json", str(report))
    found = json.loads(report.read_text())
    ways = [result["way"] for result in found["results"]]
    assert ways == ["plain", "Pusa schedule", "modulation expanded to tokens", "a timestep for every token"]
    assert found["left_out"] == {} and all(f"| {way} |" in text for way in ways)
