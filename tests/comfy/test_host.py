"""The schedule on a real ComfyUI model: batches, areas, windows, stages, masks, clones, interrupts, refusals."""

import sys
from types import SimpleNamespace

import comfy.context_windows
import comfy.model_management
import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy.patcher_extension import WrappersMP

from pusa_core.capabilities import CHECKPOINTS
from tests import tiny

pytestmark = pytest.mark.usefixtures("inference_mode")

KEYFRAMES = {0: 0.0, 2: 0.3, 5: (0.5, "hold")}


def run(model, latent, text, grid, *, cfg=3.0, sampler="euler", seed=7, noise=None, callback=None, mask=None, positive=None):
    samples = latent["samples"] if isinstance(latent, dict) else latent
    noise = comfy.sample.prepare_noise(samples, seed) if noise is None else noise
    return comfy.sample.sample_custom(
        model, noise, cfg, comfy.samplers.sampler_object(sampler), grid, positive or text.positive, text.negative, samples,
        noise_mask=mask, callback=callback, disable_pbar=True, seed=seed,
    )  # fmt: skip


@pytest.fixture(scope="module")
def grid(pack):
    return pack.pusa_core.schedule.pusa_sigmas(6)


def distance(a, b):
    return ((a - b).norm() / b.norm()).item()


def fingerprint(model):
    weights = {key: value.clone() for key, value in model.model.state_dict().items()}
    options = {key: value for key, value in model.model_options["transformer_options"].items()}
    return weights, options, {k: {n: list(w) for n, w in v.items()} for k, v in model.wrappers.items()}, dict(model.patches)


def assert_unchanged(model, before):
    weights, *rest = fingerprint(model)
    assert weights.keys() == before[0].keys()
    assert all(torch.equal(weights[key], before[0][key]) for key in weights)
    assert rest == list(before[1:])


def test_each_clip_of_a_batch_is_as_if_alone(host, wan, text, make_clip, grid):
    clip = make_clip(wan, KEYFRAMES, batch=3)
    noise = comfy.sample.prepare_noise(clip.latent["samples"], 7)
    model = host.apply_schedule(wan, clip.plan)
    together = run(model, clip.latent, text, grid, noise=noise)
    for i in range(3):
        alone = run(model, clip.latent["samples"][i : i + 1], text, grid, noise=noise[i : i + 1])
        assert distance(together[i : i + 1], alone) < 1e-5


def test_conds_run_apart_give_what_they_give_in_one_batch(host, wan, text, make_clip, grid):
    clip = make_clip(wan, KEYFRAMES)
    model = host.apply_schedule(wan, clip.plan)
    shapes = []

    def spy(executor, x, *args, **kwargs):
        shapes.append(x.shape[0])
        return executor(x, *args, **kwargs)

    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "a test's", spy)
    batched = run(model, clip.latent, text, grid)
    assert set(shapes) == {2}, "cond and uncond in one batch"
    shapes.clear()
    apart = wan.clone()
    apart.model_options["sampler_calc_cond_batch_function"] = one_by_one
    apart = host.apply_schedule(apart, clip.plan)
    apart.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "a test's", spy)
    assert distance(run(apart, clip.latent, text, grid), batched) < 1e-5
    assert set(shapes) == {1}


def one_by_one(args):
    """ComfyUI's way to evaluate conds, for each of them alone."""
    rest = args["input"], args["sigma"], args["model_options"]
    return [comfy.samplers.calc_cond_batch(args["model"], [cond], *rest)[0] for cond in args["conds"]]


def test_areas_see_their_own_part_of_the_keyframes(host, wan, text, make_clip, grid):
    clip = make_clip(wan, KEYFRAMES, size=(16, 8))
    areas = [[text.positive[0][0], {"area": (8, 8, 0, 0)}], [text.negative[0][0], {"area": (10, 8, 6, 0)}]]
    samples = run(host.apply_schedule(wan, clip.plan), clip.latent, text, grid, positive=areas)
    for frame in (0, 5):
        assert (samples - clip.plan.clean)[:, :, frame].abs().max() < 1e-5
    shifted = [[text.positive[0][0], {"area": (8, 8, 1, 0)}], areas[1]]
    assert distance(run(host.apply_schedule(wan, clip.plan), clip.latent, text, grid, positive=shifted), samples) > 1e-3


def windowed(model, **options):
    handler = comfy.context_windows.IndexListContextHandler(
        context_schedule=comfy.context_windows.get_matching_context_schedule("standard_static"),
        fuse_method=comfy.context_windows.get_matching_fuse_method("pyramid"),
        context_length=4, context_overlap=2, dim=2, **options,
    )  # fmt: skip
    model = model.clone()
    model.model_options["context_handler"] = handler
    comfy.context_windows.create_prepare_sampling_wrapper(model)
    if options.get("freenoise"):
        comfy.context_windows.create_sampler_sample_wrapper(model)
    return model


@pytest.mark.parametrize("freenoise", [False, True])
@pytest.mark.parametrize("first", ["windows", "schedule"])
def test_context_windows_keep_every_frame_on_its_own_sigma(host, wan, text, make_clip, grid, first, freenoise):
    clip = make_clip(wan, {0: 0.0, 6: 0.0, 9: (0.4, "hold")}, frames=10)
    steps = [lambda m: windowed(m, freenoise=freenoise), lambda m: host.apply_schedule(m, clip.plan)]
    model = wan
    for step in steps if first == "windows" else reversed(steps):
        model = step(model)
    seen = []

    def spy(executor, x, timestep, *args, **kwargs):
        seen.append((x.clone(), timestep.clone()))
        return executor(x, timestep, *args, **kwargs)

    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "a test's", spy)
    samples = run(model, clip.latent, text, grid)
    for frame in (0, 6, 9):
        assert (samples - clip.plan.clean)[:, :, frame].abs().max() < 1e-5
    assert len(seen) > len(grid) - 1, "the clip was split into windows"
    clean = [clip.clean[0, :, i] for i in (0, 6)]
    for x, timestep in seen:
        for number in range(x.shape[2]):
            is_clean = any(torch.allclose(x[0, :, number], c, atol=1e-5) for c in clean)
            assert is_clean == (timestep[0, number] == 0).item(), "clean frames, and only they, are shown with t = 0"


@pytest.mark.parametrize("guider", ["BasicGuider", "CFGGuider", "DualCFGGuider"])
def test_every_stock_guider_samples_with_the_schedule(host, wan, text, make_clip, grid, guider):
    from comfy_extras import nodes_custom_sampler as stock

    clip = make_clip(wan, KEYFRAMES)
    model, (positive, negative) = host.apply_schedule(wan, clip.plan), (text.positive, text.negative)
    made = {
        "BasicGuider": lambda: stock.BasicGuider.execute(model, positive),
        "CFGGuider": lambda: stock.CFGGuider.execute(model, positive, negative, 3.0),
        "DualCFGGuider": lambda: stock.DualCFGGuider.execute(model, positive, positive, negative, 3.0, 1.5, "regular"),
    }[guider]().args[0]
    samples, x0 = stock.SamplerCustomAdvanced.execute(
        stock.RandomNoise.execute(3).args[0], made, comfy.samplers.sampler_object("euler"), grid, clip.latent
    ).args
    for frame in (0, 5):
        assert (samples["samples"] - clip.plan.clean)[:, :, frame].abs().max() < 1e-5
        assert (x0["samples"] - clip.plan.clean)[:, :, frame].abs().max() < 1e-5, "the preview's output"
    if guider == "CFGGuider":
        assert distance(samples["samples"], run(model, clip.latent, text, grid, seed=3)) < 1e-6


@pytest.mark.parametrize("sigmas, highest", [([14.6, 3.0, 0.5, 0.0], "14.6"), ([1.0, float("nan"), 0.0], "nan")])
def test_sigmas_of_another_kind_of_model_are_told(host, wan, text, make_clip, sigmas, highest):
    """As KarrasScheduler gives them; nothing of the video would be right but its keyframes."""
    clip = make_clip(wan, KEYFRAMES)
    with pytest.raises(ValueError, match=f"Sigmas of up to {highest} were given, but those of a Wan model"):
        run(host.apply_schedule(wan, clip.plan), clip.latent, text, torch.tensor(sigmas))


def test_two_stages_give_what_one_does(host, wan, text, make_clip, grid):
    clip = make_clip(wan, {**KEYFRAMES, 3: 0.05})
    model = host.apply_schedule(wan, clip.plan)
    whole = run(model, clip.latent, text, grid)
    part = run(model, clip.latent, text, grid[:4])
    rest = run(model, part, text, grid[3:], noise=torch.zeros_like(part))
    assert distance(rest, whole) < 1e-5


def test_a_second_pass_over_a_finished_clip_noises_keyframes_by_their_share(host, wan, text, make_clip, grid):
    clip = make_clip(wan, {0: 0.0, 2: 0.3})
    model = host.apply_schedule(wan, clip.plan)
    first = run(model, clip.latent, text, grid)
    started = []
    run(model, first, text, grid[3:], callback=lambda step, x0, x, n: started.append(x))
    sigma, noise = float(grid[3]), comfy.sample.prepare_noise(first, 7)
    expected = (1 - 0.3 * sigma) * clip.clean + 0.3 * sigma * noise
    assert torch.allclose(started[0][:, :, 2], expected[:, :, 2], atol=1e-5)
    assert torch.allclose(started[0][:, :, 0], clip.clean[:, :, 0], atol=1e-5)


@pytest.mark.parametrize("which", ["wan", "wan_5b"])
def test_a_noise_mask_still_inpaints_the_other_frames(request, host, text, make_clip, grid, which):
    wan = request.getfixturevalue(which)
    clip = make_clip(wan, {0: 0.0, 2: 0.3})
    mask = torch.ones(1, 1, 6, 8, 8)
    mask[:, :, 4, :, :4] = 0
    samples = run(host.apply_schedule(wan, clip.plan), clip.latent, text, grid, mask=mask)
    change = (samples - clip.latent["samples"])[0].abs()
    assert change[:, 0].max() < 1e-5
    assert change[:, 4, :, :4].max() < 1e-5
    assert change[:, 4, :, 4:].min(0).values.max() > 1e-3


def test_an_empty_latent_of_another_node_will_do(host, wan, text, make_clip, grid):
    clip = make_clip(wan, KEYFRAMES)
    model = host.apply_schedule(wan, clip.plan)
    stock_empty = torch.zeros(1, 16, 6, 8, 8)
    assert distance(run(model, stock_empty, text, grid), run(model, clip.latent, text, grid)) < 1e-5


def test_a_schedule_is_replaced_and_taken_off_again(host, wan, text, make_clip, grid):
    clip, other, none = make_clip(wan, {0: 0.0}), make_clip(wan, {3: 0.2}), make_clip(wan, {})
    once = host.apply_schedule(wan, clip.plan)
    again = host.apply_schedule(host.apply_schedule(wan, other.plan), clip.plan)
    assert torch.equal(run(once, clip.latent, text, grid), run(again, clip.latent, text, grid))
    off = host.apply_schedule(once, none.plan)
    assert torch.equal(run(off, none.latent, text, grid), run(wan, none.latent, text, grid))


def test_clones_carry_the_schedule_and_requeues_repeat_exactly(host, wan, text, make_clip, grid):
    clip = make_clip(wan, KEYFRAMES)
    model = host.apply_schedule(wan, clip.plan)
    first = run(model, clip.latent, text, grid)
    assert torch.equal(run(model, clip.latent, text, grid), first)
    assert torch.equal(run(model.clone().clone(), clip.latent, text, grid), first)
    assert not torch.equal(run(model, clip.latent, text, grid, seed=8), first)


class Stop(Exception):
    pass


@pytest.mark.parametrize("ends", ["well", "interrupted", "in an error"])
def test_the_model_is_left_as_it_was(host, wan, text, make_clip, grid, ends):
    clip = make_clip(wan, KEYFRAMES)
    before = fingerprint(wan)
    model = host.apply_schedule(wan, clip.plan)
    patched = fingerprint(model)

    def callback(step, x0, x, total):
        if step == 2 and ends == "interrupted":
            raise comfy.model_management.InterruptProcessingException()
        if step == 2 and ends == "in an error":
            raise Stop

    endings = {"interrupted": comfy.model_management.InterruptProcessingException, "in an error": Stop}
    if ends == "well":
        run(model, clip.latent, text, grid, callback=callback)
    else:
        with pytest.raises(endings[ends]):
            run(model, clip.latent, text, grid, callback=callback)
    assert_unchanged(wan, before)
    assert fingerprint(model)[1:] == patched[1:]
    none = make_clip(wan, {})
    assert torch.equal(run(wan, none.latent, text, grid), run(wan.clone(), none.latent, text, grid))


REFUSED = {
    "vace": ({"variant": "vace"}, "VACE"),
    "camera": ({"variant": "camera"}, "Camera"),
    "Wan2.1 image to video": ({"variant": "i2v"}, "36 input channels.*image-to-video.*text-to-video"),
    "Wan2.2 image to video": ({"in_channels": 36}, "36 input channels.*image-to-video.*text-to-video"),
    "fun control": ({"variant": "i2v", "in_channels": 48}, "48 input channels"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_other_variants_of_wan_are_refused_by_name(host, make_clip, wan, tmp_path, kind):
    options, words = REFUSED[kind]
    model = tiny.load_wan(tiny.write_wan(tmp_path / "other.safetensors", **options))
    with pytest.raises(ValueError, match=words):
        host.apply_schedule(model, make_clip(wan, KEYFRAMES).plan)
    with pytest.raises(ValueError, match=words):
        host.load_pusa_lora(model, tiny.write_lora(tmp_path / "lora.safetensors"), 1.4)


def test_the_table_of_checkpoints_has_every_wan_of_this_comfyui():
    import comfy.model_base

    classes = [c for c in vars(comfy.model_base).values() if isinstance(c, type) and issubclass(c, comfy.model_base.WAN21)]
    assert {c.__name__ for c in classes} <= {c.comfyui for c in CHECKPOINTS}


@pytest.mark.parametrize("name", sorted({c.comfyui for c in CHECKPOINTS} - {"WAN21", "WAN22"}))
def test_variants_without_a_small_checkpoint_are_refused_by_their_class(host, wan, monkeypatch, name):
    import comfy.model_base

    if not hasattr(comfy.model_base, name):
        pytest.skip(f"this ComfyUI has no {name}")
    model = wan.clone()
    model.model = object.__new__(getattr(comfy.model_base, name))
    with pytest.raises(ValueError, match="variant of Wan, which handles timesteps in its own way"):
        host.check_model(model)


def test_other_models_are_refused(host, wan):
    import comfy.model_base

    model = wan.clone()
    model.model = object.__new__(comfy.model_base.Flux)
    with pytest.raises(ValueError, match="This model is Flux, not Wan"):
        host.check_model(model)


@pytest.mark.parametrize(
    "key, what", [("reference_latents", "a reference image"), ("time_dim_concat", "extra frames in time")]
)
def test_conds_that_bring_frames_are_refused(host, wan, text, make_clip, grid, key, what):
    clip = make_clip(wan, KEYFRAMES)
    extra = torch.zeros(1, 16, 1, 8, 8)
    positive = [[text.positive[0][0], {key: [extra] if key == "reference_latents" else extra}]]
    with pytest.raises(ValueError, match=f"The conditioning brings {what}"):
        run(host.apply_schedule(wan, clip.plan), clip.latent, text, grid, positive=positive)


def test_a_latent_of_another_length_or_size_is_refused(host, wan, text, make_clip, grid):
    model = host.apply_schedule(wan, make_clip(wan, KEYFRAMES).plan)
    with pytest.raises(ValueError, match=r"for 6 latent frames \(21 frames\), but the latent has 5 latent frames"):
        run(model, make_clip(wan, {}, frames=5).latent, text, grid)
    with pytest.raises(ValueError, match="use the same size and VAE"):
        run(model, make_clip(wan, {}, size=(8, 10)).latent, text, grid)


def test_sequence_parallel_workers_are_refused(host, wan, text, make_clip, grid, monkeypatch):
    clip = make_clip(wan, KEYFRAMES)
    model = host.apply_schedule(wan, clip.plan)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(RuntimeError, match="sequence parallelism"):
        run(model, clip.latent, text, grid)


@pytest.mark.parametrize("ranks, refused", [(2, True), (1, False)])
def test_xfusers_own_word_on_sequence_parallelism_counts(host, monkeypatch, ranks, refused):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    xfuser = SimpleNamespace(get_sequence_parallel_world_size=lambda: ranks)
    monkeypatch.setitem(sys.modules, "xfuser.core.distributed", xfuser)
    if refused:
        with pytest.raises(RuntimeError, match="sequence parallelism"):
            host.check_single_rank()
    else:
        host.check_single_rank()


def test_a_node_that_adds_frames_behind_our_back_is_caught(host, wan, text, make_clip, grid):
    clip = make_clip(wan, KEYFRAMES)
    model = wan.clone()

    def adds_a_frame(executor, x, *args, **kwargs):
        return executor(torch.cat([x, x[:, :, :1]], 2), *args, **kwargs)[:, :, :-1]

    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "another pack's", adds_a_frame)
    with pytest.raises(RuntimeError, match="given 7 latent frames.*sigmas for 6"):
        run(host.apply_schedule(model, clip.plan), clip.latent, text, grid)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_low_precision_keeps_clean_keyframes_and_takes_the_lora(host, text, make_clip, grid, tmp_path, dtype):
    import comfy.sd

    path, lora = tiny.write_wan(tmp_path / "wan.safetensors"), tiny.write_lora(tmp_path / "lora.safetensors")
    model = comfy.sd.load_diffusion_model(str(path), model_options={"dtype": dtype})
    assert model.model.diffusion_model.blocks[0].ffn[0].weight.dtype == dtype
    clip = make_clip(model, KEYFRAMES)
    plain = run(host.apply_schedule(model, clip.plan), clip.latent, text, grid)
    samples = run(host.apply_schedule(host.load_pusa_lora(model, str(lora), 1.4)[0], clip.plan), clip.latent, text, grid)
    assert (samples - clip.plan.clean)[:, :, 0].abs().max() < 1e-5
    assert distance(samples, plain) > 0.05
    assert torch.isfinite(samples).all()
