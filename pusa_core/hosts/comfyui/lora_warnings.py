"""What is odd about the LoRAs on a model: twice the same, one that its checkpoint holds already, high and low exchanged.

Only what is certain is said: LoRAs are known again by their numbers, whichever loader put them on; what a checkpoint holds,
by the metadata of a file that this pack baked; Wan2.2's two models, by the names of files and inputs.
"""

from __future__ import annotations

import logging

from comfy.model_patcher import ModelPatcher
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...lora import PusaLora
from ...messages import mark, say
from ...provenance import ANCHOR, MergedLora, identify, merged_before, merged_loras, pair_id, repeated, swapped
from ...provenance import expert as expert_of
from .files import checkpoint_file, safetensors_file


def lora_warnings(model: ModelPatcher, lora: PusaLora, expert: str | None) -> list[str]:
    """What is odd about a LoRA that was just put on a model, a sentence each.

    Args:
        expert: which of Wan2.2's two models this is to be, "high" or "low"; None if nobody said.
    """
    module = lora.modules.get(ANCHOR)
    ids = {identify(lora), *([pair_id(module.down, module.up)] if module else [])}
    strengths = [strength for name, strength in lora_patches(model) if name in ids]
    return [
        *repeated(lora.name, strengths),
        *merged_before(_merged(model), ids, _name(model)),
        *_exchanged(model, lora.name, expert),
    ]


def _exchanged(model: ModelPatcher, lora: str, expert: str | None) -> list[str]:
    if expert is None:
        return swapped(lora, _name(model), expert_of(_name(model)))
    return [*swapped(lora, f"{expert}_noise_lora", expert), *swapped(_name(model), f"{expert}_noise_model", expert)]


def warn_loras(model: ModelPatcher) -> None:
    """Says in the log which LoRAs a model has more than once, counting those that its checkpoint was baked with."""
    for warning in (*repeated_loras(model), *merged_loras_again(model)):
        logging.warning(warning)


def repeated_loras(model: ModelPatcher) -> list[str]:
    """A warning for each LoRA that is on a model more than once, whichever loaders put it there."""
    strengths: dict[str, list[float]] = {}
    for name, strength in lora_patches(model):
        strengths.setdefault(name, []).append(strength)
    return [line for several in strengths.values() for line in repeated(say(mark("the same LoRA")), several)]


def merged_loras_again(model: ModelPatcher) -> list[str]:
    """A warning for each LoRA on a model that its checkpoint holds already."""
    return merged_before(_merged(model), (name for name, _ in lora_patches(model)), _name(model))


def warn_same_lora(high: ModelPatcher, low: ModelPatcher) -> list[str]:
    """Says, in the log too, if the LoRAs that were last put on Wan2.2's two models are the same."""
    last = [lora_patches(model)[-1:] for model in (high, low)]
    if not all(last) or last[0][0][0] != last[1][0][0]:
        return []
    warning = say("Warning: both models got the same LoRA, but Wan2.2's two models have one each: choose the other file.")
    logging.warning(warning)
    return [warning]


def lora_patches(model: ModelPatcher) -> list[tuple[str, float]]:
    """(what it is known by, strength) of each LoRA on a model, in their order."""
    found = []
    for strength, patch, *_ in model.patches.get(f"diffusion_model.{ANCHOR}.weight", ()):
        up, down, *_ = getattr(patch, "weights", None) or (None, None)
        if isinstance(up, Tensor) and isinstance(down, Tensor) and strength:
            found.append((pair_id(down, up), float(strength)))
    return found


def _merged(model: ModelPatcher) -> tuple[MergedLora, ...]:
    path = safetensors_file(model)
    if path is None:
        return ()
    try:
        with safe_open(path, "pt") as file:
            return merged_loras(file.metadata() or {})
    except (OSError, SafetensorError):  # gone since it was loaded
        return ()


def _name(model: ModelPatcher) -> str:
    path = checkpoint_file(model)
    return path.name if path else ""
