"""A timestep for every latent frame: right, without a copy of anything, in training too."""

import pytest
import torch
from diffusers import UniPCMultistepScheduler, WanPipeline
from torch.utils._python_dispatch import TorchDispatchMode

from pusa_core.hosts.diffusers import open_wan, velocity
from tests import tiny
from tests.diffusers.small import FRAMES, SIDE, make_call, make_plan
from tests.peak_memory import PeakMemory

TOKENS = (SIDE // 2) ** 2  # of a frame


def inputs(clips=2, side=SIDE):
    g = torch.Generator().manual_seed(0)
    sigmas = torch.rand(clips, FRAMES, generator=g)
    return torch.randn(clips, 16, FRAMES, side, side, generator=g), sigmas, torch.randn(clips, 6, tiny.TEXT_DIM, generator=g)


def velocity_per_token(wan, latents, sigmas, text):
    """As Diffusers does it itself: a timestep for every token."""
    tokens = (latents.shape[3] // 2) * (latents.shape[4] // 2)
    return wan(latents, (1000 * sigmas).repeat_interleave(tokens, dim=1), text, return_dict=False)[0]


@pytest.mark.parametrize("clips", [1, 2])
def test_it_is_what_a_timestep_for_every_token_gives(wan_file, clips, inference_mode):
    wan, given = open_wan(wan_file, torch.float32), inputs(clips)
    exact = velocity_per_token(wan, *given)
    assert (velocity(wan, *given) - exact).norm() < 1e-6 * exact.norm()


def trained(wan_file, forward, checkpointing):
    """(velocity, gradients of all weights)"""
    wan = open_wan(wan_file, torch.float32).train().requires_grad_(True)
    if checkpointing:
        wan.enable_gradient_checkpointing()
    made = forward(wan, *inputs())
    made.square().mean().backward()
    return made.detach(), {name: weight.grad for name, weight in wan.named_parameters()}, wan


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_those_of_a_timestep_for_every_token(wan_file, checkpointing):
    made, gradients, wan = trained(wan_file, velocity, checkpointing)
    exact, exact_gradients, _ = trained(wan_file, velocity_per_token, False)
    assert (made - exact).norm() < 1e-6 * exact.norm()
    for name, gradient in exact_gradients.items():
        assert (gradients[name] - gradient).norm() < 1e-6 * gradient.norm(), name
    assert is_untouched(wan)


def is_untouched(wan):
    hooked = any(module._forward_hooks or module._forward_pre_hooks for module in wan.modules())
    processors = {type(block.attn1.processor).__name__ for block in wan.blocks}
    checkpointing = getattr(wan, "_gradient_checkpointing_func", None)
    return not hooked and processors == {"WanAttnProcessor"} and "pusa" not in getattr(checkpointing, "__module__", "")


def test_nothing_stays_on_the_model(make_pipe, inference_mode):
    def fail(pipe, step, timestep, tensors):
        raise KeyboardInterrupt

    pipe = make_pipe()
    with pytest.raises(KeyboardInterrupt):
        pipe(**make_call(keyframes=make_plan(), callback_on_step_end=fail))
    assert is_untouched(pipe.transformer) and pipe._run is None


# --- memory and waiting --------------------------------------------------------------------------------------------------


def peak(run):
    with PeakMemory() as memory:
        run()
    return memory.peak


def test_keyframes_take_the_memory_of_their_latents_alone(make_pipe, inference_mode):
    plain, pipe = make_pipe(WanPipeline), make_pipe()
    latents = torch.zeros(1, 16, FRAMES, 4 * SIDE, 4 * SIDE)
    call = make_call(steps=1, latents=latents, height=32 * SIDE, width=32 * SIDE)
    extra = peak(lambda: pipe(**call, keyframes=make_plan(clean=latents))) - peak(lambda: plain(**call))
    assert extra < 1.5 * latents.nbytes  # the latents that the model sees, beside those that the pipeline samples


def test_training_takes_no_more_memory_than_with_one_timestep(wan_file):
    wan = open_wan(wan_file, torch.float32).requires_grad_(True)
    latents, sigmas, text = inputs(side=4 * SIDE)

    def step(sigmas):
        velocity(wan, latents, sigmas, text).square().mean().backward()
        wan.zero_grad()

    assert peak(lambda: step(sigmas)) < 1.03 * peak(lambda: step(sigmas[:, 0]))


class Waits(TorchDispatchMode):
    """Counts the operations for which a GPU would be waited for."""

    NAMES = ("_local_scalar_dense", "item", "nonzero", "unique_consecutive", "_unique2", "is_nonzero", "equal")

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func._schema.name.removeprefix("aten::") in self.NAMES
        return func(*args, **(kwargs or {}))


def waits(pipe, steps, **call):
    with Waits() as counter:
        pipe(**make_call(steps=steps, **call))
    return counter.count


@pytest.mark.parametrize("scheduler", ["PusaScheduler", "UniPC"])
def test_no_step_waits_for_a_device(make_pipe, scheduler, inference_mode):
    plain, pipe = make_pipe(WanPipeline), make_pipe()
    if scheduler == "UniPC":
        for each in (plain, pipe):
            flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 5.0}
            each.scheduler = UniPCMultistepScheduler(**flow)
    ours = [waits(pipe, steps, keyframes=make_plan()) - waits(plain, steps) for steps in (3, 8)]
    assert ours[0] == ours[1]
