"""Batches on the demo model: what is made, resumed and reported."""

import json
import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from batch import make, models
from batch.folder import RunStopped, open_folder
from batch.jobs import FramesOf, ImageAt, Job, PromptFrom, StartOf, read_job
from batch.make import Maker
from batch.queue import Queue, Report
from batch.run import run
from batch.settings import Models
from demo_model import LORA
from demo_model.world import draw, scene
from pusa_core.figures import save_image
from pusa_core.frames import latent_length
from pusa_core.hosts.diffusers import long_video
from pusa_core.keyframes import video_keyframes
from pusa_core.plan import Plan
from pusa_core.schedule import FrameSchedule
from pusa_core.video_files import read_frames, write_video

PACK = Path(__file__).resolve().parents[2]
MODELS = Models(device="cpu")
JOB = Job("a red circle moves right", "clip", width=64, height=64, length=17, steps=2)
SMALL = replace(JOB, length=5, steps=1)


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    folder = tmp_path_factory.mktemp("given")
    clip = draw([scene(3)])[0]
    save_image(clip[:1], folder / "start.png")
    write_video(folder / "clip.mp4", clip, 8, quality=0)
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


@pytest.fixture
def quick(monkeypatch):
    """Makes noise instead of videos, where it is the keeping of books that is tested; the jobs that were sampled."""
    sampled = []

    def sample(pipe, job, videos):
        sampled.append(job)
        if "hexagon" in job.prompt:
            raise ValueError("hexagon")
        pictures = torch.rand(job.length, job.height, job.width, 3, generator=torch.Generator().manual_seed(len(sampled)))
        return pictures, Plan((FrameSchedule.build(latent_length(job.length)),))

    monkeypatch.setattr(Maker, "pipeline", lambda self, models: SimpleNamespace(scheduler=SimpleNamespace(sigmas=[])))
    monkeypatch.setattr(make, "sample", sample)
    return sampled


def is_made(folder, job, models):
    report = Report()
    Queue([job], models, open_folder(folder), report)
    return report.existing == [job.name]


def read(path):
    return torch.cat(list(read_frames(path)))


@pytest.mark.parametrize("name", ["start.png", "deep.png"])
def test_pictures_of_8_and_16_bits(given, name):
    picture = np.asarray(Image.open(given / "start.png").convert("L"))
    Image.fromarray(picture.astype(np.uint16) * 257).save(given / "deep.png")
    (keyframe,) = make.read_keyframes(replace(JOB, keyframes=(ImageAt(str(given / name)),)), {})
    grey = keyframe.pictures[0].mean(-1)
    assert (grey - torch.from_numpy(picture / 255)).abs().mean() < 0.06  # as bright


def test_a_video_and_what_made_it(given, tmp_path, monkeypatch):
    written = []  # x264 does not make the same file twice of one small clip

    def watched(path, pictures, fps):
        written.append(torch.cat(pictures))
        write_video(path, pictures, fps)

    monkeypatch.setattr(make, "write_video", watched)
    job = replace(JOB, keyframes=(ImageAt(str(given / "start.png"), noise=0.0),))
    report = run([job], [], MODELS, tmp_path)
    assert report.made == ["clip"] and not report.faults
    video = read(tmp_path / "clip.mp4")
    assert video.shape == (17, 64, 64, 3)
    assert (video[0] - draw([scene(3)])[0, 0]).abs().mean() < 0.05
    metadata = json.loads((tmp_path / "clip.json").read_text())
    assert metadata["schedule"]["keyframes"] == {"0": {"multiplier": 0.0, "behaviour": "evolve"}}
    assert set(metadata["inputs"]) == {str(given / "start.png"), str(LORA)} and metadata["versions"]["torch"]
    assert metadata["video"] == make.digest(tmp_path / "clip.mp4")
    again = read_job(metadata["job"], tmp_path)
    assert again == job
    run([replace(again, name="again")], [], Models(**metadata["models"]), tmp_path)
    assert torch.equal(*written)


def test_a_long_video_that_died_goes_on(given, tmp_path, monkeypatch):
    later = PromptFrom("a red circle moves left", 9)
    picture = ImageAt(str(given / "start.png"), noise=0.0)
    long = replace(JOB, kind="long", length=25, steps=1, cfg=1.0, moving_frames=3, prompts=(later,), keyframes=(picture,))
    written, evaluated, original = [], [], long_video.velocity

    def watched(path, pictures, fps):
        written.append(torch.cat(list(pictures)))
        write_video(path, written[-1], fps)

    def dies(*args):
        evaluated.append(args)
        if len(evaluated) == 6:
            raise RuntimeError("the power went off")
        return original(*args)

    monkeypatch.setattr(make, "write_video", watched)
    assert run([replace(long, name="whole")], [], MODELS, tmp_path).made == ["whole"]
    monkeypatch.setattr(long_video, "velocity", dies)
    assert "the power went off" in run([long], [], MODELS, tmp_path).faults[0].reason
    assert (tmp_path / "clip.part").is_dir() and not (tmp_path / "clip.mp4").exists()
    assert run([long], [], MODELS, tmp_path).made == ["clip"]
    assert torch.equal(*written) and len(evaluated) == 6 + 8 - 5
    assert not (tmp_path / "clip.part").exists() and read(tmp_path / "clip.mp4").shape == (25, 64, 64, 3)
    metadata = json.loads((tmp_path / "clip.json").read_text())
    assert metadata["job"]["prompts"] == [{"prompt": later.prompt, "frame": 9}] and len(metadata["sigmas"]) == 4
    assert is_made(tmp_path, long, MODELS) and not is_made(tmp_path, replace(long, prompts=()), MODELS)


def test_diffusion_forcing(given, tmp_path):
    picture = ImageAt(str(given / "start.png"), noise=0.0)
    job = replace(JOB, kind="forcing", ar_step=1, causal_block_size=2, causal_attention=True, keyframes=(picture,), cfg=1.0)
    assert run([job], [], MODELS, tmp_path).made == ["clip"]
    assert len(json.loads((tmp_path / "clip.json").read_text())["sigmas"]) == 2 + 1 + 1  # two steps, a block behind


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
        frames = FramesOf("long.mp4", "last", count, place=place, noise="0")
        found = make.read_keyframe(frames, tmp_path / "long.mp4", lambda x: x)
        whole = video_keyframes(read(tmp_path / "long.mp4"), "last", count, "pixel", place, 0, "0")
        taken = torch.cat([found.pictures[-count:], whole.pictures[-count:]])
        assert taken[:count].equal(taken[count:]) and found.multipliers == whole.multipliers
    assert most < 30  # of 102 frames


def test_every_frame_starts_from_a_clip(given, tmp_path):
    clip, noise = str(given / "clip.mp4"), "0: 0, 4: 0, 5: 1, 12: 1, 13: 0"
    slow = StartOf(clip, "0.2", retime="stretch", between=0.8)
    jobs = [replace(JOB, keyframes=(StartOf(clip, noise),)), replace(JOB, name="slow", length=29, keyframes=(slow,))]
    assert run(jobs, [], MODELS, tmp_path).made == ["clip", "slow"]
    made, whole = read(tmp_path / "clip.mp4"), draw([scene(3)])[0]
    kept = [*range(5), *range(13, 17)]
    assert (made[kept] - whole[kept]).abs().mean() < 0.05
    schedules = [json.loads((tmp_path / f"{job.name}.json").read_text())["schedule"] for job in jobs]
    assert [schedules[0]["keyframes"][str(i)]["multiplier"] for i in (0, 1, 4)] == [0, 0, 0]
    assert "2" not in schedules[0]["keyframes"]
    assert schedules[1]["latent_frames"] == 8 and len(schedules[1]["keyframes"]) == 8


def test_what_is_made_is_not_made_again(tmp_path, quick):
    jobs = [JOB, replace(JOB, name="other", seed=1)]
    assert run(jobs, [], MODELS, tmp_path).made == ["clip", "other"]
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.mp4")}
    report = run(jobs, [], MODELS, tmp_path)
    assert report.made == [] and report.existing == ["clip", "other"]
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
    assert "broken.png cannot be read" in said["picture"]
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


def test_a_full_disk_ends_the_run_at_once_and_leaves_what_was_there(tmp_path, monkeypatch, quick):
    run([JOB], [], MODELS, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("clip.*")}

    def full(path, pictures, fps):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(make, "write_video", full)
    changed = replace(JOB, seed=1)
    with pytest.raises(RunStopped, match="cannot be written to .*No space left on device.*: make room or give another"):
        run([changed, replace(changed, name="next")], [], MODELS, tmp_path)
    assert quick == [JOB, changed]
    assert {path.name: path.read_bytes() for path in tmp_path.glob("clip.*")} == before
    report = json.loads((tmp_path / "report.json").read_text())
    assert "No space left" in report["stopped"] and report["faults"] == report["made"] == []


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="/proc is Linux's")
def test_a_folder_that_takes_no_files_is_found_before_a_model_is_opened(monkeypatch):
    opened = []
    monkeypatch.setattr(models, "open_model", lambda *args: opened.append(args))
    with pytest.raises(RunStopped, match="/proc cannot be written to"):
        run([JOB], [], MODELS, "/proc")
    assert not opened


def test_a_folder_elsewhere(quick):
    """Resumed, too, and with a video of it as a keyframe."""
    memory = "memory:///videos"
    jobs = [replace(SMALL, name="next", keyframes=(FramesOf("job:first", count=5, noise="0"),)), replace(SMALL, name="first")]
    assert run(jobs, [], MODELS, memory).made == ["first", "next"]
    report = run([*jobs, replace(SMALL, name="third")], [], MODELS, memory)
    assert report.existing == ["first", "next"] and report.made == ["third"]
    folder = open_folder(memory)
    names = {f"{name}.{kind}" for name in ("first", "next", "third") for kind in ("mp4", "json")} | {"report.json"}
    assert {path.rsplit("/", 1)[1] for path in folder.files.ls(folder.root, detail=False)} == names
    with folder.local("next.mp4") as path:
        assert read(path).shape == (5, 64, 64, 3)
    assert json.loads(folder.read(["report.json"])["report.json"])["made"] == ["third"]
    folder.files.rm(folder.root, recursive=True)


def chain(*names, **changed):
    """Jobs that each go on with the one before."""
    first = replace(SMALL, name=names[0], **changed)
    later = [replace(SMALL, name=b, keyframes=(FramesOf(f"job:{a}", count=5, noise="0"),)) for a, b in zip(names, names[1:])]
    return [*reversed(later), first]


def test_a_video_goes_on_with_that_of_another_job(tmp_path):
    jobs = chain("a", "b", "c")
    assert run(jobs, [], MODELS, tmp_path).made == ["a", "b", "c"]
    first, second = read(tmp_path / "a.mp4"), read(tmp_path / "b.mp4")
    assert (second[0] - first[-5]).abs().mean() < 0.05
    inputs = json.loads((tmp_path / "b.json").read_text())["inputs"]
    assert inputs["job:a"] == make.digest(tmp_path / "a.mp4")


def test_what_came_of_a_video_is_made_again_with_it(tmp_path, quick):
    """Also when the video is made again by the same job, which need not give the same."""
    jobs = [*chain("a", "b"), replace(SMALL, name="alone")]
    run(jobs, [], MODELS, tmp_path)
    (tmp_path / "a.json").unlink()
    report = run(jobs, [], MODELS, tmp_path)
    assert report.made == ["a", "b"] and report.existing == ["alone"]
    assert sorted(run(jobs, [], MODELS, tmp_path).existing) == ["a", "alone", "b"]
    assert run([*chain("a", "b", seed=1), jobs[-1]], [], MODELS, tmp_path).made == ["a", "b"]


def test_a_worker_gets_the_jobs_that_fit_what_it_has_open(tmp_path):
    named = {"plain": {}, "weak": {"alpha": 0.5}, "other": {"model": "a/b"}, "other_weak": {"model": "a/b", "alpha": 0.5}}
    jobs = [replace(JOB, name=name, **weights) for name, weights in named.items()]
    for opened, first in (
        ({}, "plain"),
        ({"alpha": 0.5}, "weak"),
        ({"model": "a/b", "alpha": 2.0}, "other"),
        (None, "plain"),
    ):
        queue = Queue(jobs, MODELS, open_folder(tmp_path), Report())
        job, _ = queue.take(None if opened is None else MODELS.override(opened))
        assert job.name == first


def test_what_needs_a_video_that_failed_has_failed(tmp_path, quick):
    bad, good = chain("bad", "b", "c", prompt="a red hexagon"), chain("a", "d")
    report = run([*bad, *good], [], MODELS, tmp_path)
    assert report.made == ["a", "d"]
    said = {fault.name: fault.reason for fault in report.faults}
    assert "hexagon" in said["bad"]
    assert said["b"] == 'It needs the video of "bad", which failed.'
    assert said["c"] == 'It needs the video of "b", which failed.'


def test_a_broken_gpu_ends_the_run(monkeypatch, tmp_path):
    """Every other job would fail at once, too, as if it were bad."""
    failure = make.torch.AcceleratorError if hasattr(torch, "AcceleratorError") else None
    if failure is None:
        pytest.skip("this torch has no error of its own for a GPU's")
    monkeypatch.setattr(
        Maker, "make", lambda self, job, sources: (_ for _ in ()).throw(failure("CUDA error: illegal address"))
    )
    with pytest.raises(failure):
        run([JOB], [], MODELS, tmp_path)
