"""Batches on the demo model: what is made, resumed and reported, here and on two Ray workers."""

import json
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch

from batch import make
from batch.jobs import FramesOf, ImageAt, Job, read_job
from batch.make import Maker, Models, is_made
from batch.run import run
from demo_model.world import draw, scene
from pusa_core.picture import save_picture
from pusa_core.videos import read_frames, write_video

PACK = Path(__file__).resolve().parents[2]
MODELS = Models(device="cpu")
JOB = Job("a red circle moves right", "clip", width=64, height=64, length=17, steps=2)


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    folder = tmp_path_factory.mktemp("given")
    clip = draw([scene(3)])[0]
    save_picture(clip[:1], folder / "start.png")
    write_video(folder / "clip.mp4", clip, 8, quality=0)
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


def read(path):
    return torch.cat(list(read_frames(path)))


def test_a_video_and_what_made_it(given, tmp_path, monkeypatch):
    written = []  # x264 does not make the same file twice of one small clip

    def watched(path, pictures, fps):
        written.append(pictures)
        write_video(path, pictures, fps)

    monkeypatch.setattr(make, "write_video", watched)
    job = replace(JOB, keyframes=(ImageAt(str(given / "start.png"), noise=0.0),))
    report = run([job], [], MODELS, tmp_path)
    assert report.made == ["clip"] and not report.faults
    video = read(tmp_path / "clip.mp4")
    assert video.shape == (17, 64, 64, 3)
    assert (video[0] - draw([scene(3)])[0, 0]).abs().mean() < 0.05
    told = json.loads((tmp_path / "clip.json").read_text())
    assert told["schedule"]["keyframes"] == {"0": {"multiplier": 0.0, "behaviour": "evolve"}}
    assert set(told["inputs"]) == {str(given / "start.png")} and told["versions"]["torch"]
    again = read_job(json.dumps(told["job"]), "", tmp_path, {})
    assert again == job
    run([replace(again, name="again")], [], Models(**told["models"]), tmp_path)
    assert torch.equal(*written)


def test_long_videos_are_not_kept_whole(given, tmp_path):
    """The last frames of a clip are the same whether all of it is read or not."""
    clip = draw([scene(5)])[0].repeat(3, 1, 1, 1)
    write_video(tmp_path / "long.mp4", clip, 8, quality=0)
    write_video(tmp_path / "end.mp4", read(tmp_path / "long.mp4")[-30:], 8, quality=0)
    jobs = [
        replace(JOB, name=name, keyframes=(FramesOf(str(tmp_path / f"{name}.mp4"), "last", 5, noise="0"),))
        for name in ("long", "end")
    ]
    report = run(jobs, [], MODELS, tmp_path / "out")
    assert not report.faults
    long, end = (read(tmp_path / "out" / f"{name}.mp4") for name in ("long", "end"))
    assert (long - end).abs().mean() < 0.02


def test_what_is_made_is_not_made_again(given, tmp_path):
    jobs = [JOB, replace(JOB, name="other", seed=1)]
    assert run(jobs, [], MODELS, tmp_path).made == ["clip", "other"]
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.mp4")}
    report = run(jobs, [], MODELS, tmp_path)
    assert report.made == [] and report.there == ["clip", "other"]
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.mp4")}
    (tmp_path / "other.json").unlink()  # as if the run had been cut off
    assert run([replace(JOB, steps=1), jobs[1]], [], MODELS, tmp_path).made == ["clip", "other"]
    assert not is_made(tmp_path, JOB, MODELS) and is_made(tmp_path, replace(JOB, steps=1), MODELS)
    assert not list(tmp_path.glob("*.part"))


def test_bad_jobs_do_not_stop_the_rest(given, tmp_path):
    jobs = [
        replace(JOB, name="word", prompt="a red hexagon"),
        replace(JOB, name="picture", keyframes=(ImageAt(str(given / "broken.png")),)),
        replace(JOB, name="length", length=16, keyframes=(ImageAt(str(given / "start.png")),)),
        replace(JOB, name="short", keyframes=(FramesOf(str(given / "clip.mp4"), count=61),)),
        replace(JOB, name="size", width=60),
        JOB,
    ]
    report = run(jobs, [], MODELS, tmp_path)
    assert report.made == ["clip"]
    said = {fault.name: fault.reason for fault in report.faults}
    assert 'does not know the word "hexagon"' in said["word"]
    assert "broken.png is no picture" in said["picture"]
    assert "16 frames is not 4n+1" in said["length"]
    assert "The clip has 17 frames" in said["short"]
    assert "divisible by 16" in said["size"]
    assert json.loads((tmp_path / "report.json").read_text())["made"] == ["clip"]
    assert "1 videos made, 0 were there already, 5 failed." in str(report)


def test_models_that_cannot_be_opened_are_told():
    with pytest.raises(ValueError, match="no Diffusers folder"):
        Maker(replace(MODELS, model=str(PACK)), PACK)
    with pytest.raises(ValueError, match="no such file|not there|cannot be"):
        Maker(replace(MODELS, lora="none.safetensors"), PACK)


def test_the_command(given, tmp_path):
    lines = [
        {"prompt": "a blue bar spins", "width": 64, "height": 64, "length": 17, "steps": 1, "name": "good"},
        {"promt": ""},
    ]
    (tmp_path / "jobs.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    command = [sys.executable, "-W", "ignore", "-m", "batch", str(tmp_path / "jobs.jsonl"), "--output", str(tmp_path / "out")]
    done = subprocess.run([*command, "--device", "cpu"], cwd=PACK, capture_output=True, text=True)
    assert done.returncode == 1
    assert "1 videos made, 0 were there already, 1 failed." in done.stdout
    assert 'line 2: "promt" is no setting, did you mean prompt?' in done.stdout
    assert (tmp_path / "out" / "good.mp4").is_file()


@pytest.fixture
def cluster():
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install ray")
    yield ray
    ray.shutdown()


def test_a_killed_worker_loses_nothing(cluster, tmp_path):
    jobs = [replace(JOB, name=f"job{i:02}", seed=i, steps=4) for i in range(16)]
    jobs.insert(5, replace(JOB, name="bad", prompt="a red hexagon"))
    killed: list[int] = []
    killer = threading.Thread(target=kill_a_worker, args=(tmp_path, killed))
    killer.start()
    report = run(jobs, [], MODELS, tmp_path, workers=2)
    killer.join()
    assert killed, "no worker was killed"
    assert sorted(report.made) == sorted(job.name for job in jobs if job.name != "bad")
    assert [fault.name for fault in report.faults] == ["bad"]
    assert all(is_made(tmp_path, job, MODELS) for job in jobs if job.name != "bad")


def kill_a_worker(folder, killed, seconds=240):
    """Kills one of the workers once some videos are there."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and len(list(folder.glob("*.json"))) < 3:
        time.sleep(0.05)
    for process in psutil.process_iter(["cmdline"]):
        if "ray::_Worker" in " ".join(process.info["cmdline"] or []) and not killed:
            process.kill()
            killed.append(process.pid)
