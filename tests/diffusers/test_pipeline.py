"""Pusa's pipeline in the hands of Diffusers: saved and loaded, compiled, offloaded, with LoRAs."""

import diffusers.loaders.peft
import pytest
import torch
from diffusers import WanTransformer3DModel

from demo_model.pipeline import DemoPipeline, open_demo
from demo_model.text import encode
from demo_model.world import LENGTH as DEMO_LENGTH
from demo_model.world import SIZE as DEMO_SIZE
from pusa_core.hosts.diffusers import PusaScheduler, PusaWanPipeline, open_vae, open_wan
from pusa_core.schedule import FrameMap
from tests import tiny
from tests.diffusers.small import clean_latents, make_call, make_plan

# --- saved and loaded ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_vae", [False, True])
def test_a_saved_pipeline_makes_the_same(make_pipe, vae_file, tmp_path, has_vae, inference_mode):
    pipe = make_pipe(vae=open_vae(vae_file) if has_vae else None, scheduler=PusaScheduler(shift=3.0), boundary_ratio=None)
    with torch.inference_mode(False):
        pipe.save_pretrained(tmp_path)
        loaded = PusaWanPipeline.from_pretrained(tmp_path, torch_dtype=torch.float32)
    assert type(loaded.scheduler) is PusaScheduler and loaded.scheduler.config.shift == 3.0
    assert loaded.config.expand_timesteps == pipe.config.expand_timesteps
    call = make_call(keyframes=make_plan())
    assert loaded(**call).frames.equal(pipe(**call).frames)


@pytest.fixture(scope="module")
def demo():
    pipe = open_demo()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def demo_call(**changed):
    call = {"height": DEMO_SIZE, "width": DEMO_SIZE, "num_frames": DEMO_LENGTH, "num_inference_steps": 2}
    picture = torch.rand(DEMO_SIZE, DEMO_SIZE, 3, generator=torch.Generator().manual_seed(0))
    latents = torch.randn(1, 16, 5, 8, 8, generator=torch.Generator().manual_seed(0))
    return {**call, "keyframes": [picture], "latents": latents, "output_type": "latent", **changed}


CAPTION = "a red circle moves right"


def test_the_saved_demo_makes_the_same(demo, tmp_path, inference_mode):
    with torch.inference_mode(False):
        demo.save_pretrained(tmp_path)
        loaded = DemoPipeline.from_pretrained(tmp_path)
    assert loaded(**demo_call(prompt=CAPTION)).frames.equal(demo(**demo_call(prompt=CAPTION)).frames)


def test_the_demo_takes_embeddings(demo, inference_mode):
    made = demo(**demo_call(prompt=CAPTION)).frames
    assert demo(**demo_call(prompt_embeds=encode(CAPTION))).frames.equal(made)
    negative = demo(**demo_call(prompt=CAPTION, negative_prompt="a blue bar")).frames
    both = demo_call(prompt_embeds=encode(CAPTION), negative_prompt_embeds=encode("a blue bar"))
    assert demo(**both).frames.equal(negative) and not negative.equal(made)


def test_the_demo_takes_several_prompts_with_keyframes_of_their_own(demo, inference_mode):
    pictures = [torch.full((DEMO_SIZE, DEMO_SIZE, 3), value) for value in (0.2, 0.8)]
    call = demo_call(prompt=[CAPTION, "a blue bar"], keyframes=[[(p, 0, 0.0)] for p in pictures], latents=None)
    made = demo(**call, num_videos_per_prompt=2).frames
    for number, picture in enumerate((0, 0, 1, 1)):
        plan = demo.plan([(pictures[picture], 0, 0.0)], DEMO_SIZE, DEMO_SIZE, DEMO_LENGTH)
        torch.testing.assert_close(made[number, :, 0], demo._normalised(plan.clean)[0, :, 0])
    with pytest.raises(ValueError, match="There are 3 negative prompts for 2 prompts"):
        demo(**call, negative_prompt=["a", "a", "a"])


# --- compiled ------------------------------------------------------------------------------------------------------------


def compile_whole(pipe):
    pipe.transformer = torch.compile(pipe.transformer, fullgraph=True, backend="aot_eager")


def compile_in_place(pipe):
    pipe.transformer.compile(fullgraph=True, backend="aot_eager")


def compile_blocks(pipe):
    pipe.transformer.compile_repeated_blocks(fullgraph=True, backend="aot_eager")


@pytest.mark.parametrize("way", [compile_whole, compile_in_place, compile_blocks])
def test_a_compiled_model_serves_every_step_and_call(make_pipe, way, inference_mode):
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    plain, pipe = make_pipe(), make_pipe()
    with torch.inference_mode(False):
        way(pipe)
        graphs = []
        other = make_plan({1: FrameMap(((0.0, 0.0), (0.5, 0.2), (1.0, 0.9))), 3: FrameMap.line(0.7)}, clean_latents(seed=9))
        for plan in ((), make_plan(), other, (), make_plan()):
            call = make_call(steps=4, keyframes=plan)
            torch.testing.assert_close(pipe(**call).frames, plain(**call).frames)
            graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[1] == graphs[-1]  # compiled once without keyframes and once with, whatever they are
    assert not counters["graph_break"]


# --- offloaded -----------------------------------------------------------------------------------------------------------


def test_offload_puts_the_models_back(make_pipe, vae_file):
    pipe = make_pipe(vae=open_vae(vae_file))
    call = make_call(keyframes=[torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(0))])
    expected = pipe(**call).frames
    pipe.enable_model_cpu_offload(device="cpu")
    for _ in range(2):
        assert pipe(**call).frames.equal(expected)
    assert hasattr(pipe.transformer, "_hf_hook") and hasattr(pipe.vae, "_hf_hook")


# --- LoRAs ---------------------------------------------------------------------------------------------------------------


def test_a_lora_loaded_twice_is_told(make_pipe, tmp_path):
    path, pipe = tiny.write_lora(tmp_path / "lora.safetensors"), make_pipe()
    pipe.load_pusa_lora(path, 1.2)
    said = (
        r'A LoRA is loaded as "pusa" already: .*set_adapters\("pusa", alpha\), .*delete_adapters\("pusa"\), or .*adapter_name'
    )
    with pytest.raises(ValueError, match=said):
        pipe.load_pusa_lora(path, 1.2)
    pipe.load_pusa_lora(path, 0.5, adapter_name="again")
    assert pipe.get_active_adapters() == ["pusa", "again"]
    pipe.delete_adapters("pusa")
    pipe.load_pusa_lora(path, 1.2)


def test_modules_of_any_rank_have_the_same_strength_on_older_diffusers(make_pipe, tmp_path, monkeypatch, inference_mode):
    """Which give every module the first one's rank as its alpha."""
    path, call = tiny.write_lora(tmp_path / "resized.safetensors", ranks=(2, 8, 5)), make_call(keyframes=make_plan())

    def made(alpha=None):
        pipe = make_pipe()
        with torch.inference_mode(False):
            pipe.load_pusa_lora(path, 1.3)
            if alpha is not None:
                pipe.set_adapters("pusa", alpha)
        return pipe(**call).frames

    expected, weaker = made(), made(0.6)
    create = diffusers.loaders.peft._create_lora_config

    def of_older_diffusers(state_dict, alphas, metadata, ranks, *args, **kwargs):
        config = create(state_dict, alphas, metadata, ranks, *args, **kwargs)
        config.lora_alpha, config.alpha_pattern = next(iter(ranks.values())), {}
        return config

    monkeypatch.setattr(diffusers.loaders.peft, "_create_lora_config", of_older_diffusers)
    torch.testing.assert_close(made(), expected)
    torch.testing.assert_close(made(0.6), weaker)
    assert (weaker - expected).norm() > 1e-3 * expected.norm()


# --- dtypes --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_diffusers_keeps_in_fp32_is_kept_so(wan_file, tmp_path, dtype):
    wan = open_wan(wan_file, dtype)
    open_wan(wan_file, torch.float32).save_pretrained(tmp_path)
    theirs = WanTransformer3DModel.from_pretrained(tmp_path, torch_dtype=dtype)
    dtypes = {name: weight.dtype for name, weight in wan.named_parameters()}
    assert dtypes == {name: weight.dtype for name, weight in theirs.named_parameters()}
    assert set(dtypes.values()) == {dtype, torch.float32}
