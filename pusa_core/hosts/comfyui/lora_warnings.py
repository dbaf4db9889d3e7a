"""What `pusa_core.lora_warnings` asks of ComfyUI's models."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...lora import PusaLora
from ...lora_warnings import PatchedModel, Slot
from ...provenance import ANCHOR, pair_id
from .files import checkpoint_file


def lora_warnings(model: ModelPatcher, lora: PusaLora, expert: str | None) -> list[str]:
    """What is odd about a LoRA that was just put on a model, a sentence each.

    Args:
        expert: which of Wan2.2's two models this is to be, "high" or "low"; None if nobody said.
    """
    slot = Slot(expert, f"{expert}_noise_model", f"{expert}_noise_lora") if expert else None  # the loader's inputs
    return _known(model).warnings_of(lora, slot)


def warn_loras(model: ModelPatcher) -> None:
    """Says in the log which LoRAs a model has more than once, counting those that its checkpoint was baked with."""
    for warning in _known(model).repetitions():
        logging.warning(warning)


def warn_same_lora(high: ModelPatcher, low: ModelPatcher) -> list[str]:
    """Says, in the log too, if the LoRAs that were last put on Wan2.2's two models are the same."""
    warnings = _known(low).same_as(_known(high))
    for warning in warnings:
        logging.warning(warning)
    return warnings


def _loras(model: ModelPatcher) -> Iterator[tuple[str, float]]:
    """(what it is known by, strength) of each LoRA on a model, in their order."""
    for strength, patch, *_ in model.patches.get(f"diffusion_model.{ANCHOR}.weight", ()):
        up, down, *_ = getattr(patch, "weights", None) or (None, None)
        if isinstance(up, Tensor) and isinstance(down, Tensor) and strength:
            yield pair_id(down, up), float(strength)


def _known(model: ModelPatcher) -> PatchedModel:
    return PatchedModel(checkpoint_file(model), tuple(_loras(model)))
