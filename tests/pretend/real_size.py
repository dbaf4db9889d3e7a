"""ComfyUI's models of real size on the pretend card: their tensors are counted, and nothing is computed.

Importing this makes the card ComfyUI's GPU, with ComfyUI's own margins and attention as a fused kernel without workspace.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partialmethod
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from tests import tiny

from .device import DEVICE, card

Shapes = dict[str, tuple[int, ...]]
LARGEST_COMPUTED = 2**16  # elements: sigmas, timesteps and frame numbers have values
GIB = 2**30
FRAMES = 21  # latent; 81 frames
SIZES = {"480p": (832, 480), "720p": (1280, 720)}


@dataclass(frozen=True)
class Width:
    """A Wan text-to-video model."""

    dim: int
    heads: int
    ffn: int
    layers: int

    def shapes(self, layers: int | None = None) -> Shapes:
        return tiny.wan_shapes(16, 16, "t2v", self.dim, layers or self.layers, self.ffn, tiny.TEXT_DIM)


WIDTHS = {"1.3B": Width(1536, 12, 8960, 30), "14B": Width(5120, 40, 13824, 40)}


def use_card(budget: int = 2**40, state: str = "NORMAL_VRAM") -> None:
    """Makes the pretend card ComfyUI's GPU, an NVIDIA one as far as memory goes, with bf16 and so many bytes.

    Args:
        state: ComfyUI's VRAMState: NORMAL_VRAM, LOW_VRAM (--lowvram) or NO_VRAM (--novram).
    """
    from . import comfyui

    margins = {name: getattr(comfyui.management, name) for name in ("minimum_inference_memory", "extra_reserved_memory")}
    comfyui.run_on_card(comfyui.Mode(None, state, budget))
    card.largest_computed = LARGEST_COMPUTED
    for name, margin in margins.items():
        setattr(comfyui.management, name, margin)
    comfyui.management.should_use_bf16 = lambda *_, **__: True
    comfyui.management.pytorch_attention_flash_attention = lambda: True
    import comfy.ldm.modules.attention as attention
    import comfy.ldm.wan.model

    comfy.ldm.wan.model.optimized_attention = attention.attention_pytorch


def hollow(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor of the host that takes no memory, whatever its size."""
    return torch.zeros((), dtype=dtype).expand(shape)


def wan_weights(width: Width, precision: str, layers: int | None = None) -> dict[str, Tensor]:
    """The weights of a file: precision is bf16, fp8 or fp8 scaled (the blocks' matrices, as ComfyUI's own files have them)."""
    weights = {}
    for key, shape in width.shapes(layers).items():
        is_matrix = key.startswith("blocks") and len(shape) == 2
        weights[key] = hollow(shape, torch.float8_e4m3fn if precision != "bf16" and is_matrix else torch.bfloat16)
        if precision == "fp8 scaled" and is_matrix:
            name = key.removesuffix("weight")
            weights[f"{name}weight_scale"] = torch.ones((), dtype=torch.float32)
            settings = json.dumps({"format": "float8_e4m3fn"}).encode()
            weights[f"{name}comfy_quant"] = torch.tensor(list(settings), dtype=torch.uint8)
    return weights


def open_wan(weights: dict[str, Tensor], **options: Any):
    """A MODEL of these weights, as UNETLoader makes it."""
    import comfy.sd
    import comfy.supported_models

    kind = comfy.supported_models.WAN21_T2V
    on_meta = patch.object(kind, "get_model", partialmethod(kind.get_model, device="meta"))
    with on_meta, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of weights that a model on `meta` does not take
        model = comfy.sd.load_diffusion_model_state_dict(dict(weights), model_options=options)
    fill(model.model.diffusion_model)
    return model


def fill(model: nn.Module) -> None:
    """Gives a model that was made on `meta` weights on the host that take no memory."""
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None and tensor.is_meta:
                    filled = _filled(tensor)
                    tensors[name] = nn.Parameter(filled, requires_grad=False) if isinstance(tensor, nn.Parameter) else filled


def _filled(tensor: Tensor) -> Tensor:
    if not hasattr(tensor, "_qdata"):
        return hollow(tensor.shape, tensor.dtype)
    scaled: Any = tensor  # ComfyUI's quantised tensor
    data = hollow(scaled._qdata.shape, scaled._qdata.dtype)
    return type(scaled)(data, scaled._layout_cls, replace(scaled._params, scale=torch.ones(())))


def parts(weights: Iterable[Tensor]) -> Iterator[Tensor]:
    """Weights, and of quantised ones what they are made of."""
    for weight in weights:
        yield from (weight._qdata, weight._params.scale) if hasattr(weight, "_qdata") else (weight,)


def clip_plan(pack: ModuleType, size: tuple[int, int]):
    """A plan of 81 frames with m = 0.2 on the first latent frame, 0.5 on the last; size in pixels."""
    core = pack.pusa_core
    maps = {0: core.schedule.FrameMap.line(0.2), FRAMES - 1: core.schedule.FrameMap.line(0.5)}
    clean = torch.zeros(1, 16, FRAMES, size[1] // 8, size[0] // 8)
    return core.plan.Plan((core.schedule.FrameSchedule.build(FRAMES, maps),), clean)


def with_token_timesteps(model, plan):
    """The model with a timestep for every token, as the authors' own code and other nodes give it."""
    from comfy.patcher_extension import WrappersMP

    [ratio] = plan.table.at(1.0).ratio

    def per_token(executor, x, timestep, *args, **kwargs):
        tokens = (x.shape[3] // 2) * (x.shape[4] // 2)
        every = ratio.to(timestep).repeat_interleave(tokens)
        return executor(x, timestep[:, None] * every, *args, **kwargs)

    clone = model.clone()
    clone.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "per token", per_token)
    return clone


def step(model, clip: Tensor, cfg: float = 1.0) -> None:
    """One step of ComfyUI's own sampling from a clip's latents, (1, C, F, H, W)."""
    import comfy.sample
    import comfy.samplers

    text = [[torch.zeros(1, 512, tiny.TEXT_DIM), {}]]
    euler = comfy.samplers.sampler_object("euler")
    comfy.sample.sample_custom(
        model, torch.ones_like(clip), cfg, euler, torch.tensor([1.0, 0.98]), text, text, clip, disable_pbar=True
    )


@dataclass(frozen=True)
class Use:
    """Bytes on the card.

    Attributes:
        weights: of the model, that stay there.
        peak: at most, with them.
    """

    weights: int
    peak: int

    @property
    def over(self) -> int:
        """At most beside the weights that stay."""
        return self.peak - self.weights


@contextmanager
def emptied() -> Iterator[None]:
    """Leaves the card empty."""
    import comfy.model_management as management

    try:
        yield
    finally:
        management.unload_all_models()


def measured(model, run: Callable[[], Any]) -> Use:
    """What a run takes once its model is loaded."""
    with torch.inference_mode(), emptied():
        run()
        card.watch()
        run()
        return Use(card.bytes_of(parts(model.model.parameters())), card.peak)


