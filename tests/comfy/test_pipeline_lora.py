"""LoRAs on Diffusers' pipeline: in any spelling, stacked, for two experts, as on ComfyUI."""

import pytest

pytest.importorskip("diffusers", reason="the trainer's packages are not installed: pip install .[train]")

import torch  # noqa: E402

from tests import tiny  # noqa: E402
from tests.comfy.pipelines import MODE, random_call, random_pipe, sampled_by_comfyui  # noqa: E402


@pytest.mark.parametrize("alpha", [None, 2.0])
@pytest.mark.parametrize("spelling", tiny.SPELLINGS)
def test_loras_in_any_spelling_do_what_they_do_in_comfyui(
    host, files, wan, text, make_clip, tmp_path, spelling, alpha, inference_mode
):
    path = tiny.write_lora(tmp_path / "lora.safetensors", spelling=spelling, alpha=alpha)
    clip, pipe = make_clip(wan, MODE), random_pipe(files["high"])
    with torch.inference_mode(False):
        report = pipe.load_pusa_lora(path, 1.3)
    assert report.matched == report.total
    theirs = sampled_by_comfyui(host, [host.load_pusa_lora(wan, str(path), 1.3)[0]], text, clip)
    assert (pipe(**random_call(clip)).frames - theirs).norm() < 1e-4 * theirs.norm()


def test_every_module_may_have_its_own_rank(host, files, wan, text, make_clip, tmp_path, inference_mode):
    path = tiny.write_lora(tmp_path / "resized.safetensors", ranks=(2, 8, 5))
    clip, pipe = make_clip(wan, MODE), random_pipe(files["high"])
    theirs = sampled_by_comfyui(host, [host.load_pusa_lora(wan, str(path), 0.8)[0]], text, clip)
    with torch.inference_mode(False):
        pipe.load_pusa_lora(path, 1.4)
        pipe.set_adapters("pusa", 0.8)
    assert (pipe(**random_call(clip)).frames - theirs).norm() < 1e-4 * theirs.norm()


def test_loras_stack_and_come_off(files, plain, make_clip, wan, tmp_path, inference_mode):
    pusa, other = (tiny.write_lora(tmp_path / f"{seed}.safetensors", seed=seed, gain=0.1) for seed in (1, 2))
    pipe, call = random_pipe(files["high"]), random_call(make_clip(wan, MODE), num_inference_steps=2)

    def made(*loras):
        for path, name, alpha in loras:
            pipe.load_pusa_lora(path, alpha, adapter_name=name)
        return pipe(**call).frames

    with torch.inference_mode(False):
        alone = made((pusa, "pusa", 1.4))
        both = made((other, "other", 0.7))
        assert pipe.get_active_adapters() == ["pusa", "other"]
        assert (both - alone).norm() > 1e-3 * alone.norm()
        pipe.delete_adapters(["pusa", "other"])
        turned = made((other, "other", 0.7), (pusa, "pusa", 1.4))
        torch.testing.assert_close(turned, both, rtol=1e-4, atol=1e-4)
        pipe.delete_adapters(["pusa", "other"])
    torch.testing.assert_close(made(), plain(**call).frames)


def test_each_expert_has_its_own_lora(files, make_clip, wan, tmp_path, inference_mode):
    path = tiny.write_lora(tmp_path / "lora.safetensors")
    pipe, call = random_pipe(files["high"], files["low"], boundary_ratio=0.875), random_call(make_clip(wan, MODE))
    with torch.inference_mode(False):
        pipe.load_pusa_lora(path, 1.0, low_noise=True)
    assert pipe.transformer_2.active_adapters() == ["pusa"] and not getattr(pipe.transformer, "peft_config", {})
    assert (pipe(**call).frames - random_pipe(files["high"], files["low"], boundary_ratio=0.875)(**call).frames).norm() > 0.1


def test_loras_of_other_models_are_refused(plain, tmp_path):
    path = tiny.write_lora(tmp_path / "wide.safetensors", dim=256)
    with pytest.raises(ValueError, match="width 256, this model has width 128"):
        plain.load_pusa_lora(path)
    with pytest.raises(ValueError, match="has no low-noise model"):
        plain.load_pusa_lora(path, low_noise=True)
    assert not getattr(plain.transformer, "peft_config", {})
