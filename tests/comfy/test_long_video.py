"""Long video on the real ComfyUI: step by step against one clip, memory, prompts, two models, stopping and going on."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch

from tests import tiny
from tests.core.test_staircase import MultiStep

pytestmark = pytest.mark.usefixtures("inference_mode")


@pytest.fixture(scope="module")
def long_video(pack):
    from importlib import import_module

    return import_module(f"{pack.__name__}.pusa_core.hosts.comfyui.long_video")


@pytest.fixture(scope="module")
def vae(comfyui, tmp_path_factory):
    import comfy.sd
    import comfy.utils

    file = tiny.write_vae(tmp_path_factory.mktemp("vae") / "vae.safetensors", 16)
    return comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(file)))


def random_latents(frames, seed=5):
    return torch.randn(1, 16, frames, 8, 8, generator=torch.Generator().manual_seed(seed))


def test_decoded_as_it_comes(pack, vae):
    """One latent frame after another gives the pictures of the whole clip."""
    streaming = pack.pusa_core.streaming
    latents = random_latents(6)
    stream = streaming.StreamingDecoder(vae.first_stage_model.decoder, vae.decode)
    parts = [stream.push(frame) for frame in latents.split(1, dim=2)]
    assert [part.shape[1] for part in parts] == [1, 4, 4, 4, 4, 4]
    torch.testing.assert_close(torch.cat(parts, 1), vae.decode(latents), rtol=0, atol=1e-4)
    assert not vae.first_stage_model.decoder._forward_pre_hooks


def test_two_streams_do_not_mix(pack, vae):
    streaming = pack.pusa_core.streaming
    clips = [random_latents(3, seed) for seed in (1, 2)]
    streams = [streaming.StreamingDecoder(vae.first_stage_model.decoder, vae.decode) for _ in clips]
    parts = [[stream.push(clip[:, :, i : i + 1]) for stream, clip in zip(streams, clips)] for i in range(3)]
    for number, clip in enumerate(clips):
        torch.testing.assert_close(torch.cat([p[number] for p in parts], 1), vae.decode(clip), rtol=0, atol=1e-4)


def test_a_vae_that_keeps_no_cache(pack):
    with pytest.raises(ValueError, match=r"This VAE \(Linear\) decodes whole clips only"):
        pack.pusa_core.streaming.StreamingDecoder(torch.nn.Linear(1, 1), lambda latent: latent)


@pytest.fixture
def studio(long_video, wan, vae, text):
    def make(cfg=3.0, **changed):
        guidance = long_video.Guidance(lambda frame: text.positive, text.negative, cfg)
        return long_video.long_video_studio(wan, vae, guidance, 7, (1, 16, 8, 8), **changed)

    return make


def test_steps_are_the_clip(pack, wan, text, studio):
    """What is made step by step, each a run of ComfyUI's sampler, is the staircase sampled at once."""
    from dataclasses import replace

    core, frames, more = pack.pusa_core, 7, 4
    staircase = core.staircase.Staircase(3, 5.0, 1, window=core.staircase.Window(5, (0,)))
    made_of = studio()
    given = random_latents(1, seed=3)
    form = wan.model.latent_format
    keyframe = core.keyframes.still_keyframe(torch.zeros(1, 8, 8, 3), 0, "latent", 0.0)
    length = core.frames.pixel_length(frames + more)
    plan = core.plan.plan_clip([keyframe], length, lambda _: form.process_out(given), staircase)
    noise = torch.cat([made_of.noise(f) for f in range(frames + more)], 2)
    whole = whole_clip(pack, wan, text, plan, noise, given)[:, :, :frames]

    as_made = {}
    made_of = replace(made_of, decode=lambda z: as_made.setdefault(len(as_made), z)[:, 0, :, :, :, None])
    roll = core.rolling.Roll(staircase, frames, {0: (given, 0.0)}, made_of)
    roll._shown = lambda frame, step: roll.finished[frame].latent  # as the whole clip shows it
    latents = torch.cat([m.latent for m in roll], 2)
    assert ((latents - whole).norm() / whole.norm()).item() < 1e-5


def whole_clip(pack, wan, text, plan, noise, given):
    """The clip sampled at once; frames take the steps of second order of `MultiStep`."""
    import comfy.sample
    import comfy.samplers

    form = wan.model.latent_format
    model = pack.pusa_core.hosts.comfyui.apply_schedule(wan, plan)
    start = torch.zeros_like(noise)
    start[:, :, :1] = given

    def sample_euler(model, x, sigmas, extra_args=None, callback=None, disable=None):  # whose name bent maps ask for
        steps = MultiStep()
        for sigma, lower in zip(sigmas[:-1], sigmas[1:]):
            v = (x - model(x, sigma[None], **extra_args)) / sigma
            euler = x + v * (lower - sigma)
            at = [[frame.sigma(float(s)) for s in (sigma, lower)] for frame in plan.schedule.frames]
            slopes = [(now - after) / float(sigma - lower) for now, after in at]
            parts = [
                steps(f, x[:, :, f : f + 1], v[:, :, f : f + 1] / max(slopes[f], 1e-9), at[f], euler[:, :, f : f + 1])
                for f in range(1, len(at))
            ]
            x = torch.cat([euler[:, :, :1], *parts], 2)
        return x

    sampled = comfy.sample.sample_custom(
        model, noise, 3.0, comfy.samplers.KSAMPLER(sample_euler), plan.grid, text.positive, text.negative,
        form.process_out(start), disable_pbar=True, seed=1,
    )  # fmt: skip
    return form.process_in(sampled)


def test_two_models(pack, wan, low_noise_wan, studio):
    """Frames above the boundary follow the high-noise model, the others the low-noise one."""
    core = pack.pusa_core
    staircase = core.staircase.Staircase(3, 5.0, 1, window=core.staircase.Window(5, (0,)))

    def made(**changed):
        given = {0: (random_latents(1), 0.0)}
        return torch.cat([m.latent for m in core.rolling.Roll(staircase, 4, given, studio(**changed))], 2)

    alone, same, other = made(), made(low_noise_model=wan), made(low_noise_model=low_noise_wan)
    torch.testing.assert_close(same, alone, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(other, alone, atol=1e-2)


def test_prompts_by_frame(long_video):
    first, second = torch.zeros(1, 4, 2), torch.ones(1, 6, 2)
    conditioning = [[first, {}], [second, {long_video.FROM_FRAME: 40}]]
    at = long_video.prompts_by_frame(conditioning, 8)
    assert at(0)[0][0] is first and at(35)[0][0] is first and at(45)[0][0] is second
    assert torch.equal(at(40)[0][0], torch.full((1, 6, 2), 0.5))
    assert at(38)[0][0].mean() == pytest.approx(0.25) and at(42)[0][0].mean() == pytest.approx(0.75)
    sudden = long_video.prompts_by_frame(conditioning, 0)
    assert sudden(39)[0][0] is first and sudden(40)[0][0] is second


# --- the node --------------------------------------------------------------------------------------------------------


@pytest.fixture
def make(pack, wan, vae, text, tmp_path, monkeypatch):
    """make(**changed inputs) -> (pictures of the file that the node wrote, report)."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    # without loss: x264's look-ahead reads memory that it did not write, and spends its bits by it
    monkeypatch.setattr(pack.nodes.rolling, "VideoWriter", partial(pack.nodes.rolling.VideoWriter, quality=0))
    node = pack.nodes.long_video.PusaLongVideo
    inputs = {
        "model": wan, "positive": text.positive, "negative": text.negative, "vae": vae, "width": 64, "height": 64,
        "length": 29, "fps": 8.0, "seed": 1, "cfg": 1.0, "moving_frames": 3, "steps": 1, "shift": 5.0, "blend": 8,
        "resize": "crop", "filename_prefix": "video/long",
    }  # fmt: skip

    def run(**changed):
        output = node.execute(**{**inputs, **changed})
        [shown] = output.ui.as_dict()["images"]
        assert (tmp_path / shown["subfolder"] / shown["filename"]).is_file()
        return output.args[0].get_components().images, output.args[1]

    return run


def keyframe(pack, index, seed=0, noise=0.0):
    picture = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(seed))
    return pack.pusa_core.keyframes.still_keyframe(picture, index, "pixel", noise)


def test_the_node(pack, make, tmp_path):
    pictures, report = make(keyframes=[keyframe(pack, 0), keyframe(pack, -1, 1)])
    assert pictures.shape == (29, 64, 64, 3)
    assert "latent frame 0 (frame 0)" in report and "latent frame 7 (frames 25-28)" in report
    assert [p.name for p in tmp_path.rglob("*.mp4")] == ["long_00001_.mp4"]
    assert not list((tmp_path / "pusa_long_video").iterdir())


def test_a_latent_of_the_timeline_is_as_good_as_keyframes(pack, make, vae):
    """Whose keyframes hold; its size and length are taken."""
    keyframes = [keyframe(pack, 0), keyframe(pack, 16, 1, 0.3), keyframe(pack, -1, 2)]
    wanted, report = make(keyframes=keyframes)
    assert report.count("; hold.") == 3
    latent = pack.nodes.schedule.PusaSchedule.execute(vae, 64, 64, 29, 1, "crop", keyframes=keyframes).args[0]
    made, _ = make(latent=latent, width=128, height=32, length=9)
    assert torch.equal(made, wanted)
    for changed, message in (
        ({"keyframes": keyframes, "latent": latent}, "Both a latent and keyframes are connected"),
        ({"latent": {**latent, "samples": latent["samples"] + 1}}, "does not come straight from"),
        (
            {"latent": pack.nodes.schedule.PusaSchedule.execute(vae, 64, 64, 29, 2, "crop").args[0]},
            "is a batch of 2 videos, but a long video is made alone",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            make(**changed)


def test_a_keyframe_on_the_way_is_held(pack, make, wan, monkeypatch, long_video):
    """The frame is on the line from its picture to its noise at every evaluation."""
    plans = []
    call = long_video._Sampler.__call__
    monkeypatch.setattr(
        long_video._Sampler, "__call__", lambda self, model, plan, *rest: plans.append(plan) or call(self, model, plan, *rest)
    )
    make(keyframes=[keyframe(pack, 16, 1, 0.3)])
    noisy = [frame for plan in plans for frame in plan.schedule.frames if 0 < frame.multiplier < 1]
    assert noisy and {frame.behaviour for frame in noisy} == {"hold"}


def test_a_diffusion_forcing_model(pack, make, tmp_path, monkeypatch):
    """One that needs no Pusa LoRA, with its frame rate."""
    import folder_paths

    path = tiny.write_wan(tmp_path / "skyreels.safetensors", variant="forcing", seed=1)
    monkeypatch.setattr(folder_paths, "get_full_path_or_raise", lambda kind, name: str(path))
    model = pack.nodes.forcing.PusaForcingFrameRate.execute(tiny.load_wan(path), path.name, 24).args[0]
    pictures, _ = make(model=model, keyframes=[keyframe(pack, 0)])
    plain, _ = make(keyframes=[keyframe(pack, 0)])
    assert pictures.shape == plain.shape and not torch.equal(pictures[5:], plain[5:])


def test_prompts_by_frame_are_refused_elsewhere(pack, host, wan, vae, text):
    """In a sampler that takes one clip at once, where they would be mixed."""
    node, first = pack.nodes.long_video.PusaPromptFromFrame, text.positive
    alone = node.execute(first, 0).args[0]
    chain = node.execute(text.negative, 40, alone).args[0]
    latent, plan, *_ = pack.nodes.schedule.PusaSchedule.execute(vae, 64, 64, 9, 1, "crop", keyframes=[keyframe(pack, 0)]).args
    sampler = pack.nodes.sampling.PusaKSampler

    def sample(positive, latent):
        return sampler.execute(wan, positive, text.negative, latent, 1, 1, 1.0, "euler", "pusa", 5.0, 1.0)

    message = r"prompts that begin to hold at frames \[0, 40\] \(Pusa Prompt From Frame\), which only Pusa Long Video"
    for clip in (latent, {"samples": latent["samples"]}):  # with a schedule and without
        sample(alone, clip)
        with pytest.raises(ValueError, match=message):
            sample(chain, clip)
    from comfy_extras import nodes_custom_sampler

    guider = nodes_custom_sampler.CFGGuider.execute(host.apply_schedule(wan, plan), chain, text.negative, 1.0).args[0]
    noise, euler = (
        nodes_custom_sampler.RandomNoise.execute(3).args[0],
        nodes_custom_sampler.KSamplerSelect.execute("euler").args[0],
    )
    with pytest.raises(ValueError, match=message):
        nodes_custom_sampler.SamplerCustomAdvanced.execute(noise, guider, euler, torch.tensor([1.0, 0.0]), latent)


def test_a_clip_on_the_way(pack, make, wan, vae, monkeypatch):
    """A clip of 4n frames keeps its latents, and with them its motion, in their places."""
    made, save = {}, pack.pusa_core.roll_files.RollFolder.save

    def watched(self, frame, progress):
        made[frame.frame] = frame.latent
        save(self, frame, progress)

    monkeypatch.setattr(pack.pusa_core.roll_files.RollFolder, "save", watched)
    pictures = torch.rand(8, 64, 64, 3, generator=torch.Generator().manual_seed(4))
    clip = pack.pusa_core.keyframes.clip_keyframe(pictures, 13, "pixel", 0.0)
    assert "a clip at pixel frame 13: latent frame 4" in make(keyframes=[keyframe(pack, 0), clip])[1]
    given = pack.pusa_core.hosts.comfyui.image_encoder(vae, 64, 64, "crop")(clip.pictures)[:, :, clip.kept]
    kept = torch.cat([made[4], made[5]], 2)
    torch.testing.assert_close(kept, wan.model.latent_format.process_in(given.float()), rtol=0, atol=1e-5)


def test_how_pictures_on_the_way_are_met(pack, make, tmp_path):
    given = [keyframe(pack, 0), keyframe(pack, 17, 1)]
    changes = ({}, {"on_the_way": "beside"}, {"anchor_distance": 3})
    in_place, beside, far = (make(keyframes=given, **changed)[0] for changed in changes)
    assert torch.equal(beside[:5], in_place[:5])  # made before it is in the window
    differ = [(other[17:] - in_place[17:]).abs().mean().item() for other in (beside, far)]
    assert min(differ) > 1e-3


def test_from_text_alone(make):
    pictures, report = make()
    assert pictures.shape[0] == 29 and report == "No keyframes: text to video."


def test_the_node_shows_its_report_at_the_end(pack, make, monkeypatch):
    shown = []
    monkeypatch.setattr(pack.nodes.rolling, "send_progress", lambda _, words: shown.append(words))
    _, report = make(keyframes=[keyframe(pack, 0), keyframe(pack, -1, 1)])
    assert "frames; about" in shown[-2] and shown[-1] == report


def test_a_video_that_is_given_as_a_whole(pack, make):
    """Nothing is left to make."""
    clip = torch.rand(5, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    pictures, report = make(length=5, keyframes=[pack.pusa_core.keyframes.clip_keyframe(clip, 0, "pixel", 0.0)])
    assert pictures.shape == (5, 64, 64, 3) and "latent frame 1 (frames 1-4)" in report


@pytest.mark.parametrize("prefix", ["../long", "/elsewhere/long"])
def test_a_place_outside_the_output_folder_is_refused_before_a_video_is_made(make, tmp_path, prefix):
    with pytest.raises(ValueError, match="leads out of ComfyUI's output folder: give one inside it, such as 'video/long'"):
        make(filename_prefix=prefix)
    assert not list(tmp_path.iterdir())


def test_loras_of_one_kind_are_told_apart(pack, host, wan, long_video, tmp_path):
    """A video that was stopped is not gone on with by another of the same size and strength."""
    key = pack.pusa_core.roll_files.settings_key
    paths = [str(tiny.write_lora(tmp_path / f"{seed}.safetensors", seed=seed)) for seed in (1, 2)]
    models = [wan, *(host.load_pusa_lora(wan, path, alpha)[0] for path in paths for alpha in (1.0, 1.4))]
    keys = [key(long_video.fingerprint("model", model)) for model in models]
    assert len({*keys}) == 5
    assert key(long_video.fingerprint("model", host.load_pusa_lora(wan, paths[0], 1.0)[0])) == keys[1]


def test_a_video_that_was_stopped_goes_on(pack, make, tmp_path, monkeypatch, long_video):
    whole, _ = make()
    sampled = SimpleNamespace(count=0, most=5)
    call = long_video._Sampler.__call__

    def dies(self, *args):
        sampled.count += 1
        if sampled.count > sampled.most:
            raise RuntimeError("the power went off")
        return call(self, *args)

    monkeypatch.setattr(long_video._Sampler, "__call__", dies)
    with pytest.raises(RuntimeError, match="the power went off"):
        make()
    [partial] = tmp_path.glob("pusa_long_video/*/video.mp4")
    import av

    with av.open(str(partial)) as container:
        assert sum(1 for _ in container.decode(video=0)) >= 1  # what was made can be watched
    sampled.count, sampled.most = 0, 100
    bars = []
    monkeypatch.setattr("comfy.utils.PROGRESS_BAR_HOOK", lambda value, total, *_, **__: bars.append((value, total)))
    again, _ = make()
    assert bars[0][0] > 0 and bars[0][0] + sampled.count == bars[-1][0] == bars[-1][1]  # the bar begins at what is done
    assert torch.equal(again, whole)
    assert sampled.count < 9
    other, _ = make(seed=2)
    assert not torch.equal(other, whole)
