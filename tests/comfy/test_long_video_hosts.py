"""Long video on ComfyUI and on Diffusers: the same weights and noise give the same latents, and nothing grows."""

import pytest
import torch

from tests import long_memory, tiny
from tests.comfy.test_long_video import long_video  # noqa: F401  # a fixture

diffusers = pytest.importorskip("pusa_core.hosts.diffusers")
pytestmark = pytest.mark.usefixtures("inference_mode")

SIDE, CFG, SEED, GOAL = 32, 3.0, 7, 2e-5
FRAMES = 9  # latent
CASES = {
    "text": {},
    "image": {"keyframes": {0: 0.0}},
    "noisy image, and one at the end": {"keyframes": {0: 0.2, -1: 0.3}},
    "on the way": {"keyframes": {0: 0.0, 17: 0.0}},
    "beside": {"keyframes": {0: 0.0, 17: 0.0}, "beside": True},
    "anchor further off": {"keyframes": {0: 0.0}, "distance": 4},
    "two models": {"keyframes": {0: 0.0}, "low": True},
    "prompts by frame": {"prompts": {0: 1, 16: 3}},
}


@pytest.fixture(scope="module")
def vae_file(tmp_path_factory):
    return tiny.write_vae(tmp_path_factory.mktemp("vae") / "vae.safetensors", 16)


@pytest.fixture(scope="module")
def low_file(tmp_path_factory):
    return tiny.write_wan(tmp_path_factory.mktemp("low") / "low.safetensors", seed=2)


def picture():
    return torch.rand(1, SIDE, SIDE, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def on_comfyui(pack, long_video, wan, low_noise_wan, vae_file):  # noqa: F811
    core, vae = pack.pusa_core, tiny.load_vae(vae_file)
    form = wan.model.latent_format

    def encode(pictures):
        return core.hosts.comfyui.image_encoder(vae, SIDE, SIDE, "crop")(pictures)

    def make(keyframes=None, distance=1, beside=False, low=False, prompts=None):
        conditioning = [
            [tiny.conditioning(seed=seed)[0][0], {long_video.FROM_FRAME: frame}]
            for frame, seed in (prompts or {0: 1}).items()
        ]
        guidance = long_video.Guidance(long_video.prompts_by_frame(conditioning, 8), tiny.conditioning(seed=2), CFG)
        studio = long_video.long_video_studio(
            wan, vae, guidance, SEED, (1, 16, SIDE // 8, SIDE // 8), low_noise_wan if low else None
        )
        placed = [core.keyframes.still_keyframe(picture(), f, "pixel", noise) for f, noise in (keyframes or {}).items()]
        placed, _ = core.plan.place_keyframes(placed, FRAMES, encode)
        given = {f: (form.process_in(p.latent.float()), p.multiplier) for f, p in placed.items()}
        staircase = core.staircase.Staircase.rolling(3)
        roll = core.rolling.Roll(staircase, FRAMES, given, studio, None, distance, beside)
        return torch.cat([made.latent for made in roll], 2)

    return make


@pytest.fixture
def on_diffusers(files, low_file, vae_file):
    from pusa_core.keyframes import still_keyframe

    def make(keyframes=None, distance=1, beside=False, low=False, prompts=None):
        parts = {"tokenizer": None, "text_encoder": None, "vae": diffusers.open_vae(vae_file), "scheduler": None}
        experts = [diffusers.open_wan(file, torch.float32) for file in (files["high"], low_file)[: 1 + low]]
        pipe = diffusers.PusaWanPipeline(**parts, transformer=experts[0], transformer_2=experts[1] if low else None)
        pipe.set_progress_bar_config(disable=True)
        video = pipe.long_video(
            keyframes=[still_keyframe(picture(), frame, "pixel", noise) for frame, noise in (keyframes or {}).items()],
            prompt_embeds={frame: tiny.conditioning(seed=seed)[0][0] for frame, seed in (prompts or {0: 1}).items()},
            negative_prompt_embeds=tiny.conditioning(seed=2)[0][0], height=SIDE, width=SIDE, num_frames=4 * FRAMES - 3,
            guidance_scale=CFG, generator=torch.Generator().manual_seed(SEED), moving_frames=3, anchor_distance=distance,
            keyframes_beside=beside,
        )  # fmt: skip
        return torch.cat([made.latent for made in video.begin()], 2)

    return make


@pytest.fixture(scope="module")
def videos():
    return {}


@pytest.mark.parametrize("case", CASES)
def test_the_hosts_agree(on_comfyui, on_diffusers, videos, case):
    """And each case is another video."""
    ours, theirs = on_diffusers(**CASES[case]), on_comfyui(**CASES[case])
    assert ((ours - theirs).norm() / theirs.norm()).item() < GOAL
    assert [other for other, video in videos.items() if torch.allclose(video, ours, atol=1e-2)] == []
    videos[case] = ours


@pytest.mark.parametrize("positions", [(0, 1, 2, 3), (3, 4, 5, 6), (0, 8, 9, 10), (0, 4, 5, 4)])
def test_positions_of_frames(pack, host, wan, files, positions):
    """In both hosts' rotary embeddings: only distances count, and both count the same."""
    core = pack.pusa_core
    plan = core.plan.Plan(
        (core.schedule.FrameSchedule.build(4, {0: core.schedule.FrameMap.line(0.3)}),), torch.zeros(1, 16, 4, 8, 8)
    )
    x, text = torch.randn(1, 16, 4, 8, 8, generator=torch.Generator().manual_seed(1)), tiny.conditioning(seed=1)[0][0]
    given = torch.tensor([[300.0, 1000.0, 1000.0, 1000.0]])

    def comfy(at):
        from dataclasses import replace

        import comfy.model_management

        model = host.apply_schedule(wan, replace(plan, positions=at))
        comfy.model_management.load_models_gpu([model])
        options = {**model.model_options["transformer_options"], "wrappers": model.wrappers, "pusa_ratio": given / 1000}
        return model.model.diffusion_model(x, torch.tensor([1000.0]), text, transformer_options=options)

    ours = diffusers.velocity(diffusers.open_wan(files["high"], torch.float32), x, given / 1000, text, positions)
    theirs, counted = comfy(positions), comfy(None)
    assert ((ours - theirs).norm() / theirs.norm()).item() < 1e-5
    assert torch.allclose(theirs, counted, atol=1e-4) == (positions[0] + 3 == positions[3])


def test_nothing_grows_with_the_video(pack, long_video, wan, vae_file):  # noqa: F811
    """At 81, 321 and 1,281 frames: tensors that are held, those that are made on the way, and what the model is given."""
    core, text = pack.pusa_core, tiny.conditioning(seed=1)
    guidance = long_video.Guidance(lambda frame: text, text, 1.0)
    studio = long_video.long_video_studio(wan, tiny.load_vae(vae_file), guidance, 1, (1, 16, 2, 2))
    given = {0: (torch.zeros(1, 16, 1, 2, 2), 0.0)}
    roll = core.rolling.Roll(core.staircase.Staircase.rolling(3), 321, given, studio)
    seen = []
    hook = wan.model.diffusion_model.patch_embedding.register_forward_pre_hook(
        lambda m, args: seen.append(tuple(args[0].shape))
    )
    try:
        held, peaks = long_memory.measured(iter(roll), [20, 80, 320])
    finally:
        hook.remove()
    assert {*seen} == {(1, 16, 5, 2, 2)} and len(seen) > 320
    assert held[0] == held[1] == held[2] > 0 and peaks[0] == peaks[1] == peaks[2] > 0
