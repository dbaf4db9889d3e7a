"""One video over two processes: Diffusers' context parallelism shards the timesteps with their tokens."""

from pathlib import Path

import pytest
import torch

PACK = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
import torch.distributed as distributed
distributed.init_process_group("gloo")
torch.accelerator.device_count = lambda: 1  # Diffusers asks how many GPUs there are
from diffusers import ContextParallelConfig
from pusa_core.hosts.diffusers import open_wan, sample
from pusa_core.schedule import FrameSchedule

wan = open_wan(sys.argv[2], torch.float32)
wan.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2))
tokens = []
wan.blocks[1].register_forward_pre_hook(lambda module, args: tokens.append((args[0].shape[1], args[2].shape[1])))
inputs = torch.load(sys.argv[3])
schedule = FrameSchedule.from_json(inputs.pop("schedule"))
made = sample(wan, schedule, **inputs, steps=3)
if distributed.get_rank() == 0:
    torch.save({"made": made, "tokens": tokens}, sys.argv[4])
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without torch.distributed")
def test_two_processes_make_what_one_makes(forked, tmp_path):
    from pusa_core.hosts.diffusers import open_wan, sample
    from pusa_core.schedule import FrameMap, FrameSchedule
    from tests import tiny

    file = tiny.write_wan(tmp_path / "wan.safetensors", dim=256, heads=2)
    g = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(1, 16, 5, 8, 8, generator=g) for _ in range(2))
    text = torch.randn(1, 8, tiny.TEXT_DIM, generator=g)
    # 5 frames of 16 tokens: the third lies on both processes
    schedule = FrameSchedule.build(5, {0: FrameMap.line(0.0), 2: FrameMap.line(0.4), 4: FrameMap.line(0.3, "hold")})
    inputs = {"clean": clean, "noise": noise, "text": text, "negative": -text}
    torch.save({**inputs, "schedule": schedule.to_json()}, tmp_path / "inputs.pt")
    (tmp_path / "program.py").write_text(PROGRAM)
    command = ["torch.distributed.run", "--nproc_per_node", "2", "--master_port", "0", "--standalone"]
    files = [str(PACK), str(file), str(tmp_path / "inputs.pt"), str(tmp_path / "made.pt")]
    done = forked.run(*command, tmp_path / "program.py", *files)
    assert done.returncode == 0, done.stderr[-3000:]
    split = torch.load(tmp_path / "made.pt")
    assert set(split["tokens"]) == {(40, 40)}  # half of the tokens, each with its own timestep
    whole = sample(open_wan(file, torch.float32), schedule, **inputs, steps=3)
    assert (split["made"] - whole).norm() < 1e-4 * whole.norm()
