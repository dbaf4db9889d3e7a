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
from tests.server.shared import (
    DEMOS,
    NAMES,
    TITLES,
    WORKFLOWS,
    api_of,
    demo,
    graph_of,
    links_under_nodes,
    litegraph,
    overlaps,
    read,
    saved_boxes,
    saved_curves,
)
from tests.server.stand_in import stand_in

LENGTH = 33
STEPS = 5  # for the workflows without Lightning, which keep their 4
SAMPLERS = ("PusaKSampler", "SamplerCustomAdvanced")
PLANNERS = ("PusaTimeline", "PusaSchedule")


def size_of(name):
    """Each workflow has its own small size, so that none finds another's results in ComfyUI's cache."""
    index = NAMES.index(name)
    return 64 + 16 * (index % 4), 48 + 16 * (index // 4)


def small(name, **overrides):
    """A workflow's prompt for small models, at a small size; frame 40 of 81 becomes frame 16 of 33."""
    width, height = size_of(name)
    values = {"width": width, "height": height, "length": LENGTH}
    if not name.endswith("lightning"):
        values["steps"] = STEPS
    prompt = stand_in(api_of(name), **{**values, **overrides})
    for node in prompt.values():
        if node["class_type"] == "PusaTimeline":
            items = items_of(prompt)
            for item in items:
                item["at"] = min(item["at"], item["at"] * (LENGTH - 1) // 80)
            set_items(prompt, *items)
    return prompt


def items_of(prompt):
    return json.loads(prompt[id_of(prompt, "PusaTimeline")]["inputs"]["timeline"])["items"]


def set_items(prompt, *items):
    prompt[id_of(prompt, "PusaTimeline")]["inputs"]["timeline"] = json.dumps({"version": 1, "items": items})


def id_of(prompt, *kinds):
    return next(key for key, node in prompt.items() if node["class_type"] in kinds)


def ids_of(prompt, *kinds):
    return {key for key, node in prompt.items() if node["class_type"] in kinds}


def has_clip(prompt):
    return bool(ids_of(prompt, "PusaTimeline")) and any("take" in item for item in items_of(prompt))


def video_of(path):
    """width, height, frames and frames per second of a file."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return stream.width, stream.height, sum(1 for _ in container.decode(stream)), float(stream.average_rate)


# --- the files -------------------------------------------------------------------------------------------------------


def test_files_are_what_the_builder_writes():
    done = subprocess.run([sys.executable, WORKFLOWS / "build.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", read("definitions/nodes.json"))
def test_definitions_are_those_of_the_server(server, kind):
    """The builder's table of nodes: the pack's exactly, ComfyUI's own as far as the workflows use them."""
    table, now = read("definitions/nodes.json")[kind], litegraph.trimmed(server.object_info(kind))
    if kind.startswith("Pusa"):
        assert table == now
    assert set(table["inputs"]) <= set(now["inputs"])
    assert now["outputs"][: len(table["outputs"])] == table["outputs"]


def required_choices(name, kind, options=None):
    """The inputs that a dynamic combo adds with its first option: "format.codec" for SaveVideo's format."""
    if kind != "COMFY_DYNAMICCOMBO_V3":
        return []
    added = options["options"][0]["inputs"].get("required", {})
    nested = {f"{name}.{key}": described for key, described in added.items()}
    return [*nested, *(deeper for key, described in nested.items() for deeper in required_choices(key, *described))]


@pytest.mark.parametrize("name", [*NAMES, *DEMOS])
def test_prompts_have_what_dynamic_inputs_require(server, name):
    """ComfyUI itself is lenient, but tools that check a prompt before they post it (comfy run) refuse it."""
    for node in api_of(name).values():
        required = server.object_info(node["class_type"])["input"].get("required", {})
        wanted = [choice for key, described in required.items() for choice in required_choices(key, *described)]
        assert set(wanted) <= set(node["inputs"]), node["class_type"]


@pytest.mark.parametrize("name", NAMES)
def test_published_settings(name):
    prompt = api_of(name)
    lightning, wan22 = name.endswith("lightning"), name.startswith("wan22")
    values = {(node["class_type"], key): value for node in prompt.values() for key, value in node["inputs"].items()}
    steps = values.get(("PusaKSampler", "steps"), values.get(("PusaSigmas", "steps")))
    cfg = values.get(("PusaKSampler", "cfg"), values.get(("CFGGuider", "cfg")))
    assert (steps, cfg) == ((4, 1.0) if lightning else (10, 3.0))
    assert values["CreateVideo", "fps"] == (24 if wan22 or has_clip(prompt) else 25)
    planner = "PusaSchedule" if ids_of(prompt, "PusaSchedule") else "PusaTimeline"
    assert [values[planner, key] for key in ("width", "height", "length")] == [832, 480, 81]
    if wan22:
        assert [values["PusaLoraLoaderHighLow", f"{part}_noise_alpha"] for part in ("high", "low")] == [1.5, 1.4]
    else:
        assert values["PusaLoraLoader", "alpha"] == 1.4


PUBLISHED = {
    "image_to_video": [(0, 0.2)],
    "start_end": [(0, 0.2), (-1, 0.5)],
    "three_keyframes": [(0, 0.2), (40, 0.5), (-1, 0.5)],
    "completion": [(0, 0.3), (-9, 0.3)],
    "extension": [(0, [0, 0.3, 0.4, 0.5])],
    "transition": [(0, 0.3), (-9, 0.3)],
    "text_to_video": [],
}


@pytest.mark.parametrize("name", [name for name in NAMES if "single" not in name])
def test_published_places_and_noise(name):
    mode = name.split("_", 1)[1].removesuffix("_lightning")
    wanted = [(0, [0.2, 0.4, 0.4, 0.4])] if name.startswith("wan22_extension") else PUBLISHED[mode]
    assert [(item["at"], item["noise"]) for item in items_of(api_of(name))] == wanted


@pytest.mark.parametrize("name", TITLES)
def test_every_file_is_there_or_offered(server, name):
    """None opens with a missing picture or clip."""
    for node in api_of(name).values():
        if node["class_type"] == "LoadImage":
            assert node["inputs"]["image"] == "example.png"  # ComfyUI's own
    for item in items_of(api_of(name)) if ids_of(api_of(name), "PusaTimeline") else ():
        file, annotation = item["media"].split(" ")
        assert annotation == "[pusa]" and (PACK / "web" / "samples" / file).is_file()


def test_every_template_has_its_own_thumbnail():
    """The page takes TITLE.jpg beside TITLE.json; it shows a square."""
    assert {path.stem for path in WORKFLOWS.glob("*.jpg")} == set(TITLES.values())
    pictures = []
    for path in WORKFLOWS.glob("*.jpg"):
        assert path.stat().st_size <= 30_000, path.name
        with Image.open(path) as image:
            assert image.width == image.height >= 264
            pictures.append(np.asarray(image.convert("RGB"), dtype=float))
    assert all(abs(a - b).mean() > 5 for a, b in combinations(pictures, 2))


@pytest.mark.parametrize("name", TITLES)
def test_as_an_app_it_shows_few_inputs_with_names_that_people_read(name):
    graph = graph_of(name)
    nodes = {node["id"]: node for node in graph["nodes"]}
    form = graph["extra"]["linearData"]
    labels = [
        next(socket.get("label") for socket in nodes[id]["inputs"] if socket["name"] == widget)
        for id, widget in form["inputs"]
    ]
    given = ["Start image", "End image"] if "single" in name else ["Pictures and clips"]
    assert labels == [*given, "Prompt", "Frames", "Seed"]
    assert [nodes[id]["type"] for id in form["outputs"]] == ["SaveVideo"]


# --- where things are ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TITLES)
def test_nothing_lies_on_or_under_a_node(name):
    """With the room that the sampler's preview takes, and all links as curves."""
    boxes = saved_boxes(graph_of(name))
    assert overlaps(boxes) == []
    assert links_under_nodes(boxes, saved_curves(graph_of(name))) == set()


def test_what_lies_under_a_node_is_seen():
    graph = json.loads(json.dumps(graph_of("wan21_start_end")))
    sampler = next(node for node in graph["nodes"] if node["type"] == "PusaKSampler")
    sampler["pos"] = [sampler["pos"][0], sampler["pos"][1] - 90]
    assert links_under_nodes(saved_boxes(graph), saved_curves(graph)), "the VAE's link passes there"
    save = next(node for node in graph["nodes"] if node["type"] == "SaveVideo")
    save["pos"] = [sampler["pos"][0], sampler["pos"][1] + sampler["size"][1] + 40]
    assert overlaps(saved_boxes(graph)) == [(sampler["id"], save["id"])], "there is where the preview comes"


@pytest.mark.parametrize("name", TITLES)
def test_the_whole_graph_is_seen_and_can_be_read(name):
    """In a window of 1600 x 1000, between the page's own bars."""
    graph = graph_of(name)
    (x, y), scale = graph["extra"]["ds"]["offset"], graph["extra"]["ds"]["scale"]
    assert scale >= 0.6
    seen = [[(edge + offset) * scale for edge, offset in zip(box, (x, y, x, y))] for box in saved_boxes(graph, 0).values()]
    assert min(box[0] for box in seen) >= 60 and min(box[1] for box in seen) >= 100
    assert max(box[2] for box in seen) <= 1600 and max(box[3] for box in seen) <= 1000


# --- the way from an empty canvas ------------------------------------------------------------------------------------

NOT_NEEDED = ("seed", "noise_seed", "filename_prefix")


def values_to_set(server, name):
    """Widgets that are not as a new node has them, and files that are dropped on the timeline."""
    count = 0
    for node in api_of(name).values():
        about = server.object_info(node["class_type"])["input"]
        inputs = {**about.get("required", {}), **about.get("optional", {})}
        for key, value in node["inputs"].items():
            if key == "timeline":
                count += sum(1 + (item["noise"] != DROPPED.get(item["at"])) for item in json.loads(value)["items"])
            elif key in inputs and key not in NOT_NEEDED and not isinstance(value, list):
                count += value != first_value(*inputs[key])
    return count


DROPPED = {0: 0.2, -1: 0.5}  # the noise that the page gives a picture at the start and at the end


def first_value(kind, options=None):
    """What a widget shows in a new node."""
    choices = kind if isinstance(kind, list) else (options or {}).get("options")
    first = choices[0] if choices else None
    return (options or {}).get("default", first["key"] if isinstance(first, dict) else first)


@pytest.mark.parametrize(
    "name, nodes, links, values",
    [
        ("wan21_image_to_video", 11, 12, 9),
        ("wan21_start_end", 11, 12, 10),
        ("wan21_single_nodes", 15, 16, 12),
    ],
)
def test_the_way_from_an_empty_canvas(server, name, nodes, links, values):
    """The README states these; the note is no node that one has to add."""
    graph = graph_of(name)
    assert len(api_of(name)) == len(graph["nodes"]) - 1 == nodes
    assert len(graph["links"]) == links
    assert values_to_set(server, name) == values


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


@pytest.mark.parametrize("name", DEMOS)
def test_demo_workflow_runs_as_it_is(server, name):
    """The demo adds the schedule's picture."""
    run = server.run(demo.with_schedule(name))
    saved = {path.suffix: path for path in run.files}
    assert sorted(saved) == [".mp4", ".png"] and len(run.files) == 2
    assert video_of(saved[".mp4"]) == (384, 384, 17, 8)


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
    """Wan2.2-TI2V-5B: 48 latent channels, 16 times smaller in space."""
    prompt = small("wan21_image_to_video", width=64, height=64, length=9)
    files = {"unet_name": "wan_5b.safetensors", "vae_name": "vae48.pt", "lora_name": "pusa_5b.safetensors"}
    for node in prompt.values():
        node["inputs"] |= {widget: name for widget, name in files.items() if widget in node["inputs"]}
    [saved] = [path for path in server.run(prompt).files if path.suffix == ".mp4"]
    assert video_of(saved)[:3] == (64, 64, 9)


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
    prompt, long = without_schedule(small(name)), small(name, steps=50, width=160, height=96)
    sampler = id_of(prompt, *SAMPLERS)
    prompt["latent"] = {"class_type": "SaveLatent", "inputs": {"samples": [sampler, 0], "filename_prefix": "latents/pusa"}}
    before = server.run(prompt)

    cancelled = server.queue(long)
    server.wait_for("progress", cancelled)
    server.interrupt()
    run = server.wait(cancelled, 60)
    assert run.status == "interrupted"
    assert 0 < max(value for node, value, _ in run.progress if node == sampler) < 50
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
