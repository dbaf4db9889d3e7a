"""The shared workflows on a real ComfyUI, with small models, real pictures and a real clip."""

import json
import subprocess
import sys
from io import BytesIO
from itertools import combinations

import av
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from environment.comfyui import PACK
from environment.server import ExecutionFailed, PromptRefused
from pusa_core.video_files import read_frames
from tests.server.conftest import IMAGES
from tests.server.shared import (
    COMPARED,
    DEMOS,
    NAMES,
    OTHERS,
    RELEASED,
    api_of,
    demo,
    graph_of,
    released,
)
from tests.server.small import LENGTH, SAMPLERS, STEPS, has_clip, id_of, ids_of, items_of, set_items, size_of, small, video_of
from tests.server.stand_in import stand_in

# --- running them ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_workflow_runs(server, name):
    prompt = small(name)
    run = server.run(prompt)
    fps = 24 if has_clip(prompt) or name.startswith("wan22") else 25
    saved = [path for path in run.files if path.suffix == ".mp4"]
    assert [path.name.rsplit("_", 2)[0] for path in saved] == [f"pusa_{name}"]
    assert video_of(saved[0]) == (*size_of(name), LENGTH, fps)

    if ids_of(prompt, "PusaTimeline"):
        [report] = run.outputs[id_of(prompt, "PusaTimeline")]["text"]
        assert report.count("Keyframe ") == len(items_of(prompt))
        [schedule] = run.outputs[id_of(prompt, "PusaTimeline")]["schedule"]
        assert json.loads(schedule)["latent_frames"] == 9

    sampler, steps = id_of(prompt, *SAMPLERS), 4 if name.endswith("lightning") else STEPS
    progress = [(value, most) for node, value, most in run.progress if node == sampler]
    assert [event for event in progress if event[0] > 0] == [(i, steps) for i in range(1, steps + 1)]
    assert run.previews and all(image[:2] == b"\xff\xd8" for image in run.previews)  # JPEG


@pytest.mark.parametrize("name", [name for name in OTHERS if "5b" not in name])
def test_a_workflow_for_diffusion_forcing_runs(server, name):
    """Its frames take their steps together, or one after another where that is asked for."""
    prompt = small(name)
    run = server.run(prompt)
    [saved] = [path for path in run.files if path.suffix == ".mp4"]
    left_out = 17 if name == "skyreels_extension" else 0
    assert video_of(saved)[2:] == (LENGTH - left_out, 24)
    assert len(run.previews) == (STEPS + 5 if name == "skyreels_asynchronous" else STEPS)  # 9 latent frames are 2 blocks


@pytest.mark.parametrize("name, fps", [("wan21_long_video", 16), ("skyreels_long_video", 24)])
def test_a_long_video_runs(server, name, fps):
    """Pictures of a timeline, prompts by frame."""
    run = server.run(small(name))
    [saved] = [path for path in run.files if path.suffix == ".mp4"]
    assert video_of(saved)[2:] == (LENGTH, fps)
    assert not run.previews  # the page would show the last one in place of the video


def test_the_demo_long_video_runs_as_it_is(server):
    prompt = api_of("demo_long_video")
    run = server.run(prompt)
    [saved] = [path for path in run.files if path.suffix == ".mp4"]
    with av.open(str(saved)) as video:
        assert json.loads(video.metadata["prompt"]) == prompt
    [node] = (node for node in prompt.values() if node["class_type"] == "PusaLongVideo")
    assert video_of(saved) == (64, 64, node["inputs"]["length"], 8)


def test_a_loop_runs(server):
    run = server.run(small("wan21_loop", length=20, steps=1))
    [saved] = [path for path in run.files if path.suffix == ".mp4"]
    assert video_of(saved)[2:] == (20, 16)


def test_the_demo_loop_closes(server):
    """As it is: over the seam the picture changes about as much as over the other borders of latent frames. The file holds
    what made it, as those of ComfyUI's own node do."""
    prompt, graph = api_of("demo_loop"), graph_of("demo_loop")
    run = server.run(prompt, {"extra_pnginfo": {"workflow": graph}})
    [saved] = [path for path in run.files if path.suffix == ".mp4"]
    assert video_of(saved) == (64, 64, 28, 8)
    with av.open(str(saved)) as video:
        assert json.loads(video.metadata["workflow"]) == graph and json.loads(video.metadata["prompt"]) == prompt
    frames = torch.cat([*read_frames(saved)])
    steps = (frames - frames.roll(1, 0)).abs().mean((1, 2, 3))
    assert steps[1] < 1.5 * steps[5::4].mean()


@pytest.mark.parametrize("name", COMPARED)
def test_a_comparison_of_samplers_runs(server, name):
    """It counts its evaluations on the node, shows a picture of them, and saves the best run's video."""
    asked = {"samplers": "euler, heun", "schedulers": "beta", "evaluations": "1, 3", "at_most": 3, "fine_evaluations": 6}
    prompt = small(name, **asked) if name.startswith("wan") else set_widgets(api_of(name), asked)
    run, node = server.run(prompt), id_of(prompt, "PusaCompareSamplers")
    counted = [(value, most) for owner, value, most in run.progress if owner == node]
    assert counted[-1] == (20, 20)  # 6 + 3 of the fine run, 1 + 3 + 1 + 3 of the others, 3 of the best
    assert run.outputs[node]["images"][0]["filename"].endswith(".png")
    [saved] = [path for path in run.files if path.suffix == ".mp4"]
    assert video_of(saved)[2] == (LENGTH if name.startswith("wan") else 17)


def test_a_prompt_is_compared_by_the_command(server, tmp_path):
    """On the ComfyUI that runs, with the prompt's model, pictures and noise; without the video that it would save."""
    prompt, path, command = api_of("demo_start_end"), tmp_path / "prompt.json", PACK / "benchmarks" / "evaluations.py"
    path.write_text(json.dumps(prompt))
    asked = {
        "samplers": "euler", "schedulers": "beta", "evaluations": "1, 2", "fine-sampler": "euler", "fine-evaluations": "4",
    }  # fmt: skip
    flags = [part for name, value in asked.items() for part in (f"--{name}", value)]
    before = {*server.get("/history")}
    done = subprocess.run(
        [sys.executable, command, "--prompt", path, "--server", server.address, *flags],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    best, *_, one, two = done.stdout.strip().splitlines()
    assert best == "Closest to the fine run within 2 evaluations: euler, beta, 5, 2 steps, 2 evaluations."
    assert one.startswith("1 | euler, beta, 5 | 1 |") and two.startswith("2 | euler, beta, 5 | 2 |")
    [number] = {*server.get("/history")} - before
    assert {*server.history(number)["outputs"]} == {id_of(prompt, "PusaTimeline"), "pusa_compare", "pusa_report"}


def set_widgets(prompt, values):
    """A prompt with other values of widgets, by their names."""
    return {
        key: {**node, "inputs": {name: values.get(name, value) for name, value in node["inputs"].items()}}
        for key, node in prompt.items()
    }


@pytest.mark.parametrize("name", DEMOS)
def test_demo_workflow_runs_as_it_is(server, name):
    """The demo adds the schedule's picture."""
    run = server.run(demo.with_schedule(name))
    saved = {path.suffix: path for path in run.files}
    assert sorted(saved) == [".mp4", ".png"] and len(run.files) == 2
    assert video_of(saved[".mp4"]) == (384, 384, 17, 8)


@pytest.mark.parametrize("name", sorted(path.stem for path in RELEASED.glob("*.json")))
def test_a_prompt_of_an_earlier_version_runs(server, name):
    prompt, size = released(f"api/{name}.json"), (384, 384, 17, 8)
    if not name.startswith("demo"):
        size = (80, 64, LENGTH, 24)
        prompt = stand_in(prompt, width=size[0], height=size[1], length=LENGTH, steps=2)
        prompt[id_of(prompt, "LoadImage")]["inputs"]["image"] = IMAGES[0]
    [saved] = [path for path in server.run(prompt).files if path.suffix == ".mp4"]
    assert video_of(saved) == size


def test_the_preview_is_a_sheet_of_all_latent_frames(server):
    """17 frames are 5 latent frames, three in a row; the first and the last were given and have a white border."""
    prompt = json.loads(json.dumps(api_of("demo_start_end")))
    sampler = prompt[id_of(prompt, "PusaKSampler")]["inputs"]
    sampler |= {"seed": sampler["seed"] + 1, "steps": 3}
    previews = server.run(prompt).previews
    assert len(previews) == 3
    for preview in previews:
        with Image.open(BytesIO(preview)) as image:
            sheet = np.asarray(image.convert("L"), dtype=int)
        assert sheet.shape == (318, 478)
        frames = [sheet[top : top + 158, left : left + 158] for top in (0, 160) for left in (0, 160, 320)][:5]
        assert [frame[2:-2, -1].min() > 200 for frame in frames] == [True, False, False, False, True]
        assert all(abs(a - b).mean() > 2 for a, b in combinations(frames, 2))


@pytest.mark.parametrize(
    "loader, widget, name",
    [
        ("UNETLoader", "unet_name", "pusa_demo_t2v.safetensors"),
        ("VAELoader", "vae_name", "pusa_demo_vae.safetensors"),
        ("LoraLoaderModelOnly", "lora_name", "pusa_demo_lora.safetensors"),
        ("PusaLoraLoader", "lora_name", "pusa_demo_lora.safetensors"),
    ],
)
def test_stock_loaders_find_the_demo_model(server, loader, widget, name):
    kind, *more = server.object_info(loader)["input"]["required"][widget]
    assert name in (kind if isinstance(kind, list) else more[0]["options"])


def test_a_word_that_the_demo_model_does_not_know(server):
    prompt = json.loads(json.dumps(api_of("demo_text_to_video")))
    prompt[id_of(prompt, "PusaDemoPrompt")]["inputs"]["text"] = "a purple circle moves left"
    error = error_of(server, prompt)
    assert error["exception_message"].startswith('The demo model does not know the word "purple"')


def test_latent_frames_given_and_made(server):
    """Completion gives 3 + 3 of 21 latent frames and makes 15, as published."""
    prompt = small("wan21_completion", length=81, steps=1)
    shown = {"class_type": "PreviewAny", "inputs": {"source": [id_of(prompt, "PusaTimeline"), 3]}}
    run = server.run({**prompt, "report": shown})
    [report] = run.outputs["report"]["text"]
    assert "latent frame 0 (frame 0) to latent frame 2 (frames 5-8)" in report
    assert "latent frame 18 (frames 69-72) to latent frame 20 (frames 77-80)" in report


def test_the_5b_model(server):
    """Wan2.2-TI2V-5B: 48 latent channels, 16 times smaller in space. Its workflow has no LoRA; one can be loaded."""
    prompt = small("wan22_5b_image_to_video", width=64, height=32, length=5)
    lora = {"model": [id_of(prompt, "UNETLoader"), 0], "lora_name": "pusa_5b.safetensors", "alpha": 1.4}
    prompt["lora"] = {"class_type": "PusaLoraLoader", "inputs": lora}
    prompt["report"] = {"class_type": "PreviewAny", "inputs": {"source": ["lora", 1]}}
    run = server.run(prompt)
    [saved] = [path for path in run.files if path.suffix == ".mp4"]
    assert video_of(saved)[:3] == (64, 32, 5)
    assert "20 of 20" in run.outputs["report"]["text"][0]


def test_a_schedule_can_be_drawn_without_sampling(server):
    prompt = small("wan21_single_nodes", width=80, height=48)
    kept = ids_of(prompt, "VAELoader", "LoadImage", "PusaKeyframe", "PusaSchedule")
    run = server.run({key: node for key, node in prompt.items() if key in kept})
    assert len(run.outputs[id_of(prompt, "PusaSchedule")]["images"]) == 1


def test_only_the_sampler_runs_again_with_another_seed(server):
    prompt = small("wan22_image_to_video")
    server.run(prompt)
    sampler = id_of(prompt, "PusaKSampler")
    prompt[sampler]["inputs"]["seed"] += 1
    assert set(server.run(prompt).executed) == ids_of(prompt, "PusaKSampler", "VAEDecode", "CreateVideo", "SaveVideo")


@pytest.mark.parametrize("name", ["wan22_image_to_video", "wan21_three_keyframes"])
def test_cancelled_and_queued_again(server, name):
    """The same prompt runs after a cancelled one, and nothing stays on the models that it shares with another prompt."""
    prompt, long = without_schedule(small(name)), small(name, steps=20, width=160, height=96)
    sampler = id_of(prompt, *SAMPLERS)
    prompt["latent"] = {"class_type": "SaveLatent", "inputs": {"samples": [sampler, 0], "filename_prefix": "latents/pusa"}}
    before = server.run(prompt)

    cancelled = server.queue(long)
    server.wait_for("progress", cancelled)
    server.interrupt()
    run = server.wait(cancelled, 60)
    assert run.status == "interrupted"
    assert 0 < max(value for node, value, _ in run.progress if node == sampler) < 20
    assert server.run(long).status == "success"

    after = server.run(prompt)
    assert sampler in after.executed, "the result came from ComfyUI's cache"
    # The latents, not the videos: those differ a little from run to run, with stock nodes too.
    torch.testing.assert_close(latents_of(after), latents_of(before), rtol=0, atol=1e-3)


def without_schedule(prompt):
    """The same models sampling as if there were no Pusa, so that a schedule left on them shows."""
    set_items(prompt)  # an empty latent
    if ids_of(prompt, "CFGGuider"):
        prompt[id_of(prompt, "CFGGuider")]["inputs"]["model"] = [id_of(prompt, "PusaLoraLoader"), 0]
    return prompt


def latents_of(run):
    [path] = [path for path in run.files if path.suffix == ".latent"]
    return load_file(path)["latent_tensor"]


# --- what users get wrong --------------------------------------------------------------------------------------------


def error_of(server, prompt):
    with pytest.raises(ExecutionFailed) as failed:
        server.run(prompt)
    return failed.value.error


def test_two_keyframes_on_one_frame(server):
    prompt = small("wan21_single_nodes")
    for key in ids_of(prompt, "PusaKeyframe"):
        prompt[key]["inputs"]["frame_index"] = 0
    error = error_of(server, prompt)
    assert error["node_id"] == id_of(prompt, "PusaSchedule")
    assert error["exception_message"].strip() == (
        "Keyframes 1 and 2 both land on latent frame 0 (frame 0): move one by at least 4 frames, or remove it."
    )


def refusal_of(server, prompt):
    with pytest.raises(PromptRefused) as refused:
        server.run(prompt)
    [error] = refused.value.errors["node_errors"][id_of(prompt, "PusaTimeline")]["errors"]
    return error["details"].strip()


def test_a_length_that_is_not_4n_plus_1(server):
    wanted = "A length of 80 frames is not 4n+1, which Wan's VAE needs; use 77 or 81."
    assert refusal_of(server, small("wan21_image_to_video", length=80)) == wanted
    error = error_of(server, small("wan21_single_nodes", length=80))
    assert error["node_type"] == "PusaSchedule" and error["exception_message"].strip() == wanted


def test_a_clip_that_is_too_short(server):
    prompt = small("wan21_extension")
    set_items(prompt, {**items_of(prompt)[0], "media": "boat_start.jpg [pusa]"})
    assert refusal_of(server, prompt) == 'Item 1 of the timeline: "take" is [-13, null], but the clip has 1 frame.'


def test_an_image_to_video_model(server):
    prompt = small("wan21_image_to_video")
    prompt[id_of(prompt, "UNETLoader")]["inputs"]["unet_name"] = "wan_i2v.safetensors"
    error = error_of(server, prompt)
    assert error["node_type"] == "PusaLoraLoader"
    assert "text-to-video (T2V)" in error["exception_message"]
