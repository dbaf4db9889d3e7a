"""What makes a model take less memory in training: its frozen weights in fp8 or on the CPU, its checkpoints on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from diffusers.hooks import apply_group_offloading
from peft.tuners.lora import LoraLayer
from torch import nn

from .settings import Settings


def save_memory(wan: Any, settings: Settings, device: torch.device) -> None:
    """Makes a model with a LoRA take as little memory as the settings ask for.

    The LoRA stays on `device` in fp32. Autocast casts what its layers take; PEFT would cast that to fp32 before, which takes
    up to 1.7 GiB at 14B and changes nothing.
    """
    if settings.dtype == "bfloat16":
        for layer in wan.modules():
            if isinstance(layer, LoraLayer):
                layer.cast_input_dtype_enabled = False
    if settings.fp8:
        wan.enable_layerwise_casting(torch.float8_e4m3fn, getattr(torch, settings.dtype))
    if settings.checkpointing:
        wan.enable_gradient_checkpointing()
    if settings.offload_weights:
        _offload_weights(wan, device)


def saved_for_backward(settings: Settings, device: torch.device) -> AbstractContextManager:
    """Within it a forward keeps what its backward needs on the CPU, if the settings ask for that."""
    if settings.offload_activations:
        return torch.autograd.graph.save_on_cpu(pin_memory=device.type == "cuda")
    return nullcontext()


def _offload_weights(wan: Any, device: torch.device) -> None:
    """Keeps the frozen linear layers of the blocks on the CPU, but for the one that computes, and all else on `device`.

    A layer's weights that a block's backward needs stay on the device until that block is done.
    """
    layers = list(frozen_layers(wan.blocks))
    offloaded = {id(weight) for layer in layers for weight in layer.parameters()}
    for tensor in (*wan.parameters(), *wan.buffers()):
        if id(tensor) not in offloaded:
            tensor.data = tensor.data.to(device)
    for layer in layers:
        apply_group_offloading(layer, device, offload_type="leaf_level")


def frozen_layers(blocks: nn.Module) -> Iterator[nn.Linear]:
    """The linear layers that are not trained."""
    for layer in blocks.modules():
        if isinstance(layer, nn.Linear) and not any(weight.requires_grad for weight in layer.parameters()):
            yield layer
