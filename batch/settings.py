"""What the command is told of models and machines. Standard library only, so that help costs no import of torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from demo_model import LORA

DEMO = "demo"
ALPHA = 1.4
FILES = ("model", "lora", "low_noise_lora", "extra_lora", "low_noise_extra_lora")
WEIGHTS = (*FILES, "alpha", "low_noise_alpha", "extra_alpha")  # what a job may have for itself


@dataclass(frozen=True)
class Models:
    """What makes the videos, and on what.

    Attributes:
        model: Diffusers folder or repository of Wan text to video, or "demo", the small model of the pack
        lora: Pusa LoRA file
        alpha: its strength; 1.4 if not given, and 1 for the demo model's own
        low_noise_lora: Pusa LoRA for Wan2.2's low-noise model
        low_noise_alpha: its strength
        extra_lora: another LoRA beside it, as Lightning
        low_noise_extra_lora: the same for Wan2.2's low-noise model
        extra_alpha: strength of these
        device: as torch calls it; "auto" is the GPU, or the CPU of a machine without one
        dtype: "auto" is bfloat16 on a GPU, float32 on a CPU
        offload: less GPU memory, more time
        vae_tiling: decode in tiles
        ulysses: split each video over so many processes; start with torchrun, see README.md
        ring: the same by ring attention
    """

    model: str = DEMO
    lora: str | None = None
    alpha: float | None = None
    low_noise_lora: str | None = None
    low_noise_alpha: float = ALPHA
    extra_lora: str | None = None
    low_noise_extra_lora: str | None = None
    extra_alpha: float = 1.0
    device: str = "auto"
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    offload: Literal["none", "model", "group"] = "none"
    vae_tiling: bool = False
    ulysses: int = 1
    ring: int = 1

    @property
    def processes(self) -> int:
        """Over how many processes one video is split."""
        return self.ulysses * self.ring

    @property
    def loras(self) -> list[tuple[str, float, bool]]:
        """(Pusa LoRA, alpha, whether it is for the low-noise model); an empty name is none."""
        lora, alpha = self.lora, ALPHA if self.alpha is None else self.alpha
        if self.model == DEMO and lora is None:
            lora, alpha = str(LORA), 1.0 if self.alpha is None else self.alpha
        named = [(lora, alpha, False), (self.low_noise_lora, self.low_noise_alpha, True)]
        return [(name, strength, low) for name, strength, low in named if name]

    @property
    def extra_loras(self) -> list[tuple[str, float, bool]]:
        """As `loras`, of the LoRAs beside them."""
        named = [(self.extra_lora, False), (self.low_noise_extra_lora, True)]
        return [(name, self.extra_alpha, low) for name, low in named if name]

    @property
    def files(self) -> list[Path]:
        """All that are named, where they are files or folders here."""
        names = [self.model, *(name for name, _, _ in [*self.extra_loras, *self.loras])]
        return [Path(name) for name in names if name and os.path.exists(name)]

    def resolved(self) -> Models:
        """The same with whole paths, which workers elsewhere need."""
        return replace(self, **resolve_files({name: getattr(self, name) for name in FILES}, Path()))

    def override(self, weights: Mapping[str, Any]) -> Models:
        """The same with a job's own models, LoRAs and strengths."""
        return replace(self, **weights)


def resolve_files(named: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Names of models and LoRAs as whole paths, where they are files or folders seen from `folder`."""
    found = {name: folder / file for name, file in named.items() if file and os.path.exists(folder / file)}
    return {**named, **{name: str(path.resolve()) for name, path in found.items()}}
