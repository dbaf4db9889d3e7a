"""A Pusa LoRA on Diffusers' Wan by PEFT, and its file in the spelling that stock loaders know."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn

from pusa_core.hosts.diffusers import WanTransformer3DModel
from pusa_core.hosts.diffusers.lora import linear_shapes
from pusa_core.lora import DIFFUSERS_KINDS, PusaLora, fit, read_lora
from pusa_core.wan import diffusers_key, original_key

from .output import whole_file
from .settings import Settings
from .shards import gathered, whole


def train_lora(wan: WanTransformer3DModel, settings: Settings) -> list[nn.Parameter]:
    """Adds the LoRA that the settings ask for, see `add_lora`; it begins as another where they name one.

    Raises:
        ValueError: no modules of these names, or a LoRA to start from that does not fit.
    """
    targets = [_diffusers_name(name) for name in settings.target_modules]
    ranks = {_diffusers_name(name): rank for name, rank in settings.rank_pattern.items()}
    for name in (*targets, *ranks):
        if not any(kind == name or kind.endswith(f".{name}") for kind in DIFFUSERS_KINDS):
            names = ", ".join(DIFFUSERS_KINDS.values())
            raise ValueError(f'"{name}" was given for modules of the LoRA, but Pusa\'s is for {names}: take of these.')
    start = None if settings.lora is None else read_lora(settings.lora)
    if start is not None:
        fit(start, linear_shapes(wan))
        ranks = {**{_module(name): module.rank for name, module in start.modules.items()}, **ranks}
    weights = add_lora(wan, settings.rank, settings.seed, targets, ranks)
    if start is not None:
        _load(wan, start)
    return weights


def _diffusers_name(name: str) -> str:
    """Diffusers' name of a kind of modules in either spelling; it may be the end of one."""
    return next((theirs for theirs, original in DIFFUSERS_KINDS.items() if original == name), name)


def add_lora(
    wan: WanTransformer3DModel, rank: int, seed: int, targets: Sequence[str] = (), ranks: dict[str, int] | None = None
) -> list[nn.Parameter]:
    """Adds a LoRA to the modules that Pusa trains, freezes the rest, and returns the LoRA's weights (fp32).

    lora_alpha equals the rank, so the file means the same with or without its scale.

    Args:
        targets: ends of the names of other modules.
        ranks: of modules that have another one, by ends of their names.
    """
    torch.manual_seed(seed)
    wan.requires_grad_(False)
    patterns = ranks or {}
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=list(targets or DIFFUSERS_KINDS),
        rank_pattern=patterns,
        alpha_pattern=patterns,
    )
    wan.add_adapter(config)
    trained = [p for p in wan.parameters() if p.requires_grad]
    for p in trained:
        p.data = p.data.float()
    return trained


def lora_state(wan: WanTransformer3DModel) -> dict[str, Tensor]:
    """The LoRA under names that stock loaders know: `diffusion_model.blocks.0.self_attn.q.lora_A.weight`."""
    state = {}
    with gathered(weight for weight in wan.parameters() if weight.requires_grad):
        for key, tensor in get_peft_model_state_dict(wan).items():
            module, _, part = key.partition(".lora_")
            name = original_key(f"{module}.weight").removesuffix(".weight")
            state[f"diffusion_model.{name}.lora_{part}"] = whole(tensor).detach().to("cpu", copy=True).contiguous()
    return state


def save_weights(
    state: dict[str, Tensor], path: Path, dtype: torch.dtype = torch.bfloat16, metadata: dict[str, str] | None = None
) -> None:
    """Writes weights, whole or not at all.

    Raises:
        OutputError: they cannot be written.
    """
    tensors = {key: tensor.to(dtype) for key, tensor in state.items()}
    with whole_file(path) as partial:
        partial.touch()
        mode = partial.stat().st_mode
        save_file(tensors, partial, metadata={"format": "pt", **(metadata or {})})
        partial.chmod(mode)  # safetensors lets none but the owner read


def load_lora(wan: WanTransformer3DModel, path: Path) -> None:
    """Puts a LoRA that `save_weights` wrote, under whatever names, back on a model that has one of its shape."""
    _load(wan, read_lora(path))


def _load(wan: WanTransformer3DModel, lora: PusaLora) -> None:
    state: dict[str, Tensor] = {}
    for name, module in lora.modules.items():
        up = module.up if module.scale == 1 else module.up * module.scale
        state |= {f"{_module(name)}.lora_A.weight": module.down, f"{_module(name)}.lora_B.weight": up}
    set_peft_model_state_dict(wan, state)


def _module(name: str) -> str:
    return diffusers_key(f"{name}.weight").removesuffix(".weight")
