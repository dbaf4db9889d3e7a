"""The timeline: one node that stands for Load Image, Keyframe and Schedule."""

from __future__ import annotations

import asyncio
import os
from itertools import islice
from pathlib import Path

import folder_paths
import torch
from aiohttp import web
from comfy_api.latest import io
from comfy_execution.validation import validate_node_input
from comfyui_version import __version__ as comfyui_version
from packaging.version import Version

from ..pusa_core.keyframes import check_keyframes
from ..pusa_core.media import media_length, read_media
from ..pusa_core.messages import fault, mark, say
from ..pusa_core.resize import fit_images
from ..pusa_core.timeline import (
    MOST_INPUTS,
    Item,
    check_places,
    item_keyframe,
    named,
    outline,
    parse_timeline,
    with_lead_in,
)
from .schedule import LARGEST, plan_inputs, plan_outputs, plan_video, size_inputs
from .server import running_server
from .types import CATEGORY, check_wires, search_aliases

SAMPLE, SAMPLES = " [pusa]", Path(__file__).resolve().parents[1] / "web" / "samples"
EMPTY = '{"version":1,"items":[]}'
# ComfyUI 0.8's page shows no socket of none, and its server demands none of those that are shown
SHOWN_INPUTS = int(Version(comfyui_version) < Version("0.9"))
INPUTS = [f"image{number}" for number in range(1, MOST_INPUTS + 1)]


def media_path(name: str) -> Path:
    """A file of ComfyUI's input folder ("a.png", "folder/a.png"), of another of its own ("a.png [output]"), or a sample
    that comes with the pack ("boat.mp4 [pusa]").

    Raises:
        ValueError: there is no such file in that folder.
    """
    if name.endswith(SAMPLE):
        name, folder = name.removesuffix(SAMPLE), str(SAMPLES)
        missing = mark('the file "{name}" is not among the pack\'s samples: choose another.')
    else:
        name, named_folder = folder_paths.annotated_filepath(name)
        folder = os.path.abspath(named_folder or folder_paths.get_input_directory())
        missing = mark('the file "{name}" is not in ComfyUI\'s {folder} folder: add it again.')
    path = Path(os.path.abspath(os.path.join(folder, name)))
    if not path.is_relative_to(folder) or not path.is_file():
        raise fault(missing, name=name[:80], folder=Path(folder).name)
    return path


def _read(item: Item, width: int, height: int, resize: str, length: int) -> tuple[torch.Tensor, int]:
    """The pictures of an item's file for `item_keyframe`, fitted one by one, so that a long or large clip needs no
    memory, and how many it takes."""
    path = media_path(item.media)
    taken = item.frames(media_length(path)[0])
    if len(taken) > length:
        raise fault("it takes {count} frames, but the video has {length}: take fewer.", count=len(taken), length=length)
    read = with_lead_in(taken)
    frames = islice(read_media(path), read.start, read.stop)
    return torch.cat([fit_images(frame, width, height, resize) for frame in frames]), len(taken)


def _connected(item: Item, images: dict | None) -> tuple[torch.Tensor, int]:
    pictures = (images or {}).get(f"image{item.input}")
    if pictures is None:
        raise ValueError(_not_connected(item))
    check_wires(images=pictures)
    taken = item.frames(len(pictures))
    read = with_lead_in(taken)
    return pictures[read.start : read.stop], len(taken)


def _not_connected(item: Item) -> str:
    return say('nothing is connected to image{number}: connect a picture, or give a file as "media".', number=item.input)


def _keyframe(item: Item, images: dict | None, *fit):
    with named(item):
        return item_keyframe(item, *(_connected(item, images) if item.media is None else _read(item, *fit)))


def _outline(item: Item, connected: set[str]):
    """An item's keyframe without its pictures."""
    with named(item):
        if item.media is None and f"image{item.input}" not in connected:
            raise ValueError(_not_connected(item))
        total = None if item.media is None else media_length(media_path(item.media))[0]
        return item_keyframe(item, outline(item, total))


class PusaTimeline(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PusaTimeline",
            display_name="Pusa Timeline",
            category=CATEGORY,
            description="Pictures and clips on a timeline: drop them in, drag them to their frames, draw how much noise "
            "every latent frame starts with. Image to video, start and end, keyframes, extension and more, in one node.",
            **search_aliases(
                "image to video",
                "start end frame",
                "first last frame",
                "multi keyframe",
                "keyframe timeline",
                "extend video",
                "video extension",
                "completion",
                "transition",
            ),
            inputs=[
                *size_inputs(),
                io.String.Input(
                    "timeline",
                    default=EMPTY,
                    tooltip="What lies where, as JSON text; the page draws it. The help page explains it.",
                    extra_dict={"widgetType": "PUSA_TIMELINE"},
                ),
                io.Autogrow.Input(
                    "images",
                    optional=True,
                    template=io.Autogrow.TemplateNames(io.Image.Input("image"), INPUTS, min=SHOWN_INPUTS),
                    tooltip="Pictures and clips from other nodes, which the timeline knows by their number. Not needed for "
                    "files that are dropped on it.",
                ),
                *plan_inputs(),
            ],
            outputs=plan_outputs(),
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, timeline=None, length=None, images=None, input_types=None):
        """Raises what is wrong: of a returned text the page says only that there is one."""
        _check_types(cls, input_types or {})
        if length is not None and length > LARGEST:
            raise fault("A length of {length} frames was asked for; the most is {most}.", length=length, most=LARGEST)
        if timeline is not None:
            connected = {name.removeprefix("images.") for name in input_types or {}}
            keyframes = [_outline(item, connected) for item in parse_timeline(timeline)]
            if length is not None:
                check_places(keyframes, length)
        return True

    @classmethod
    def fingerprint_inputs(cls, timeline=None, **_):
        """Changes with every file that the timeline names."""
        items = parse_timeline(timeline or "")
        stats = [media_path(item.media).stat() for item in items if item.media is not None]
        return [(stat.st_mtime_ns, stat.st_size) for stat in stats]

    @classmethod
    def execute(
        cls, vae, width, height, length, batch_size, resize, timeline, images=None, keyframes=None, sigmas=None
    ) -> io.NodeOutput:  # fmt: skip
        check_wires(vae=vae, sigmas=sigmas)
        placed = [_keyframe(item, images, width, height, resize, length) for item in parse_timeline(timeline)]
        check_places(placed, length)
        placed += check_keyframes(keyframes or [])
        outputs = plan_video(vae, width, height, length, batch_size, resize, placed, sigmas)
        return io.NodeOutput(*outputs, ui={"text": (outputs[3],), "schedule": (outputs[1].schedule.to_json(),)})


def _check_types(node: type[io.ComfyNode], received: dict[str, str]) -> None:
    """ComfyUI's own check, which a node that asks for the types has to do itself."""
    wanted = {entry.id: entry.get_io_type() for entry in node.define_schema().inputs} | {"images": "IMAGE"}
    for name, kind in received.items():
        if not validate_node_input(kind, wanted[name.split(".")[0]]):
            raise fault(
                "The input {name} got {kind}, but takes {wanted}: connect another node.",
                name=name,
                kind=kind,
                wanted=wanted[name.split(".")[0]],
            )


async def describe_media(request: web.Request) -> web.Response:
    """For the page: how long a clip of the input folder is."""
    try:
        path = media_path(request.query.get("name", ""))
        frames, rate = await asyncio.to_thread(media_length, path)
    except ValueError as error:
        return web.json_response({"error": str(error)}, status=404)
    return web.json_response({"frames": frames, "rate": rate})


def add_routes() -> None:
    """Not where a program imports ComfyUI without starting its server."""
    server = running_server()
    if server is not None:
        server.routes.get("/pusa/media")(describe_media)


NODES = [PusaTimeline]
