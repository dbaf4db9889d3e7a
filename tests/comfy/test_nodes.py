"""The nodes as a user meets them: their schemas, and the pictures that go through a real VAE."""

import asyncio
import inspect
import re

import pytest
import torch
from PIL import Image

from environment.comfyui import PACK
from tests import tiny
from tests.comfy.interfaces import saved
from tests.server.screenshots import MOST_BYTES

pytestmark = pytest.mark.usefixtures("inference_mode")

IDS = {*saved()}


@pytest.fixture(scope="module")
def node_classes(pack):
    async def ask():
        return await (await pack.comfy_entrypoint()).get_node_list()

    return asyncio.run(ask())


@pytest.fixture(scope="module")
def vae(comfyui, tmp_path_factory):
    return tiny.load_vae(tiny.write_vae(tmp_path_factory.mktemp("vae") / "vae.safetensors"))


def test_the_ids_are_stable_and_equal_the_class_names(node_classes):
    assert {node.define_schema().node_id for node in node_classes} == IDS
    assert all(node.define_schema().node_id == node.__name__ for node in node_classes)


def test_every_node_and_input_explains_itself(node_classes):
    for node in node_classes:
        schema = node.GET_SCHEMA()
        assert len(schema.description) > 40
        assert schema.category == ("Pusa/demo model" if "Demo" in schema.node_id else "Pusa")
        assert schema.display_name.startswith("Pusa ")
        for entry in schema.inputs:
            assert entry.tooltip and entry.tooltip[-1] in ".)", f"{schema.node_id}.{entry.id}"


@pytest.mark.parametrize("node", sorted(IDS))
def test_every_node_has_a_small_picture(node):
    path = PACK / "web" / "pictures" / "nodes" / f"{node}.webp"
    with Image.open(path) as picture:
        assert picture.format == "WEBP" and picture.width >= 300
    assert path.stat().st_size <= MOST_BYTES


def test_other_names_to_search_by_only_where_comfyui_knows_them(pack):
    aliases = pack.nodes.types.search_aliases
    known = "search_aliases" in inspect.signature(pack.nodes.types.io.Schema).parameters
    assert aliases("a", "b") == ({"search_aliases": ["a", "b"]} if known else {})


def test_the_demo_models_nodes(pack):
    conditioning = pack.nodes.demo.PusaDemoPrompt.execute("a red circle moves left").args[0]
    assert conditioning[0][0].shape == (1, 12, 4096)
    images, start, end, caption = pack.nodes.demo.PusaDemoScene.execute("a red circle moves left", 3).args
    assert images.shape == (17, 64, 64, 3) and start.equal(images[:1]) and end.equal(images[-1:])
    assert caption.startswith("a red circle moves left") and caption.endswith(("background", "stripes"))


def schedule(pack, vae, keyframes=None, **options):
    settings = {"width": 64, "height": 48, "length": 9, "batch_size": 1, "resize": "crop", **options}
    node = pack.nodes.schedule.PusaSchedule
    return node.execute(vae, keyframes=keyframes, **settings)


def keyframe(pack, image, index=0, unit="pixel", multiplier=0.2, behaviour="evolve", previous=None):
    return pack.nodes.keyframes.PusaKeyframe.execute(image, index, unit, multiplier, behaviour, previous).args[0]


def picture(frames=1, height=48, width=64, seed=0):
    return torch.rand(frames, height, width, 3, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def no_preview_files(monkeypatch, pack):
    """Keeps PreviewImage from writing into ComfyUI's temp folder."""
    monkeypatch.setattr(pack.nodes.schedule.ui, "PreviewImage", lambda image, cls=None: {"shape": tuple(image.shape)})


def test_a_still_image_is_encoded_alone_also_at_the_end(pack, vae):
    first, last = picture(seed=1), picture(seed=2)
    chain = keyframe(pack, last, -1, multiplier=0.5, previous=keyframe(pack, first))
    output = schedule(pack, vae, chain)
    latent, plan, shown, report = output.args
    assert torch.equal(latent["samples"][:, :, 0:1], vae.encode(first))
    assert torch.equal(latent["samples"][:, :, 2:3], vae.encode(last))
    assert {i: f.multiplier for i, f in plan.schedule.keyframes.items()} == {0: 0.2, 2: 0.5}
    assert "pixel frame -1: latent frame 2 (frames 5-8)" in report
    assert output.ui["shape"] == tuple(shown.shape)


def test_a_clip_is_encoded_as_a_clip(pack, vae):
    clip = picture(9)
    node = pack.nodes.keyframes.PusaVideoKeyframes
    (chain,) = node.execute(clip, "last", 5, "pixel", "start", 0, "0, 0.3", "evolve").args
    latent, plan, *_ = schedule(pack, vae, chain).args
    assert torch.equal(latent["samples"][:, :, :2], vae.encode(clip[4:]))
    assert [f.multiplier for f in plan.schedule.frames] == [0, 0.3, 1]


def test_no_keyframes_make_an_empty_latent(pack, vae, wan):
    latent, plan, _, report = schedule(pack, vae, batch_size=2).args
    assert latent["samples"].shape == (2, 16, 3, 6, 8)
    assert wan.model.process_latent_in(latent["samples"]).abs().max() == 0
    assert plan.schedule.is_ordinary
    assert report == "No keyframes: text to video."


def test_the_demos_strings_make_the_same_schedule(pack, vae):
    images = picture(2)
    node = pack.nodes.keyframes.PusaKeyframesFromText
    (chain,) = node.execute(images, "0,2", "0.2,0.5", "latent", "evolve").args
    by_hand = keyframe(pack, images[1:], 2, "latent", 0.5, previous=keyframe(pack, images[:1]))
    assert torch.equal(schedule(pack, vae, chain).args[0]["samples"], schedule(pack, vae, by_hand).args[0]["samples"])


@pytest.mark.parametrize(
    "options, words",
    [({"length": 10}, "use 9 or 13"), ({"width": 60}, "multiples of 8"), ({"length": -3}, "length from 1")],
)
def test_sizes_that_do_not_work_say_why(pack, vae, options, words):
    with pytest.raises(ValueError, match=words):
        schedule(pack, vae, **options)


def test_another_vae_is_refused(pack, vae, monkeypatch):
    """HunyuanVideo's has the same 16 channels and strides."""
    monkeypatch.setattr(vae, "first_stage_model", torch.nn.Module())
    with pytest.raises(ValueError, match="not a Wan video VAE"):
        schedule(pack, vae)


def test_the_other_wan_vae_is_named(pack, host, vae, wan_5b, text):
    latent, plan, *_ = schedule(pack, vae, keyframe(pack, picture())).args
    words = "latent has 16 channels, but this model takes 48: use wan2.2_vae.safetensors"
    with pytest.raises(ValueError, match=words):
        pack.nodes.schedule.PusaApplySchedule.execute(wan_5b, plan)
    node, settings = pack.nodes.sampling.PusaKSampler, (3, 1, 1.0, "euler", "pusa", 5.0, 1.0)
    for connected in (plan, None):
        with pytest.raises(ValueError, match=words):
            node.execute(wan_5b, text.positive, text.negative, latent, *settings, connected)


def test_the_5b_models_vae(pack, comfyui, tmp_path):
    vae48 = tiny.load_vae(tiny.write_vae(tmp_path / "vae48.pt", 48))
    latent, plan, *_ = schedule(pack, vae48, keyframe(pack, picture()), width=64, height=32).args
    assert latent["samples"].shape == (1, 48, 3, 2, 4)
    assert plan.clean.shape == (1, 48, 3, 2, 4)


def test_the_picture_follows_given_sigmas(pack, vae):
    three = pack.nodes.sampling.PusaSigmas.execute(3, 5.0, 1.0).args[0]
    assert not torch.equal(schedule(pack, vae, sigmas=three).args[2], schedule(pack, vae).args[2])


def test_the_exact_grid_is_offered_among_comfyuis_own(pack, host, wan):
    import comfy.samplers

    assert host.SCHEDULERS[0] == "pusa"
    assert host.SCHEDULERS[1:] == comfy.samplers.SCHEDULER_NAMES
    exact = host.sigma_grid(wan, "pusa", "euler", 4, 5.0, 1.0)
    assert (1000 * exact).tolist() == pytest.approx([1000, 937.5, 833.333, 625, 0], abs=1e-3)
    shifted = host.sampling.ModelSamplingSD3().patch(wan, 8.0)[0]
    assert host.sigma_grid(shifted, "simple", "euler", 4, 8.0, 1.0).tolist() == pytest.approx(
        host.sigma_grid(wan, "pusa", "euler", 4, 8.0, 1.0).tolist(), abs=1e-3
    )


@pytest.mark.parametrize("scheduler", ["pusa", "simple", "beta", "sgm_uniform"])
@pytest.mark.parametrize("denoise", [1.0, 0.5])
def test_the_sampler_reports_every_step_and_keeps_what_the_latent_carries(
    pack, host, wan, text, make_clip, monkeypatch, scheduler, denoise
):
    seen = []
    monkeypatch.setattr(host.sampling, "preview_callback", lambda *given: lambda *a: seen.append((a[0], a[3], given[3])))
    clip = make_clip(wan, {0: 0.2}, batch=2)
    clip.latent["batch_index"] = [0, 1]
    clip.latent["from a test"] = "kept"
    output = pack.nodes.sampling.PusaKSampler.execute(
        wan, text.positive, text.negative, clip.latent, 3, 4, 1.0, "euler", scheduler, 5.0, denoise, clip.plan, wan
    ).args[0]
    assert output["from a test"] == "kept"
    assert output["samples"].shape == clip.latent["samples"].shape
    assert seen == [(i, 4, 4) for i in range(4)], "one bar over both experts"


@pytest.mark.parametrize("scheduler, shift, denoise", [("simple", 8.0, 1.0), ("beta", 5.0, 1.0), ("normal", 3.0, 0.5)])
def test_without_a_schedule_it_is_the_stock_ksampler(pack, host, wan, text, make_clip, scheduler, shift, denoise):
    import nodes  # ComfyUI's

    latent = {**make_clip(wan, {}, batch=2, seed=3).latent, "batch_index": [3, 1], "noise_mask": torch.ones(1, 6, 8, 8)}
    latent["samples"] = latent["samples"] + torch.randn(latent["samples"].shape, generator=torch.Generator().manual_seed(1))
    latent["noise_mask"][:, 4] = 0
    shifted = host.sampling.ModelSamplingSD3().patch(wan, shift)[0]
    stock = nodes.common_ksampler(
        shifted, 3, 4, 2.0, "euler", scheduler, text.positive, text.negative, latent,
        denoise=denoise,
    )[0]  # fmt: skip
    ours = pack.nodes.sampling.PusaKSampler.execute(
        wan, text.positive, text.negative, latent, 3, 4, 2.0, "euler", scheduler, shift, denoise
    ).args[0]
    assert torch.equal(ours["samples"], stock["samples"])


def test_an_empty_latent_of_a_stock_node_gets_the_models_channels(pack, wan_5b, text):
    latent = {"samples": torch.zeros(1, 16, 3, 4, 4)}
    settings = (3, 1, 1.0, "euler", "pusa", 5.0, 1.0)
    output = pack.nodes.sampling.PusaKSampler.execute(wan_5b, text.positive, text.negative, latent, *settings)
    assert output.args[0]["samples"].shape == (1, 48, 3, 4, 4)


@pytest.mark.parametrize("keyframes", [{}, {0: 0.0, 2: 0.3}])
def test_a_noise_mask_keeps_its_region_through_both_experts(pack, wan, text, make_clip, keyframes):
    clip = make_clip(wan, keyframes)
    latent = {**clip.latent, "noise_mask": torch.ones(1, 6, 8, 8)}
    latent["samples"] = (
        latent["samples"]
        + torch.randn(1, 16, 6, 8, 8, generator=torch.Generator().manual_seed(1))
        * (torch.tensor([i not in keyframes for i in range(6)])[None, None, :, None, None])
    )
    latent["noise_mask"][:, 4, :, :4] = 0
    run = lambda low: pack.nodes.sampling.PusaKSampler.execute(  # noqa: E731
        wan, text.positive, text.negative, latent, 3, 6, 2.0, "euler", "pusa", 5.0, 1.0, clip.plan, low
    ).args[0]["samples"]  # fmt: skip
    one, two = run(None), run(wan)
    assert (two - latent["samples"])[:, :, 4, :, :4].abs().max() < 1e-5
    assert ((two - one).norm() / one.norm()) < 1e-5


def test_two_experts_take_the_keyframes_from_the_schedule_whatever_the_latent(pack, wan, text, make_clip):
    clip = make_clip(wan, {0: 0.0, 2: 0.3, 5: (0.5, "hold")})
    empty = {"samples": torch.zeros_like(clip.latent["samples"])}
    run = lambda latent: pack.nodes.sampling.PusaKSampler.execute(  # noqa: E731
        wan, text.positive, text.negative, latent, 3, 6, 2.0, "euler", "pusa", 5.0, 1.0, clip.plan, wan
    ).args[0]["samples"]  # fmt: skip
    assert ((run(empty) - run(clip.latent)).norm() / run(clip.latent).norm()) < 1e-5


def test_the_second_expert_draws_other_noise_than_the_first(pack, host, wan, text, make_clip, monkeypatch):
    seeds, sample = [], host.sampling.comfy.sample.sample_custom
    monkeypatch.setattr(
        host.sampling.comfy.sample, "sample_custom", lambda *a, **k: (seeds.append(k["seed"]), sample(*a, **k))[1]
    )
    clip, last = make_clip(wan, {0: 0.2}), 2**64 - 1
    pack.nodes.sampling.PusaKSampler.execute(
        wan, text.positive, text.negative, clip.latent, last, 4, 1.0, "euler", "pusa", 5.0, 1.0, clip.plan, wan
    )
    assert seeds == [last, 0]


@pytest.mark.parametrize("denoise", [1.0, 0.7, 0.5, 0.35])
def test_denoise_takes_the_last_steps_of_a_longer_grid_as_in_comfyui(host, wan, denoise):
    """10 steps at 0.35 are the last of 28, not of 29."""
    shifted = host.sampling.ModelSamplingSD3().patch(wan, 5.0)[0]
    stock = host.sigma_grid(shifted, "simple", "euler", 10, 5.0, denoise)
    exact = host.sigma_grid(shifted, "pusa", "euler", 10, 5.0, denoise)
    assert exact.tolist() == pytest.approx(stock.tolist(), abs=3e-3)


@pytest.mark.parametrize("end, leftover, last", [(3, False, 0.0), (3, True, None), (99, False, 0.0), (6, True, 0.0)])
def test_a_stage_that_stops_early_ends_clean_unless_noise_is_to_be_left(host, wan, end, leftover, last):
    sampling = host.Sampling(1, 6, 1.0, "euler", "pusa", 5.0, end_step=end, leftover_noise=leftover)
    sigmas, whole = sampling.sigmas(wan), host.sigma_grid(wan, "pusa", "euler", 6, 5.0, 1.0)
    assert sigmas[-1] == (whole[3] if last is None else last)
    assert torch.equal(sigmas[:-1], whole[: min(end, 6)])


def test_a_stage_that_stops_early_without_leftover_noise_gives_a_clean_clip(pack, host, wan, text, make_clip):
    """As the stock node does where it forces the full denoise."""
    import nodes

    clip = make_clip(wan, {0: 0.2})
    ours = pack.nodes.sampling.PusaKSamplerAdvanced.execute(
        wan,
        text.positive,
        text.negative,
        clip.latent,
        "enable",
        3,
        10,
        1.0,
        "euler",
        "simple",
        5.0,
        0,
        4,
        "disable",
        clip.plan,
    ).args[0]["samples"]
    model = host.sampling.ModelSamplingSD3().patch(host.apply_schedule(wan, clip.plan), 5.0)[0]
    stock = nodes.common_ksampler(
        model, 3, 10, 1.0, "euler", "simple", text.positive, text.negative, clip.latent, last_step=4, force_full_denoise=True
    )[0]["samples"]
    assert torch.equal(ours, stock)


def test_constants_on_wires_are_told(pack, vae, wan, text):
    nodes = pack.nodes
    sampler = (text.positive, text.negative)
    settings = (3, 1, 1.0, "euler", "pusa", 5.0, 1.0)
    latent = {"samples": torch.zeros(1, 16, 3, 6, 8)}
    calls = {
        r"vae got '7', but takes a VAE": lambda: schedule(pack, 7),
        r"sigmas got '0.5'": lambda: schedule(pack, vae, sigmas=0.5),
        r"image got 'a.png', but takes images": lambda: keyframe(pack, "a.png"),
        r"schedule got '1', but takes what the Pusa Schedule": lambda: nodes.sampling.PusaKSampler.execute(
            wan, *sampler, latent, *settings, 1
        ),
        r"latent got 'x', but takes a latent": lambda: nodes.sampling.PusaKSampler.execute(wan, *sampler, "x", *settings),
        r"low_noise_model got 'x'": lambda: nodes.sampling.PusaKSampler.execute(wan, *sampler, latent, *settings, None, "x"),
        r"model got 'x', but takes a model": lambda: nodes.schedule.PusaApplySchedule.execute("x", None),
        r"latent2 got a dict": lambda: nodes.schedule.PusaBatchLatents.execute(latent, {}),
    }
    for words, call in calls.items():
        with pytest.raises(ValueError, match=f"^The input {words}.*: connect a node that gives that"):
            call()


def test_constants_for_keyframes_are_told(pack, vae):
    calls = {
        "'abc' was given instead of keyframes": lambda: schedule(pack, vae, "abc"),
        "1 is among the keyframes": lambda: schedule(pack, vae, [1, 2]),
        "7 was given instead of keyframes": lambda: pack.nodes.timeline.PusaTimeline.execute(
            vae, 64, 48, 9, 1, "crop", "", keyframes=7
        ),
        "'x' was given instead of keyframes": lambda: keyframe(pack, picture(), previous="x"),
    }
    for words, call in calls.items():
        with pytest.raises(ValueError, match=f"^{words}: connect a Pusa keyframe node"):
            call()


def test_the_registry_metadata_is_complete():
    project = (PACK / "pyproject.toml").read_text(encoding="utf-8")
    for key in ("PublisherId", "DisplayName", "Icon", "requires-comfyui"):
        assert re.search(rf"^{key} = ", project, re.MULTILINE), key
    version = re.search(r'^version = "(.+)"', project, re.MULTILINE)[1]
    assert f"## {version}" in (PACK / "CHANGELOG.md").read_text(encoding="utf-8")
