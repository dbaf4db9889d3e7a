"""Frames as the batch within ComfyUI's blocks give every number that ComfyUI's own copies of the modulation give."""

from functools import wraps

import comfy.ldm.wan.model as comfy_wan
import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy.ldm.modules.attention import attention_pytorch, wrap_attn

pytestmark = pytest.mark.usefixtures("inference_mode")


@pytest.fixture
def sampled(host, pack, text, make_clip, monkeypatch):
    """sampled(model, stock, cfg, plan) -> latents, and the shapes that a block's feed-forward saw; stock: as ComfyUI does"""
    schedule, steps = pack.pusa_core.hosts.comfyui.schedule, pack.pusa_core.schedule.pusa_sigmas(2)

    def run(model, stock=False, cfg=1.0, plan=None):
        clip, seen = make_clip(model, {0: 0.0, 2: 0.3, 5: (0.5, "hold")}), []
        plan = plan or clip.plan
        grid = steps if plan.grid is None else plan.grid
        latent = clip.latent["samples"]
        ffn = model.model.diffusion_model.blocks[0].ffn
        watch = ffn.register_forward_hook(lambda _, given, __: seen.append(given[0].shape))
        with monkeypatch.context() as patch:
            if stock:
                patch.setattr(schedule, "frames_as_batch", lambda wan, options: options)
            made = comfy.sample.sample_custom(
                host.apply_schedule(model, plan), comfy.sample.prepare_noise(latent, 7), cfg,
                comfy.samplers.sampler_object("euler"), grid, text.positive, text.negative, latent, disable_pbar=True, seed=7,
            )  # fmt: skip
        watch.remove()
        return made, seen

    return run


def assert_same(sampled, model, folded=True, **options):
    stock, tokens = sampled(model, stock=True, **options)
    ours, seen = sampled(model, **options)
    assert torch.equal(ours, stock)
    assert {shape[0] for shape in tokens} <= {1, 2}, "the way to compare with is ComfyUI's"
    assert {tuple(shape[:2]) for shape in seen} == ({(6, 16)} if folded else {tuple(shape[:2]) for shape in tokens})


def test_a_clip(sampled, wan):
    assert_same(sampled, wan)


def test_several_clips_are_left_as_they_are(sampled, wan):
    assert_same(sampled, wan, folded=False, cfg=3.0)


def test_frames_at_positions_of_their_own(sampled, wan, make_clip):
    plan = make_clip(wan, {0: 0.0}).plan
    moved = type(plan)(plan.schedules, plan.clean, positions=(0, 2, 3, 4, 5, 9))
    assert_same(sampled, wan, plan=moved)
    assert not torch.equal(sampled(wan, plan=plan)[0], sampled(wan, plan=moved)[0])


def test_causal_blocks(sampled, wan, pack):
    core = pack.pusa_core
    staircase = core.staircase.Staircase(2, 5.0, 1, 2, causal=True)
    assert_same(sampled, wan, plan=core.plan.plan_clip([], 21, None, staircase))


def with_options(model, **options):
    model = model.clone()
    model.model_options["transformer_options"].update(options)
    return model


def test_another_nodes_attention_sees_the_clip(sampled, wan):
    shapes = []

    def sharper(attention, query, key, value, *args, **kwargs):
        shapes.append((query.shape[:2], key.shape[:2]))
        return attention(2 * query, key, value, *args, **kwargs)

    model = with_options(wan, optimized_attention_override=sharper)
    assert_same(sampled, model)
    assert {query for query, _ in shapes} == {(1, 96)} and (1, 96) in {key for _, key in shapes}
    assert not torch.equal(sampled(model)[0], sampled(wan)[0])


def test_another_nodes_block_is_left_to_it(sampled, wan):
    def louder(args, extra):
        assert args["img"].shape[:2] == (1, 96)
        return {"img": 1.1 * extra["original_block"](args)["img"]}

    model = with_options(wan, patches_replace={"dit": {("double_block", 0): louder}})
    assert_same(sampled, model, folded=False)
    assert not torch.equal(sampled(model)[0], sampled(wan)[0])


@pytest.mark.parametrize("kind", ["attn1_patch", "attn2_patch"])
def test_what_patches_attention_is_given_the_clip(sampled, wan, kind):
    def patch(args):
        assert args["x"].shape[:2] == (1, 96)
        return 1.1 * args["x"]

    assert_same(sampled, with_options(wan, patches={kind: [patch]}), folded=False)


@pytest.mark.parametrize("name", ["self_attn", "cross_attn", "ffn"])
def test_what_was_put_in_a_layers_place_is_given_the_clip(sampled, wan, name):
    model, layer = wan.clone(), getattr(wan.model.diffusion_model.blocks[1], name)
    forward = type(layer).forward

    def louder(x, *args, **kwargs):
        assert x.shape[:2] == (1, 96)
        return 1.1 * forward(layer, x, *args, **kwargs)

    model.add_object_patch(f"diffusion_model.blocks.1.{name}.forward", louder)
    assert_same(sampled, model, folded=False)
    assert not torch.equal(sampled(model)[0], sampled(wan)[0])


@pytest.mark.parametrize("owner, name", [(comfy_wan.WanSelfAttention, "forward"), (comfy_wan, "optimized_attention")])
def test_attention_that_was_put_in_comfyuis_place_is_given_the_clip(sampled, wan, monkeypatch, owner, name):
    original, shapes = getattr(owner, name), set()

    def other(*args, **kwargs):
        shapes.add(next(arg.shape[0] for arg in args if isinstance(arg, torch.Tensor)))
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, wraps(original)(other) if owner is comfy_wan else other)
    assert_same(sampled, wan, folded=False)
    assert shapes == {1}


def test_attention_with_comfyuis_override_may_be_anothers(sampled, wan, monkeypatch):
    @wrap_attn
    def sharper(query, *args, **kwargs):
        return attention_pytorch.__wrapped__(2 * query, *args, **kwargs)

    plain, _ = sampled(wan)
    monkeypatch.setattr(comfy_wan, "optimized_attention", sharper)
    assert_same(sampled, wan)
    assert not torch.equal(sampled(wan)[0], plain)
