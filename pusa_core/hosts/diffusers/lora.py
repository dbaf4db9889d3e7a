"""Pusa LoRAs as PEFT adapters of a pipeline of Diffusers."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from ...lora import DIFFUSERS_KINDS, LoraReport, PusaLora, fit, read_lora
from ...lora_warnings import PatchedModel, Slot
from ...provenance import ANCHOR, pair_id
from ...wan import diffusers_key


def load_pusa_lora(pipe: Any, path: str | Path, alpha: float, low_noise: bool, adapter_name: str) -> LoraReport:
    """See `PusaWanPipeline.load_pusa_lora`."""
    wan = pipe.transformer_2 if low_noise else pipe.transformer
    if wan is None:
        raise ValueError(f"This pipeline has no {'low' if low_noise else 'high'}-noise model: load the LoRA into the other.")
    existing = getattr(wan, "peft_config", None) or {}
    if adapter_name in existing:
        raise ValueError(
            f'A LoRA is loaded as "{adapter_name}" already: change its strength with set_adapters("{adapter_name}", alpha), '
            f'take it off with delete_adapters("{adapter_name}"), or give this one another adapter_name.'
        )
    lora = read_lora(path)
    report = fit(lora, linear_shapes(wan))
    beside = wan.active_adapters() if existing else []
    pipe.load_lora_weights(_peft_tensors(lora), adapter_name=adapter_name, load_into_transformer_2=low_noise)
    _activate(wan, adapter_name, alpha, beside)
    warnings = _warnings(pipe, wan, lora, adapter_name)
    for warning in warnings:
        logging.warning(warning)
    return replace(report, warnings=tuple(warnings))


def _warnings(pipe: Any, wan: nn.Module, lora: PusaLora, adapter_name: str) -> list[str]:
    """What is odd about a LoRA that was just loaded."""
    ids = [name for adapter, name, _ in _adapters(wan) if adapter == adapter_name]
    if pipe.transformer_2 is None:
        return _known(wan).warnings_of(lora, None, ids)
    if wan is pipe.transformer:
        place, other = Slot("high", "transformer", "transformer"), pipe.transformer_2
    else:
        place, other = Slot("low", "transformer_2", "transformer_2"), pipe.transformer
    return [*_known(wan).warnings_of(lora, place, ids), *_known(wan).same_as(_known(other))]


def _known(wan: Any) -> PatchedModel:
    path = wan.config.get("_name_or_path")
    return PatchedModel(Path(path) if path else None, tuple((name, strength) for _, name, strength in _adapters(wan)))


def _adapters(wan: Any) -> Iterator[tuple[str, str, float]]:
    """(name, what the LoRA is known by, strength) of each adapter that is active.

    Those whose weights sequential offload keeps elsewhere are not known.
    """
    layer: Any = wan.get_submodule(diffusers_key(f"{ANCHOR}.weight").removesuffix(".weight"))
    if isinstance(layer, LoraLayer):
        for adapter in layer.active_adapters:
            if adapter in layer.r and layer.scaling[adapter]:
                down: Any = layer.lora_A[adapter]
                up: Any = layer.lora_B[adapter]
                if not down.weight.is_meta:
                    yield adapter, pair_id(down.weight, up.weight), float(layer.scaling[adapter])


def _peft_tensors(lora: PusaLora) -> dict[str, Tensor]:
    tensors = {}
    for name, module in lora.modules.items():
        key = diffusers_key(f"{name}.weight").removesuffix(".weight")
        tensors[f"transformer.{key}.lora_A.weight"] = module.down
        tensors[f"transformer.{key}.lora_B.weight"] = module.up if module.scale == 1 else module.up * module.scale
    return tensors


def _activate(wan: nn.Module, adapter_name: str, alpha: float, beside: Sequence[str]) -> None:
    """Turns an adapter on beside others, whose strength `set_adapters` would set, too."""
    for layer in wan.modules():
        if isinstance(layer, LoraLayer):
            layer.set_adapter([*beside, adapter_name])
            if adapter_name in layer.r:
                layer.lora_alpha[adapter_name] = layer.r[adapter_name]  # older Diffusers give all the first one's
                layer.set_scale(adapter_name, alpha)


def linear_shapes(wan: Any) -> dict[str, tuple[int, int]]:
    """The modules that Pusa's LoRA changes, in Wan's own names, with their weights' shapes (rows, columns)."""
    shapes = {}
    for number, block in enumerate(wan.blocks):
        for theirs, kind in DIFFUSERS_KINDS.items():
            module = block.get_submodule(theirs)
            shapes[f"blocks.{number}.{kind}"] = (module.out_features, module.in_features)
    return shapes
