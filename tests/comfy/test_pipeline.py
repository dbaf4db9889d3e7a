"""Diffusers' pipeline with keyframes, beside ComfyUI: the same model, noise and schedule make the same clip."""

import pytest

pytest.importorskip("diffusers", reason="the trainer's packages are not installed: pip install .[train]")

import torch  # noqa: E402
from diffusers import GGUFQuantizationConfig, TorchAoConfig, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from demo_model import BASE, LORA, VAE  # noqa: E402
from demo_model.measure import decibels  # noqa: E402
from demo_model.studio import TASKS, SampleSettings, Studio  # noqa: E402
from demo_model.text import encode  # noqa: E402
from demo_model.world import LENGTH, SIZE, TEST_SEEDS, draw, scene  # noqa: E402
from pusa_core.hosts.diffusers import PusaScheduler, PusaWanPipeline, open_vae, open_wan  # noqa: E402
from pusa_core.keyframes import still_keyframe  # noqa: E402
from pusa_core.plan import Plan  # noqa: E402
from pusa_core.schedule import FrameMap, FrameSchedule, pusa_sigmas  # noqa: E402
from tests import tiny  # noqa: E402
from tests.comfy.pipelines import MODE, random_call, random_pipe, sampled_by_comfyui  # noqa: E402

SCENE = scene(TEST_SEEDS + 7000, motion="moves")
TEXT = encode(SCENE.caption)


@pytest.fixture(scope="module")
def studio(comfyui):
    return Studio()


def make_pipe(**options):
    wan = WanPipeline(None, None, open_vae(VAE), None, open_wan(BASE, torch.float32), **options)
    pipe = PusaWanPipeline.from_wan(wan)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def pipe():
    return make_pipe()


@pytest.fixture(scope="module")
def taught():
    pipe = make_pipe()
    pipe.load_pusa_lora(LORA, 1.2)
    return pipe


def settings(**changed):
    call = {"height": SIZE, "width": SIZE, "num_frames": LENGTH, "prompt_embeds": TEXT, "output_type": "latent"}
    return {**call, "negative_prompt_embeds": torch.zeros_like(TEXT), "num_inference_steps": 4, **changed}


def noise(seed=0):
    return torch.randn(1, 16, 5, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("m", [0.0, 0.4])
@pytest.mark.parametrize("task", TASKS)
def test_clips_agree_with_comfyui(studio, taught, task, m, inference_mode):
    theirs = studio.latents([SCENE], SampleSettings(task, alpha=1.2, m=(m,), steps=4))
    keyframes = TASKS[task].keyframes(draw([SCENE])[0], (m,))
    call = settings(keyframes=keyframes, latents=noise())
    ours = taught(**call).frames
    theirs_seen = studio.base.model.process_latent_in(theirs)
    assert (ours - theirs_seen).norm() < 1e-4 * theirs_seen.norm()
    frames = torch.from_numpy(taught(**{**call, "output_type": "np"}).frames)
    assert (frames - studio.decode(theirs)).abs().max() < 1 / 255


def test_two_experts_agree_with_comfyui(host, files, wan, low_noise_wan, text, make_clip, inference_mode):
    clip = make_clip(wan, MODE)
    ours = random_pipe(files["high"], files["low"], boundary_ratio=0.875)(**random_call(clip)).frames
    theirs = sampled_by_comfyui(host, [wan, low_noise_wan], text, clip)
    assert (ours - theirs).norm() < 1e-4 * theirs.norm()
    alone = random_pipe(files["high"])(**random_call(clip)).frames
    assert (ours - alone).norm() > 1e-2 * theirs.norm()


@pytest.mark.parametrize("expand", [False, True])
def test_the_5b_agrees_with_comfyui(host, files, wan_5b, text, make_clip, expand, inference_mode):
    clip = make_clip(wan_5b, MODE)
    ours = random_pipe(files["5b"], expand_timesteps=expand)(**random_call(clip)).frames
    theirs = sampled_by_comfyui(host, [wan_5b], text, clip)
    assert (ours - theirs).norm() < 1e-4 * theirs.norm()


def test_a_bent_map_agrees_with_comfyui(pack, host, plain, wan, text, make_clip, inference_mode):
    clip = make_clip(wan, {0: 0.0})
    frames = [FrameMap(f.knots) for f in clip.plan.schedule.frames]
    bent = FrameSchedule((*frames[:3], FrameMap(((0.0, 0.0), (0.5, 0.2), (1.0, 0.9))), *frames[4:]))
    call = random_call(clip, keyframes=Plan((bent,), clip.clean))
    core = pack.pusa_core
    clip.plan = core.plan.Plan((core.schedule.FrameSchedule.from_json(bent.to_json()),), clip.plan.clean)
    theirs = sampled_by_comfyui(host, [wan], text, clip)
    assert (plain(**call).frames - theirs).norm() < 1e-4 * theirs.norm()


def test_without_keyframes_it_is_the_stock_pipeline(plain, make_clip, wan, inference_mode):
    stock = WanPipeline(None, None, None, PusaScheduler(shift=5.0), plain.transformer)
    stock.set_progress_bar_config(disable=True)
    call = random_call(make_clip(wan, {}), num_inference_steps=4, guidance_scale=3.0)
    for keyframes in (call.pop("keyframes"), ()):
        ours, theirs = plain(**call, keyframes=keyframes).frames, stock(**call).frames
        assert (ours - theirs).abs().max() == 0.0


def test_the_grid_is_pusas():
    scheduler = PusaScheduler(shift=5.0)
    scheduler.set_timesteps(7)
    torch.testing.assert_close(scheduler.sigmas, pusa_sigmas(7, 5.0))
    assert PusaScheduler.from_config(scheduler.config).config.shift == 5.0


def test_other_schedulers_arrive_at_the_same_clip(plain, make_clip, wan, inference_mode):
    """UniPC, which Wan comes with, rounds its timesteps and has a grid of its own."""
    clip = make_clip(wan, MODE)
    fine = plain(**random_call(clip, num_inference_steps=100)).frames
    pipe = PusaWanPipeline.from_wan(plain)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0)
    frames = pipe(**random_call(clip, num_inference_steps=30)).frames
    assert frames[:, :, [0, 5]].equal(clip.clean[:, :, [0, 5]])
    assert (frames - fine)[:, :, 2].norm() < 0.05 * (fine - clip.clean)[:, :, 2].norm()
    assert (frames - fine).norm() < 0.05 * fine.norm()


def test_schedulers_that_stop_before_sigma_0_give_frames(plain, make_clip, wan, inference_mode):
    clip = make_clip(wan, MODE)
    pipe = PusaWanPipeline.from_wan(plain)
    pipe.set_progress_bar_config(disable=True)
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
    pipe.scheduler = UniPCMultistepScheduler(**flow, final_sigmas_type="sigma_min")
    frames = pipe(**random_call(clip, num_inference_steps=8)).frames
    assert float(pipe.scheduler.sigmas[-1]) > 0
    assert frames[:, :, [0, 5]].equal(clip.clean[:, :, [0, 5]])


def test_prompts_in_a_batch_are_as_one_by_one(plain, make_clip, wan, inference_mode):
    clip = make_clip(wan, MODE)
    call = random_call(clip, num_inference_steps=3)
    batch = {key: torch.cat([call[key], -call[key]]) for key in ("prompt_embeds", "negative_prompt_embeds", "latents")}
    both = plain(**{**call, **batch}).frames
    second = plain(**{**call, **{key: value[1:] for key, value in batch.items()}}).frames
    torch.testing.assert_close(both[1:], second, rtol=1e-4, atol=1e-4)
    assert both[:, :, 0].equal(clip.clean[:, :, 0].expand(2, -1, -1, -1))


# --- callbacks -----------------------------------------------------------------------------------------------------------


def test_callbacks_see_frames(plain, make_clip, wan, inference_mode):
    clip, seen = make_clip(wan, MODE), []

    def look(pipe, step, timestep, tensors):
        seen.append((step, set(tensors), tensors["latents"]))
        return {}

    made = plain(**random_call(clip, num_inference_steps=4, callback_on_step_end=look)).frames
    assert [step for step, _, _ in seen] == [0, 1, 2, 3] and all(names == {"latents"} for _, names, _ in seen)
    for _, _, latents in seen:
        assert latents[:, :, 0].equal(clip.clean[:, :, 0])
    # the frame of m = 0.4 is near its picture from the start
    assert (seen[0][2] - clip.clean)[:, :, 2].norm() < 0.6 * clip.clean[:, :, 2].norm()
    torch.testing.assert_close(seen[-1][2], made, rtol=1e-4, atol=1e-4)


def test_callbacks_may_change_latents(plain, make_clip, wan, inference_mode):
    clip = make_clip(wan, MODE)
    call = random_call(clip, num_inference_steps=4)

    def same(pipe, step, timestep, tensors):
        return {"latents": tensors["latents"].clone()}

    def mirrored(pipe, step, timestep, tensors):
        return {"latents": tensors["latents"].flip(-1) if step == 1 else tensors["latents"]}

    untouched = plain(**call).frames
    torch.testing.assert_close(plain(**call, callback_on_step_end=same).frames, untouched, rtol=1e-4, atol=1e-4)
    changed = plain(**call, callback_on_step_end=mirrored).frames
    assert (changed - untouched)[:, :, 1].norm() > 0.1 * untouched[:, :, 1].norm()
    assert changed[:, :, 0].equal(clip.clean[:, :, 0])


def test_an_interrupted_run_gives_frames(plain, make_clip, wan, inference_mode):
    clip = make_clip(wan, MODE)

    def stop(pipe, step, timestep, tensors):
        pipe._interrupt = step == 1
        return {}

    made = plain(**random_call(clip, num_inference_steps=4, callback_on_step_end=stop)).frames
    assert made[:, :, 0].equal(clip.clean[:, :, 0])
    assert (made - clip.clean)[:, :, 5].norm() < 0.6 * clip.clean[:, :, 5].norm()


def test_nothing_stays_on_the_model(plain, make_clip, wan, inference_mode):
    def fail(pipe, step, timestep, tensors):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        plain(**random_call(make_clip(wan, MODE), callback_on_step_end=fail))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in plain.transformer.modules())


# --- Diffusers' ways to save memory and time, as far as a CPU shows them ----------------------------------------------------


def offloaded_in_groups(wan):
    cpu = torch.device("cpu")
    wan.enable_group_offload(onload_device=cpu, offload_device=cpu, offload_type="leaf_level")


WAYS = {
    "group offload": offloaded_in_groups,
    "compiled": lambda wan: wan.compile(backend="eager"),
    "compiled blocks": lambda wan: wan.compile_repeated_blocks(backend="eager"),
}


@pytest.mark.parametrize("way", WAYS)
def test_ways_to_run_change_nothing(files, plain, make_clip, wan, way, inference_mode):
    call = random_call(make_clip(wan, MODE), num_inference_steps=2)
    pipe = random_pipe(files["high"])
    with torch.inference_mode(False):
        WAYS[way](pipe.transformer)
        for keyframes in ((), call["keyframes"], ()):  # what was compiled for one must not serve the other
            now = {**call, "keyframes": keyframes}
            torch.testing.assert_close(pipe(**now).frames, plain(**now).frames)


def test_model_offload_changes_nothing(inference_mode):
    call = settings(keyframes=TASKS["image to video"].keyframes(draw([SCENE])[0], (0.2,)), latents=noise())
    with torch.inference_mode(False):
        pipe = make_pipe()
        expected = pipe(**call).frames
        pipe.enable_model_cpu_offload(device="cpu")
        torch.testing.assert_close(pipe(**call).frames, expected)


def test_vae_tiles_make_nearly_the_same(inference_mode):
    clip = draw([SCENE])[0]
    call = settings(keyframes=TASKS["image to video"].keyframes(clip, (0.0,)), latents=noise(), output_type="pt")
    pipe = make_pipe()
    whole = pipe(**call).frames
    pipe.vae.enable_tiling(48, 48, 32, 32)
    tiled = pipe(**call).frames
    assert 0 < (tiled - whole).abs().mean() < 0.02
    assert decibels(tiled[:, 0], whole[:, 0]) > 25


@pytest.mark.parametrize("lighter", ["bfloat16", "float8_e4m3fn", "gguf", "torchao"])
def test_lighter_models_make_nearly_the_same(files, plain, make_clip, wan, lighter, tmp_path, inference_mode):
    clip = make_clip(wan, MODE)
    call = random_call(clip, num_inference_steps=3)
    pipe = random_pipe(files["high"])
    with torch.inference_mode(False):
        if lighter == "gguf":
            pipe.transformer = quantised(files["high"], tmp_path)
        elif lighter == "torchao":
            pipe.transformer = int8(files["high"], tmp_path)
        elif lighter == "bfloat16":
            pipe.transformer = open_wan(files["high"])
        else:
            pipe.transformer.enable_layerwise_casting(getattr(torch, lighter), torch.float32)
    made, exact = pipe(**call).frames, plain(**call).frames
    assert 1e-4 * exact.norm() < (made - exact).norm() < 0.1 * exact.norm()
    assert made[:, :, [0, 5]].equal(clip.clean[:, :, [0, 5]])


def quantised(file, folder):
    """A Wan whose blocks are Q8_0, opened by Diffusers' own GGUF loader."""
    gguf = pytest.importorskip("gguf", reason="gguf is not installed: pip install gguf")
    kind = gguf.GGMLQuantizationType.Q8_0
    writer = gguf.GGUFWriter(folder / "wan.gguf", "wan")
    for key, tensor in load_file(file).items():
        if key.startswith("blocks") and tensor.ndim == 2:
            writer.add_tensor(key, gguf.quants.quantize(tensor.numpy(), kind), raw_dtype=kind)
        else:
            writer.add_tensor(key, tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    open_wan(file).save_config(folder)
    how = {"quantization_config": GGUFQuantizationConfig(torch.float32), "torch_dtype": torch.float32}
    return WanTransformer3DModel.from_single_file(str(folder / "wan.gguf"), config=str(folder), **how)


def int8(file, folder):
    """A Wan whose weights torchao makes int8 as Diffusers opens it."""
    torchao = pytest.importorskip("torchao.quantization", reason="torchao is not installed: pip install torchao")
    open_wan(file, torch.float32).save_pretrained(folder)
    how = {"quantization_config": TorchAoConfig(torchao.Int8WeightOnlyConfig()), "torch_dtype": torch.float32}
    return WanTransformer3DModel.from_pretrained(folder, **how)


# --- refusals ------------------------------------------------------------------------------------------------------------


def test_plans_for_another_clip_are_refused(pipe, inference_mode):
    start = [still_keyframe(torch.zeros(1, SIZE, SIZE, 3), 0, "pixel", 0.0)]
    plan = pipe.plan(start, SIZE, SIZE, LENGTH)
    with pytest.raises(ValueError, match="The plan is for 17 frames, but num_frames is 21: give 17."):
        pipe(**settings(keyframes=plan, num_frames=21))
    with pytest.raises(ValueError, match="A width of 72 is not divisible by 16: use 64"):
        pipe(**settings(keyframes=start, width=72))
    with pytest.raises(ValueError, match="keyframes are 64x64, but the clip is to be 80x64"):
        pipe(**settings(keyframes=plan, width=80))
    with pytest.raises(ValueError, match="20 frames is not 4n"):
        pipe(**settings(keyframes=start, num_frames=20))


def test_image_to_video_models_are_refused(plain):
    wan = WanTransformer3DModel(**{**plain.transformer.config, "in_channels": 36})
    with pytest.raises(ValueError, match="takes 36 input channels"):
        PusaWanPipeline.from_wan(WanPipeline(None, None, None, None, wan))


def test_other_vaes_are_refused(tmp_path):
    with pytest.raises(ValueError, match="is no Wan2.1 VAE"):
        open_vae(tiny.write_wan(tmp_path / "wan.safetensors"))
