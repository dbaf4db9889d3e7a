"""The file that a run is for, with metadata that tells how it was made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import Tensor

from pusa_core.provenance import package_versions
from pusa_core.wan import original_key

from .data import ClipCache
from .lora import lora_state, save_weights
from .settings import Settings

PACKAGES = ("torch", "diffusers", "peft", "accelerate", "torchao")


def result_path(settings: Settings) -> Path:
    return settings.output / f"{settings.name}.safetensors"


def write_result(accelerator: Accelerator, wan: Any, settings: Settings, clips: ClipCache, measured: float | None) -> None:
    """Writes the LoRA, or the whole checkpoint of a full fine-tune.

    Args:
        wan: as Accelerate prepared it.
        measured: the loss of clips that were held out, at the end.
    """
    state = whole_state(accelerator, wan) if settings.full else lora_state(accelerator.unwrap_model(wan))
    if accelerator.is_main_process:
        about = metadata(settings, clips, measured)
        if settings.full:
            about |= _config(accelerator.unwrap_model(wan).config)
        save_weights(state, result_path(settings), metadata=about)


def whole_state(accelerator: Accelerator, wan: Any) -> dict[str, Tensor]:
    """All weights under their original names; under ZeRO-3 the main process alone has them."""
    state = accelerator.get_state_dict(wan) or {}
    return {original_key(key): tensor.detach().cpu().contiguous() for key, tensor in state.items()}


def _config(config: Any) -> dict[str, str]:
    """What loaders cannot read off a checkpoint's shapes, where it is not as in the published models."""
    stated = {"num_heads": config.num_attention_heads, "text_dim": config.text_dim}
    usual = config.attention_head_dim == 128 and config.text_dim == 4096
    return {} if usual else {"config": json.dumps({"transformer": stated})}


def metadata(settings: Settings, clips: ClipCache, measured: float | None = None) -> dict[str, str]:
    """How a file was made: by modelspec's names (github.com/Stability-AI/ModelSpec), and all settings as JSON."""
    about = {"title": settings.title or settings.name, "author": settings.author, "license": settings.license}
    spec = {f"modelspec.{key}": value for key, value in about.items() if value}
    shapes = {"x".join(map(str, shape)): len(group) for shape, group in clips.groups.items()}
    made_of = {"clips": len(clips), "latents": shapes, "clips_digest": clips.digest, "held_out_loss": measured}
    return {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "wan" if settings.full else "wan/lora",
        "modelspec.implementation": "https://github.com/pusa-for-comfyui/comfyui-pusa",
        **spec,
        "base_model": settings.model.name,
        "training": json.dumps(settings.as_plain()),
        "training_data": json.dumps(made_of),
        "training_packages": json.dumps(package_versions(PACKAGES)),
    }
