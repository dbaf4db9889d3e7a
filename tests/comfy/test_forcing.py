"""The nodes for diffusion forcing models, and the frame rate of the 1.3B, against what their own model computes."""

import pytest
import torch
from safetensors.torch import load_file

from tests import tiny
from tests.comfy.conftest import FRAMES, LENGTH
from tests.comfy.test_long_video import vae  # noqa: F401  # a fixture

pytestmark = pytest.mark.usefixtures("inference_mode")


@pytest.fixture(scope="module")
def forcing_file(tmp_path_factory):
    """A small Wan with SkyReels-V2-DF-1.3B's frame-rate embedding."""
    return tiny.write_wan(tmp_path_factory.mktemp("forcing") / "skyreels.safetensors", variant="forcing", seed=1)


def their_output(model, path, row, x, timestep, context):
    """Their model's: the embedding of the frame rate is added to the projected timestep, for every frame."""
    state = load_file(path)
    hidden = torch.nn.functional.silu(
        state["fps_projection.0.weight"] @ state["fps_embedding.weight"][row] + state["fps_projection.0.bias"]
    )
    vector = state["fps_projection.2.weight"] @ hidden + state["fps_projection.2.bias"]
    hook = model.model.diffusion_model.time_projection.register_forward_hook(lambda module, args, out: out + vector)
    try:
        return model.model.diffusion_model(x, timestep, context, transformer_options={})
    finally:
        hook.remove()


@pytest.mark.parametrize("fps, row", [(16, 0), (24, 1), (30, 1)])
def test_the_frame_rate(pack, forcing_file, text, monkeypatch, fps, row):
    import comfy.model_management
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_full_path_or_raise", lambda kind, name: str(forcing_file))
    model = tiny.load_wan(forcing_file)
    x = torch.randn(1, 16, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    timestep, context = torch.tensor([[900.0, 500.0, 0.0]]), text.positive[0][0]
    expected = their_output(model, forcing_file, row, x, timestep, context)
    plain = model.model.diffusion_model(x, timestep, context, transformer_options={})
    told = pack.nodes.forcing.PusaForcingFrameRate.execute(model, forcing_file.name, fps).args[0]
    comfy.model_management.load_models_gpu([told])
    made = told.model.diffusion_model(x, timestep, context, transformer_options={})
    told.unpatch_model()
    assert ((made - expected).norm() / expected.norm()).item() < 1e-5
    assert not torch.allclose(plain, expected, atol=1e-2)


def test_a_model_that_was_not_told_its_frame_rate(pack, forcing_file, wan, vae, monkeypatch, caplog):  # noqa: F811
    """ComfyUI 0.8.0 does not remember the file."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_full_path_or_raise", lambda kind, name: str(forcing_file))
    model = tiny.load_wan(forcing_file)
    plan, apply = forcing_schedule(pack, vae)[1], pack.nodes.schedule.PusaApplySchedule.execute
    with caplog.at_level("WARNING"):
        apply(wan, plan)
        apply(pack.nodes.forcing.PusaForcingFrameRate.execute(model, forcing_file.name, 24).args[0], plan)
        assert "frame rate" not in caplog.text
        apply(model, plan)
    said = "put Pusa Forcing Frame Rate behind its loader" in caplog.text
    assert said == hasattr(model, "cached_patcher_init")


@pytest.mark.parametrize(
    "options, message",
    [({"seed": 1}, "has no frame-rate embedding .* leave this node out"), ({"seed": 9}, "has no frame-rate embedding")],
)
def test_a_file_without_a_frame_rate(pack, wan, tmp_path, monkeypatch, options, message):
    import folder_paths

    path = tiny.write_wan(tmp_path / "wan.safetensors", **options)
    monkeypatch.setattr(folder_paths, "get_full_path_or_raise", lambda kind, name: str(path))
    with pytest.raises(ValueError, match=message):
        pack.nodes.forcing.PusaForcingFrameRate.execute(wan, path.name, 24)


def test_the_file_of_another_model(pack, low_noise_wan, forcing_file, monkeypatch):
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_full_path_or_raise", lambda kind, name: str(forcing_file))
    with pytest.raises(ValueError, match="is not the file that this model was loaded from: choose the same"):
        pack.nodes.forcing.PusaForcingFrameRate.execute(low_noise_wan, forcing_file.name, 24)


# --- the schedule ----------------------------------------------------------------------------------------------------


def forcing_schedule(pack, vae, keyframes=None, **changed):  # noqa: F811
    settings = {"steps": 4, "shift": 8.0, "ar_step": 1, "causal_block_size": 1, "causal_attention": False,
                "addnoise_condition": 0, "width": 64, "height": 64, "length": LENGTH, "batch_size": 1,
                "resize": "crop"}  # fmt: skip
    node = pack.nodes.forcing.PusaDiffusionForcing
    return node.execute(vae=vae, keyframes=keyframes, **{**settings, **changed}).args


def keyframe(pack, index=0):
    return pack.pusa_core.keyframes.still_keyframe(torch.rand(1, 64, 64, 3), index, "pixel", 0.0)


def test_the_schedule(pack, vae):  # noqa: F811
    latent, plan, picture, report, sigmas = forcing_schedule(pack, vae, [keyframe(pack)])
    assert latent["samples"].shape == (1, 16, FRAMES, 8, 8)
    assert len(sigmas) - 1 == 4 + FRAMES - 2 and torch.equal(sigmas, plan.grid)
    assert picture.shape[-1] == 3 and "latent frame 0" in report
    assert plan.given == 1 and plan.staircase.steps == 4


@pytest.mark.parametrize("ar_step", [0, 1])
def test_pictures_at_the_start_are_shown_with_noise(pack, wan, text, vae, ar_step):  # noqa: F811
    """At the same small sigma at every evaluation, and they end as they were given."""
    latent, plan, *_ = forcing_schedule(pack, vae, [keyframe(pack)], addnoise_condition=20, ar_step=ar_step)
    for sigma in plan.grid[:-1].tolist():
        assert plan.schedule.frames[0].sigma(sigma) == pytest.approx(0.02, abs=1e-6)
    seen = []
    embed = wan.model.diffusion_model.time_embedding
    hook = embed.register_forward_hook(lambda module, args, out: seen.append(args[0].clone()))
    try:
        node = pack.nodes.sampling.PusaKSampler
        output = node.execute(wan, text.positive, text.negative, latent, 1, 10, 1.0, "euler", "pusa", 5.0, 1.0)
    finally:
        hook.remove()
    made = output.args[0]["samples"]
    torch.testing.assert_close(made[:, :, :1], plan.clean[:, :, :1], rtol=0, atol=1e-4)
    first = [t.reshape(FRAMES, -1)[0] for t in seen]  # the embedding of the first frame's timestep
    assert all(torch.allclose(t, first[0], atol=1e-3) for t in first) and len(first) == len(plan.grid) - 1


def test_a_window_goes_on_with_the_end_of_the_one_before(pack, vae):  # noqa: F811
    """overlap_history: the last frames of a video are the first of the next, encoded as a clip, and count as done."""
    video = torch.rand(LENGTH, 64, 64, 3, generator=torch.Generator().manual_seed(1))
    node = pack.nodes.keyframes.PusaVideoKeyframes
    overlap = node.execute(video, "last", 9, "pixel", "start", 0, "0", "evolve").args[0]
    latent, plan, *_ = forcing_schedule(pack, vae, overlap, ar_step=1, causal_block_size=3, addnoise_condition=20)
    assert plan.given == 3 and len(plan.grid) - 1 == 4  # one block is left to be made
    torch.testing.assert_close(plan.clean[:, :, :3], vae.encode(video[-9:]))
    sigmas = [[frame.sigma(s) for frame in plan.schedule.frames] for s in plan.grid[:-1].tolist()]
    assert all(row[:3] == pytest.approx([0.02] * 3, abs=1e-6) and row[3] == row[4] == row[5] for row in sigmas)


def test_a_latent_of_the_timeline_is_as_good_as_keyframes(pack, vae):  # noqa: F811
    """Its size, length, batch and pictures are taken; what the node says of them is not looked at."""
    core, keyframes = pack.pusa_core, [keyframe(pack), keyframe(pack, -1)]
    size = {"ar_step": 1, "addnoise_condition": 20}
    latent, plan, _, report, sigmas = forcing_schedule(pack, vae, keyframes, **size)
    node = pack.nodes.schedule.PusaSchedule
    planned = node.execute(vae, 64, 64, LENGTH, 1, "crop", keyframes=keyframes).args[0]
    forced = forcing_schedule(pack, None, latent=planned, width=128, height=32, length=5, **size)
    assert core.plan.same_plan(forced[1], plan) and forced[3] == report and torch.equal(forced[4], sigmas)
    assert torch.equal(forced[0]["samples"], latent["samples"])


def test_clips_of_a_batch_begin_alike(pack, vae):  # noqa: F811
    node, schedule = pack.nodes.schedule.PusaBatchLatents, pack.nodes.schedule.PusaSchedule
    plans = [schedule.execute(vae, 64, 64, LENGTH, 1, "crop", keyframes=k).args[0] for k in ([keyframe(pack)], [])]
    both = node.execute(*plans).args[0]
    with pytest.raises(ValueError, match="take their steps at different times"):
        forcing_schedule(pack, None, latent=both)


def test_what_is_connected_to_a_schedule_of_forcing(pack, vae):  # noqa: F811
    latent = forcing_schedule(pack, vae)[0]
    for changed, message in (
        ({"vae": None}, "Neither a VAE nor a latent is connected"),
        ({"latent": latent, "keyframes": [keyframe(pack)]}, "Both a latent and keyframes are connected"),
        ({"latent": {"samples": latent["samples"]}}, "does not come straight from Pusa Timeline or Pusa Schedule"),
    ):
        with pytest.raises(ValueError, match=message):
            forcing_schedule(pack, **{"vae": vae, **changed})


def test_without_pictures_noise_at_the_start_says_nothing(pack, vae):  # noqa: F811
    plain, noisy = (forcing_schedule(pack, vae, addnoise_condition=n)[1] for n in (0, 20))
    assert plain.schedule == noisy.schedule
