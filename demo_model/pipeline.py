"""The demo model as a pipeline of Diffusers, which takes the demo's words as its prompt."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pusa_core.hosts.diffusers import PusaScheduler, PusaWanPipeline, open_vae, open_wan

from . import BASE, VAE
from .text import encode


class DemoPipeline(PusaWanPipeline):
    """Its text encoder is a list of words."""

    def encode_prompt(
        self,
        prompt: str | list[str],
        negative_prompt: str | list[str] | None = None,
        num_videos_per_prompt: int = 1,
        **_: Any,
    ) -> tuple[Tensor, ...]:
        """(embeddings, those of the negative prompt), in the pipeline's batch.

        Raises:
            ValueError: a prompt has a word that the model was not taught.
        """
        prompts = [prompt] if isinstance(prompt, str) else prompt
        negatives = [negative_prompt or ""] * len(prompts) if not isinstance(negative_prompt, list) else negative_prompt
        both = [torch.cat([encode(text) for text in texts]) for texts in (prompts, negatives)]
        return tuple(text.repeat_interleave(num_videos_per_prompt, 0).to(self._execution_device) for text in both)


def open_demo(dtype: torch.dtype = torch.float32) -> DemoPipeline:
    """The demo model without a LoRA."""
    parts = {"tokenizer": None, "text_encoder": None, "vae": open_vae(VAE), "transformer": open_wan(BASE, dtype)}
    return DemoPipeline(**parts, scheduler=PusaScheduler())
