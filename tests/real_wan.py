"""Wan models of real size in ComfyUI, without files: their weights are made by whoever opens them."""

from __future__ import annotations

import importlib.util
import json
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial, partialmethod
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from tests import tiny

Shapes = dict[str, tuple[int, ...]]
Make = Callable[[tuple[int, ...], torch.dtype], Tensor]  # a weight of a shape
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
SMALL = Width(128, 1, 256, 2)


def hollow(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor of the host that takes no memory, whatever its size."""
    return torch.zeros((), dtype=dtype).expand(shape)


def _state(width: Width, precision: str, layers: int | None) -> dict[str, Tensor]:
    """What a file holds, by shape and dtype."""
    weights = {}
    for key, shape in width.shapes(layers).items():
        quantised = precision != "bf16" and key.startswith("blocks") and len(shape) == 2
        weights[key] = hollow(shape, torch.float8_e4m3fn if quantised else torch.bfloat16)
        if precision == "fp8 scaled" and quantised:
            name = key.removesuffix("weight")
            weights[f"{name}weight_scale"] = torch.ones((), dtype=torch.float32)
            settings = json.dumps({"format": "float8_e4m3fn"}).encode()
            weights[f"{name}comfy_quant"] = torch.tensor(list(settings), dtype=torch.uint8)
    return weights


@torch.inference_mode()
def open_wan(width: Width, precision: str, layers: int | None = None, make: Make = hollow, **options: Any):
    """A MODEL, as UNETLoader makes it of a file.

    Args:
        precision: bf16, or fp8 or fp8 scaled in the blocks' matrices.
        make: makes the weights.
        options: ComfyUI's for a model.
    """
    import comfy.model_base
    import comfy.sd
    import comfy.supported_models

    kind = comfy.supported_models.WAN21_T2V
    on_meta = patch.object(kind, "get_model", partialmethod(kind.get_model, device="meta"))
    stays = patch.object(comfy.model_base.WAN21, "to", lambda self, *_: self)  # it is moved where weights are made
    if precision == "fp8":
        options = {"dtype": torch.float8_e4m3fn, **options}
    with on_meta, stays, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of weights that a model on `meta` does not take
        model = comfy.sd.load_diffusion_model_state_dict(_state(width, precision, layers), model_options=options)
    fill(model.model.diffusion_model, make)
    return model


def fill(model: nn.Module, make: Make = hollow) -> None:
    """Gives a model that was made on `meta` weights."""
    for module in model.modules():
        tensors: dict[str, Any]
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None and tensor.is_meta:
                    filled = _filled(tensor, make)
                    tensors[name] = nn.Parameter(filled, requires_grad=False) if isinstance(tensor, nn.Parameter) else filled


def _filled(tensor: Any, make: Make) -> Tensor:
    if not hasattr(tensor, "_qdata"):
        return make(tensor.shape, tensor.dtype)
    data = make(tensor._qdata.shape, tensor._qdata.dtype)  # ComfyUI's quantised tensor
    return type(tensor)(data, tensor._layout_cls, replace(tensor._params, scale=torch.ones((), device=data.device)))


@torch.inference_mode()
def open_gguf(width: Width, layers: int | None = None, make: Make = hollow):
    """A MODEL as ComfyUI-GGUF makes it of a file whose blocks' matrices are Q8_0.

    Raises:
        ModuleNotFoundError: ComfyUI-GGUF is not in ComfyUI's folder.
    """
    import comfy.sd

    nodes = gguf_nodes()
    ops = nodes.GGMLOps()
    ops.Linear.dequant_dtype = ops.Linear.patch_dtype = None
    state = {key: _gguf(nodes, key, shape, make) for key, shape in width.shapes(layers).items()}
    model = comfy.sd.load_diffusion_model_state_dict(state, model_options={"custom_operations": ops})
    return nodes.GGUFModelPatcher.clone(model)


def _gguf(nodes: ModuleType, key: str, shape: tuple[int, ...], make: Make) -> Tensor:
    kind = sys.modules["gguf"].GGMLQuantizationType
    if not (key.startswith("blocks") and len(shape) == 2):
        return nodes.GGMLTensor(make(shape, torch.float32), tensor_type=kind.F32, tensor_shape=torch.Size(shape))
    blocks = make((shape[0], shape[1] // 32, 34), torch.uint8)  # of 32 weights, with a scale in two bytes before them
    if make is not hollow:
        blocks[..., 0], blocks[..., 1] = 0, 8  # 2**-13 in fp16
    return nodes.GGMLTensor(blocks.flatten(1), tensor_type=kind.Q8_0, tensor_shape=torch.Size(shape))


def gguf_nodes() -> ModuleType:
    import folder_paths

    name = "comfyui_gguf"
    if name not in sys.modules:
        folder = Path(folder_paths.base_path) / "custom_nodes" / "ComfyUI-GGUF"
        if not (folder / "nodes.py").is_file():
            raise ModuleNotFoundError(f"ComfyUI-GGUF is not in {folder.parent}: install it to measure GGUF.")
        spec = importlib.util.spec_from_file_location(name, folder / "__init__.py", submodule_search_locations=[str(folder)])
        assert spec is not None and spec.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    nodes = sys.modules[f"{name}.nodes"]
    nodes.GGMLTensor = sys.modules[f"{name}.ops"].GGMLTensor  # beside what loads them
    return nodes


def clip_plan(pack: ModuleType, size: tuple[int, int]):
    """A plan of 81 frames with m = 0.2 on the first latent frame, 0.5 on the last; size in pixels."""
    core = pack.pusa_core
    maps = {0: core.schedule.FrameMap.line(0.2), FRAMES - 1: core.schedule.FrameMap.line(0.5)}
    clean = torch.zeros(1, 16, FRAMES, size[1] // 8, size[0] // 8)
    return core.plan.Plan((core.schedule.FrameSchedule.build(FRAMES, maps),), clean)


def with_frame_timesteps(model, plan):
    """The model with a timestep for every frame, whose modulation each of ComfyUI's blocks copies to every token."""
    return _with_wrapper(model, partial(_per_frame, plan.table.at(1.0).ratio[0]))


def _per_frame(ratio: Tensor, executor, x: Tensor, timestep: Tensor, *args, **kwargs):
    return executor(x, timestep[:, None] * ratio.to(timestep), *args, **kwargs)


def with_token_timesteps(model, plan):
    """The model with a timestep for every token, as the authors' own code gives it."""
    return _with_wrapper(model, partial(_per_token, plan.table.at(1.0).ratio[0]))


def _per_token(ratio: Tensor, executor, x: Tensor, timestep: Tensor, *args, **kwargs):
    every = ratio.to(timestep).repeat_interleave(_tokens(x))
    return executor(x, timestep[:, None] * every, *args, **kwargs)


def with_expanded_modulation(model, plan):
    """The model with a timestep for every frame, whose modulation is then expanded to every token."""
    return _with_wrapper(model, partial(_expanded, plan.table.at(1.0).ratio[0]))


def _expanded(ratio: Tensor, executor, x: Tensor, timestep: Tensor, *args, **kwargs):
    tokens = _tokens(x)
    projection = executor.class_obj.time_projection
    hook = projection.register_forward_hook(lambda module, given, made: made.repeat_interleave(tokens, dim=1))
    try:
        return _per_frame(ratio, executor, x, timestep, *args, **kwargs)
    finally:
        hook.remove()


def _with_wrapper(model, wrapper: Callable):
    from comfy.patcher_extension import WrappersMP

    clone = model.clone()
    clone.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "benchmark", wrapper)
    return clone


def _tokens(x: Tensor) -> int:
    """Of a latent frame."""
    return (x.shape[3] // 2) * (x.shape[4] // 2)


def sample(model, clip: Tensor, steps: int = 1, callback: Callable | None = None) -> None:
    """So many steps of ComfyUI's own euler at cfg 1 from a clip's latents, (1, C, F, H, W); after each, `callback`."""
    import comfy.sample
    import comfy.samplers

    text = [[torch.zeros(1, 512, tiny.TEXT_DIM), {}]]
    euler = comfy.samplers.sampler_object("euler")
    sigmas = torch.linspace(1, 0.9, steps + 1)
    comfy.sample.sample_custom(
        model, torch.ones_like(clip), 1.0, euler, sigmas, text, text, clip, callback=callback, disable_pbar=True
    )
