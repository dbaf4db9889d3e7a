"""Diffusion forcing on the real ComfyUI and on Diffusers, against a plain implementation that calls the bare network."""

from itertools import product

import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy_extras import nodes_custom_sampler

from tests import forcing
from tests.comfy.conftest import FRAMES, LENGTH

pytestmark = pytest.mark.usefixtures("inference_mode")

GOAL = 1e-5
CASES = [  # ar_step, block, prefix, cfg, shift, steps, causal
    (0, 1, 0, 5.0, 8.0, 6, False),
    (1, 1, 0, 1.0, 8.0, 6, False),
    (2, 1, 2, 5.0, 5.0, 5, False),
    (5, 2, 2, 1.0, 8.0, 4, False),
    (3, 3, 0, 5.0, 3.0, 6, False),
    (10, 3, 3, 1.0, 8.0, 3, False),
    (1, 1, 1, 5.0, 8.0, 4, True),
    (2, 2, 0, 1.0, 8.0, 5, True),
    (5, 3, 3, 5.0, 5.0, 4, True),
]
# All pairs of the first two, beside which the others take turns.
CASES += [
    (i, block, block * (i % 2), (5.0, 1.0)[(i // 2 + block) % 2], (8.0, 5.0, 3.0)[i % 3], 3, (i // 4 + block) % 2 == 1)
    for i, block in product(range(11), (1, 2, 3))
]


def masked(attention, query, key, value, *args, **kwargs):
    """Block-causal attention by a mask over all tokens; text, which has another length, is seen by all."""
    if key.shape[1] == query.shape[1]:
        block = torch.arange(key.shape[1]) // masked.tokens
        kwargs["mask"] = torch.where(block[:, None] >= block[None], 0.0, -torch.inf)
    return attention(query, key, value, *args, **kwargs)


def network(model, text, cfg, block, causal):
    """A function from latents and sigmas of their frames to the guided velocity."""
    options = {"optimized_attention_override": masked} if causal else {}

    def velocity(x, sigmas):
        masked.tokens = block * (x.shape[3] // 2) * (x.shape[4] // 2)
        sides = [text.positive] if cfg == 1 else [text.positive, text.negative]
        said = [
            model.model.diffusion_model(x, 1000 * sigmas, c[0][0].expand(len(x), -1, -1), transformer_options=dict(options))
            for c in sides
        ]
        return said[0] if cfg == 1 else said[1] + cfg * (said[0] - said[1])

    return velocity


@pytest.fixture
def planned(pack, wan):
    """planned(staircase, prefix) -> (plan with random pictures at the first frames, its LATENT, the clean latents)."""
    core = pack.pusa_core

    def make(staircase, prefix, batch=1):
        form = wan.model.latent_format
        clean = torch.randn(1, 16, FRAMES, 8, 8, generator=torch.Generator().manual_seed(5))
        clean[:, :, prefix:] = 0
        picture = torch.zeros(1, 8, 8, 3)
        numbers = iter(range(prefix))
        keyframes = [core.keyframes.still_keyframe(picture, i, "latent", 0.0) for i in range(prefix)]
        encode = lambda _: form.process_out(clean[:, :, [next(numbers)]])  # noqa: E731
        plan = core.plan.plan_clip(keyframes, LENGTH, encode, staircase)
        return plan, {"samples": form.process_out(clean).repeat(batch, 1, 1, 1, 1)}, clean

    return make


def expected(wan, text, clean, latent, ar_step, block, prefix, cfg, shift, steps, causal, size=None):
    noise = comfy.sample.prepare_noise(latent["samples"], 3)
    settings = {"steps": steps, "shift": shift, "ar_step": ar_step, "block": block, "prefix": prefix, "size": size}
    return forcing.sample(network(wan, text, cfg, block, causal), clean, noise, **settings)


def distance(a, b):
    return ((a - b).norm() / b.norm()).item()


def pusa_ksampler(pack, model, text, latent, cfg, **changed):
    settings = {"seed": 3, "steps": 99, "shift": 1.5, "sampler": "euler", "scheduler": "pusa", "denoise": 1.0, **changed}
    node = pack.nodes.sampling.PusaKSampler
    output = node.execute(model, text.positive, text.negative, latent, cfg=cfg, **settings)
    return model.model.latent_format.process_in(output.args[0]["samples"])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_pusa_ksampler(pack, wan, text, planned, case):
    ar_step, block, prefix, cfg, shift, steps, causal = case
    staircase = pack.pusa_core.staircase.Staircase(steps, shift, ar_step, block, causal=causal)
    plan, latent, clean = planned(staircase, prefix)
    made = pusa_ksampler(pack, wan, text, latent, cfg, schedule=plan)
    assert distance(made, expected(wan, text, clean, latent, *case)) < GOAL


@pytest.mark.parametrize("case", [CASES[2], CASES[6]], ids=str)
def test_a_stock_sampler(pack, host, wan, text, planned, case):
    ar_step, block, prefix, cfg, shift, steps, causal = case
    plan, latent, clean = planned(pack.pusa_core.staircase.Staircase(steps, shift, ar_step, block, causal=causal), prefix)
    guider = nodes_custom_sampler.CFGGuider.execute(host.apply_schedule(wan, plan), text.positive, text.negative, cfg).args[0]
    noise, euler = nodes_custom_sampler.RandomNoise.execute(3).args[0], comfy.samplers.sampler_object("euler")
    sampled = nodes_custom_sampler.SamplerCustomAdvanced.execute(noise, guider, euler, plan.grid, latent).args[0]
    made = wan.model.latent_format.process_in(sampled["samples"])
    assert distance(made, expected(wan, text, clean, latent, *case)) < GOAL


@pytest.mark.parametrize("size", [4, 5])
def test_a_window(pack, wan, text, planned, size):
    """The model sees the latest frames only, in clips and in batches."""
    core = pack.pusa_core.staircase
    case = (1, 1, 1, 5.0, 5.0, 3, False)
    plan, latent, clean = planned(core.Staircase(3, 5.0, 1, window=core.Window(size)), 1, batch=2)
    made = pusa_ksampler(pack, wan, text, latent, 5.0, schedule=plan)
    assert distance(made, expected(wan, text, clean, latent, *case, size=size)) < GOAL


@pytest.mark.parametrize("case", CASES, ids=str)
def test_diffusers(pack, files, wan, text, planned, case):
    diffusers = pytest.importorskip("pusa_core.hosts.diffusers")
    ar_step, block, prefix, cfg, shift, steps, causal = case
    core = pack.pusa_core
    plan, latent, clean = planned(core.staircase.Staircase(steps, shift, ar_step, block, causal=causal), prefix)
    made = on_diffusers(diffusers, files["high"], plan, text, latent, clean, cfg)
    assert distance(made, expected(wan, text, clean, latent, *case)) < GOAL


def test_a_window_on_diffusers(pack, files, wan, text, planned):
    diffusers = pytest.importorskip("pusa_core.hosts.diffusers")
    core = pack.pusa_core.staircase
    plan, latent, clean = planned(core.Staircase(3, 5.0, 1, window=core.Window(4)), 1)
    made = on_diffusers(diffusers, files["high"], plan, text, latent, clean, 5.0)
    assert distance(made, expected(wan, text, clean, latent, 1, 1, 1, 5.0, 5.0, 3, False, size=4)) < GOAL


def on_diffusers(diffusers, file, plan, text, latent, clean, cfg):
    from dataclasses import replace

    import pusa_core.plan  # the pack's modules have other names inside ComfyUI
    import pusa_core.schedule
    import pusa_core.staircase

    theirs = pusa_core.plan.Plan(
        tuple(pusa_core.schedule.FrameSchedule.from_json(s.to_json()) for s in plan.schedules),
        None if plan.clean is None else clean,
        given=plan.given,
        staircase=pusa_core.staircase.Staircase(**as_settings(pusa_core.staircase, plan.staircase)),
    )
    parts = {"tokenizer": None, "text_encoder": None, "vae": None, "scheduler": diffusers.PusaScheduler()}
    pipe = diffusers.PusaWanPipeline(transformer=diffusers.open_wan(file, torch.float32), **parts)
    pipe.set_progress_bar_config(disable=True)
    scheduler = pipe.scheduler
    made = pipe(
        prompt_embeds=text.positive[0][0], negative_prompt_embeds=text.negative[0][0], keyframes=replace(theirs),
        num_frames=LENGTH, height=64, width=64, latents=comfy.sample.prepare_noise(latent["samples"], 3), guidance_scale=cfg,
        num_inference_steps=2, output_type="latent",
    ).frames  # fmt: skip
    assert pipe.scheduler is scheduler
    return made


def as_settings(core, staircase):
    window = None if staircase.window is None else core.Window(staircase.window.size, staircase.window.anchors)
    names = ("steps", "shift", "delay", "block", "causal")
    return {**{name: getattr(staircase, name) for name in names}, "window": window}


# --- what is refused -------------------------------------------------------------------------------------------------


def test_what_does_not_fit_such_a_schedule(pack, wan, low_noise_wan, text, planned):
    plan, latent, _ = planned(pack.pusa_core.staircase.Staircase(4, 5.0, 1), 1)
    for changed, message in (
        ({"sampler": "heun"}, "which the sampler heun cannot follow"),
        ({"denoise": 0.5}, "A denoise of 0.5 was given with a schedule that has a sigma grid of its own"),
        ({"low_noise_model": low_noise_wan}, "needs one model for both"),
    ):
        with pytest.raises(ValueError, match=message):
            pusa_ksampler(pack, wan, text, latent, 1.0, schedule=plan, **changed)


def test_sigmas_of_another_grid(pack, host, wan, text, planned):
    plan, latent, _ = planned(pack.pusa_core.staircase.Staircase(4, 5.0, 1), 1)
    guider = nodes_custom_sampler.CFGGuider.execute(host.apply_schedule(wan, plan), text.positive, text.negative, 1.0).args[0]
    noise, euler = nodes_custom_sampler.RandomNoise.execute(3).args[0], comfy.samplers.sampler_object("euler")
    sigmas = pack.pusa_core.schedule.pusa_sigmas(8, 5.0)
    with pytest.raises(ValueError, match="on 8 sigmas of its own, but the sampler has 8 others: use the Pusa KSampler"):
        nodes_custom_sampler.SamplerCustomAdvanced.execute(noise, guider, euler, sigmas, latent)
