"""A Pusa LoRA on Diffusers' Wan by PEFT, and its file in the spelling that stock loaders know."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn

from pusa_core.hosts.diffusers import WanTransformer3DModel
from pusa_core.lora import DIFFUSERS_KINDS, read_lora
from pusa_core.wan import diffusers_key, original_key


def add_lora(wan: WanTransformer3DModel, rank: int, seed: int) -> list[nn.Parameter]:
    """Adds a LoRA to the modules that Pusa trains, freezes the rest, and returns the LoRA's weights (fp32).

    lora_alpha equals the rank, so the file means the same with or without its scale.
    """
    torch.manual_seed(seed)
    wan.requires_grad_(False)
    wan.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(DIFFUSERS_KINDS)))
    trained = [p for p in wan.parameters() if p.requires_grad]
    for p in trained:
        p.data = p.data.float()
    return trained


def lora_state(wan: WanTransformer3DModel) -> dict[str, Tensor]:
    """The LoRA under names that stock loaders know: `diffusion_model.blocks.0.self_attn.q.lora_A.weight`."""
    state = {}
    for key, tensor in get_peft_model_state_dict(wan).items():
        module, _, part = key.partition(".lora_")
        name = original_key(f"{module}.weight").removesuffix(".weight")
        state[f"diffusion_model.{name}.lora_{part}"] = tensor.detach().cpu().contiguous()
    return state


def save_lora(
    state: dict[str, Tensor], path: Path, dtype: torch.dtype = torch.bfloat16, metadata: dict[str, str] | None = None
) -> None:
    """Writes a LoRA, whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.touch()
    mode = partial.stat().st_mode
    save_file(
        {key: tensor.to(dtype) for key, tensor in state.items()}, partial, metadata={"format": "pt", **(metadata or {})}
    )
    partial.chmod(mode)  # safetensors lets none but the owner read
    partial.replace(path)


def load_lora(wan: WanTransformer3DModel, path: Path) -> None:
    """Puts a LoRA that `save_lora` wrote, under whatever names, back on a model that has one of its shape."""
    state: dict[str, Tensor] = {}
    for name, module in read_lora(path).modules.items():
        key = diffusers_key(f"{name}.weight").removesuffix(".weight")
        state |= {f"{key}.lora_A.weight": module.down, f"{key}.lora_B.weight": module.up}
    set_peft_model_state_dict(wan, state)
