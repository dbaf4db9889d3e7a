"""Which schedulers Pusa's pipeline takes, and that its own survives being saved."""

from types import SimpleNamespace

import diffusers
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from pusa_core.hosts.diffusers import PusaScheduler
from pusa_core.schedule import FrameMap, pusa_sigmas
from tests.diffusers.small import HELD, MODE, clean_latents, make_call, make_plan

pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")  # Diffusers' schedulers on NumPy 2

FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 5.0}
BENT = {1: FrameMap(((0.0, 0.0), (0.5, 0.0), (1.0, 1.0))), 3: FrameMap(((0.0, 0.0), (0.6, 1.0), (1.0, 1.0)))}
ORDINARY = 4
STRAIGHT = {1: FrameMap.line(0.5), 3: FrameMap.line(0.2)}
SCHEDULERS = {
    "Pusa": lambda: PusaScheduler(),
    "Euler": lambda: FlowMatchEulerDiscreteScheduler(shift=3.0),
    "Euler, karras": lambda: FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True),
    "stochastic Euler": lambda: FlowMatchEulerDiscreteScheduler(shift=3.0, stochastic_sampling=True),
    "UniPC": lambda: UniPCMultistepScheduler(**FLOW),
    "Heun": lambda: diffusers.FlowMatchHeunDiscreteScheduler(shift=5.0),
    "DPM++ 2M": lambda: diffusers.DPMSolverMultistepScheduler(**FLOW),
    "DPM++ SDE": lambda: diffusers.DPMSolverMultistepScheduler(**FLOW, algorithm_type="sde-dpmsolver++"),
    "DEIS": lambda: diffusers.DEISMultistepScheduler(**FLOW),
    "SA": lambda: diffusers.SASolverScheduler(**FLOW),
}
FOR_BENT = ("Pusa", "Euler", "Euler, karras")


def test_its_shift_is_5():
    scheduler = PusaScheduler()
    scheduler.set_timesteps(7)
    torch.testing.assert_close(scheduler.sigmas, pusa_sigmas(7, 5.0))
    assert scheduler.config.shift == 5.0


@pytest.mark.parametrize("given, shift", [({}, 5.0), ({"shift": 3.0}, 3.0)])
def test_settings_survive(tmp_path, caplog, given, shift):
    scheduler = PusaScheduler(**given)
    scheduler.save_pretrained(tmp_path)
    copies = [PusaScheduler.from_pretrained(tmp_path), PusaScheduler.from_config(scheduler.config)]
    for copy in [*copies, FlowMatchEulerDiscreteScheduler.from_config(scheduler.config)]:
        assert copy.config.shift == copy.shift == shift
    assert not caplog.records


@pytest.fixture
def knowing(make_pipe):
    """A pipeline whose velocity leads from any noise straight to a clip: none is left unless the solver leaves it."""
    pipe, clip = make_pipe(), clean_latents(seed=4)

    def forward(hidden_states, timestep, **_):
        sigma = timestep.view(len(hidden_states), 1, -1, 1, 1) / 1000
        return (torch.where(sigma > 0, (hidden_states - clip) / sigma.clamp(min=1e-6), 0.0),)

    pipe.transformer.forward = forward
    return SimpleNamespace(pipe=pipe, clip=clip)


def made_by(knowing, name, maps, steps=10):
    knowing.pipe.scheduler = SCHEDULERS[name]()
    return knowing.pipe(**make_call(steps=steps, guidance_scale=1.0), keyframes=make_plan(maps, knowing.clip)).frames


@pytest.mark.parametrize("steps", [4, 10, 20])
@pytest.mark.parametrize("name", FOR_BENT)
def test_no_noise_is_left_on_bent_maps(knowing, name, steps, inference_mode):
    torch.testing.assert_close(made_by(knowing, name, BENT, steps), knowing.clip, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in SCHEDULERS if name not in FOR_BENT])
def test_schedulers_that_are_wrong_on_bent_maps_are_refused(knowing, name, inference_mode):
    scheduler = type(SCHEDULERS[name]()).__name__
    with pytest.raises(ValueError, match=f"only Euler's method gets right.* {scheduler}.*: use PusaScheduler"):
        made_by(knowing, name, BENT)
    held = {frame: FrameMap(map_.knots, "hold") for frame, map_ in BENT.items()}  # end on their pictures however they bend
    made = made_by(knowing, name, held)
    assert made[:, :, list(BENT)].equal(knowing.clip[:, :, list(BENT)])


@pytest.mark.parametrize("name", SCHEDULERS)
def test_all_schedulers_take_plain_keyframes(knowing, name, inference_mode):
    made = made_by(knowing, name, {**STRAIGHT, **MODE}, steps=20)
    assert made[:, :, HELD].equal(knowing.clip[:, :, HELD])
    left = (made - knowing.clip).std(dim=(0, 1, 3, 4))  # of noise that has a deviation of 1
    for frame, map_ in STRAIGHT.items():
        assert left[frame] <= 1.1 * map_.multiplier * left[ORDINARY] + 1e-4


class StartsLate(FlowMatchEulerDiscreteScheduler):
    """Leaves the first of its steps out."""

    def set_timesteps(self, num_inference_steps=None, device=None, **more):
        super().set_timesteps(num_inference_steps + 1, device, **more)
        self.sigmas, self.timesteps = self.sigmas[1:], self.timesteps[1:]


def test_bent_maps_start_at_sigma_1(knowing, inference_mode):
    knowing.pipe.scheduler = StartsLate()
    call = make_call(steps=10, guidance_scale=1.0)
    with pytest.raises(ValueError, match="StartsLate starts at sigma 0.9.*: use a scheduler that starts at sigma 1"):
        knowing.pipe(**call, keyframes=make_plan(BENT))
    knowing.pipe(**call, keyframes=make_plan(STRAIGHT))
