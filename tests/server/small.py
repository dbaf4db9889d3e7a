"""The shared workflows' prompts for small models, and what is in them."""

import json

import av

from pusa_core.frames import latent_length
from tests.server.shared import COMPARED, LONG, LOOPS, NAMES, OTHERS, api_of
from tests.server.stand_in import stand_in

LENGTH = 33
STEPS = 5  # for the workflows without Lightning, which keep their 4
SAMPLERS = ("PusaKSampler", "SamplerCustomAdvanced")
PLANNERS = ("PusaTimeline", "PusaSchedule")


def size_of(name):
    """Each workflow has its own small size, so that none finds another's results in ComfyUI's cache."""
    index = [*NAMES, *OTHERS, *LONG, *LOOPS, *COMPARED].index(name)
    return 32 + 16 * (index % 6), 32 + 16 * (index // 6)


def small(name, **overrides):
    """A workflow's prompt for small models, at a small size; frame 40 of 81 becomes frame 16 of 33."""
    width, height = size_of(name)
    values = {"width": width, "height": height, "length": LENGTH}
    if not name.endswith("lightning"):
        values["steps"] = STEPS
    prompt = stand_in(api_of(name), **{**values, **overrides})
    for key in ids_of(prompt, "PusaTimeline"):
        length, items = api_of(name)[key]["inputs"]["length"], items_of(prompt)
        for item in items:
            item["at"] = min(item["at"], item["at"] * (LENGTH - 1) // (length - 1))
            if item.get("take") == [0, 81]:  # a clip for all frames
                item |= {"take": [0, LENGTH], "noise": item["noise"][: latent_length(LENGTH)]}
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
