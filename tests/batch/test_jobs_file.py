"""Files of jobs: all that can be told without pictures and models."""

import json

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from batch.jobs_file import read_jobs
from batch.settings import Models
from demo_model import LORA
from pusa_core.video_files import write_video

WAN = Models("Wan-AI/none")  # nothing of it is looked at


@pytest.fixture
def folder(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    write_video(tmp_path / "b.mp4", torch.zeros(5, 16, 16, 3), 8)
    (tmp_path / "broken").write_bytes(b"neither picture nor video")
    save_file({"blocks.0.ffn.0.weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    for name, second, stride in (("one", [None, None], 16), ("two", ["diffusers", "WanTransformer3DModel"], 8)):
        (tmp_path / name / "vae").mkdir(parents=True)
        (tmp_path / name / "model_index.json").write_text(json.dumps({"transformer_2": second}))
        (tmp_path / name / "vae" / "config.json").write_text(json.dumps({"scale_factor_spatial": stride}))
    return tmp_path


def read(folder, *lines, models=WAN, **defaults):
    (folder / "jobs.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    return read_jobs(folder / "jobs.jsonl", {"prompt": "x", "length": 17, **defaults}, models)


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
    jobs, faults = read_jobs(folder / "jobs.jsonl", models=WAN)
    assert [(job.name, job.prompt) for job in jobs] == [
        ("00001", "one"), ("same", "two"), ("00008", "one\u2028line"),
    ]  # fmt: skip
    assert [fault.name for fault in faults] == ["line 3", "line 4", "line 6", "line 7"]
    assert "It is not valid JSON" in faults[0].reason and "It must be a JSON object, not [1]" in faults[1].reason
    assert 'called "Same", too' in faults[2].reason
    assert '"prompt" is missing' in faults[3].reason


def test_files_that_are_none(folder):
    with pytest.raises(ValueError, match="cannot be read"):
        read_jobs(folder / "none.jsonl")
    (folder / "empty.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="has no jobs"):
        read_jobs(folder / "empty.jsonl")


def at(**keyframe):
    return {"keyframes": [{"image": "a.png", **keyframe}]}


def of(video="b.mp4", **keyframe):
    return {"keyframes": [{"video": video, **keyframe}]}


def start_of(clip="b.mp4", **keyframe):
    return {"keyframes": [{"clip": clip, **keyframe}]}


@pytest.mark.parametrize(
    "given, said",
    [
        (at(frame=17), "Pixel frame 17 lies outside the clip"),
        (at(frame=5, unit="latent"), "Latent frame 5 lies outside the clip"),
        (at(noise=1.5), "A noise multiplier of 1.5 was given"),
        (
            {"keyframes": [{"image": "a.png", "frame": 5}, {"image": "a.png", "frame": 8}]},
            "Keyframes 1 and 2 both land",
        ),
        (at(image="broken"), "broken is no picture that can be read"),
        (of("broken"), "broken cannot be read"),
        (of(noise=[0, 0.1, 0.2]), "3 noise multipliers were given for 4 latent frames"),
        (of(noise="0 to x"), '"x" is not a noise multiplier'),
        (of(count=6), "6 frames is not 4n+1"),
        (of(place="index", frame=9, count=12), "runs past the clip's last"),
        (of(count=10**12), "more than the 17 frames of the clip"),
        (of(take="chosen"), "No chosen frames were given"),
        (start_of("broken"), "broken cannot be read"),
        (start_of(noise="0: x"), '"x" is not a noise multiplier'),
        (start_of(noise="0: 0, 17: 1", retime="stretch"), "Frame 17 of the noise curve lies outside its 17 frames"),
        (start_of(noise=[0, 0.5], retime="stretch"), "2 noise multipliers were given for 5 latent frames"),
        ({"keyframes": [{"clip": "b.mp4", "retime": "stretch"}, {"image": "a.png"}]}, "Keyframes 1 and 2 both land"),
        (of(take="chosen", chosen="1, 2", noise=[0, 0, 0]), "3 noise multipliers were given for 2"),
        ({"steps": 20000}, "20000 steps were asked for"),
        ({"kind": "long", "keyframes": [{"image": "a.png", "frame": 17}]}, "Pixel frame 17 lies outside the clip"),
        ({"kind": "forcing", "ar_step": -1}, "the delay is 0 or more"),
        ({"kind": "forcing", "addnoise_condition": 2000}, "A noise multiplier of 2"),
        (
            {"kind": "long", "model": "demo", "prompt": "a red circle", "prompts": [{"prompt": "x", "frame": 9}]},
            'does not know the word "x"',
        ),
        ({"model": "nowhere"}, "nowhere is no Diffusers folder"),
        ({"model": "vae"}, "vae is no Diffusers folder"),
        ({"model": "demo"}, 'does not know the word "x"'),
        ({"model": "one", "width": 48}, '"width" is 48; this model needs a multiple of 32.'),
        ({"lora": "none.pt"}, "none.pt is not there"),
        ({"lora": "model.safetensors"}, "without a LoRA among them"),
        ({"extra_lora": "none.safetensors"}, "none.safetensors is not there"),
        ({"extra_lora": "no name"}, "no name is not there"),
        ({"model": "one", "low_noise_lora": str(LORA)}, "is for a low-noise model, which"),
        ({"model": "demo", "prompt": "a red circle", "low_noise_extra_lora": "a/b"}, "is for a low-noise model, which"),
    ],
)
def test_what_needs_no_pictures_is_told_before_they_are_read(folder, given, said):
    jobs, faults = read(folder, given, {"name": "good"})
    assert [job.name for job in jobs] == ["good"]
    assert said in faults[0].reason, faults[0].reason


@pytest.mark.parametrize(
    "given",
    [
        of(),  # 13 frames of 5: that the file has too few is seen when it is read
        of(take="chosen", chosen="0, 90", place="end"),
        of(place="end", count=8),
        of(unit="latent", count=5, noise="0 to 1"),
        start_of(noise=[0, 0.5]),  # of 5 frames, which is seen when they are read
        start_of(noise="0: 0, 17: 1"),
        start_of(noise="0: 0, 16: 1", retime="stretch"),
        at(frame=-1),
        {"model": "two", "low_noise_lora": str(LORA), "extra_lora": "owner/name"},
        {"model": "one", "width": 64, "height": 64, "lora": str(LORA)},
        {"model": "demo", "prompt": "a red circle moves right"},
        {"kind": "long", "length": 1_000_001, **at(frame=-1)},
        {"kind": "forcing", "ar_step": 5, "causal_block_size": 5, **at()},
    ],
)
def test_what_may_be_right_is_a_job(folder, given):
    jobs, faults = read(folder, given)
    assert jobs and not faults


def test_a_jobs_video_is_known_before_it_is_made(folder):
    a = {"name": "a", "length": 9}
    eighth, ninth = (of("job:a", take="chosen", place="end", chosen=frame) for frame in ("8", "9"))
    jobs, faults = read(folder, of("job:a", count=9), of("job:a"), eighth, ninth, a)
    assert [job.name for job in jobs] == ["00001", "00003", "a"]
    assert [fault.name for fault in faults] == ["line 2", "line 4"]
    assert "The clip has 9 frames" in faults[0].reason and "frame 9 lies outside the clip, which has 9" in faults[1].reason


def test_chains_that_cannot_be_made(folder):
    lines = [
        {"name": "fine", **of("job:last", count=5)},  # a later line may be needed, too
        {"name": "ring1", **of("job:ring2")},
        {"name": "ring2", **of("job:ring3")},
        {"name": "ring3", **of("job:ring1")},
        {"name": "own", **of("job:own")},
        {"name": "after", **of("job:ring1")},
        {"name": "typo", **of("job:lst")},
        {"name": "bad", "steps": 0},
        {"name": "of_bad", **of("job:bad")},
        {"name": "of_of_bad", **of("job:of_bad")},
        {"name": "last"},
    ]
    jobs, faults = read(folder, *lines)
    assert [job.name for job in jobs] == ["fine", "last"]
    said = {fault.name: fault.reason for fault in faults}
    assert set(said) == {f"line {i}" for i in range(2, 11)}
    assert '"ring1" needs "ring2" needs "ring3" needs "ring1"' in said["line 2"] or '"ring2" needs "ring3"' in said["line 2"]
    assert said["line 5"] == 'It needs its own video: "own" needs "own".'
    assert said["line 6"] == 'It needs the video of "ring1", which is no job: see line 2.'
    assert 'there is no job of that name: did you mean "last"?' in said["line 7"]
    assert said["line 9"] == 'It needs the video of "bad", which is no job: see line 8.'
    assert said["line 10"] == 'It needs the video of "of_bad", which is no job: see line 9.'


def test_long_chains_and_rings(folder):
    """In any order of lines, without recursion."""
    count = 2000
    ring = [{"name": f"j{i}", **of(f"job:j{(i + 1) % count}")} for i in range(count)]
    jobs, faults = read(folder, *ring)
    assert not jobs and len(faults) == count and len(faults[0].reason) < 200
    ring[-1] = {"name": f"j{count - 1}", "steps": 0}
    jobs, faults = read(folder, *ring)
    assert not jobs and "see line 2." in faults[0].reason


def test_each_line_is_told_its_own_fault(folder):
    """A job that has the name of a line that is none."""
    jobs, faults = read(folder, {"name": "a", "steps": 0}, {"name": "a", **at(frame=17)})
    assert not jobs and [fault.name for fault in faults] == ["line 1", "line 2"]
    assert '"steps" is 0' in faults[0].reason and "Pixel frame 17" in faults[1].reason
