"""The published rule: the real ComfyUI, through the pack, against a plain implementation of it."""

import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy_extras import nodes_custom_sampler

from tests.comfy import reference

pytestmark = pytest.mark.usefixtures("inference_mode")

GOAL = 1e-5

MODES = {
    "text to video": {},
    "image to video": {0: 0.2},
    "image to video, exact": {0: 0.0},
    "start-end": {0: 0.2, 5: 0.5},
    "three keyframes": {0: 0.1, 2: 0.2, 5: 0.5},
    "completion": {0: 0.0, 1: 0.1, 4: 0.1, 5: 0.2},
    "extension": {0: 0.0, 1: 0.3, 2: 0.4, 3: 0.5},
    "transition": {0: 0.0, 1: 0.2, 4: 0.2, 5: 1.0},
    "held": {0: (0.2, "hold"), 3: (0.0, "hold"), 5: (1.0, "hold")},
    "held and evolving": {0: (0.5, "hold"), 5: 0.5},
    "every frame": {i: m for i, m in enumerate((0.0, 0.1, 0.2, 0.5, 1.0, 0.2))},
}
SETTINGS = [  # steps, shift, cfg, seed, batch
    (1, 5.0, 1.0, 0, 1),
    (4, 5.0, 1.0, 1, 1),
    (10, 5.0, 3.0, 2, 1),
    (7, 3.0, 3.0, 3, 2),
    (30, 8.0, 1.0, 4, 1),
]


def distance(a, b):
    return ((a - b).norm() / b.norm()).item()


def expected(model, clip, text, seed, batch=1, **settings):
    noise = comfy.sample.prepare_noise(clip.latent["samples"], seed)
    x = reference.sample(model, text, clip.clean, clip.pairs, noise, **settings)
    return model.model.latent_format.process_out(x)


def pusa_ksampler(pack, model, clip, text, *, steps, shift, cfg, seed, schedule=True, **more):
    node = pack.nodes.sampling.PusaKSampler
    settings = {"sampler": "euler", "scheduler": "pusa", "denoise": 1.0, "schedule": clip.plan if schedule else None}
    output = node.execute(
        model, text.positive, text.negative, clip.latent, seed, steps, cfg, shift=shift, **{**settings, **more}
    )
    return output.args[0]["samples"]


@pytest.mark.parametrize("steps, shift, cfg, seed, batch", SETTINGS)
@pytest.mark.parametrize("mode", MODES)
def test_the_pusa_ksampler(pack, wan, text, make_clip, mode, steps, shift, cfg, seed, batch):
    clip = make_clip(wan, MODES[mode], batch=batch, seed=seed)
    settings = {"steps": steps, "shift": shift, "cfg": cfg, "seed": seed}
    samples = pusa_ksampler(pack, wan, clip, text, **settings)
    assert distance(samples, expected(wan, clip, text, **settings)) < GOAL
    for frame, (m, behaviour) in clip.pairs.items():
        if m == 0 or behaviour == "hold":
            assert (samples - clip.plan.clean)[:, :, frame].abs().max() < GOAL


@pytest.mark.parametrize("steps", range(1, 31, 3))
def test_every_number_of_steps(pack, wan, text, make_clip, steps):
    clip = make_clip(wan, MODES["extension"])
    settings = {"steps": steps, "shift": 5.0, "cfg": 1.0, "seed": steps}
    assert distance(pusa_ksampler(pack, wan, clip, text, **settings), expected(wan, clip, text, **settings)) < GOAL


@pytest.mark.parametrize(
    "steps, boundary, cfg", [(10, 0.875, 3.0), (4, 0.875, 1.0), (30, 0.875, 1.0), (6, 0.0, 1.0), (6, 1.0, 1.0)]
)
@pytest.mark.parametrize("mode", ["text to video", "image to video", "extension", "held and evolving"])
def test_two_experts(pack, wan, low_noise_wan, text, make_clip, mode, steps, boundary, cfg):
    clip = make_clip(wan, MODES[mode])
    settings = {"steps": steps, "shift": 5.0, "cfg": cfg, "seed": 3, "low_noise_model": low_noise_wan, "boundary": boundary}
    assert distance(pusa_ksampler(pack, wan, clip, text, **settings), expected(wan, clip, text, **settings)) < GOAL


@pytest.mark.parametrize("mode", ["image to video", "extension", "held"])
def test_the_5b_model(pack, wan_5b, text, make_clip, mode):
    clip = make_clip(wan_5b, MODES[mode])
    settings = {"steps": 5, "shift": 5.0, "cfg": 3.0, "seed": 3}
    assert distance(pusa_ksampler(pack, wan_5b, clip, text, **settings), expected(wan_5b, clip, text, **settings)) < GOAL


@pytest.mark.parametrize("mode", ["start-end", "extension", "held and evolving"])
def test_the_stock_custom_sampler(pack, wan, text, make_clip, mode):
    clip = make_clip(wan, MODES[mode])
    model = pack.nodes.schedule.PusaApplySchedule.execute(wan, clip.plan).args[0]
    guider = nodes_custom_sampler.CFGGuider.execute(model, text.positive, text.negative, 3.0).args[0]
    sampled = nodes_custom_sampler.SamplerCustomAdvanced.execute(
        nodes_custom_sampler.RandomNoise.execute(9).args[0],
        guider,
        comfy.samplers.sampler_object("euler"),
        pack.nodes.sampling.PusaSigmas.execute(10, 5.0, 1.0).args[0],
        clip.latent,
    )
    result = expected(wan, clip, text, seed=9, steps=10, shift=5.0, cfg=3.0)
    assert distance(sampled.args[0]["samples"], result) < GOAL


@pytest.mark.parametrize("mode", ["start-end", "extension", "held and evolving"])
def test_the_stock_ksampler(comfyui, host, wan, text, make_clip, mode):
    import nodes  # ComfyUI's

    clip = make_clip(wan, MODES[mode])
    model = host.sampling.ModelSamplingSD3().patch(host.apply_schedule(wan, clip.plan), 5.0)[0]
    # "simple" picks from 1000 timesteps: the exact grid where the steps divide 1000
    (sampled,) = nodes.common_ksampler(model, 9, 10, 3.0, "euler", "simple", text.positive, text.negative, clip.latent)
    assert distance(sampled["samples"], expected(wan, clip, text, seed=9, steps=10, shift=5.0, cfg=3.0)) < GOAL


@pytest.mark.parametrize("handover", [1, 4, 9])
@pytest.mark.parametrize("mode", ["start-end", "extension", "every frame"])
def test_two_stages_of_the_stock_advanced_ksampler(comfyui, host, wan, low_noise_wan, text, make_clip, mode, handover):
    import nodes

    clip = make_clip(wan, MODES[mode])
    latent = clip.latent
    stages = ((wan, 0, handover, False), (low_noise_wan, handover, 10, True))
    for model, start, end, last in stages:
        model = host.sampling.ModelSamplingSD3().patch(host.apply_schedule(model, clip.plan), 5.0)[0]
        (latent,) = nodes.common_ksampler(
            model, 9, 10, 3.0, "euler", "simple", text.positive, text.negative, latent,
            disable_noise=start > 0, start_step=start, last_step=end, force_full_denoise=last,
        )  # fmt: skip
    sigmas = reference.sigma_grid(10, 5.0)
    settings = {"low_noise_model": low_noise_wan, "boundary": (sigmas[handover - 1] + sigmas[handover]) / 2}
    result = expected(wan, clip, text, seed=9, steps=10, shift=5.0, cfg=3.0, **settings)
    assert distance(latent["samples"], result) < GOAL


def test_two_stages_of_the_pusa_ksampler_advanced(pack, wan, text, make_clip):
    clip = make_clip(wan, MODES["every frame"])
    node, latent = pack.nodes.sampling.PusaKSamplerAdvanced, clip.latent
    for noise, start, end, leftover in (("enable", 0, 3, "enable"), ("disable", 3, 50, "disable")):
        latent = node.execute(
            wan, text.positive, text.negative, latent, noise, 5, 8, 3.0, "euler", "pusa", 5.0, start, end, leftover, clip.plan
        ).args[0]
    assert distance(latent["samples"], expected(wan, clip, text, seed=5, steps=8, shift=5.0, cfg=3.0)) < GOAL


def test_the_latent_between_two_stages_is_the_clip_itself(pack, wan, text, make_clip):
    clip = make_clip(wan, {0: 0.0, 2: 0.5})
    latent = pack.nodes.sampling.PusaKSamplerAdvanced.execute(
        wan, text.positive, text.negative, clip.latent, "enable", 5, 8, 1.0, "euler", "pusa", 5.0, 0, 3, "enable", clip.plan
    ).args[0]
    sigma = reference.sigma_grid(8, 5.0)[3]
    x = wan.model.latent_format.process_in(latent["samples"]) * (1 - sigma)  # ComfyUI carries x / (1 - sigma)
    assert (x - clip.clean)[:, :, 0].abs().max() < GOAL


def test_one_step_wrong_would_be_seen(pack, wan, text, make_clip, monkeypatch):
    """The goal is tight enough: the rule with its sigma multiplied twice, as elsewhere, is far outside it."""
    clip = make_clip(wan, MODES["start-end"])
    settings = {"steps": 10, "shift": 5.0, "cfg": 1.0, "seed": 2}
    samples = pusa_ksampler(pack, wan, clip, text, **settings)
    wrong = {i: (m * m, b) for i, (m, b) in clip.pairs.items()}
    monkeypatch.setattr(clip, "pairs", wrong)
    assert distance(samples, expected(wan, clip, text, **settings)) > 100 * GOAL


def test_a_bent_schedule_follows_its_map(pack, host, wan, text, make_clip):
    """A frame that stays noisy until the clip is half done: its sigma, and with it each step, is its own."""
    core = pack.pusa_core
    knots = ((0.0, 0.0), (0.6, 1.0), (1.0, 1.0))
    schedule = core.schedule.FrameSchedule.build(6, {4: core.schedule.FrameMap(knots)})
    clip = make_clip(wan, {})
    model = host.apply_schedule(wan, core.plan.Plan((schedule,)))
    noise = comfy.sample.prepare_noise(clip.latent["samples"], 3)
    grid = core.schedule.pusa_sigmas(10)
    euler = comfy.samplers.sampler_object("euler")
    samples = comfy.sample.sample_custom(
        model, noise, 1.0, euler, grid, text.positive, text.negative, clip.latent["samples"], disable_pbar=True, seed=3
    )
    x = noise
    for a, b in zip(grid[:-1].tolist(), grid[1:].tolist()):
        now, then = (torch.tensor([s, s, s, s, min(s / 0.6, 1.0), s]) for s in (a, b))
        v = reference.network(wan, x, 1000 * now[None], text.positive)
        x = x + v * (then - now)[None, None, :, None, None]
    assert distance(samples, wan.model.latent_format.process_out(x)) < GOAL
    with pytest.raises(ValueError, match="euler_ancestral cannot follow"):
        host_sample(model, "euler_ancestral", noise, grid, text, clip)


def host_sample(model, sampler, noise, grid, text, clip):
    return comfy.sample.sample_custom(
        model, noise, 1.0, comfy.samplers.sampler_object(sampler), grid, text.positive, text.negative,
        clip.latent["samples"], disable_pbar=True, seed=3,
    )  # fmt: skip
