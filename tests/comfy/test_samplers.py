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

    def forward(self, x, t, context, transformer_options=None, **kwargs):
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
