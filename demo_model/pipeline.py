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
        prompt: str | list[str] | None,
        negative_prompt: str | list[str] | None = None,
        do_classifier_free_guidance: bool = True,
        num_videos_per_prompt: int = 1,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        **_: Any,
    ) -> tuple[Tensor, ...]:
        """(embeddings, those of the negative prompt), in the pipeline's batch.

        Raises:
            ValueError: a prompt has a word that the model was not taught, or there is another number of negative ones.
        """
        text = _encoded(prompt or "") if prompt_embeds is None else prompt_embeds
        negative = _encoded(negative_prompt or "") if negative_prompt_embeds is None else negative_prompt_embeds
        if len(negative) not in (1, len(text)):
            raise ValueError(f"There are {len(negative)} negative prompts for {len(text)} prompts: give one, or as many.")
        both = (text, negative.expand(len(text), -1, -1))
        return tuple(each.repeat_interleave(num_videos_per_prompt, 0).to(self._execution_device) for each in both)


def _encoded(prompts: str | list[str]) -> Tensor:
    return torch.cat([encode(text) for text in ([prompts] if isinstance(prompts, str) else prompts)])


def open_demo(dtype: torch.dtype = torch.float32) -> DemoPipeline:
    """The demo model without a LoRA."""
    parts = {"tokenizer": None, "text_encoder": None, "vae": open_vae(VAE), "transformer": open_wan(BASE, dtype)}
    return DemoPipeline(**parts, scheduler=PusaScheduler())
