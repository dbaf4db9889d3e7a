"""A LATENT carries its plan: one wire is enough, and what other nodes do to it does not spoil the keyframes."""

import comfy_extras.nodes_post_processing  # noqa: F401 - before nodes_latent, for they import each other

import comfy_extras.nodes_latent as stock  # isort: skip
import pytest
import torch
from comfy_extras.nodes_perpneg import PerpNeg

from tests import tiny

pytestmark = pytest.mark.usefixtures("inference_mode")

SETTINGS = (3, 4, 1.0, "euler", "pusa", 5.0, 1.0)  # seed, steps, cfg, sampler, scheduler, shift, denoise
SIZE = {"width": 64, "height": 48, "length": 9, "batch_size": 1, "resize": "crop"}


@pytest.fixture(scope="module")
def vae(comfyui, tmp_path_factory):
    return tiny.load_vae(tiny.write_vae(tmp_path_factory.mktemp("vae") / "vae.safetensors"))


@pytest.fixture
def planned(pack, vae, monkeypatch):
    """planned({pixel frame: noise multiplier}, seed) -> (latent, plan) of the Pusa Schedule node."""
    monkeypatch.setattr(pack.nodes.schedule.ui, "PreviewImage", lambda image, cls=None: {})

    def make(keyframes, seed=0, **size):
        chain = []
        for number, (frame, m) in enumerate(keyframes.items()):
            image = torch.rand(1, 48, 64, 3, generator=torch.Generator().manual_seed(100 * seed + number))
            chain = pack.nodes.keyframes.PusaKeyframe.execute(image, frame, "pixel", m, "evolve", chain).args[0]
        return pack.nodes.schedule.PusaSchedule.execute(vae, keyframes=chain, **{**SIZE, **size}).args[:2]

    return make


@pytest.fixture
def sample(pack, wan, text):
    """The Pusa KSampler on a latent."""

    def run(latent, plan=None, settings=SETTINGS, model=wan):
        return pack.nodes.sampling.PusaKSampler.execute(model, text.positive, text.negative, latent, *settings, plan).args[0]

    return run


@pytest.fixture
def stage(pack, wan, text):
    """One Pusa KSampler (Advanced) of a run of 4 steps."""

    def run(latent, start, end, plan=None, noise=True, leftover=True):
        switches = {True: "enable", False: "disable"}
        return pack.nodes.sampling.PusaKSamplerAdvanced.execute(
            wan, text.positive, text.negative, latent, switches[noise], 3, 4, 1.0, "euler", "pusa", 5.0, start, end,
            switches[leftover], plan,
        ).args[0]  # fmt: skip

    return run


def closeness(latent, clean, frame, clip=0):
    return (latent["samples"][clip] - clean)[:, frame].abs().max().item()


def test_the_latent_alone_is_enough_and_a_schedule_still_wins(planned, sample, host, wan):
    latent, plan = planned({0: 0.0, -1: 0.3})
    alone, wired = sample(latent), sample(latent, plan)
    assert torch.equal(alone["samples"], wired["samples"])
    assert closeness(alone, plan.clean[0], 0) < 1e-5
    on_model = sample(latent, model=host.apply_schedule(wan, plan))
    assert torch.equal(on_model["samples"], alone["samples"])
    _, other = planned({0: 0.0}, seed=1)
    assert closeness(sample(latent, other), other.clean[0], 0) < 1e-5
    assert closeness(sample(latent, model=host.apply_schedule(wan, other)), other.clean[0], 0) < 1e-5


def test_a_flipped_latent_keeps_its_flipped_keyframes(planned, sample):
    """ComfyUI's node flips pictures, or the frames of a video, whose keyframes then are elsewhere."""
    import nodes

    latent, plan = planned({0: 0.0, -1: 0.0})
    (mirrored,) = nodes.LatentFlip().flip(latent, "y-axis: horizontally")
    for given in (None, plan):
        made = sample(mirrored, given)
        for frame in (0, 2):
            assert closeness(made, plan.clean[0].flip(2), frame) < 1e-5
    latent, _ = planned({0: 0.0})
    (reversed_frames,) = nodes.LatentFlip().flip(latent, "x-axis: vertically")
    with pytest.raises(ValueError, match=r"pictures at latent frames \[2\], but the schedule keeps \[0\]"):
        sample(reversed_frames)


def batched(first, second):
    """What ComfyUI's own node for batches makes of two."""
    return stock.LatentBatch.execute(first, second).args[0]


def test_clips_of_a_stock_batch_keep_their_own_pictures(planned, sample):
    (one, plan), (two, other) = planned({0: 0.0}), planned({0: 0.0}, seed=1)
    made = sample(batched(one, two))
    assert closeness(made, plan.clean[0], 0) < 1e-5
    assert closeness(made, other.clean[0], 0, clip=1) < 1e-5


def test_a_stock_batch_of_other_keyframes_is_refused_and_ours_makes_it(planned, sample, pack, host, wan, text):
    (one, plan), (two, other) = planned({0: 0.0}), planned({0: 0.3, -1: 0.0}, seed=1)
    with pytest.raises(ValueError, match=r"Video 2 of this batch has its pictures at latent frames \[0, 2\].*keeps \[0\]"):
        sample(batched(one, two))
    latent, joined = pack.nodes.schedule.PusaBatchLatents.execute(one, two).args
    made = sample(latent)
    assert closeness(made, plan.clean[0], 0) < 1e-5
    assert closeness(made, other.clean[0], 2, clip=1) < 1e-5
    assert closeness(made, other.clean[0], 0, clip=1) > 1e-3, "noisy keyframes evolve"
    noise = host.sampling.comfy.sample.prepare_noise(latent["samples"], 3)
    for clip, (alone, own) in enumerate(((one, plan), (two, other))):
        single = host.sampling.comfy.sample.sample_custom(
            host.apply_schedule(wan, own), noise[clip : clip + 1], 1.0, host.sampling.comfy.samplers.sampler_object("euler"),
            pack.pusa_core.schedule.pusa_sigmas(4), text.positive, text.negative, alone["samples"], disable_pbar=True,
        )  # fmt: skip
        assert ((made["samples"][clip] - single[0]).norm() / single.norm()) < 1e-5, "each is as if alone"
    assert len(joined.schedules) == 2


def test_three_are_joined_two_by_two(planned, sample, pack):
    parts = [planned({frame: 0.0}, seed) for seed, frame in enumerate((0, 5, -1))]
    node = pack.nodes.schedule.PusaBatchLatents
    pair = node.execute(parts[0][0], parts[1][0]).args[0]
    made = sample(node.execute(pair, parts[2][0]).args[0])
    for clip, ((_, plan), frame) in enumerate(zip(parts, (0, 2, 2))):
        assert closeness(made, plan.clean[0], frame, clip) < 1e-5


def test_what_cannot_be_joined_says_why(planned, sample, pack):
    latent, _ = planned({0: 0.0})
    join = pack.nodes.schedule.PusaBatchLatents.execute
    for other in ({"samples": latent["samples"]}, sample(latent), {**latent, "samples": latent["samples"].flip(-1)}):
        with pytest.raises(ValueError, match="Latent 2 does not come straight from a Pusa Schedule"):
            join(latent, other)
    with pytest.raises(ValueError, match="different shapes"):
        join(latent, planned({0: 0.0}, length=13)[0])


def test_a_joined_latent_of_another_batch_size_is_refused(planned, sample, pack):
    latent, _ = pack.nodes.schedule.PusaBatchLatents.execute(planned({0: 0.0})[0], planned({-1: 0.0})[0]).args
    with pytest.raises(ValueError, match="tells 2 videos apart, but the latent is a batch of 3"):
        sample({**latent, "samples": torch.cat([latent["samples"], latent["samples"][:1]])})


def test_a_second_stage_needs_no_schedule(planned, stage, sample):
    latent, plan = planned({0: 0.0, -1: 0.4})
    first = stage(latent, 0, 2)
    whole = sample(latent)
    for given in (None, plan):
        rest = stage(first, 2, 50, given, noise=False, leftover=False)
        assert ((rest["samples"] - whole["samples"]).norm() / whole["samples"].norm()) < 1e-5
    _, again = planned({0: 0.0, -1: 0.4})
    assert again is not plan
    stage(first, 2, 50, again, noise=False, leftover=False)  # the same keyframes, made again


def test_a_second_stage_with_another_schedule_or_latent_is_refused(planned, stage):
    latent, _ = planned({0: 0.0, -1: 0.4})
    _, other = planned({0: 0.2, -1: 0.4})
    first = stage(latent, 0, 2)
    with pytest.raises(ValueError, match="halfway through a run with another schedule"):
        stage(first, 2, 50, other, noise=False)
    with pytest.raises(ValueError, match="changed by another node between two stages"):
        stage({**first, "samples": first["samples"].flip(-1)}, 2, 50, noise=False)


def test_a_finished_clip_is_reworked_with_its_keyframes(planned, sample):
    latent, plan = planned({0: 0.0, -1: 0.4})
    made = sample(latent)
    again = sample(made, settings=(*SETTINGS[:-1], 0.5))
    assert closeness(again, plan.clean[0], 0) < 1e-5
    enlarged = {**made, "samples": torch.nn.functional.interpolate(made["samples"], (3, 12, 16))}
    larger = sample(enlarged, settings=(*SETTINGS[:-1], 0.5))
    assert closeness(larger, enlarged["samples"][0], 0) < 1e-5, "enlarged on its way, it keeps its enlarged keyframe"


def test_a_stock_sampler_in_between_is_no_fault(planned, sample, host, wan, text):
    import nodes

    latent, plan = planned({0: 0.0})
    model = host.apply_schedule(wan, plan)
    (made,) = nodes.common_ksampler(model, 3, 2, 1.0, "euler", "simple", text.positive, text.negative, latent)
    again = sample(made, settings=(*SETTINGS[:-1], 0.5))
    assert closeness(again, plan.clean[0], 0) < 1e-5


def test_text_to_video_carries_nothing_that_hinders(planned, sample):
    latent, _ = planned({})
    made = sample(latent)
    enlarged = {**made, "samples": torch.nn.functional.interpolate(made["samples"], (2, 12, 16))}
    assert sample(enlarged)["samples"].shape == enlarged["samples"].shape


def test_a_node_that_encodes_its_own_conds_while_sampling_works(planned, sample, wan, text):
    """Perp-Neg: its conds are made inside a CFG hook, after the schedule was laid into the others."""
    latent, plan = planned({0: 0.0, -1: 0.3})
    model = PerpNeg.execute(wan, text.negative, 1.0).args[0]
    settings = (SETTINGS[0], SETTINGS[1], 3.0, *SETTINGS[3:])
    made = sample(latent, settings=settings, model=model)
    assert closeness(made, plan.clean[0], 0) < 1e-5
    assert torch.isfinite(made["samples"]).all()
    assert not torch.equal(made["samples"], sample(latent, settings=settings)["samples"])
