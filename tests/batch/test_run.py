"""Batches on the demo model: what is made, resumed and reported, here and on two Ray workers."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
import weakref
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch

import batch.__main__
from batch import make
from batch.jobs import FramesOf, ImageAt, Job, read_job
from batch.make import Maker, Models, is_made
from batch.run import run
from demo_model import LORA
from demo_model.world import draw, scene
from pusa_core.figures import save_image
from pusa_core.keyframes import video_keyframes
from pusa_core.video_files import read_frames, write_video

PACK = Path(__file__).resolve().parents[2]
MODELS = Models(device="cpu")
JOB = Job("a red circle moves right", "clip", width=64, height=64, length=17, steps=2)


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    folder = tmp_path_factory.mktemp("given")
    clip = draw([scene(3)])[0]
    save_image(clip[:1], folder / "start.png")
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
    assert set(told["inputs"]) == {str(given / "start.png"), str(LORA)} and told["versions"]["torch"]
    again = read_job(json.dumps(told["job"]), "", tmp_path, {})
    assert again == job
    run([replace(again, name="again")], [], Models(**told["models"]), tmp_path)
    assert torch.equal(*written)


def test_the_end_of_a_long_video_is_taken(tmp_path, monkeypatch):
    """And the rest of it is not kept."""
    write_video(tmp_path / "long.mp4", draw([scene(5)])[0].repeat(6, 1, 1, 1), 8, quality=0)
    alive, most = weakref.WeakSet(), 0

    def watched(path):
        nonlocal most
        for frame in read_frames(path):
            alive.add(frame)
            most = max(most, len(alive))
            yield frame

    monkeypatch.setattr(make, "read_frames", watched)
    for place, count in (("start", 5), ("end", 4)):
        found = make.read_keyframe(FramesOf(str(tmp_path / "long.mp4"), "last", count, place=place, noise="0"), lambda x: x)
        whole = video_keyframes(read(tmp_path / "long.mp4"), "last", count, "pixel", place, 0, "0")
        taken = torch.cat([found.pictures[-count:], whole.pictures[-count:]])
        assert taken[:count].equal(taken[count:]) and found.multipliers == whole.multipliers
    assert most < 30  # of 102 frames


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
        replace(JOB, name="place", keyframes=(ImageAt(str(given / "start.png"), frame=17),)),
        replace(JOB, name="short", keyframes=(FramesOf(str(given / "clip.mp4"), count=61),)),
        replace(JOB, name="size", width=60),
        JOB,
    ]
    report = run(jobs, [], MODELS, tmp_path)
    assert report.made == ["clip"]
    said = {fault.name: fault.reason for fault in report.faults}
    assert 'does not know the word "hexagon"' in said["word"]
    assert "broken.png is no picture" in said["picture"]
    assert "17" in said["place"]
    assert "The clip has 17 frames" in said["short"]
    assert "A width of 60 is not divisible by 16: use 48" in said["size"]
    assert json.loads((tmp_path / "report.json").read_text())["made"] == ["clip"]
    assert "1 videos made, 0 were there already, 5 failed." in str(report)


def test_a_keyframes_file_is_not_overwritten(given, tmp_path):
    own = tmp_path / "clip.mp4"
    own.write_bytes((given / "clip.mp4").read_bytes())
    report = run([replace(JOB, keyframes=(FramesOf(str(own), count=5, noise="0"),))], [], MODELS, tmp_path)
    assert "is a keyframe's file" in report.faults[0].reason
    assert own.read_bytes() == (given / "clip.mp4").read_bytes()


def test_a_failed_write_leaves_what_was_there(given, tmp_path, monkeypatch):
    run([JOB], [], MODELS, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("clip.*")}

    def full(path, pictures, fps):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(make, "write_video", full)
    report = run([replace(JOB, seed=1)], [], MODELS, tmp_path)
    assert report.faults[0].reason == "OSError: No space left on device"
    assert {path.name: path.read_bytes() for path in tmp_path.glob("clip.*")} == before


def test_another_lora_is_another_video(given, tmp_path):
    """A changed file is noticed under the same name, and what was used is in the sidecar."""
    shutil.copyfile(LORA, tmp_path / "lora.safetensors")
    models = replace(MODELS, lora=str(tmp_path / "lora.safetensors"), alpha=1.0)
    run([JOB], [], models, tmp_path)
    assert json.loads((tmp_path / "clip.json").read_text())["inputs"] == {models.lora: make.digest(LORA)}
    assert is_made(tmp_path, JOB, models)
    os.utime(models.lora, (1, 1))
    assert not is_made(tmp_path, JOB, models)


def test_a_broken_gpu_ends_the_run(monkeypatch, tmp_path):
    """Every other job would fail at once, too, as if it were bad."""
    failure = make.torch.AcceleratorError if hasattr(torch, "AcceleratorError") else None
    if failure is None:
        pytest.skip("this torch has no error of its own for a GPU's")
    monkeypatch.setattr(Maker, "make", lambda self, job: (_ for _ in ()).throw(failure("CUDA error: illegal address")))
    with pytest.raises(failure):
        run([JOB], [], MODELS, tmp_path)


@pytest.mark.parametrize(
    "changed, said",
    [
        ({"model": str(PACK)}, "no Diffusers folder"),
        ({"lora": "none.safetensors"}, "no such file|not there|cannot be"),
        ({"extra_lora": "none.safetensors"}, "none.safetensors is not there"),
        ({"low_noise_extra_lora": "none.safetensors"}, "is for Wan2.2"),
        ({"device": "cdua"}, '"cdua" is no device'),
        ({"ulysses": 2}, "need 2 processes, but there are 1"),
    ],
)
def test_models_that_cannot_be_opened_are_told(changed, said):
    with pytest.raises(ValueError, match=said):
        Maker(replace(MODELS, **changed), PACK)


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Options -> how the command ends, in this process."""
    lines = [{"prompt": "a blue bar spins", "steps": 1, "name": "good"}, {"promt": ""}]
    (tmp_path / "jobs.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    size = json.dumps({"width": 64, "height": 64, "length": 17})
    always = [str(tmp_path / "jobs.jsonl"), f"--output={tmp_path / 'out'}", f"--defaults={size}"]

    def call(*options):
        monkeypatch.setattr(sys, "argv", ["batch", *always, *options])
        return batch.__main__.main()

    return call


def test_the_command(command, tmp_path, capsys):
    assert command("--check") == 1
    assert capsys.readouterr().out == "1 jobs, 1 bad lines.\n" and not (tmp_path / "out").exists()
    assert command() == 1
    told = capsys.readouterr()
    assert "1 videos made, 0 were there already, 1 failed." in told.out
    assert 'line 2: "promt" is no setting, did you mean prompt?' in told.out
    assert told.err.startswith('line 2: "promt"')  # before the first video, too
    assert (tmp_path / "out" / "good.mp4").is_file()


@pytest.mark.parametrize(
    "wrong, said",
    [
        ("--dtype=fp16", "invalid choice: 'fp16'"),
        ("--defaults=[]", "--defaults is a list"),
        ("--workers=-1", "-1 workers were asked for"),
        ("--model=nowhere", "nowhere is no Diffusers folder"),
        (f"--output={__file__}", "File exists"),
    ],
)
def test_wrong_options_are_told(command, wrong, said, capsys):
    with pytest.raises(SystemExit) as end:
        command(wrong)
    assert said in f"{end.value} {capsys.readouterr().err}"


def test_a_stopped_command_goes_on(command, monkeypatch, capsys):
    with monkeypatch.context() as stopped:
        stopped.setattr(Maker, "make", lambda self, job: (_ for _ in ()).throw(KeyboardInterrupt))
        assert command() == 130
    assert "goes on with what is missing" in capsys.readouterr().err
    assert command() == 1 and "1 videos made" in capsys.readouterr().out


def test_it_is_a_module():
    told = subprocess.run([sys.executable, "-m", "batch", "--help"], cwd=PACK, capture_output=True, text=True)
    assert told.returncode == 0 and "--low-noise-lora" in told.stdout


@pytest.fixture(scope="module")
def cluster():
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install ray")
    yield ray
    ray.shutdown()


def test_workers_that_cannot_start_are_told(cluster, tmp_path):
    with pytest.raises(ValueError, match="2 workers with 1 GPUs each need 2 GPUs, but there are 0"):
        run([JOB, JOB], [], replace(MODELS, device="cuda"), tmp_path, workers=2)
    with pytest.raises(ValueError, match="no such file|not there|cannot be"):
        run([JOB], [], replace(MODELS, lora="none.safetensors"), tmp_path, workers=1)


def test_a_killed_worker_loses_nothing(cluster, tmp_path):
    jobs = [replace(JOB, name=f"job{i:02}", seed=i, steps=4) for i in range(10)]
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
    for process in psutil.Process().children(recursive=True):
        if "ray::_Worker" in " ".join(process.cmdline()) and not killed:
            process.kill()
            killed.append(process.pid)
