"""Strength by frame in ComfyUI: the node, its schedule and picture, what a sampler makes of it; and how good that is."""

import pytest
import torch

from demo_model.measure import decibels, motion_errors
from demo_model.spoil import STUCK, stutter
from demo_model.studio import SampleSettings, Studio
from demo_model.world import LENGTH, TEST_SEEDS, draw, scene
from pusa_core.strength import Strength
from tests import tiny

pytestmark = pytest.mark.usefixtures("inference_mode")

NOISE = "0: 0, 1: 0.2, 4: 0.2, 5: 1, 8: 1, 9: 0.4"  # latent frames 0, 0.2, 1, 0.4


@pytest.fixture(scope="module")
def vae(comfyui, tmp_path_factory):
    return tiny.load_vae(tiny.write_vae(tmp_path_factory.mktemp("vae") / "vae.safetensors"))


def pictures(frames, seed=0):
    """Noise, which no blend is like."""
    return torch.rand(frames, 48, 64, 3, generator=torch.Generator().manual_seed(seed))


def strength(pack, clip, noise=NOISE, unit="pixel", length=0, retime="keep", between=1.0, hold_up_to=0.3, previous=None):
    node = pack.nodes.keyframes.PusaVideoStrength
    return node.execute(clip, noise, unit, length, retime, between, hold_up_to, previous).args


def plan_of(pack, vae, keyframes, length):
    """(latent, schedule, picture, report)"""
    return pack.nodes.schedule.plan_video(vae, 64, 48, length, 1, "crop", keyframes, None)


def test_every_latent_frame_starts_from_the_clip_with_its_own_noise(pack, vae):
    clip = pictures(13)
    keyframes, length = strength(pack, clip)
    latent, plan, picture, report = plan_of(pack, vae, keyframes, length)
    assert length == 13
    assert [frame.multiplier for frame in plan.schedule.frames] == [0, 0.2, 1, 0.4]
    assert [frame.behaviour for frame in plan.schedule.frames] == ["hold", "hold", "evolve", "evolve"]
    seen = torch.cat([clip[:5], *(torch.lerp(clip[4:5], clip[9:10], share / 5) for share in (1, 2, 3, 4)), clip[9:]])
    torch.testing.assert_close(latent["samples"][:, :, [0, 1, 3]], vae.encode(seen)[:, :, [0, 1, 3]])
    assert "noise 0, 0.2, 1, 0.4; hold up to 0.2, above it evolve" in report
    same, *_ = strength(pack, clip, "0, 0.2, 1, 0.4")
    other, *_ = strength(pack, clip, "0.5")
    assert plan_of(pack, vae, same, length)[2].equal(picture)
    assert not torch.equal(plan_of(pack, vae, other, length)[2], picture), "the picture shows the curve"


def test_what_is_kept_stays_exactly_and_the_rest_does_not(pack, host, vae, wan, text):
    clip = pictures(13)
    keyframes, length = strength(pack, clip)
    latent, *_ = plan_of(pack, vae, keyframes, length)
    run = lambda latent: pack.nodes.sampling.PusaKSampler.execute(  # noqa: E731
        wan, text.positive, text.negative, latent, 3, 4, 2.0, "euler", "pusa", 5.0, 1.0
    ).args[0]["samples"]  # fmt: skip
    made, start = run(latent), latent["samples"]
    torch.testing.assert_close(made[:, :, :2], start[:, :, :2], rtol=1e-4, atol=1e-4)
    assert (made[:, :, 2:] - start[:, :, 2:]).abs().mean(dim=(0, 1, 3, 4)).min() > 0.05


@pytest.mark.parametrize(
    "length, retime, frames, multipliers",
    [
        (9, "keep", 9, [0.5] * 3),
        (17, "keep", 17, [0.5] * 4 + [1]),
        (25, "stretch", 25, [0.5] * 7),
        (0, "stretch", 13, [0.5] * 4),
    ],
)
def test_the_length_goes_to_the_schedule(pack, vae, length, retime, frames, multipliers):
    keyframes, shown = strength(pack, pictures(15), "0.5", length=length, retime=retime)
    assert shown == frames
    assert [frame.multiplier for frame in plan_of(pack, vae, keyframes, shown)[1].schedule.frames] == multipliers


def test_it_adds_to_keyframes(pack, vae):
    image = pack.nodes.keyframes.PusaKeyframe.execute(pictures(1, 1), -1, "pixel", 0.5, "hold").args[0]
    keyframes, _ = strength(pack, pictures(9), "0.3", previous=image)
    assert len(keyframes) == 2 and len(image) == 1
    assert [f.multiplier for f in plan_of(pack, vae, keyframes, 17)[1].schedule.frames] == [0.3, 0.3, 0.3, 1, 0.5]


def test_what_is_wrong_is_told(pack):
    with pytest.raises(ValueError, match="^The input video got 'a.mp4', but takes images"):
        strength(pack, "a.mp4")
    with pytest.raises(ValueError, match="lies outside its 9 frames"):
        strength(pack, pictures(9), "12: 0")


@pytest.mark.parametrize("frames, count", [("all", 17), ("stuttering", 17), ("every 4th", 5), ("every 8th", 3)])
def test_the_demo_scene_spoils_its_clip(pack, frames, count):
    node = pack.nodes.demo.PusaDemoScene
    whole, start, end, _ = node.execute("a red circle moves left", 3).args
    clip, *rest, _ = node.execute("a red circle moves left", 3, frames).args
    assert len(clip) == count and clip[0].equal(whole[0]) and clip[-1].equal(whole[-1])
    assert rest[0].equal(start) and rest[1].equal(end)
    if frames == "stuttering":
        assert all(frame.equal(whole[4]) for frame in clip[STUCK]) and clip[13:].equal(whole[13:])


# --- quality, on the demo model --------------------------------------------------------------------------------------


def test_bad_frames_are_repaired_and_the_others_stay(comfyui):
    """A stuttering clip: one noise for all leaves the fault or loses the ends."""
    studio, clips = Studio(), [scene(TEST_SEEDS + 8500 + i, False, "moves") for i in range(8)]
    true, ends = draw(clips), [*range(STUCK.start), *range(STUCK.stop, LENGTH)]

    def quality(noise):
        keyframes = [[Strength(noise).keyframe(stutter(clip))] for clip in true]
        made = studio.sample_from(keyframes, clips, SampleSettings("text to video"))
        return float(motion_errors(made, clips, STUCK).mean()), float(decibels(made[:, ends], true[:, ends]).mean())

    error, fidelity = quality("0: 0, 1: 0.5, 4: 0.5, 5: 1, 12: 1, 13: 0.5")
    assert error < 1.3 and fidelity > 30.5
    uniform_error, uniform_fidelity = quality("0.8")
    assert uniform_error > 1.5 * error and uniform_fidelity < fidelity - 4
