"""The shared workflows as files: what is in them, where things are, and how far it is to them from an empty canvas."""

import json
import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from environment.comfyui import PACK
from tests.server.shared import (
    LONG,
    LOOPS,
    NAMES,
    OTHERS,
    TITLES,
    WORKFLOWS,
    api_of,
    graph_of,
    links_under_nodes,
    litegraph,
    overlaps,
    read,
    saved_boxes,
    saved_curves,
)
from tests.server.small import has_clip, ids_of, items_of

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


@pytest.mark.parametrize("name", TITLES)
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
    says_length = "PusaVideoStrength" if ids_of(prompt, "PusaVideoStrength") else planner
    assert [values[planner, "width"], values[planner, "height"], values[says_length, "length"]] == [832, 480, 81]
    if wan22:
        assert [values["PusaLoraLoaderHighLow", f"{part}_noise_alpha"] for part in ("high", "low")] == [1.5, 1.4]
    else:
        assert values["PusaLoraLoader", "alpha"] == 1.4


PUBLISHED = {
    "image_to_video": [(0, 0.2)],
    "start_end": [(0, 0.2), (-1, 0.5)],
    "three_keyframes": [(0, 0.2), (40, 0.5), (-1, 0.5)],
    "completion": [(0, 0.3), (-12, 0.3)],
    "extension": [(0, [0, 0.3, 0.4, 0.5])],
    "transition": [(0, 0.3), (-12, 0.3)],
    "text_to_video": [],
    "two_gpus": [(0, 0.2)],
    "repair": [(0, [0.0] + [0.5] * 8 + [1.0] * 4 + [0.5] * 8)],
    "restyle": [(0, [0.0, 0.25, 0.5, *[0.7] * 15, 0.5, 0.25, 0.0])],
}
SINGLE_NODES = {  # without a timeline: what their form begins with
    "wan21_single_nodes": ["Start image", "End image"],
    "wan21_in_between": ["Clip", "Noise by frame"],
    "demo_in_between": ["Noise by frame"],
}


@pytest.mark.parametrize("name", [name for name in NAMES if name not in SINGLE_NODES])
def test_published_places_and_noise(name):
    mode = name.split("_", 1)[1].removesuffix("_lightning")
    wanted = [(0, [0.2, 0.4, 0.4, 0.4])] if name.startswith("wan22_extension") else PUBLISHED[mode]
    assert [(item["at"], item["noise"]) for item in items_of(api_of(name))] == wanted


SKYREELS_AND_5B = {  # shift, cfg, ar_step, causal_block_size, addnoise_condition, size and frames: their makers' own
    "skyreels_image_to_video": (5.0, 5.0, 0, 1, 0, [1280, 720, 121]),
    "skyreels_start_end": (5.0, 5.0, 0, 1, 0, [1280, 720, 125]),  # the end image lies behind the video's 121 frames
    "skyreels_extension": (8.0, 6.0, 0, 1, 20, [1280, 720, 121]),
    "skyreels_asynchronous": (8.0, 6.0, 5, 5, 0, [960, 544, 97]),
    "wan22_5b_image_to_video": (5.0, 5.0, 0, 1, 0, [1280, 704, 121]),
}


@pytest.mark.parametrize("name", OTHERS)
def test_the_settings_of_the_models_makers(name):
    prompt = api_of(name)
    values = {(node["class_type"], key): value for node in prompt.values() for key, value in node["inputs"].items()}
    shift, cfg, ar_step, block, noise, size = SKYREELS_AND_5B[name]
    assert (values["PusaKSampler", "shift"], values["PusaKSampler", "cfg"]) == (shift, cfg)
    assert values["CreateVideo", "fps"] == 24
    assert [values["PusaTimeline", key] for key in ("width", "height", "length")] == size
    assert all(item["noise"] == 0 for item in items_of(prompt))
    assert not any(kind.startswith("PusaLora") for kind, _ in values)
    if name.startswith("skyreels"):
        keys = ("shift", "steps", "ar_step", "causal_block_size", "addnoise_condition")
        assert [values["PusaDiffusionForcing", key] for key in keys] == [shift, 30, ar_step, block, noise]
        latents = (size[2] + 3) // 4
        assert latents % block == 0  # else their model stops


@pytest.mark.parametrize("name", LONG)
def test_prompts_of_a_long_video_begin_one_after_another(name):
    prompt = api_of(name)
    frames = [node["inputs"]["frame"] for node in prompt.values() if node["class_type"] == "PusaPromptFromFrame"]
    [length] = [node["inputs"]["length"] for node in prompt.values() if node["class_type"] == "PusaLongVideo"]
    assert frames[0] == 0 and frames == sorted(frames) and frames[-1] < length > 17


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_is_made_of_whole_latent_frames(name):
    [loop] = [node["inputs"] for node in api_of(name).values() if node["class_type"] == "PusaLoop"]
    assert loop["length"] % 4 == 0 == loop["lead_in"] % 4 and loop["length"] >= 4 * (loop["moving_frames"] + 1)


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
    given = SINGLE_NODES.get(name, ["Pictures and clips"])
    given = given if name not in (*LOOPS, "demo_long_video") else []
    count = len(ids_of(api_of(name), "PusaPromptFromFrame")) or 1
    prompts = ["Prompt", *(f"Prompt {number}" for number in range(2, count + 1))]
    assert labels == [*given, *prompts, "Frames", "Seed"]
    kind = "PusaLongVideo" if name in LONG else "PusaLoop" if name in LOOPS else "SaveVideo"
    assert [nodes[id]["type"] for id in form["outputs"]] == [kind]


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
    """Widgets that are not as a new node has them, and files that are dropped on the timeline.

    A model's file is to be chosen, whichever of them a server lists first."""
    count = 0
    for node in api_of(name).values():
        about = server.object_info(node["class_type"])["input"]
        inputs = {**about.get("required", {}), **about.get("optional", {})}
        for key, value in node["inputs"].items():
            if key == "timeline":
                count += sum(1 + (item["noise"] != DROPPED.get(item["at"])) for item in json.loads(value)["items"])
            elif key in inputs and key not in NOT_NEEDED and not isinstance(value, list):
                count += str(value).endswith((".safetensors", ".pt")) or value != first_value(*inputs[key])
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
