"""Jobs' files: what is read, and what is said of mistakes."""

import json

import pytest
from PIL import Image

from batch.jobs import FramesOf, ImageAt, Job, read_job, read_jobs


@pytest.fixture
def folder(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "b.mp4").write_bytes(b"")
    return tmp_path


def read(folder, **given):
    return read_job(json.dumps({"prompt": "x", **given}), "00001", folder, {})


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
    job = read(folder, keyframes=[{"image": "a.png"}, {"video": "b.mp4"}], steps=3)
    assert read_job(json.dumps(job.told()), "other", folder / "elsewhere", {}) == job


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
        ({"keyframes": {}}, '"keyframes" must be a list'),
        ({"keyframes": [3]}, 'either "image" or "video"'),
        ({"keyframes": [{"image": "a.png", "video": "b.mp4"}]}, 'either "image" or "video"'),
        ({"keyframes": [{"image": "none.png"}]}, "none.png is not there"),
        ({"keyframes": [{"image": "a.png", "noise": "x"}]}, '"noise" is "x"; it must be a number.'),
        ({"keyframes": [{"video": "b.mp4", "take": "some"}]}, '"take" is "some"; use first, last or chosen.'),
    ],
)
def test_mistakes_are_told(folder, given, said):
    with pytest.raises(ValueError) as error:
        read(folder, **given)
    assert said in str(error.value)


def test_one_bad_line_does_not_hide_the_others(folder):
    lines = [
        '{"prompt": "one"}',
        "",
        "{",
        "[1]",
        '{"prompt": "two", "name": "same"}',
        '{"prompt": "three", "name": "Same"}',
        "{}",
        '{"prompt": "one\u2028line"}',
    ]
    (folder / "jobs.jsonl").write_text("\n".join(lines), encoding="utf-8-sig")
    jobs, faults = read_jobs(folder / "jobs.jsonl")
    assert [(job.name, job.prompt) for job in jobs] == [
        ("00001", "one"), ("same", "two"), ("00008", "one\u2028line"),
    ]  # fmt: skip
    assert [fault.name for fault in faults] == ["line 3", "line 4", "line 6", "line 7"]
    assert "It is not JSON" in faults[0].reason and "It is a list" in faults[1].reason
    assert 'called "Same", too' in faults[2].reason
    assert '"prompt" is missing' in faults[3].reason


def test_files_that_are_none(folder):
    with pytest.raises(ValueError, match="cannot be read"):
        read_jobs(folder / "none.jsonl")
    (folder / "empty.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="has no jobs"):
        read_jobs(folder / "empty.jsonl")
