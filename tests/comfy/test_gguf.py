"""GGUF files through the ComfyUI-GGUF pack, where it is installed in the ComfyUI under test."""

import importlib.util
import sys

import comfy.sample
import comfy.samplers
import gguf
import pytest
import torch
from safetensors.torch import load_file

from tests import tiny

pytestmark = pytest.mark.usefixtures("inference_mode")


@pytest.fixture(scope="module")
def gguf_nodes(comfyui):
    folder = comfyui / "custom_nodes" / "ComfyUI-GGUF"
    if not (folder / "nodes.py").is_file():
        pytest.skip(f"ComfyUI-GGUF is not in {folder.parent}: install it to test GGUF files")
    spec = importlib.util.spec_from_file_location(
        "comfyui_gguf", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    sys.modules["comfyui_gguf"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return sys.modules["comfyui_gguf.nodes"]


def write_gguf(weights, path):
    """A Wan whose matrices are Q8_0, laid out as the public files are."""
    kind = gguf.GGMLQuantizationType.Q8_0
    writer = gguf.GGUFWriter(path, "wan")
    for key, tensor in weights.items():
        if key.startswith("blocks") and tensor.ndim == 2:
            writer.add_tensor(key, gguf.quants.quantize(tensor.numpy(), kind), raw_dtype=kind)
            continue
        if tensor.ndim > 4:  # the format knows four dimensions
            writer.add_array(f"comfy.gguf.orig_shape.{key}", list(tensor.shape))
            tensor = tensor.flatten(0, 1)
        writer.add_tensor(key, tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_model_takes_schedule_and_lora(gguf_nodes, host, pack, text, make_clip, tmp_path, monkeypatch):
    import folder_paths

    path = tiny.write_wan(tmp_path / "wan.safetensors", seed=1)
    write_gguf(load_file(path), tmp_path / "wan.gguf")
    monkeypatch.setattr(folder_paths, "get_full_path", lambda kind, name: str(tmp_path / name))
    (quantised,) = gguf_nodes.UnetLoaderGGUF().load_unet("wan.gguf")
    lora = tiny.write_lora(tmp_path / "lora.safetensors")
    clip = make_clip(quantised, {0: 0.0, 2: 0.3, 5: (0.5, "hold")})
    noise, grid = comfy.sample.prepare_noise(clip.latent["samples"], 7), pack.pusa_core.schedule.pusa_sigmas(4)

    def sampled(model):
        return comfy.sample.sample_custom(
            host.apply_schedule(model, clip.plan), noise, 3.0, comfy.samplers.sampler_object("euler"), grid, text.positive,
            text.negative, clip.latent["samples"], disable_pbar=True, seed=7,
        )  # fmt: skip

    exact, patched_exact = (
        sampled(m) for m in (tiny.load_wan(path), host.load_pusa_lora(tiny.load_wan(path), str(lora), 1.4)[0])
    )
    plain = sampled(quantised)
    patched, report = host.load_pusa_lora(quantised, str(lora), 1.4)
    made = sampled(patched)
    assert type(patched).__name__ == "GGUFModelPatcher" and report.matched == report.total
    for samples in (plain, made):
        assert (samples - clip.plan.clean)[:, :, [0, 5]].abs().max() < 1e-5
    for samples, wanted in ((plain, exact), (made, patched_exact)):
        assert 1e-4 < ((samples - wanted).norm() / wanted.norm()) < 0.1
    assert ((made - plain).norm() / plain.norm()) > 0.05, "the LoRA reaches the quantised weights"
    assert torch.isfinite(made).all()
