"""What stock sampler nodes send to the page while they sample a clip with a schedule."""

import io
import json

import pytest
from PIL import Image

from environment.comfyui import PACK
from pusa_core.preview_sheet import PreviewSheet

SHEET = PreviewSheet.of(5, 8, 8)  # the demo model's 17 frames of 64x64


def clip():
    """The demo's image to video as far as its sampler, and the sampler's inputs."""
    prompt = json.loads((PACK / "workflows" / "api" / "demo_image_to_video.json").read_text(encoding="utf-8"))
    key = next(key for key, node in prompt.items() if node["class_type"] == "PusaKSampler")
    inputs = prompt[key]["inputs"]
    schedule = [inputs["latent"][0], 1]
    prompt["apply"] = {"class_type": "PusaApplySchedule", "inputs": {"model": inputs["model"], "schedule": schedule}}
    texts = {name: inputs[name] for name in ("positive", "negative")}
    return prompt, key, {"model": ["apply", 0], "cfg": 1.0, **texts}, inputs["latent"]


def ksampler():
    prompt, key, inputs, latent = clip()
    settings = {"seed": 1, "steps": 2, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    prompt[key] = {"class_type": "KSampler", "inputs": {**inputs, **settings, "latent_image": latent}}
    return prompt


def custom_sampler():
    prompt, key, inputs, latent = clip()
    parts = {
        "noise": {"class_type": "RandomNoise", "inputs": {"noise_seed": 1}},
        "guider": {"class_type": "CFGGuider", "inputs": inputs},
        "sampler": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "euler"}},
        "sigmas": {"class_type": "PusaSigmas", "inputs": {"steps": 2, "shift": 5.0, "denoise": 1.0}},
    }
    wires = {name: [name, 0] for name in parts}
    sampler = {"class_type": "SamplerCustomAdvanced", "inputs": {**wires, "latent_image": latent}}
    return {**prompt, **parts, key: sampler}


@pytest.mark.parametrize("prompt", [ksampler, custom_sampler])
def test_a_stock_sampler_sends_a_sheet_of_all_frames(server, prompt):
    run = server.run(prompt())
    pictures = [Image.open(io.BytesIO(data)) for data in run.previews]
    assert [picture.size for picture in pictures] == [SHEET.size] * 2, "one a step"
    corner = pictures[-1].convert("L").crop((0, 0, *SHEET.tile))
    assert min(corner.getpixel((i, SHEET.tile[1] - 1)) for i in range(20, 60)) > 180, "the given frame has a border"
