"""Samplers compared with a fine run, on ComfyUI: what is counted, refused, handed on, and left on the models."""

from types import SimpleNamespace

import comfy.model_management
import comfy.samplers
import pytest
import torch
from comfy.patcher_extension import WrappersMP

pytestmark = pytest.mark.usefixtures("inference_mode")

SAMPLERS = comfy.samplers.SAMPLER_NAMES
FINE = 16


@pytest.fixture(scope="module")
def core(pack):
    return pack.pusa_core.evaluations


@pytest.fixture(scope="module")
def evaluations(pack):
    return pack.pusa_core.hosts.comfyui.evaluations


@pytest.fixture
def comparer(core, evaluations, wan, text, make_clip):
    """comparer(...) -> a Comparer of a clip with a kept and a noisy keyframe; `asked` counts the model's evaluations."""

    def make(samplers="euler", schedulers="pusa", budgets="2, 4", models=None, plan=None, fine=FINE):
        clip = make_clip(wan, {0: 0.0, 5: 0.3})
        settings = core.Settings(
            core.parse_ways(samplers, schedulers, "5"), core.parse_budgets(budgets), 4, core.Way("heun", "pusa", 5.0), fine
        )
        made = evaluations.Comparer(
            models or [wan], (text.positive, text.negative), plan or clip.latent, settings, 2.0, 0.875, clip.plan,
            lambda: made.asked.append(1),
        )  # fmt: skip
        made.asked, made.clip = [], clip
        return made

    return make


@pytest.mark.parametrize("sampler", [s for s in SAMPLERS if s not in ("dpm_fast", "dpm_adaptive")])
@pytest.mark.parametrize("end", [0.0, 0.3])
def test_evaluations_are_counted_without_asking_the_model(host, evaluations, wan, text, make_clip, sampler, end):
    sigmas = torch.tensor([1.0, 0.9, 0.7, end])
    model, asked = wan.clone(), []

    def count(executor, *args, **kwargs):
        asked.append(1)
        return executor(*args, **kwargs)

    model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "a test's", count)
    latent = make_clip(wan, {}, frames=1, size=(2, 2)).latent
    sampling = host.Sampling(0, 3, 1.0, sampler, "pusa", 5.0, grid=sigmas)
    prompts = (text.positive, text.positive) if "cfg_pp" in sampler else (text.positive, text.negative)
    host.sample_clip(model, *prompts, latent, sampling)
    assert evaluations.count_evaluations(wan, sampler, sigmas) == len(asked)


def test_samplers_that_add_noise_are_known(evaluations, wan):
    noisy = {sampler for sampler in SAMPLERS if evaluations.adds_noise(wan, sampler)}
    assert {"euler_ancestral", "dpmpp_sde", "lcm", "er_sde", "sa_solver", "seeds_2", "ddpm"} <= noisy
    assert not noisy & {"euler", "heun", "dpm_2", "lms", "dpmpp_2m", "deis", "ipndm", "res_multistep", "uni_pc", "ddim"}


@pytest.mark.parametrize(
    "samplers, schedulers, words",
    [
        ("euler, eular", "pusa", 'no sampler "eular"'),
        ("euler", "betta", 'no scheduler "betta"'),
        ("euler, lcm", "pusa", "lcm adds noise"),
        ("euler_cfg_pp", "pusa", "euler_cfg_pp guides in another way"),
        ("dpm_adaptive", "pusa", "dpm_adaptive chooses its steps itself"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_runs(comparer, samplers, schedulers, words):
    with pytest.raises(ValueError, match=words):
        comparer(samplers, schedulers)


def test_a_bent_schedule_is_compared_with_euler_alone(core, pack, evaluations, wan, text):
    schedule = pack.pusa_core.schedule
    late = schedule.FrameMap(((0.0, 0.0), (0.5, 0.0), (1.0, 1.0)))
    plan = pack.pusa_core.plan.Plan((schedule.FrameSchedule.build(6, {2: late}),))
    euler, heun = (core.Way(name, "pusa", 5.0) for name in ("euler", "heun"))
    evaluations.check_ways(wan, [euler], plan)
    with pytest.raises(ValueError, match="heun cannot follow"):
        evaluations.check_ways(wan, [euler, heun], plan)


def test_a_schedule_with_a_grid_of_its_own_is_refused(host, core, pack, evaluations, wan, text, make_clip):
    clip = make_clip(wan, {0: 0.0})
    staircase = pack.pusa_core.staircase.Staircase(4, 5.0, 1)
    plan = pack.pusa_core.plan.retimed(clip.plan, staircase)
    settings = core.Settings(core.parse_ways("euler", "pusa", "5"), (2,), 2, core.Way("euler", "pusa", 5.0), 4)
    with pytest.raises(ValueError, match="sigma grid of its own"):
        evaluations.Comparer([wan], (text.positive, text.negative), clip.latent, settings, 1.0, 0.875, plan)


def test_runs_take_the_evaluations_that_were_said(comparer):
    made = comparer("euler, heun", "pusa, beta")
    found = made.run([0])
    assert len(made.asked) == made.trials.evaluations
    assert found.trials.fine.evaluations == 15 and found.trials.half.evaluations == 7
    for (_, budget), run in found.trials.tried.items():
        assert run.evaluations <= budget


def test_more_evaluations_come_closer_and_kept_frames_are_exact(core, comparer):
    found = comparer("euler", budgets="2, 8", fine=64).run([0])
    [way] = {way for way, _ in found.errors}
    few, many = (found.errors[way, budget] for budget in (2, 8))
    for kind in (core.NOISY, core.BESIDE, core.OTHER):
        assert 0 < float(many[kind]) < float(few[kind])
        assert float(found.doubt[kind]) < float(many[kind])
    assert float(few[core.KEPT]) < 1e-5


def test_what_is_handed_on_samples_what_was_measured(host, core, comparer, wan, text, pack):
    """In the pack's sampler, and in ComfyUI's own with the schedule on the model."""
    import comfy.sample
    from comfy_extras.nodes_model_advanced import ModelSamplingSD3

    made = comparer("euler, dpmpp_2m", "pusa, beta")
    found = made.run([3])
    best, fine, latent = found.best(4), made.fine["samples"], made.clip.latent
    error = found.errors[best.way, 4][core.PAINTED]
    solver = comfy.samplers.sampler_object(best.way.sampler)
    ours = pack.nodes.sampling.PusaKSampler.execute(
        wan, text.positive, text.negative, latent, 3, 20, 2.0, "lcm", "simple", 5.0, 0.5, made.clip.plan, sigmas=best.sigmas,
        custom_sampler=solver,
    ).args[0]["samples"]  # fmt: skip
    model = ModelSamplingSD3().patch(host.apply_schedule(wan, made.clip.plan), 5.0)[0]
    noise = comfy.sample.prepare_noise(latent["samples"], 3)
    stock = comfy.sample.sample_custom(
        model, noise, 2.0, solver, best.sigmas, text.positive, text.negative, latent["samples"], disable_pbar=True, seed=3
    )
    assert (ours - stock).abs().max() < 1e-5
    process, [painted] = wan.model.process_latent_in, [frames for kind, frames in made.kinds.items() if kind == core.PAINTED]
    assert float(core.relative_errors(process(ours), process(fine), painted)) == pytest.approx(float(error), rel=1e-4)


def test_two_experts_are_counted_and_compared(comparer, wan, low_noise_wan):
    one, two = comparer("euler, heun"), comparer("euler, heun", models=[wan, low_noise_wan])
    found = two.run([0])
    assert len(two.asked) == two.trials.evaluations
    assert all(run.evaluations <= budget for (_, budget), run in found.trials.tried.items())
    one.run([0])
    assert (one.fine["samples"] - two.fine["samples"]).abs().max() > 0.01


def test_a_stopped_comparison_leaves_the_models_as_they_were(comparer, wan):
    before = (dict(wan.object_patches), {**wan.wrappers}, {**wan.model_options["transformer_options"]})
    made = comparer()
    made_so_far = []

    def stop():
        made_so_far.append(1)
        if len(made_so_far) == 5:
            raise comfy.model_management.InterruptProcessingException

    made.asked = SimpleNamespace(append=lambda _: stop())
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        made.run([0])
    assert (dict(wan.object_patches), {**wan.wrappers}, {**wan.model_options["transformer_options"]}) == before
    again = comparer()
    again.run([0])
    assert len(again.asked) == again.trials.evaluations


def test_the_node(pack, wan, text, make_clip, monkeypatch):
    node, shown = pack.nodes.evaluations.PusaCompareSamplers, []
    monkeypatch.setattr(pack.nodes.evaluations, "send_progress", lambda _, words: shown.append(words))
    monkeypatch.setattr(pack.nodes.evaluations.ui, "PreviewImage", lambda image, cls=None: {"shape": tuple(image.shape)})
    clip = make_clip(wan, {0: 0.0, 5: 0.3})
    output = node.execute(
        wan,
        text.positive,
        text.negative,
        clip.latent,
        0,
        1.0,
        "euler, heun",
        "pusa",
        "5",
        "2, 3",
        3,
        "dpmpp_2m",
        8,
        2,
        clip.plan,
    )
    sigmas, sampler, picture, report, fine, best = output.args
    assert sigmas[-1] == 0 and 2 <= len(sigmas) - 1 <= 3
    assert isinstance(sampler, comfy.samplers.Sampler)
    assert output.ui["shape"] == tuple(picture.shape)
    assert "[" in report, "two noises give intervals"
    assert fine["samples"].shape == best["samples"].shape == clip.latent["samples"].shape
    again = pack.nodes.sampling.PusaKSampler.execute(
        wan, text.positive, text.negative, clip.latent, 0, 1, 1.0, "euler", "pusa", 5.0, 1.0, clip.plan, sigmas=sigmas,
        custom_sampler=sampler,
    ).args[0]  # fmt: skip
    assert torch.equal(again["samples"], best["samples"]) and not torch.equal(fine["samples"], best["samples"])
    assert shown[0] == "45 model evaluations, 8 of them for the fine run"  # 2 x (8 + 4, 2 + 3, 1 + 3) + 3
    assert shown[-2].startswith("44 of 45 model evaluations; about 0 s left")
    assert shown[-1] == report.splitlines()[0]
