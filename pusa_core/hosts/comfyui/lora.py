"""A Pusa LoRA as ComfyUI's own weight patches."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import comfy.lora
from comfy.model_patcher import ModelPatcher

from ...lora import MODULE_KINDS, LoraReport, fit, read_lora
from ...messages import fault
from .checks import check_model
from .lora_warnings import lora_warnings


def load_pusa_lora(
    model: ModelPatcher, path: str, alpha: float, expert: str | None = None
) -> tuple[ModelPatcher, LoraReport]:
    """A clone of `model` with a Pusa LoRA on it as ordinary ComfyUI weight patches, and a report.

    What is odd about the LoRA on this model stands in the report, and in the log.

    Args:
        expert: which of Wan2.2's two models this is to be, "high" or "low".

    Raises:
        ValueError: the model is not Wan text-to-video, or the file is not a Pusa LoRA for its size.
    """
    check_model(model)
    lora = read_lora(path)
    report = fit(lora, _linear_shapes(model.model.diffusion_model))
    patches = comfy.lora.load_lora(lora.state_dict(), comfy.lora.model_lora_keys_unet(model.model, {}))
    clone = model.clone()
    applied = clone.add_patches(patches, alpha)
    if len(applied) != len(lora.modules):
        raise fault(
            "ComfyUI took only {count} of the {total} modules of {name}.",
            count=len(applied),
            total=len(lora.modules),
            name=lora.name,
        )
    warnings = lora_warnings(clone, lora, expert)
    for warning in warnings:
        logging.warning(warning)
    return clone, replace(report, warnings=tuple(warnings))


def _linear_shapes(wan: Any) -> dict[str, tuple[int, int]]:
    modules = {f"blocks.{i}.{kind}": block.get_submodule(kind) for i, block in enumerate(wan.blocks) for kind in MODULE_KINDS}
    return {name: (module.out_features, module.in_features) for name, module in modules.items()}
