"""ComfyUI's Wan VAE between pictures and latents as the model sees them, for programs beside ComfyUI.

Reached after `environment.comfyui.import_comfyui`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.sd
import torch
from torch import Tensor

from ...capabilities import VAES
from ...messages import either, fault, mark, say
from . import LATENT_FORMATS, check_vae
from .files import read_state


@dataclass(frozen=True)
class LatentVAE:
    """A Wan VAE with the normalisation of its latents.

    Attributes:
        vae: ComfyUI's.
        form: ComfyUI's latent format.
    """

    vae: Any
    form: Any

    @property
    def channels(self) -> int:
        """Of its latents."""
        return self.vae.latent_channels

    @property
    def multiple(self) -> int:
        """Pixels that width and height must be multiples of: the model takes patches of 2x2 latent pixels."""
        return 2 * self.vae.spacial_compression_encode()

    def encode(self, pictures: Tensor) -> Tensor:
        """Pictures (T, H, W, 3) in [0, 1] -> the latent as the model sees it, (C, F, h, w), fp32 on the CPU."""
        return self.form.process_in(self.vae.encode(pictures).float().cpu())[0]

    def decode(self, latent: Tensor) -> Tensor:
        """The way back: (C, F, h, w) -> (T, H, W, 3) in [0, 1]."""
        with torch.inference_mode():
            return self.vae.decode(self.form.process_out(latent[None].float()))[0].cpu()


def open_vae(path: Path) -> LatentVAE:
    """Opens a VAE file as ComfyUI's own loader does.

    Raises:
        ValueError: the file is not there or damaged, or is not Wan's VAE.
    """
    state = read_state(path, mark("a Wan VAE file"))
    try:
        vae = comfy.sd.VAE(sd=state)
        vae.throw_exception_if_invalid()
        check_vae(vae, 64, 64)
    except (ValueError, RuntimeError, KeyError, AttributeError) as error:  # of a file that ComfyUI takes for some other VAE
        raise fault(
            "{name} is no Wan video VAE: give {vaes}.", name=path.name, vaes=either(*map(say, VAES.values()))
        ) from error
    return LatentVAE(vae, LATENT_FORMATS[vae.latent_channels]())
