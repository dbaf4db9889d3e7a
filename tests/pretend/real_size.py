"""ComfyUI's models of real size on the pretend card: their tensors are counted, and nothing is computed.

Importing this makes the card ComfyUI's GPU, with ComfyUI's own margins and attention as a fused kernel without workspace.
"""

from __future__ import annotations

import gc
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests import tiny
from tests.real_wan import FRAMES, fill, hollow

from .device import CPU, DEVICE, card
from .dynamic import pages

LARGEST_COMPUTED = 2**16  # elements: sigmas, timesteps and frame numbers have values


def use_card(budget: int = 2**40, state: str = "NORMAL_VRAM") -> None:
    """Makes the pretend card ComfyUI's GPU, an NVIDIA one as far as memory goes, with bf16 and so many bytes.

    Args:
        state: ComfyUI's VRAMState: NORMAL_VRAM, LOW_VRAM (--lowvram) or NO_VRAM (--novram).
    """
    from . import comfyui

    gc.collect()
    margins = {name: getattr(comfyui.management, name) for name in ("minimum_inference_memory", "extra_reserved_memory")}
    comfyui.run_on_card(comfyui.Mode(None, state, budget))
    card.largest_computed = LARGEST_COMPUTED
    for name, margin in margins.items():
        setattr(comfyui.management, name, margin)
    comfyui.management.MIN_WEIGHT_MEMORY_RATIO = 0.0  # all but the weights comes first
    comfyui.management.should_use_bf16 = lambda *_, **__: True
    comfyui.management.pytorch_attention_flash_attention = lambda: True
    import comfy.float
    import comfy.ldm.modules.attention as attention
    import comfy.ldm.wan.model

    comfy.float.stochastic_rounding = lambda value, dtype, seed=0: value.to(dtype)  # needs random numbers of the card
    comfy.ldm.wan.model.optimized_attention = attention.attention_pytorch


def parts(weights: Iterable[Tensor]) -> Iterator[Tensor]:
    """Weights, and of quantised ones what they are made of."""
    for weight in weights:
        yield from (weight._qdata, weight._params.scale) if hasattr(weight, "_qdata") else (weight,)


@dataclass(frozen=True)
class Use:
    """Bytes on the card.

    Attributes:
        weights: of the model, that stay there.
        peak: at most, with them.
        made: all that were written to new places.
    """

    weights: int
    peak: int
    made: int

    @property
    def over(self) -> int:
        """At most beside the weights that stay."""
        return self.peak - self.weights


def measured(model, run: Callable[[], Any]) -> Use:
    """What a run takes once its model is loaded."""
    import comfy.model_management as management

    with torch.inference_mode():
        run()
        card.watch()
        run()
    use = Use(card.bytes_of(chain(parts(model.model.parameters()), pages())), card.peak, card.made)
    management.current_loaded_models.clear()  # whose weights leave the card with the model
    return use


def owners_at_peak(model, run: Callable[[], Any]) -> Counter[str]:
    """The bytes on the card when a run takes most, by the line that made them."""
    card.sought = measured(model, run).peak
    measured(model, run)
    return card.seen


# --- the other models ------------------------------------------------------------------------------------------------


def text_encoder_use(tokens: int = 512) -> Use:
    """UMT5-XXL in bf16 on a prompt of so many tokens."""
    import comfy.model_management as management
    import comfy.ops
    import comfy.text_encoders.t5 as t5
    from comfy.model_patcher import ModelPatcher

    settings = json.loads(Path(t5.__file__).with_name("umt5_config_xxl.json").read_text())
    model = t5.T5(settings, torch.bfloat16, "meta", comfy.ops.manual_cast)
    fill(model)
    patcher = ModelPatcher(model, DEVICE, CPU)

    def run() -> None:
        management.load_models_gpu([patcher])
        model(torch.zeros(1, tokens, dtype=torch.long, device=DEVICE), attention_mask=torch.ones(1, tokens, device=DEVICE))

    return measured(patcher, run)


TILE, LATENT_FRAMES_STREAMED = 32, 3  # latent pixels; frames after which no more memory is taken


def vae_uses(width: int, height: int) -> dict[str, Use]:
    """Wan2.1's VAE: a clip of 81 frames decoded whole, a tile of 256 pixels of it, as it comes, and encoding."""
    import comfy.sd

    from pusa_core.streaming import StreamingDecoder

    vae = comfy.sd.VAE(sd={key: hollow(shape, torch.float32) for key, shape in tiny.vae_shapes(96, 96, 16)})
    clip = torch.zeros(1, 16, FRAMES, height // 8, width // 8)

    def stream() -> None:
        decoder = StreamingDecoder(vae.first_stage_model.decoder, vae.decode)
        for frame in clip[:, :, :LATENT_FRAMES_STREAMED].split(1, dim=2):
            decoder.push(frame)

    runs = {
        "81 frames decoded": lambda: vae.decode(clip),
        "decoded in tiles of 256 pixels": lambda: vae.decode(clip[..., :TILE, :TILE]),
        "decoded as they come": stream,
        "a picture encoded": lambda: vae.encode(torch.zeros(1, height, width, 3)),
    }
    return {what: measured(vae.patcher, run) for what, run in runs.items()}
