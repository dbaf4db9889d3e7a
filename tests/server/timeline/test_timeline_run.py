"""What a run makes of a timeline, and what the server tells the page."""

import json
import shutil

import pytest
from PIL import Image

from environment.comfyui import PACK
from environment.server import PromptRefused
from tests.server.conftest import CLIP
from tests.server.timeline.hands import LANES


def demo_prompts(items, keyframes, length=17):
    """The demo's start-end workflow with these items on its timeline, and with chained nodes, of which the last is "last"."""
    timeline = json.loads((PACK / "workflows" / "api" / "demo_start_end.json").read_text(encoding="utf-8"))
    (key,) = (key for key, node in timeline.items() if node["class_type"] == "PusaTimeline")
    (decode,) = (key for key, node in timeline.items() if node["class_type"] == "VAEDecode")
    timeline = {number: node for number, node in timeline.items() if int(number) <= int(decode)}  # no video is saved
    timeline["pictures"] = {"class_type": "PreviewImage", "inputs": {"images": [decode, 0]}}
    timeline["report"] = {"class_type": "PreviewAny", "inputs": {"source": [key, 3]}}
    next(node for node in timeline.values() if node["class_type"] == "PusaKSampler")["inputs"]["steps"] = 2
    inputs = timeline[key]["inputs"]
    inputs.update(length=length, timeline=json.dumps({"version": 1, "items": items}))
    chained = json.loads(json.dumps(timeline))
    inputs.update({f"images.image{item['input']}": [f"image{item['input']}", 0] for item in items if "input" in item})
    del chained[key]["inputs"]["timeline"]
    chained[key]["class_type"] = "PusaSchedule"
    chained[key]["inputs"]["keyframes"] = ["last", 0]
    return timeline, {**chained, **keyframes}


def load(name):
    return {"class_type": "LoadImage", "inputs": {"image": name}}


def keyframe(source, at, **more):
    settings = {"unit": "pixel", "noise_multiplier": 0.1, "behaviour": "evolve", **more}
    return {"class_type": "PusaKeyframe", "inputs": {"image": [source, 0], "frame_index": at, **settings}}


def test_the_demo_model_makes_the_same_of_timeline_and_chained_nodes(server):
    for number, colour in enumerate(("red", "green")):
        Image.new("RGB", (64, 64), colour).save(server.base / "input" / f"demo{number}.png")
    timeline, chained = demo_prompts(
        [{"at": 0, "media": "demo0.png", "noise": 0.1}, {"at": -1, "input": 1, "noise": 0.1}],
        {
            "image0": load("demo0.png"),
            "image1": load("demo1.png"),
            "first": keyframe("image0", 0),
            "last": keyframe("image1", -1, previous=["first", 0]),
        },
    )
    timeline["image1"] = load("demo1.png")
    ours, theirs = server.run(timeline), server.run(chained)
    assert ours.outputs["report"] == theirs.outputs["report"]
    assert "pixel frame -1: latent frame 4" in ours.outputs["report"]["text"][0]
    made = [[Image.open(path).tobytes() for path in server.outputs({"": run.outputs["pictures"]})] for run in (ours, theirs)]
    assert len(made[0]) == 17 and made[0] == made[1]


@pytest.mark.parametrize("hands", ["canvas"], indirect=True)
def test_what_hands_placed_runs_and_is_reported_as_chained_nodes_are(hands, files, served):
    """Three pictures, a clip, a ramp: dropped and dragged in the page."""
    hands.new(33)
    for path, dropped, to in zip(files, (1, 3, 2), (5, 6, 8)):
        hands.drop(path, dropped)
        hands.drag(hands.point(dropped, LANES["items"]), hands.point(to, LANES["items"]))
    hands.drop(files[3], 1)
    hands.drag(hands.point(1, LANES["items"]), hands.point(0, LANES["items"]))
    hands.drag(hands.noise(0, 0), hands.noise(3, 0.6))
    items = hands.value()
    assert [item["at"] for item in items] == [0, 20, 24, -1] and items[0]["noise"] == [0, 0.2, 0.4, 0.6]
    ours, theirs = demo_prompts(items, chained_nodes(items), 33)
    assert served.run(ours).outputs["report"] == served.run(theirs).outputs["report"]


def chained_nodes(items):
    """A clip from its start on, and pictures."""
    clip, *pictures = items
    settings = {"take": "first", "frame_count": clip["take"][1], "unit": "pixel", "place": "index", "frame_index": 0}
    noise = {"noise_multipliers": ", ".join(map(str, clip["noise"])), "behaviour": "hold"}
    nodes = {
        "clip": {"class_type": "LoadVideo", "inputs": {"file": clip["media"]}},
        "frames": {"class_type": "GetVideoComponents", "inputs": {"video": ["clip", 0]}},
        "0": {"class_type": "PusaVideoKeyframes", "inputs": {"video": ["frames", 0], **settings, **noise}},
    }
    names = ["0", *(str(100 + i) for i in range(1, len(pictures))), "last"]
    for previous, name, item in zip(names, names[1:], pictures):
        nodes[f"{name} picture"] = load(item["media"])
        given = {"noise_multiplier": item["noise"], "behaviour": "hold", "previous": [previous, 0]}
        nodes[name] = keyframe(f"{name} picture", item["at"], **given)
    return nodes


def test_faults_reach_the_page_before_a_run(server):
    timeline, _ = demo_prompts([{"at": 0, "media": "gone.png"}], {})
    with pytest.raises(PromptRefused) as told:
        server.run(timeline)
    error = next(iter(told.value.errors["node_errors"].values()))["errors"][0]
    assert error["details"].startswith('Item 1 of the timeline: the file "gone.png" is not in ComfyUI\'s input folder')


def test_the_page_asks_how_long_a_clip_is(server):
    shutil.copyfile(server.base / "input" / CLIP, server.base / "input" / "length.mp4")
    told = server.get("/pusa/media?name=length.mp4")
    assert told["frames"] > 13 and told["rate"] > 0
