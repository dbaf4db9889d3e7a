"""torch.compile over a model with a schedule: one graph without a break, compiled once for all steps."""

import logging

import comfy.ldm.wan.model as comfy_wan
import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy.ldm.modules.attention import attention_pytorch
from comfy_api.torch_helpers import set_torch_compile_wrapper
from torch._dynamo.testing import CompileCounter

pytestmark = pytest.mark.usefixtures("inference_mode")


@pytest.fixture(autouse=True)
def fresh_compiler(monkeypatch):
    """With the attention that a GPU gets; the CPU's asks for free memory, where a graph breaks."""
    monkeypatch.setattr(comfy_wan, "optimized_attention", attention_pytorch)
    torch._dynamo.reset()
    logging.getLogger("torch.__trace").disabled = True  # pytest would keep thousands of lines
    yield
    torch._dynamo.reset()


def compiled(model, count):
    model = model.clone()
    guards = {"guard_filter_fn": lambda entries: ["transformer_options" not in entry.name for entry in entries]}
    set_torch_compile_wrapper(model, count, options=guards)  # as ComfyUI's own node does
    return model


def sample(model, clip, text, pack, cfg, steps=4):
    noise, grid = comfy.sample.prepare_noise(clip.latent["samples"], 3), pack.pusa_core.schedule.pusa_sigmas(steps)
    return comfy.sample.sample_custom(
        model, noise, cfg, comfy.samplers.sampler_object("euler"), grid, text.positive, text.negative,
        clip.latent["samples"], disable_pbar=True, seed=3,
    )  # fmt: skip


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_a_compiled_model_samples_the_same_and_compiles_once(host, pack, wan, text, make_clip, cfg):
    """One clip, whose frames are blocks' batch, and two."""
    clip = make_clip(wan, {0: 0.0, 2: 0.3, 5: (0.5, "hold")})
    eager = sample(host.apply_schedule(wan, clip.plan), clip, text, pack, cfg)
    plain, count = CompileCounter(), CompileCounter()
    sample(compiled(wan, plain), make_clip(wan, {}), text, pack, cfg)
    torch._dynamo.reset()
    model = host.apply_schedule(compiled(wan, count), clip.plan)
    made = sample(model, clip, text, pack, cfg)
    assert ((made - eager).norm() / eager.norm()) < 1e-5
    assert (made - clip.plan.clean)[:, :, 0].abs().max() < 1e-5
    graphs = count.frame_count
    assert graphs == plain.frame_count == 1
    sample(model, clip, text, pack, cfg, steps=7)
    assert count.frame_count == graphs, "another run, other sigmas: nothing is compiled again"
