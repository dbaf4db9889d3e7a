"""What the Pusa samplers show while they sample: every latent frame, as whatever previewer the user has set decodes it."""

from functools import partial
from types import SimpleNamespace

import comfy.latent_formats
import comfy.sample
import comfy.samplers
import comfy.taesd.taehv
import comfy.utils
import folder_paths
import latent_preview
import numpy as np
import pytest
import torch
from comfy.cli_args import LatentPreviewMethod, args
from safetensors.torch import save_file

from demo_model import BASE
from demo_model.preview import fit, preview_colours, shrink
from demo_model.studio import Studio
from demo_model.world import TEST_SEEDS, draw, scene
from pusa_core.preview_sheet import GAP, PreviewSheet
from tests import tiny
from tests.comfy.conftest import FRAMES, HEIGHT, WIDTH

STEPS = 3
LITTLE = 512  # cells of latents
GIVEN = {0: 0.0, 3: 0.4, 5: (0.3, "hold")}


@pytest.fixture
def shown(monkeypatch):
    """(value, total, preview) of every progress report."""
    reports = []
    monkeypatch.setattr(args, "preview_method", LatentPreviewMethod.Latent2RGB)
    monkeypatch.setattr(
        comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, preview, **_: reports.append((value, total, preview))
    )
    return reports


@pytest.fixture
def sample(host, wan, low_noise_wan, text, make_clip, inference_mode):
    """Runs a clip and returns it."""

    def run(*, experts=False, batch=1, model=wan, keyframes=GIVEN, size=(HEIGHT, WIDTH)):
        clip = make_clip(model, keyframes, batch=batch, size=size)
        sampling = host.Sampling(1, STEPS, 1.0, "euler", "pusa", 5.0)
        low = low_noise_wan if experts else None
        host.sample_clip(model, text.positive, text.negative, clip.latent, sampling, clip.plan, low)
        return clip

    return run


def tiles(picture, frames=FRAMES, size=(HEIGHT, WIDTH)):
    """The frames on a sheet without their border, number and edge, where neighbouring pixels mix."""
    sheet, pixels = PreviewSheet.of(frames, *size), np.asarray(picture).astype(int)
    assert picture.size == sheet.size
    corners = [divmod(place, sheet.columns) for place in range(frames)]
    corners = [(row * (sheet.tile[1] + GAP), column * (sheet.tile[0] + GAP)) for row, column in corners]
    return [pixels[top + 20 : top + sheet.tile[1] - 4, left + 4 : left + sheet.tile[0] - 4] for top, left in corners]


def stock_picture(latent, frame, size):
    """A latent frame as ComfyUI's own previewer shows it when it is the first, enlarged."""
    previewer = latent_preview.get_previewer(torch.device("cpu"), comfy.latent_formats.Wan21())
    return previewer.decode_latent_to_preview(latent[:, :, frame : frame + 1]).resize(size, 3)


def test_each_report_is_a_sheet_of_different_frames(sample, shown):
    sample()
    pictures = [preview for *_, preview in shown if preview]
    assert [(value, total) for value, total, _ in shown if total == STEPS][-STEPS:] == [(i + 1, STEPS) for i in range(STEPS)]
    assert len(pictures) == STEPS
    for kind, picture, side in pictures:
        assert kind == "JPEG" and side == max(picture.size) <= latent_preview.MAX_PREVIEW_RESOLUTION
        for a, b in zip(tiles(picture), tiles(picture)[1:]):
            assert abs(a - b).mean() > 5


@pytest.mark.parametrize("m", [0.0, 0.02])
def test_a_frame_is_shown_at_its_own_sigma(sample, shown, m):
    """With next to no noise it looks like its picture from the start; its virtual latent does not."""
    clip = sample(keyframes={0: m})
    for _, picture, _ in (preview for *_, preview in shown if preview):
        wanted = stock_picture(clip.clean, 0, PreviewSheet.of(FRAMES, HEIGHT, WIDTH).tile)
        wanted = np.asarray(wanted).astype(int)[20:-4, 4:-4]
        assert abs(tiles(picture)[0] - wanted).mean() < 4


def test_only_given_frames_have_a_border(sample, shown):
    sample()
    sheet, picture = PreviewSheet.of(FRAMES, HEIGHT, WIDTH), np.asarray(shown[-1][2][1])
    corners = [divmod(place, sheet.columns) for place in range(FRAMES)]
    corners = [(row * (sheet.tile[1] + GAP), column * (sheet.tile[0] + GAP)) for row, column in corners]
    edges = [picture[top + sheet.tile[1] - 1, left : left + sheet.tile[0]] for top, left in corners]
    assert [frame for frame, edge in enumerate(edges) if (edge == 255).all()] == list(GIVEN)


def test_text_to_video_and_two_experts_and_batches(sample, shown):
    for options in ({"keyframes": {}}, {"experts": True}, {"batch": 2}):
        shown.clear()
        sample(**options)
        assert [value for value, _, preview in shown if preview] == list(range(1, STEPS + 1)), options


def test_no_preview_where_the_user_wants_none(host, wan, sample, shown, monkeypatch):
    monkeypatch.setattr(args, "preview_method", LatentPreviewMethod.NoPreviews)
    sample(model=host.with_preview_colours(wan, ([[0.1] * 3] * 16, [0.0] * 3)))
    assert [preview for *_, preview in shown] == [None] * len(shown)
    assert [value for value, *_ in shown][-1] == STEPS


def test_a_small_decoder_is_asked_once_a_step(pack, sample, shown, monkeypatch, tmp_path):
    """A TAEHV, for no more than the pack allows: a sheet of whole frames would be more work than any preview of ComfyUI's."""
    monkeypatch.setattr(pack.pusa_core.hosts.comfyui.previews, "DECODED_CELLS", LITTLE)
    net = comfy.taesd.taehv.TAEHV(16)
    save_file({key: value.half() for key, value in net.state_dict().items()}, tmp_path / "lighttaew2_1.safetensors")
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "vae_approx", ([str(tmp_path)], {".safetensors"}))
    monkeypatch.setattr(args, "preview_method", LatentPreviewMethod.TAESD)
    asked, decode = [], comfy.taesd.taehv.TAEHV.decode
    monkeypatch.setattr(comfy.taesd.taehv.TAEHV, "decode", lambda self, x, **k: asked.append(x.shape) or decode(self, x, **k))
    sample(size=(16, 24))
    assert len(asked) == STEPS and all(shape[2] == 1 for shape in asked)
    assert all(LITTLE / 2 < shape[3] * shape[4] < 2 * LITTLE < FRAMES * 16 * 24 for shape in asked)  # with margins
    pictures = [preview[1] for *_, preview in shown if preview]
    assert [picture.size for picture in pictures] == [PreviewSheet.of(FRAMES, 16, 24).size] * STEPS


# --- stock sampler nodes ---------------------------------------------------------------------------------------------


def stock_ksampler(model, text, latent):
    import nodes  # ComfyUI's

    return nodes.common_ksampler(model, 3, STEPS, 1.0, "euler", "simple", text.positive, text.negative, latent)[0]["samples"]


def stock_custom_sampler(model, text, latent):
    """Returns its second output, the last denoised latent, which comes by way of the callback."""
    from comfy_extras import nodes_custom_sampler as stock

    guider = stock.CFGGuider.execute(model, text.positive, text.negative, 1.0).args[0]
    sampler = stock.KSamplerSelect.execute("euler").args[0]
    sigmas = stock.BasicScheduler.execute(model, "simple", STEPS, 1.0).args[0]
    noise = stock.RandomNoise.execute(3).args[0]
    return stock.SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, latent).args[1]["samples"]


STOCK = pytest.mark.parametrize("run", [stock_ksampler, stock_custom_sampler])


@STOCK
def test_a_stock_sampler_shows_all_frames_of_a_model_with_a_schedule(run, pack, wan, text, make_clip, shown, inference_mode):
    clip = make_clip(wan, GIVEN)
    (model,) = pack.nodes.schedule.PusaApplySchedule.execute(wan, clip.plan).args
    samples = run(model, text, clip.latent)
    pictures = [preview for *_, preview in shown if preview]
    assert samples.shape == clip.latent["samples"].shape
    assert [value for value, _, preview in shown if preview] == list(range(1, STEPS + 1)), "one picture a step"
    for _, picture, side in pictures:
        assert side == max(picture.size)
        for a, b in zip(tiles(picture), tiles(picture)[1:]):
            assert abs(a - b).mean() > 5
    shown.clear()
    run(wan, text, clip.latent)
    assert all(preview[1].size == (WIDTH, HEIGHT) for *_, preview in shown if preview), "other models as they were"


@STOCK
def test_a_stock_sampler_shows_the_demo_model_in_its_colours(run, pack, text, make_clip, shown, inference_mode):
    demo = tiny.load_wan(BASE)
    clip = make_clip(demo, {0: 0.0})
    (model,) = pack.nodes.schedule.PusaApplySchedule.execute(demo, clip.plan).args
    run(model, SimpleNamespace(positive=tiny.conditioning(), negative=tiny.conditioning()), clip.latent)
    assert abs(tiles(shown[-1][2][1])[0] - demo_picture(demo, clip)).mean() < 2


def test_the_callback_of_another_node_stays_as_it_is(host, wan, text, make_clip, shown, inference_mode):
    clip, seen = make_clip(wan, GIVEN), []
    model = host.apply_schedule(wan, clip.plan)
    sigmas = host.sigma_grid(model, "pusa", "euler", STEPS, 5.0, 1.0)
    for callback in (lambda *given: seen.append(given), partial(lambda *given: seen.append(given)), None):
        comfy.sample.sample_custom(
            model, torch.randn(clip.clean.shape), 1.0, comfy.samplers.sampler_object("euler"), sigmas, text.positive,
            text.negative, clip.latent["samples"], callback=callback,
        )  # fmt: skip
    assert [given[0] for given in seen] == [*range(STEPS)] * 2


# --- the demo model --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def studio(comfyui):
    return Studio()


def test_only_the_demo_model_has_colours_of_its_own(wan, wan_5b):
    demo = tiny.load_wan(BASE)
    factors, bias = preview_colours(demo.model.diffusion_model)
    assert np.shape(factors) == (16, 3) and np.shape(bias) == (3,)
    assert preview_colours(wan.model.diffusion_model) is preview_colours(wan_5b.model.diffusion_model) is None


def test_the_node_previews_the_demo_model_in_its_colours(pack, make_clip, shown, inference_mode):
    demo = tiny.load_wan(BASE)
    clip = make_clip(demo, {0: 0.0})
    node = pack.nodes.sampling.PusaKSampler
    text = tiny.conditioning()
    node.execute(demo, text, text, clip.latent, 0, 1, 1.0, "euler", "pusa", 5.0, 1.0, schedule=clip.plan)
    assert abs(tiles(shown[-1][2][1])[0] - demo_picture(demo, clip)).mean() < 2


def demo_picture(demo, clip):
    """What `tiles` should give of a clip's first frame."""
    own = latent_preview.Latent2RGBPreviewer(*preview_colours(demo.model.diffusion_model))
    wanted = own.decode_latent_to_preview(clip.clean).resize(PreviewSheet.of(FRAMES, HEIGHT, WIDTH).tile, 3)
    return np.asarray(wanted).astype(int)[20:-4, 4:-4]


def test_the_colours_explain_clips_that_were_not_fitted(studio, inference_mode):
    clips = draw([scene(TEST_SEEDS + 900 + i) for i in range(8)])
    seen = torch.cat([studio.base.model.process_latent_in(studio.encode(clip)) for clip in clips])
    pixels = shrink(clips.permute(0, 4, 1, 2, 3) * 2 - 1)
    spread = (pixels - pixels.mean()).square().mean()

    def error(factors, bias):
        shown = torch.einsum("bcfhw,cr->brfhw", seen, torch.tensor(factors)) + torch.tensor(bias)[:, None, None, None]
        return (shown - pixels).square().mean()

    own = error(*preview_colours(studio.base.model.diffusion_model))
    wan = comfy.latent_formats.Wan21()
    assert own < 0.5 * spread
    assert error(wan.latent_rgb_factors, wan.latent_rgb_factors_bias) > spread  # noise, to the eye


def test_the_fit_is_least_squares():
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 16, 3, 4, 4, generator=generator)
    factors, bias = torch.randn(16, 3, generator=generator), torch.randn(3, generator=generator)
    pixels = torch.einsum("bcfhw,cr->brfhw", latents, factors) + bias[:, None, None, None]
    found, offset, explained = fit(latents, pixels)
    assert torch.allclose(found.float(), factors, atol=1e-4) and torch.allclose(offset.float(), bias, atol=1e-4)
    assert explained > 0.999


def test_a_cell_stands_for_the_frames_of_its_group():
    pictures = torch.zeros(1, 3, 9, 8, 8)
    pictures[:, :, 0], pictures[:, :, 1:5], pictures[:, :, 5] = 1.0, 2.0, 4.0
    assert shrink(pictures)[0, 0, :, 0, 0].tolist() == [1, 2, 1]
