"""Sample clips while training, as animated pictures and in the trackers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from environment.comfyui import import_comfyui
from pusa_core.animation import write_animation
from pusa_core.hosts.diffusers import sample

from .data import ClipCache
from .output import writing
from .samples import Sample, samples_of
from .settings import Settings
from .trackers import log_image

STEPS, CFG, FPS = 10, 3.0, 16


class Preview:
    """Makes the same clips at every call, so that they can be compared. All processes run the model, which may be divided
    over them; the one that has a VAE writes the clips.

    Raises:
        ValueError: the VAE is not that of the clips, or the cache has no negative prompt.
    """

    def __init__(self, settings: Settings, vae: Path | None, clips: ClipCache):
        self.settings = settings
        self.clips = clips
        self.negative = clips.negative()
        self.folder = settings.output / "samples"
        self.decode = None if vae is None else _decoder(vae, clips.channels)

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """(C, F, H, W) of the clips' latents."""
        return [tuple(wanted.clean.shape) for wanted in samples_of(self.clips, self.settings.samples)]

    def make(self, accelerator: Any, wan: Any, step: int) -> None:
        for index, wanted in enumerate(samples_of(self.clips, self.settings.samples)):
            latent = self._make(wan, wanted, accelerator.device)
            if self.decode is None:
                continue
            frames = self.decode(latent)
            with writing(self.folder):
                write_animation(frames, self.folder / f"{step:06d}_{index}.webp", FPS)
            strip = torch.cat(list(frames[:: max(1, len(frames) // 8)]), dim=1)
            log_image(accelerator, f"sample {index}", strip, step)

    def _make(self, wan: Any, wanted: Sample, device: torch.device) -> Tensor:
        """A sample's latent, (C, F, H, W)."""
        noise = torch.randn(wanted.clean.shape, generator=torch.Generator().manual_seed(wanted.seed))
        tensors = (wanted.clean, noise, wanted.text, self.negative)
        clean, noise, text, negative = (tensor[None].to(device) for tensor in tensors)
        dtype = getattr(torch, self.settings.dtype)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            latent = sample(wan, wanted.schedule, clean, noise, text, negative, STEPS, CFG, self.settings.shift)
        return latent[0].cpu()


def _decoder(path: Path, channels: int) -> Callable[[Tensor], Tensor]:
    import_comfyui()
    from pusa_core.hosts.comfyui.vae import open_vae

    vae = open_vae(path)
    if vae.channels != channels:
        raise ValueError(f"{path.name} is for latents of {vae.channels} channels, but the cached ones have {channels}.")
    return vae.decode
