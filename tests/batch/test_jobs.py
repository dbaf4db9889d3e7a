"""Jobs' files: what is read, and what is said of mistakes."""

import json

import pytest
from PIL import Image

from batch.jobs import FramesOf, ImageAt, Job, StartOf, read_job
from batch.settings import Models

LONG = {"kind": "long", "prompts": [{"prompt": "y", "frame": 40}], "keyframes_beside": True}
FORCING = {"kind": "forcing", "ar_step": 5, "causal_block_size": 3, "causal_attention": True}


@pytest.fixture
def folder(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "b.mp4").write_bytes(b"")
    return tmp_path


def read(folder, **given):
    return read_job({"prompt": "x", "name": "00001", **given}, folder)


def test_a_prompt_is_enough(folder):
    assert read(folder) == Job("x", "00001")


def test_everything_can_be_said(folder):
    keyframes = [
        {"image": "a.png", "frame": -1, "noise": 0},
        {"video": "b.mp4", "take": "first", "count": 9, "noise": 0.3, "behaviour": "hold"},
    ]
    job = read(folder, name="cat_1.2", keyframes=keyframes, width=64, cfg=1, seed=7, fit="stretch")
    assert job.keyframes == (
        ImageAt(str(folder / "a.png"), -1, noise=0.0),
        FramesOf(str(folder / "b.mp4"), "first", 9, noise="0.3", behaviour="hold"),
    )
    assert (job.name, job.width, job.cfg, job.seed, job.fit) == ("cat_1.2", 64, 1.0, 7, "stretch")


def test_what_a_sidecar_tells_of_a_job_is_the_job(folder):
    keyframes = [{"image": "a.png"}, {"video": "b.mp4"}, {"video": "job:a"}]
    job = read(folder, keyframes=keyframes, steps=3, lora="b.mp4", alpha=1)
    settings = json.loads(json.dumps(job.settings()))
    assert read_job(settings, folder / "elsewhere") == job
    assert "model" not in settings  # it was the command's


@pytest.mark.parametrize("given, defaults", [(LONG, (1, 5.0)), (FORCING, (30, 8.0)), ({}, (10, 5.0))])
def test_kinds(folder, given, defaults):
    """Each has defaults of its own, and says nothing of the others' settings, so that what was made stays made."""
    job = read(folder, **given)
    assert (job.steps, job.shift) == defaults
    settings = job.settings()
    assert read_job(settings, folder) == job and given.items() <= settings.items()
    assert settings.get("kind", "clip") == job.kind and ("kind" in settings) == bool(given)
    assert ("moving_frames" in settings, "ar_step" in settings) == (given is LONG, given is FORCING)


def test_models_of_a_job_lie_where_its_file_lies(folder):
    job = read(folder, lora="b.mp4", extra_lora="owner/name", alpha=1, low_noise_lora="")
    assert job.weights == {"lora": str(folder / "b.mp4"), "extra_lora": "owner/name", "alpha": 1.0, "low_noise_lora": ""}
    models = Models("a/b", lora="other.pt", low_noise_lora="low.pt", extra_alpha=0.5).override(job.weights)
    assert models.loras == [(str(folder / "b.mp4"), 1.0, False)]  # an empty name is none
    assert models.extra_loras == [("owner/name", 0.5, False)] and models.model == "a/b"
    assert read(folder).weights == {}


def test_jobs_may_take_videos_of_others(folder):
    keyframes = [{"video": "job:a"}, {"image": "a.png"}, {"video": "job:b", "place": "end"}, {"video": "job:a"}]
    job = read(folder, keyframes=keyframes)
    assert job.needs == ["a", "b"] and job.inputs == [folder / "a.png"]


@pytest.mark.parametrize(
    "given, count, noise",
    [
        ({}, 13, "0, 0.3, 0.4, 0.5"),
        ({"count": 5}, 5, "0.3"),
        ({"place": "end"}, 12, "0.3"),
        ({"noise": [0, 0.25, 0.5, 1]}, 13, "0, 0.25, 0.5, 1"),
        ({"noise": "0 to 0.3"}, 13, "0 to 0.3"),
    ],
)
def test_frames_of_a_video_have_defaults_that_fit(folder, given, count, noise):
    (frames,) = read(folder, keyframes=[{"video": "b.mp4", **given}]).keyframes
    assert (frames.count, frames.noise) == (count, noise)


@pytest.mark.parametrize(
    "given, noise",
    [({}, "0.5"), ({"noise": 0.7}, "0.7"), ({"noise": [0, 0.5, 1]}, "0, 0.5, 1"), ({"noise": "0: 0, 8: 1"}, "0: 0, 8: 1")],
)
def test_a_clip_that_every_frame_starts_from(folder, given, noise):
    job = read(folder, keyframes=[{"clip": "b.mp4", "retime": "stretch", "hold_up_to": 0, **given}])
    assert job.keyframes == (StartOf(str(folder / "b.mp4"), noise, retime="stretch", hold_up_to=0.0),)
    assert read_job(job.settings(), folder) == job


@pytest.mark.parametrize(
    "given, said",
    [
        ({"widht": 64}, '"widht" is no setting, did you mean width?'),
        ({"steps": "10"}, '"steps" is "10"; it must be a whole number.'),
        ({"steps": True}, '"steps" is true; it must be a whole number.'),
        ({"cfg": None}, '"cfg" is null; it must be a number.'),
        ({"cfg": float("nan")}, '"cfg" is NaN; it must be a number.'),
        ({"prompt": 3}, '"prompt" is 3; it must be text.'),
        ({"fit": "fill"}, '"fit" is "fill"; use crop, letterbox or stretch.'),
        ({"length": 0}, '"length" is 0; it must be greater than 0.'),
        ({"length": 16}, "16 frames is not 4n+1"),
        ({"width": 854}, '"width" is 854; it must be a multiple of 16.'),
        ({"name": "Report"}, "is kept for the report"),
        ({"seed": -1}, '"seed" is -1; it must be from 0'),
        ({"name": "../x"}, 'The name "../x" cannot be a file'),
        ({"name": "漢" * 100}, "takes 300 bytes, but a file may have 200: shorten it"),
        ({"cfg": 10**400}, "it must be a number."),
        ({"fps": 2000}, '"fps" is 2000; it must be from 0.1 to 1000.'),
        ({"fps": 0.0001}, '"fps" is 0.0001; it must be'),
        ({"lora": 3}, '"lora" is 3; it must be text.'),
        ({"alpha": "1"}, '"alpha" is "1"; it must be a number.'),
        ({"device": "cpu"}, '"device" is no setting'),
        ({"kind": "endless"}, '"kind" is "endless"; use clip, long or forcing.'),
        ({"kind": ["long"]}, '"kind" is ["long"]; use'),
        ({"moving_frames": 5}, '"moving_frames" is for jobs with "kind": "long", but this one is "clip".'),
        ({"kind": "long", "ar_step": 5}, '"ar_step" is for jobs with "kind": "forcing", but this one is "long".'),
        ({"kind": "long", "moving_frames": 0}, '"moving_frames" is 0; it must be greater than 0.'),
        ({"kind": "long", "keyframes_beside": 1}, '"keyframes_beside" is 1; it must be true or false.'),
        ({"kind": "long", "prompts": {"9": "y"}}, '"prompts" must be a list'),
        ({"kind": "long", "prompts": ["y"]}, '"y" must be an object of settings.'),
        ({"kind": "long", "prompts": [{"prompt": "y"}]}, '"frame" is missing.'),
        ({"kind": "long", "blend": -1}, '"blend" is -1; it must be 0 or more.'),
        ({"kind": "long", "prompts": [{"prompt": "y", "frame": 81}]}, '"frame": 81; it must be from 1 to 80'),
        ({"kind": "long", "prompts": [{"prompt": "y", "frame": 9}] * 2}, 'Two prompts have "frame": 9'),
        ({"keyframes": {}}, '"keyframes" must be a list'),
        ({"keyframes": [3]}, 'either "image", "video" or "clip"'),
        ({"keyframes": [{"image": "a.png", "video": "b.mp4"}]}, 'either "image", "video" or "clip"'),
        ({"keyframes": [{"image": "none.png"}]}, "none.png is not there"),
        ({"keyframes": [{"image": "n" * 300}]}, "is not there"),
        ({"keyframes": [{"image": "job:a"}]}, '"job:a" is a video: write "video"'),
        ({"keyframes": [{"image": "a.png", "noise": "x"}]}, '"noise" is "x"; it must be a number.'),
        ({"keyframes": [{"video": "b.mp4", "take": "some"}]}, '"take" is "some"; use first, last or chosen.'),
        ({"keyframes": [{"clip": "b.mp4", "image": "a.png"}]}, 'either "image", "video" or "clip"'),
        ({"keyframes": [{"clip": "b.mp4", "retime": "slow"}]}, '"retime" is "slow"; use keep or stretch.'),
        ({"keyframes": [{"clip": "b.mp4", "between": 2}]}, "A noise multiplier of 2.0 was given"),
        ({"keyframes": [{"clip": "b.mp4", "noise": {}}]}, '"noise" is {}; it must be text.'),
        ({"keyframes": [{"clip": "none.mp4"}]}, "none.mp4 is not there"),
    ],
)
def test_mistakes_are_told(folder, given, said):
    with pytest.raises(ValueError) as error:
        read(folder, **given)
    assert said in str(error.value)
