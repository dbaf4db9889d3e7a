"""Batches on Ray: workers that die, need each other's videos, cannot write, or wait for a GPU."""

import json
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch

from batch.folder import RunStopped
from batch.jobs import FramesOf, Job
from batch.run import run
from batch.settings import Models

PACK = Path(__file__).resolve().parents[2]
MODELS = Models(device="cpu")
JOB = Job("a red circle moves right", "clip", width=64, height=64, length=17, steps=2)
SMALL = replace(JOB, name="small", length=5, steps=1)


@pytest.fixture(scope="module")
def cluster(growing):
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install ray")
    yield ray
    ray.shutdown()


def test_workers_that_cannot_start_are_told(cluster, tmp_path):
    with pytest.raises(ValueError, match="2 workers with 1 GPUs each need 2 GPUs, but there are 0"):
        run([JOB, SMALL], [], replace(MODELS, device="cuda"), tmp_path, workers=2)
    with pytest.raises(ValueError, match="--gpus 0 gives the workers no GPU: add --device cpu"):
        run([JOB], [], replace(MODELS, device="auto"), tmp_path, workers=1, gpus=0)
    with pytest.raises(RunStopped, match="none.safetensors is not there"):
        run([JOB], [], replace(MODELS, lora="none.safetensors"), tmp_path, workers=1)
    assert "none.safetensors" in json.loads((tmp_path / "report.json").read_text())["stopped"]


def test_a_killed_worker_loses_nothing(cluster, growing, tmp_path, capfd):
    """Videos are gone on with by workers that did not make them, in a folder by its URL; what needs one that failed is told.
    Without a GPU anywhere the CPU is taken, aloud."""
    jobs = [replace(JOB, name=f"job{i:02}", seed=i, steps=4) for i in range(10)]
    jobs[0] = replace(jobs[0], keyframes=(FramesOf("job:job09", count=5, noise="0"),))  # the first needs the last
    jobs[1] = replace(jobs[1], alpha=0.5)
    chain = [needing(name, source) for name, source in (("b", "a"), ("c", "a"), ("d", "b"), ("e", "bad"))]
    jobs = [*chain, *jobs[:5], replace(JOB, name="bad", prompt="a red hexagon"), *jobs[5:], replace(SMALL, name="a")]
    killed: list[int] = []
    killer = threading.Thread(target=kill_a_worker, args=(tmp_path, killed, growing))
    killer.start()
    has_gpu = torch.cuda.is_available()
    report = run(jobs, [], MODELS if has_gpu else replace(MODELS, device="auto"), f"file://{tmp_path}", workers=2)
    killer.join()
    assert killed, "no worker was killed"
    assert sorted(report.made) == sorted(job.name for job in jobs if job.name not in ("bad", "e"))
    faults = {fault.name: fault.reason for fault in report.faults}
    assert set(faults) == {"bad", "e"} and faults["e"] == 'It needs the video of "bad", which failed.'
    assert len(run(jobs, [], MODELS, tmp_path).existing) == 14
    assert has_gpu or "RAY FINDS NO GPU ON THIS MACHINE" in capfd.readouterr().err


def needing(name, source):
    return replace(SMALL, name=name, keyframes=(FramesOf(f"job:{source}", count=5, noise="0"),))


def kill_a_worker(folder, killed, other, seconds=600):
    """Kills one of the workers once some videos are there, and none of another program's."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and len(list(folder.glob("*.json"))) < 3:
        time.sleep(0.05)
    for process in family(os.getpid()) - family(other.pid):
        with suppress(psutil.Error):  # it has ended
            if "ray::_Worker" in " ".join(process.cmdline()) and not killed:
                process.kill()
                killed.append(process.pid)


def family(pid):
    process = psutil.Process(pid)
    return {process, *process.children(recursive=True)}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
def test_a_worker_that_cannot_write_ends_the_run(cluster, tmp_path):
    """Rather than make all the others for nothing."""
    here, most = psutil.Process().pid, int(Path("/proc/sys/kernel/pid_max").read_text())
    for pid in range(2, most) if most <= 2**16 else range(here, here + 20_000):  # any worker's
        (tmp_path / f"one.mp4.{pid}.part").symlink_to("/dev/full")
    jobs = [replace(SMALL, name=name) for name in ("one", "two", "three")]
    with pytest.raises(RunStopped, match="No space left on device"):
        run(jobs, [], MODELS, tmp_path, workers=1)
    assert not (tmp_path / "two.mp4").exists()


GROWING = """
import os, sys, threading, time
sys.path.insert(0, sys.argv[1])
from ray.cluster_utils import Cluster
from batch import cluster
from batch.run import run
from tests.batch.test_cluster import MODELS, SMALL, replace

cluster.PATIENCE, told, tell = 1, [], cluster._tell
cluster._tell = lambda line: (told.append(line), tell(line))
machines = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 0})
os.environ["RAY_ADDRESS"] = machines.address

def make():
    try:
        run([SMALL], [], replace(MODELS, device="auto"), sys.argv[2], workers=1)
    except Exception as error:
        print(type(error).__name__, error)

thread = threading.Thread(target=make)
thread.start()
while thread.is_alive() and len(told) < 3:  # its patience has run out twice
    time.sleep(0.1)
print("waits" if thread.is_alive() else "ended")
machines.add_node(num_cpus=1, num_gpus=1)
thread.join()
"""


@pytest.fixture(scope="module")
def growing(tmp_path_factory):
    """The program on a cluster that grows, which runs beside the other tests, for most of it is waiting."""
    command = [sys.executable, "-c", GROWING, str(PACK), str(tmp_path_factory.mktemp("growing"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=PACK) as process:
        yield process
        process.kill()


def test_a_cluster_is_waited_for(growing):
    """One that has no GPU yet. The one that comes is in name only, so that a worker must not compute without it."""
    if torch.cuda.is_available():
        pytest.skip("the GPU that the cluster is said to get would be this machine's")
    said, told = growing.communicate(timeout=300)
    assert "Waiting for 1 GPUs, the cluster has 0 now." in told, told[-3000:]
    assert said.startswith("waits")
    assert "RunStopped Ray gave a worker on" in said and "a GPU that torch cannot use there" in said
    assert not list(Path(growing.args[-1]).glob("*.mp4"))
