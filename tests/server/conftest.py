"""One running ComfyUI for all server tests, with tiny models and the demo inputs."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests import tiny

ROOT = Path(__file__).resolve().parents[2]
STAND_INS = Path(__file__).with_name("stand_ins")


@pytest.fixture(scope="session")
def server(comfyui):
    """A ComfyServer that holds the files of `write_models` and the demos (see `write_demos`) in input/."""
    from environment.server import ComfyServer

    comfy = ComfyServer(comfyui, more_packs=[STAND_INS])
    write_models(comfy.base / "models")
    write_demos(comfy.base / "input")
    with comfy:
        yield comfy


TWO_GPUS = ("wan22_two_gpus", "SelectModelDevice", "SelectCLIPDevice")  # a workflow, and its nodes of newer ComfyUIs


@pytest.fixture(autouse=True)
def knows_the_nodes(request, comfyui):
    """Skips what the ComfyUI under test has no nodes for."""
    values = request.node.callspec.params.values() if hasattr(request.node, "callspec") else ()
    runs = {"server", "page"} & {*request.fixturenames}
    if runs and {*values} & {*TWO_GPUS} and not (comfyui / "comfy_extras" / "nodes_multigpu.py").exists():
        pytest.skip("this ComfyUI has no nodes for several GPUs")


def write_models(models: Path) -> None:
    """Names as `tests.server.stand_in.tiny_name` gives them."""
    wan, vae, loras = (models / folder for folder in ("diffusion_models", "vae", "loras"))
    for seed, part in enumerate(("21", "high", "low", "5b")):
        tiny.write_wan(wan / f"wan_{part}.safetensors", channels=48 if part == "5b" else 16, seed=seed)
        tiny.write_lora(loras / f"pusa_{part}.safetensors", seed=10 + seed)
        tiny.write_lora(loras / f"lightning_{part}.safetensors", spelling="kohya", alpha=2, seed=20 + seed)
    tiny.write_wan(wan / "wan_i2v.safetensors", in_channels=36)
    tiny.write_wan(wan / "wan_vace.safetensors", variant="vace")
    tiny.write_wan(wan / "wan_forcing.safetensors", variant="forcing", seed=5)
    tiny.write_vae(vae / "vae16.safetensors", 16, width=2)
    tiny.write_vae(vae / "vae48.pt", 48)


IMAGES = ("input_image.jpg", "input_image1.jpg", "start_frame.jpg", "middle_frame.jpg", "end_frame.jpg")
CLIP = "input_video.mp4"


def write_demos(folder: Path) -> None:
    """Five images and a clip: the Pusa authors' from PUSA_DEMOS or ../shared/demos, else made up, smaller."""
    demos = Path(os.environ.get("PUSA_DEMOS", ROOT.parent / "shared" / "demos"))
    for seed, name in enumerate(IMAGES):
        if (demos / name).is_file():
            shutil.copyfile(demos / name, folder / name)
        else:
            _picture(seed, 0).save(folder / name)
    if (demos / CLIP).is_file():
        shutil.copyfile(demos / CLIP, folder / CLIP)
    else:
        _write_clip(folder / CLIP)


def _picture(seed: int, time: float):
    """A 320x180 colour gradient that moves with time in [0, 1]."""
    import numpy
    from PIL import Image

    y, x = numpy.mgrid[0:180, 0:320]
    channels = [numpy.sin(x / (30 + 9 * seed) + y / (20 + 5 * c) + 6 * time + seed + c) for c in range(3)]
    return Image.fromarray((127 + 127 * numpy.stack(channels, -1)).astype("uint8"))


def _write_clip(path: Path, frames: int = 96, fps: int = 24) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.width, stream.height, stream.pix_fmt = 320, 180, "yuv420p"
        for i in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_image(_picture(0, i / frames))))
        container.mux(stream.encode())
