"""Subgraph blueprints: one node each, from pictures and a prompt to a saved video. ComfyUI offers what lies in
subgraphs/ in its search and node library, under the file's name."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from layout import TITLE, Box, height_of
from litegraph import PACK, Node, Wire, Workflow, page_links, page_node
from recipes import DOWNLOADS, MODEL, NEGATIVE, PUSA, SIZE, TEXT_ENCODER, VAE

ENTRY, EXIT = -10, -20  # ids by which the page knows a subgraph's own inputs and outputs
COLUMN, ROW, WIDTH = 380, 40, 320  # distances of nodes, their width
FPS = 25.0


@dataclass
class Blueprint(Workflow):
    """A workflow whose inputs are promoted: `take` gives one to a node as a wire.

    Attributes:
        labels: what people read at the inputs, in order.
        exits: (name, wire) of the outputs.
        about: what it makes, for the page's search and its help.
    """

    labels: list[str] = field(default_factory=list)
    exits: list[tuple[str, Wire]] = field(default_factory=list)
    about: str = ""

    def take(self, label: str, value: Any = None) -> Wire:
        """An input of the blueprint; `value` is what its widget begins with."""
        self.labels.append(label)
        return Wire(ENTRY, len(self.labels) - 1, value)


# --- the blueprints --------------------------------------------------------------------------------------------------


def image_to_video(w: Blueprint) -> None:
    """One image becomes the first frame of a video, which is saved."""
    image, prompt, size = w.take("first image"), w.take("prompt", ""), sizes(w)
    first = keyframe(w, image, w.take("noise of the image", 0.2), frame_index=0)
    sampled(w, first["keyframes"], prompt, size)


def start_end(w: Blueprint) -> None:
    """Two images become the first and the last frame of a video, which is saved; the model paints what lies between."""
    images, prompt, size = [w.take("first image"), w.take("last image")], w.take("prompt", ""), sizes(w)
    first = keyframe(w, images[0], w.take("noise of the first", 0.2), frame_index=0)
    noise = w.take("noise of the last", 0.5)
    last = keyframe(w, images[1], noise, frame_index=-1, previous=first["keyframes"])
    sampled(w, last["keyframes"], prompt, size)


def multi_keyframe(w: Blueprint) -> None:
    """Three images become the first frame of a video, one on its way (40 is the middle of 81 frames) and its last; the video
    is saved."""
    images = [w.take(f"{which} image") for which in ("first", "middle", "last")]
    middle, prompt, size = w.take("frame of the middle image", 40), w.take("prompt", ""), sizes(w)
    chain: dict[str, Any] = {}
    for which, image, frame, noise in zip(("first", "middle", "last"), images, (0, middle, -1), (0.2, 0.5, 0.5)):
        added = keyframe(w, image, w.take(f"noise of the {which}", noise), frame_index=frame, **chain)
        chain = {"previous": added["keyframes"]}
    sampled(w, chain["previous"], prompt, size)


def completion(w: Blueprint) -> None:
    """The first 9 and the last 12 frames of a video stay, what lies between them is made anew; the video is saved."""
    video, prompt, size = w.take("video to complete"), w.take("prompt", ""), sizes(w)
    clip = w.add("GetVideoComponents", video=video)
    ends = both_ends(w, clip["images"], clip["images"], ("first", "last"))
    sampled(w, ends, prompt, size, clip["fps"])


def transition(w: Blueprint) -> None:
    """The last 9 frames of a video and the first 12 of another are given; what leads from one to the other is made between
    them, and saved."""
    videos, prompt, size = [w.take("video before"), w.take("video after")], w.take("prompt", ""), sizes(w)
    clips = [w.add("GetVideoComponents", video=video) for video in videos]
    ends = both_ends(w, clips[0]["images"], clips[1]["images"], ("last", "first"))
    sampled(w, ends, prompt, size, clips[0]["fps"])


def extend(w: Blueprint) -> None:
    """The last 13 frames of a video become the first 13 of a new one, which goes on with their motion and is saved. Cut
    these 13 frames off when you join the two."""
    video, prompt, size = w.take("video to extend"), w.take("prompt", ""), sizes(w)
    clip = w.add("GetVideoComponents", video=video)
    noise = w.take("noise of its frames", "0, 0.3, 0.4, 0.5")
    given: dict[str, Any] = {"take": "last", "frame_count": 13, "place": "start", "noise_multipliers": noise}
    keyframes = w.add("PusaVideoKeyframes", video=clip["images"], **given)
    sampled(w, keyframes["keyframes"], prompt, size, clip["fps"])


BLUEPRINTS: dict[Callable[[Blueprint], None], str] = {
    image_to_video: "Image to Video (Pusa, Wan 2.1)",
    start_end: "Start End (First Last) Frame to Video (Pusa, Wan 2.1)",
    multi_keyframe: "Multi Keyframe to Video (Pusa, Wan 2.1)",
    extend: "Extend Video (Pusa, Wan 2.1)",
    completion: "Video Completion (Pusa, Wan 2.1)",
    transition: "Video Transition (Pusa, Wan 2.1)",
}


# --- their parts -----------------------------------------------------------------------------------------------------


def sizes(w: Blueprint) -> dict[str, Any]:
    labels = {"width": "width", "height": "height", "length": "frames (4n+1)"}
    return {name: w.take(label, SIZE[name]) for name, label in labels.items()}


def keyframe(w: Blueprint, image: Wire, noise: Wire, **inputs: Any) -> Node:
    return w.add("PusaKeyframe", image=image, noise_multiplier=noise, **inputs)


def both_ends(w: Blueprint, start: Wire, end: Wire, takes: tuple[str, str]) -> Wire:
    """Frames of clips at the start and the end of a video: 3 latent frames each, which are 9 and 12 frames."""
    noise = {place: w.take(f"noise of the {place}", "0.3") for place in ("start", "end")}
    keyframes: dict[str, Any] = {}
    for place, clip, take, count in zip(noise, (start, end), takes, (9, 12)):
        given: dict[str, Any] = {"take": take, "frame_count": count, "place": place, "noise_multipliers": noise[place]}
        keyframes = {"previous": w.add("PusaVideoKeyframes", video=clip, **given, **keyframes)["keyframes"]}
    return keyframes["previous"]


def sampled(w: Blueprint, keyframes: Wire, prompt: Wire, size: dict[str, Any], fps: float | Wire = FPS) -> None:
    """The rest of each: schedule, models, sampler, video. The files of models come last: they are changed least."""
    seed, steps = w.take("seed", 42), w.take("steps", 10)
    files = {"model": MODEL, "LoRA": PUSA, "text encoder": TEXT_ENCODER, "VAE": VAE}
    unet, lora, encoder, decoder = (w.take(label, name) for label, name in files.items())
    model = w.add("UNETLoader", unet_name=unet, weight_dtype="default")["MODEL"]
    model = w.add("PusaLoraLoader", model=model, lora_name=lora, alpha=1.4)["model"]
    clip = w.add("CLIPLoader", clip_name=encoder, type="wan", device="default")["CLIP"]
    positive = w.add("CLIPTextEncode", "Prompt", clip=clip, text=prompt)["CONDITIONING"]
    negative = w.add("CLIPTextEncode", "Negative prompt", clip=clip, text=NEGATIVE)["CONDITIONING"]
    vae = w.add("VAELoader", vae_name=decoder)["VAE"]
    latent = w.add("PusaSchedule", vae=vae, keyframes=keyframes, **size)["latent"]
    texts: dict[str, Any] = {"positive": positive, "negative": negative}
    sampler = w.add("PusaKSampler", model=model, latent=latent, seed=seed, steps=steps, cfg=3.0, **texts)
    images = w.add("VAEDecode", samples=sampler["latent"], vae=vae)["IMAGE"]
    video = w.add("CreateVideo", images=images, fps=fps)["VIDEO"]
    w.add("SaveVideo", video=video, filename_prefix=f"video/pusa_{w.name}")
    w.exits = [("video", video), ("images", images)]


def blueprints() -> Iterator[Blueprint]:
    for describe, title in BLUEPRINTS.items():
        blueprint = Blueprint(describe.__name__, DOWNLOADS, title=title)
        blueprint.about = " ".join((describe.__doc__ or "").split())
        describe(blueprint)
        yield blueprint


# --- a blueprint as the page saves it --------------------------------------------------------------------------------


def page_blueprint(w: Blueprint) -> dict[str, Any]:
    """A file that holds the subgraph and the one node that stands for it."""
    inner = _subgraph(w)
    return {
        "revision": 0,
        "last_node_id": len(w.nodes) + 1,
        "last_link_id": 0,
        "nodes": [_outer_node(w, inner)],
        "links": [],
        "version": 0.4,
        "definitions": {"subgraphs": [inner]},
        "extra": {"BlueprintDescription": w.about},
    }


def _identity(w: Blueprint, part: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"comfyui-pusa/subgraphs/{w.name}/{part}"))


def _subgraph(w: Blueprint) -> dict[str, Any]:
    links, boxes = page_links(w), _boxes(w)
    for slot, (_, wire) in enumerate(w.exits):
        kind = w.nodes[wire.node - 1].definition["outputs"][wire.slot][1]
        links.append([len(links) + 1, wire.node, wire.slot, EXIT, slot, kind])
    right = max(box[0] for box in boxes.values()) + COLUMN
    keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    return {
        "id": _identity(w, "graph"),
        "version": 1,
        "state": {"lastGroupId": 0, "lastNodeId": len(w.nodes), "lastLinkId": len(links), "lastRerouteId": 0},
        "revision": 0,
        "config": {},
        "name": w.title,
        "description": w.about,
        "category": "Pusa",
        "inputNode": {"id": ENTRY, "bounding": [-220, 0, 160, 20 * len(w.labels) + 40]},
        "outputNode": {"id": EXIT, "bounding": [right, 0, 120, 60]},
        "inputs": [_entry(w, slot, links) for slot in range(len(w.labels))],
        "outputs": [_exit(w, slot, links) for slot in range(len(w.exits))],
        "widgets": [],
        "nodes": [page_node(node, boxes[node.id], links, w) for node in w.nodes],
        "groups": [],
        "links": [dict(zip(keys, link)) for link in links],
        "extra": {},
    }


def _entry(w: Blueprint, slot: int, links: list[list]) -> dict[str, Any]:
    link = next(link for link in links if link[1:3] == [ENTRY, slot])
    name = w.labels[slot]
    return {"id": _identity(w, name), "name": name, "type": link[5], "linkIds": [link[0]], "label": name}


def _exit(w: Blueprint, slot: int, links: list[list]) -> dict[str, Any]:
    link = next(link for link in links if link[3:5] == [EXIT, slot])
    name = w.exits[slot][0]
    return {"id": _identity(w, f"output {name}"), "name": name, "type": link[5], "linkIds": [link[0]]}


def _outer_node(w: Blueprint, inner: dict[str, Any]) -> dict[str, Any]:
    inputs = []
    for entry in inner["inputs"]:
        link = inner["links"][entry["linkIds"][0] - 1]
        target = w.nodes[link["target_id"] - 1]
        is_widget = link["target_slot"] >= len(target.sockets)
        widget = {"widget": {"name": entry["name"]}} if is_widget else {}
        inputs.append({key: entry[key] for key in ("name", "label", "type")} | {"link": None} | widget)
    return {
        "id": len(w.nodes) + 1,
        "type": inner["id"],
        "pos": [0, 0],
        "size": [420, 480],
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": inputs,
        "outputs": [{"name": exit["name"], "type": exit["type"], "links": None} for exit in inner["outputs"]],
        "title": w.title,
        "properties": dict(PACK),
        "widgets_values": [],
    }


def _boxes(w: Blueprint) -> dict[int, Box]:
    """Every node right of those that it takes from."""
    depths: dict[int, int] = {}
    tops: dict[int, int] = {}
    boxes: dict[int, Box] = {}
    for node in w.nodes:
        sources = [wire.node for wire in node.inputs.values() if isinstance(wire, Wire) and wire.node != ENTRY]
        depth = depths[node.id] = max((depths[source] + 1 for source in sources), default=0)
        top = tops.get(depth, 0)
        boxes[node.id] = (COLUMN * depth, top + TITLE, WIDTH, height_of(node))
        tops[depth] = top + TITLE + height_of(node) + ROW
    return boxes
