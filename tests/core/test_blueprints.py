"""The files of the subgraph blueprints: inputs in plain words, Pusa's published settings."""

import json

import pytest

from environment.comfyui import PACK

FILES = sorted((PACK / "subgraphs").glob("*.json"))
WORDS = {"prompt", "width", "height", "frames (4n+1)", "seed", "steps", "model", "LoRA", "text encoder", "VAE"}
NOISE = {  # of the keyframes, in order
    "Extend Video (Pusa, Wan 2.1)": ["0, 0.3, 0.4, 0.5"],
    "Image to Video (Pusa, Wan 2.1)": [0.2],
    "Multi Keyframe to Video (Pusa, Wan 2.1)": [0.2, 0.5, 0.5],
    "Start End (First Last) Frame to Video (Pusa, Wan 2.1)": [0.2, 0.5],
    "Video Completion (Pusa, Wan 2.1)": ["0.3", "0.3"],
    "Video Transition (Pusa, Wan 2.1)": ["0.3", "0.3"],
}
PUBLISHED = (0.2, 0.5, "0.3", "0, 0.3, 0.4, 0.5")


def parts(path):
    """(the node that stands for it, its subgraph)"""
    graph = json.loads(path.read_text(encoding="utf-8"))
    [node], [inner] = graph["nodes"], graph["definitions"]["subgraphs"]
    return node, inner


def test_there_is_one_for_each_of_the_usual_ways():
    assert [path.stem for path in FILES] == list(NOISE)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_input_has_a_label_of_its_own(path):
    node, inner = parts(path)
    labels = [entry["label"] for entry in node["inputs"]]
    assert len(set(labels)) == len(labels) and set(labels) >= WORDS
    assert [entry["label"] for entry in inner["inputs"]] == labels
    assert [output["name"] for output in node["outputs"]] == ["video", "images"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_begins_with_the_published_settings(path):
    _, inner = parts(path)
    values = {node["type"]: node["widgets_values"] for node in inner["nodes"]}
    assert values["PusaKSampler"] == [42, "fixed", 10, 3.0, "euler", "pusa", 5.0, 1.0, 0.875]
    assert values["PusaLoraLoader"][1] == 1.4 and values["PusaSchedule"][:3] == [832, 480, 81]
    keyframes = [node["widgets_values"] for node in inner["nodes"] if node["type"] in ("PusaKeyframe", "PusaVideoKeyframes")]
    noise = [next(value for value in found if value in PUBLISHED) for found in keyframes]
    assert noise == NOISE[path.stem]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_promoted_input_reaches_a_node_that_knows_the_link(path):
    _, inner = parts(path)
    nodes, links = {node["id"]: node for node in inner["nodes"]}, {link["id"]: link for link in inner["links"]}
    for slot, entry in enumerate(inner["inputs"]):
        [number] = entry["linkIds"]
        link = links[number]
        assert (link["origin_id"], link["origin_slot"]) == (-10, slot)
        assert nodes[link["target_id"]]["inputs"][link["target_slot"]]["link"] == number
