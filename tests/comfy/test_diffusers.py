"""The Diffusers host beside ComfyUI: the same file, latents and sigmas give the same velocities."""

import pytest

pytest.importorskip("diffusers", reason="the trainer's packages are not installed: pip install .[train]")

import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from pusa_core.hosts.diffusers import open_wan, sample, save_wan, velocity  # noqa: E402
from pusa_core.wan import diffusers_key, original_key  # noqa: E402
from tests import tiny  # noqa: E402

FRAMES, SIDE = 4, 8


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tiny.write_wan(tmp_path_factory.mktemp("wan") / "wan.safetensors", seed=5)


def inputs(batch=2):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 16, FRAMES, SIDE, SIDE, generator=g)
    return x, torch.rand(batch, FRAMES, generator=g), torch.randn(batch, 6, tiny.TEXT_DIM, generator=g)


def comfy_velocity(model, x, sigmas, text):
    return model.model.diffusion_model(x, 1000 * sigmas, text)


def test_velocities_agree(file, inference_mode):
    x, sigmas, text = inputs()
    ours = velocity(open_wan(file, torch.float32), x, sigmas, text)
    theirs = comfy_velocity(tiny.load_wan(file), x, sigmas, text)
    assert (ours - theirs).norm() < 1e-5 * theirs.norm()


def test_one_sigma_for_a_clip_is_the_same_as_equal_ones(file, inference_mode):
    x, sigmas, text = inputs()
    wan = open_wan(file, torch.float32)
    torch.testing.assert_close(velocity(wan, x, sigmas[:, 0], text), velocity(wan, x, sigmas[:, :1].expand(-1, FRAMES), text))


def test_sampling_agrees(file, host, make_clip, inference_mode):
    """A whole run with keyframes: ComfyUI's sampler through the pack, and ours on Diffusers."""
    import comfy.sample
    import comfy.samplers

    from pusa_core.schedule import pusa_sigmas

    model = tiny.load_wan(file)
    clip = make_clip(model, {0: 0.0, 2: 0.4, 3: (0.3, "hold")}, frames=FRAMES)
    noise = torch.randn(1, 16, FRAMES, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    positive, negative = tiny.conditioning(seed=1), tiny.conditioning(seed=2)
    sigmas = pusa_sigmas(6)
    theirs = comfy.sample.sample_custom(
        host.apply_schedule(model, clip.plan), noise, 3.0, comfy.samplers.sampler_object("euler"), sigmas,
        positive, negative, torch.zeros_like(noise), disable_pbar=True,
    )  # fmt: skip
    theirs = model.model.process_latent_in(theirs)
    ours = sample(open_wan(file, torch.float32), clip.plan.schedule, clip.clean, noise, positive[0][0], negative[0][0], 6)
    assert (ours - theirs).norm() < 1e-4 * theirs.norm()


def test_a_model_is_written_as_it_was_read(file, tmp_path):
    save_wan(open_wan(file, torch.float32), tmp_path / "again.safetensors", torch.float32)
    before, after = load_file(file), load_file(tmp_path / "again.safetensors")
    assert before.keys() == after.keys()
    assert all(before[key].equal(after[key]) for key in before)


def test_names_go_there_and_back(file):
    for key in load_file(file):
        assert original_key(diffusers_key(key)) == key


@pytest.mark.parametrize("scale", ["scale_weight", "weight_scale"])
def test_fp8_files_are_read_with_their_scales(file, tmp_path, scale, inference_mode):
    weights = load_file(file)
    key = "blocks.0.ffn.0"
    factor = weights[f"{key}.weight"].abs().max() / 400
    weights[f"{key}.weight"] = (weights[f"{key}.weight"] / factor).to(torch.float8_e4m3fn)
    weights[f"{key}.{scale}"] = factor
    weights = {f"model.diffusion_model.{name}": tensor for name, tensor in weights.items()}
    save_file(weights, tmp_path / "fp8.safetensors")
    wan = open_wan(tmp_path / "fp8.safetensors", torch.float32)
    read, true = wan.blocks[0].ffn.net[0].proj.weight, load_file(file)[f"{key}.weight"]
    assert (read - true).norm() < 0.04 * true.norm()


@pytest.mark.parametrize(
    "options, said",
    [({"in_channels": 36}, "takes 36 input channels"), ({"variant": "vace"}, "a variant of Wan")],
)
def test_other_models_are_refused(tmp_path, options, said):
    with pytest.raises(ValueError, match=said):
        open_wan(tiny.write_wan(tmp_path / "wan.safetensors", **options))


def test_files_that_are_no_wan_are_refused(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="no Wan checkpoint"):
        open_wan(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="not a safetensors file"):
        open_wan(tmp_path / "missing.safetensors")


def test_an_incomplete_file_names_what_is_missing(file, tmp_path):
    weights = load_file(file)
    del weights["blocks.1.cross_attn.k.bias"]
    save_file(weights, tmp_path / "part.safetensors")
    with pytest.raises(ValueError, match="blocks.1.cross_attn.k.bias is missing"):
        open_wan(tmp_path / "part.safetensors")


def test_a_trained_lora_does_in_comfyui_what_it_does_in_training(file, host, tmp_path, inference_mode):
    from trainer.lora import add_lora, load_lora, lora_state, save_weights

    x, sigmas, text = inputs()
    wan = open_wan(file, torch.float32)
    with torch.inference_mode(False):
        weights = add_lora(wan, 4, seed=0)
        for weight in weights:
            torch.nn.init.normal_(weight, std=0.1, generator=torch.Generator().manual_seed(weight.numel()))
    save_weights(lora_state(wan), tmp_path / "lora.safetensors", torch.float32)
    ours = velocity(wan, x, sigmas, text)

    model = tiny.load_wan(file)
    plain = comfy_velocity(model, x, sigmas, text)
    patched, report = host.load_pusa_lora(model, str(tmp_path / "lora.safetensors"), 1.0)
    assert report.matched == report.total
    patched.patch_model()
    theirs = comfy_velocity(patched, x, sigmas, text)
    patched.unpatch_model()
    assert (ours - plain).norm() > 0.05 * plain.norm()
    assert (ours - theirs).norm() < 1e-4 * theirs.norm()

    again = open_wan(file, torch.float32)
    with torch.inference_mode(False):
        add_lora(again, 4, seed=1)
    load_lora(again, tmp_path / "lora.safetensors")
    torch.testing.assert_close(velocity(again, x, sigmas, text), ours)
