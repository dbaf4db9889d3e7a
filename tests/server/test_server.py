"""The server harness itself, with stock nodes only."""

import av
import pytest

from environment.server import PACK_NAME, ExecutionFailed, PromptRefused
from tests import tiny
from tests.server.stand_in import stand_in


def text_to_video(steps=3, length=9, model="wan2.1_t2v_14B_fp8.safetensors", vae="wan_2.1_vae.safetensors"):
    """The stock Wan text-to-video graph, for real models."""
    return {
        "1": {"class_type": "UNETLoader", "inputs": {"unet_name": model, "weight_dtype": "default"}},
        "2": {"class_type": "CLIPLoader", "inputs": {"clip_name": "umt5_xxl.safetensors", "type": "wan"}},
        "3": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["2", 0], "text": "a car turns from gold to white"}},
        "4": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["2", 0], "text": ""}},
        "5": {
            "class_type": "EmptyHunyuanLatentVideo",
            "inputs": {"width": 832, "height": 480, "length": length, "batch_size": 1},
        },
        "6": {
            "class_type": "KSampler",
            "inputs": {
                "model": ["1", 0],
                "positive": ["3", 0],
                "negative": ["4", 0],
                "latent_image": ["5", 0],
                "seed": 7,
                "steps": steps,
                "cfg": 3.0,
                "sampler_name": "euler",
                "scheduler": "simple",
                "denoise": 1.0,
            },
        },
        "7": {"class_type": "VAELoader", "inputs": {"vae_name": vae}},
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["6", 0], "vae": ["7", 0]}},
        "9": {"class_type": "CreateVideo", "inputs": {"images": ["8", 0], "fps": 16.0}},
        "10": {
            "class_type": "SaveVideo",
            "inputs": {"video": ["9", 0], "filename_prefix": "stock", "format": "mp4", "codec": "h264"},
        },
    }


def count_frames(path):
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def test_stock_text_to_video(server):
    run = server.run(stand_in(text_to_video(), width=64, height=64))
    assert run.status == "success"
    assert [path.suffix for path in run.files] == [".mp4"]
    assert count_frames(run.files[0]) == 9
    assert [(node, value) for node, value, _ in run.progress if node == "6"][-3:] == [("6", 1), ("6", 2), ("6", 3)]
    assert run.previews and all(image[:2] == b"\xff\xd8" for image in run.previews)  # JPEG


def test_stock_5b(server):
    """The 48-channel model and its VAE, which is of full size in memory."""
    prompt = stand_in(text_to_video(steps=2, model="wan2.2_ti2v_5B.safetensors", vae="wan2.2_vae.safetensors"))
    prompt["5"] = {
        "class_type": "Wan22ImageToVideoLatent",
        "inputs": {"vae": ["7", 0], "width": 64, "height": 32, "length": 5, "batch_size": 1},
    }
    run = server.run(prompt)
    assert count_frames(run.files[0]) == 5


def test_pack_is_imported_without_errors(server):
    assert "IMPORT FAILED" not in server.log
    assert f"custom_nodes/{PACK_NAME}" in server.log.replace("\\", "/")


def test_stand_in_text_width_matches_the_models(server):
    from tests.server.stand_ins import TEXT_DIM

    assert server.object_info("TestTextEncode")["output"] == ["CONDITIONING"]
    assert TEXT_DIM == tiny.TEXT_DIM


def test_models_and_demos_are_offered(server):
    unets = server.object_info("UNETLoader")["input"]["required"]["unet_name"][0]
    assert {"wan_21.safetensors", "wan_high.safetensors", "wan_low.safetensors", "wan_5b.safetensors"} <= set(unets)
    assert "start_frame.jpg" in server.object_info("LoadImage")["input"]["required"]["image"][0]


def test_a_refused_prompt_says_why(server):
    prompt = stand_in(text_to_video())
    prompt["6"]["inputs"]["sampler_name"] = "no such sampler"
    with pytest.raises(PromptRefused) as refused:
        server.queue(prompt)
    assert list(refused.value.errors["node_errors"]) == ["6"]


def test_a_node_that_raises_is_reported(server):
    prompt = stand_in(text_to_video(), {"wan2.1_t2v_14B_fp8.safetensors": "wan_5b.safetensors"}, width=64, height=64)
    with pytest.raises(ExecutionFailed) as failed:
        server.run(prompt)
    assert failed.value.error["node_type"] == "VAEDecode"  # 48 channels into 16


def test_interrupt(server):
    prompt_id = server.queue(stand_in(text_to_video(steps=2000), width=64, height=64))
    server.wait_for("progress", prompt_id)
    server.interrupt()
    assert server.wait(prompt_id, 30).status == "interrupted"


def test_upload(server, tmp_path):
    image = server.base / "input" / "end_frame.jpg"
    renamed = tmp_path / "uploaded.jpg"
    renamed.write_bytes(image.read_bytes())
    assert server.upload(renamed) == "uploaded.jpg"
    assert (server.base / "input" / "uploaded.jpg").read_bytes() == image.read_bytes()


def test_stand_in_scales_two_stages():
    inputs = {"steps": 30, "start_at_step": 0, "end_at_step": 13, "cfg": 3.0, "model": ["1", 0]}
    prompt = {
        "1": {"class_type": "UNETLoader", "inputs": {"unet_name": "wan2.2_t2v_high_noise_14B.safetensors"}},
        "2": {"class_type": "KSamplerAdvanced", "inputs": inputs},
        "3": {"class_type": "KSamplerAdvanced", "inputs": {**inputs, "start_at_step": 13, "end_at_step": 10000}},
    }
    result = stand_in(prompt, steps=6)
    assert result["1"]["inputs"]["unet_name"] == "wan_high.safetensors"
    assert result["2"]["inputs"] == {**inputs, "steps": 6, "end_at_step": 3}
    assert result["3"]["inputs"]["start_at_step"] == 3
    assert result["3"]["inputs"]["end_at_step"] == 10000
