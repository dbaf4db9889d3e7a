"""Workflows that were saved before still open: nothing that they rely on may change in the nodes' interfaces."""

import re
from copy import deepcopy

import pytest

from tests.comfy.interfaces import interfaces, losses, saved

NODE = {
    "inputs": {
        "image": {"type": "IMAGE"},
        "count": {"type": "INT", "default": 1, "min": 1, "max": 9},
        "seed": {"type": "INT", "default": 0, "control_after_generate": True},
        "mode": {"type": "COMBO", "default": "a", "options": ["a", "b"]},
        "more": {"type": "MORE", "optional": True, "names": ["more1", "more2"]},
    },
    "outputs": [["IMAGE", "image"], ["STRING", "report"]],
}


def test_old_workflows_lose_nothing(pack):
    assert [*losses(saved(), interfaces(pack))] == []


def test_the_file_has_every_input_and_output(pack):
    assert saved() == interfaces(pack), "run: python -m tests.comfy.interfaces"


def changed(change):
    """What is told of a change of the node above."""
    node = deepcopy(NODE)
    change(node, node["inputs"])
    return [*losses({"Pusa": NODE}, {"Pusa": node})]


def rename(node, inputs):
    node["inputs"] = {"number" if name == "count" else name: entry for name, entry in inputs.items()}


def reorder(node, inputs):
    inputs["count"] = inputs.pop("count")


def insert(node, inputs):
    node["inputs"] = {"first": {"type": "STRING", "default": "", "optional": True}, **inputs}


LOSSES = {
    "renamed": (rename, ["no input count any more", "number is new and must be given"]),
    "removed": (lambda node, inputs: inputs.pop("image"), ["no input image any more"]),
    "retyped": (lambda node, inputs: inputs["image"].update(type="LATENT"), ["is LATENT, but was IMAGE"]),
    "option removed": (lambda node, inputs: inputs["mode"].update(options=["a"]), ["does not offer b any more"]),
    "range": (lambda node, inputs: inputs["count"].update(min=2), ["takes 2 to 9, but took 1 to 9"]),
    "range from below": (lambda node, inputs: inputs["count"].update(max=8), ["takes 1 to 8, but took 1 to 9"]),
    "range where there was none": (lambda node, inputs: inputs["seed"].update(max=5), ["takes -inf to 5, but"]),
    "required now": (lambda node, inputs: inputs["more"].update(optional=False), ["more must be given now"]),
    "required and new": (lambda node, inputs: inputs.update(x={"type": "INT", "default": 1}), ["x is new and must be given"]),
    "grows by less": (lambda node, inputs: inputs["more"].update(names=["more1"]), ["does not grow by more2"]),
    "seed control": (
        lambda node, inputs: inputs["seed"].update(control_after_generate=False),
        ["behind it move by one"],
    ),
    "another order": (reorder, ["widgets in another order, seed, mode, count for count, seed, mode"]),
    "a widget in front": (insert, ["widgets in another order, first, count, seed, mode for"]),
    "output removed": (lambda node, inputs: node["outputs"].pop(), ["output 1 is None, but was STRING report"]),
    "output in front": (
        lambda node, inputs: node["outputs"].insert(0, ["MASK", "mask"]),
        ["output 0 is MASK mask", "output 1 is IMAGE image"],
    ),
    "output renamed": (lambda node, inputs: node["outputs"][0].__setitem__(1, "frames"), ["output 0 is IMAGE frames"]),
}


@pytest.mark.parametrize("change, words", LOSSES.values(), ids=LOSSES)
def test_a_loss_is_told(change, words):
    told = changed(change)
    assert len(told) == len(words)
    for sentence, word in zip(told, words):
        assert re.search(word, sentence), sentence


def test_a_node_that_is_gone_is_told():
    assert ["Pusa is gone" in sentence for sentence in losses({"Pusa": NODE}, {})] == [True]


def add(node, inputs):
    inputs["new"] = {"type": "STRING", "default": "", "optional": True}
    inputs["mode"]["options"].append("c")
    inputs["more"]["names"].append("more3")
    inputs["count"].update(min=0, default=2)
    del inputs["count"]["max"]
    node["outputs"].append(["MASK", "mask"])


def test_additions_are_no_losses():
    assert changed(add) == []
