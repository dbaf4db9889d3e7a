"""Every sampler of ComfyUI keeps its promise with keyframes, and is untouched without them."""

import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy.patcher_extension import WrappersMP

pytestmark = pytest.mark.usefixtures("inference_mode")

SAMPLERS = comfy.samplers.SAMPLER_NAMES
STEPS, SEED = 8, 11


def run(model, sampler, clip, text, pack, cfg=2.0, callback=None):
    noise = comfy.sample.prepare_noise(clip.latent["samples"], SEED)
    return comfy.sample.sample_custom(
        model,
        noise,
        cfg,
        comfy.samplers.sampler_object(sampler),
        pack.pusa_core.schedule.pusa_sigmas(STEPS),
        text.positive,
        text.negative,
        clip.latent["samples"],
        callback=callback,
        disable_pbar=True,
        seed=SEED,
    )


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_without_a_keyframe_nothing_changes(host, pack, wan, text, make_clip, sampler):
    clip = make_clip(wan, {})
    stock = run(wan, sampler, clip, text, pack)
    patched = run(host.apply_schedule(wan, clip.plan), sampler, clip, text, pack)
    assert (stock - patched).abs().max() == 0.0


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_clean_and_held_keyframes_come_back(host, pack, wan, text, make_clip, sampler):
    clip = make_clip(wan, {0: 0.0, 2: (0.3, "hold"), 3: 0.2, 5: (1.0, "hold")})
    shown = []
    samples = run(
        host.apply_schedule(wan, clip.plan), sampler, clip, text, pack, callback=lambda step, x0, x, n: shown.append(x0)
    )
    assert torch.isfinite(samples).all()
    for frame in (0, 2, 5):
        assert (samples - clip.plan.clean)[:, :, frame].abs().max() < 1e-5
        assert all((x0 - clip.clean)[:, :, frame].abs().max() < 1e-5 for x0 in shown), "a keyframe looks clean in previews"
    assert (samples - clip.plan.clean)[:, :, 3].abs().max() > 0.01, "a noisy keyframe evolves"


class KnowsThePicture(torch.nn.Module):
    """Stands in for the network: the velocity of a model that knows the clean clip, at every frame's own sigma."""

    def __init__(self, clean):
        super().__init__()
        self.clean = clean
        self.seen = []  # (x, sigmas) of every evaluation

    def forward(self, x, t, context, transformer_options=None, **kwargs):
        self.seen.append((x, t / 1000))
        sigma = (t / 1000)[:, None, :, None, None]
        return torch.where(sigma > 0, (x - self.clean) / sigma.clamp(min=1e-6), 0.0)


@pytest.mark.parametrize("sampler", [s for s in SAMPLERS if "cfg_pp" not in s])
def test_a_noisy_keyframe_gets_its_own_share_of_noise(host, pack, wan, text, make_clip, sampler):
    """With a model that knows the clip, a frame of multiplier m is clip + m * sigma * noise at every step."""
    m = 0.2
    clip = make_clip(wan, {i: m for i in range(5)}, size=(32, 32))
    model = host.apply_schedule(wan, clip.plan)
    seen = []
    picture = torch.randn(clip.clean.shape, generator=torch.Generator().manual_seed(4))
    picture = torch.where(clip.clean != 0, clip.clean, picture)  # what the ordinary frame will show
    known = KnowsThePicture(picture)

    def network(executor, x, timestep, *rest, **kwargs):
        sigma = (timestep / 1000)[:, None, :, None, None]
        noise = (x - (1 - sigma) * picture) / sigma
        seen.append(noise.std((0, 1, 3, 4)).tolist())
        return known(x, timestep, None)

    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "a test's", network)
    run(model, sampler, clip, text, pack, cfg=1.0)
    shares = torch.tensor(seen)  # noise in the frame, in units of its own sigma: (calls, frames)
    keyframes, ordinary = shares[:, :5].mean(1), shares[:, 5]
    assert keyframes[0] == pytest.approx(1.0, abs=0.02)
    assert (keyframes - ordinary).abs().max() < 0.04, "what a sampler does within a step, it does to all frames alike"


def test_uni_pc_does_not_write_into_the_sigmas_that_it_is_given(host, pack, wan, text, make_clip):
    clip, grid = make_clip(wan, {0: 0.2}), pack.pusa_core.schedule.pusa_sigmas(4)
    given, noise = grid.clone(), comfy.sample.prepare_noise(clip.latent["samples"], SEED)
    solver, model = comfy.samplers.sampler_object("uni_pc"), host.apply_schedule(wan, clip.plan)
    latent = clip.latent["samples"]
    comfy.sample.sample_custom(
        model, noise, 1.0, solver, given, text.positive, text.negative, latent, disable_pbar=True, seed=1
    )
    assert torch.equal(given, grid)


# --- bent maps -----------------------------------------------------------------------------------------------------------

BENT = {
    "late": ((0, 0), (0.5, 0), (1, 1)),
    "early": ((0, 0), (0.6, 1), (1, 1)),
    "rolling": ((0, 0), (0.3, 0), (0.8, 1), (1, 1)),
    "a keyframe's": ((0, 0), (0.4, 0.05), (1, 0.5)),
}
EULER = ("euler", "ddim")


@pytest.fixture
def knowing(host, pack, wan, make_clip):
    """knowing(knots) -> (model with a bent frame 2, its clip, the network: it knows what the clip will show)."""
    core = pack.pusa_core

    def make(knots):
        clip = make_clip(wan, {2: knots[-1][1]} if knots[-1][1] < 1 else {}, size=(24, 24))
        schedule = core.schedule.FrameSchedule.build(6, {2: core.schedule.FrameMap(knots)})
        model = host.apply_schedule(wan, core.plan.Plan((schedule,), clip.plan.clean))
        shown = torch.randn(clip.clean.shape, generator=torch.Generator().manual_seed(4))
        known = KnowsThePicture(torch.where(clip.clean != 0, clip.clean, shown))
        network = lambda executor, x, timestep, *rest, **kwargs: known(x, timestep, None)  # noqa: E731
        model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "a test's", network)
        return model, clip, known

    return make


def sampled(model, clip, text, pack, sampler="euler", first=0, steps=10):
    """Samples from step `first`, with the clip that is to be shown as the latent to start from."""
    latent, grid = clip.latent["samples"], pack.pusa_core.schedule.pusa_sigmas(steps)[first:]
    noise, solver = comfy.sample.prepare_noise(latent, SEED), comfy.samplers.sampler_object(sampler)
    return comfy.sample.sample_custom(
        model, noise, 1.0, solver, grid, text.positive, text.negative, latent, disable_pbar=True, seed=SEED
    )


@pytest.mark.parametrize("name", BENT)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_bent_maps_are_followed_exactly_or_refused(knowing, pack, text, wan, sampler, name):
    model, clip, known = knowing(BENT[name])
    if sampler in EULER:
        left = wan.model.process_latent_in(sampled(model, clip, text, pack, sampler)) - known.clean
        assert left.abs().max() < 1e-4, "no noise is left"
    else:
        with pytest.raises(ValueError, match="the sampler .* cannot follow.*use euler"):
            sampled(model, clip, text, pack, sampler)


def test_euler_that_adds_noise_cannot_follow_a_bent_map(knowing, pack, text):
    model, clip, _ = knowing(BENT["late"])
    churning = comfy.samplers.ksampler("euler", {"s_churn": 1.0})
    latent, grid = clip.latent["samples"], pack.pusa_core.schedule.pusa_sigmas(4)
    with pytest.raises(ValueError, match="euler with s_churn cannot follow"):
        comfy.sample.sample_custom(
            model, latent, 1.0, churning, grid, text.positive, text.negative, latent, disable_pbar=True
        )


@pytest.mark.parametrize("first", [0, 3, 7])
@pytest.mark.parametrize("name", BENT)
def test_a_bent_frame_starts_with_the_noise_of_its_own_sigma(knowing, pack, text, wan, host, name, first):
    """Also below sigma 1, where a clip is sampled again: the model must see x = (1 - sigma_f) z + sigma_f * noise."""
    model, clip, known = knowing(BENT[name])
    shown = known.clean
    clip.latent["samples"] = wan.model.process_latent_out(shown)
    noise = comfy.sample.prepare_noise(clip.latent["samples"], SEED)
    left = wan.model.process_latent_in(sampled(model, clip, text, pack, first=first)) - shown
    grid = pack.pusa_core.schedule.pusa_sigmas(10)
    own = pack.pusa_core.schedule.FrameMap(BENT[name]).sigma(float(grid[first]))
    x, sigmas = known.seen[0]
    assert sigmas[0, 2] == pytest.approx(own, abs=1e-6)
    torch.testing.assert_close(x[:, :, 2], (1 - own) * shown[:, :, 2] + own * noise[:, :, 2], atol=1e-4, rtol=1e-4)
    assert left.abs().max() < 1e-4


@pytest.mark.parametrize("name", BENT)
def test_two_experts_follow_a_bent_map_as_one_does(knowing, pack, host, text, wan, name):
    model, clip, _ = knowing(BENT[name])
    plan = host.schedule.applied_plan(model)
    settings = host.Sampling(SEED, 10, 1.0, "euler", "pusa", 5.0)
    inputs = text.positive, text.negative, clip.latent, settings, plan
    one, two = host.sample_clip(wan, *inputs)["samples"], host.sample_clip(wan, *inputs, low_noise_model=wan)["samples"]
    assert ((two - one).norm() / one.norm()) < 1e-5
