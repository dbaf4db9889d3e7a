"""Pusa on Diffusers: the only folder that touches `diffusers`.

* `files`: Wan and its VAE from files, and back.
* `per_frame`: a forward of the transformer in which every latent frame has a timestep of its own.
* `pipeline`, `scheduler`: Diffusers' Wan pipeline with keyframes, and Pusa's sigma grid.
* `long_video`: videos of any length; `forcing`: diffusion forcing checkpoints.
* `pictures`: keyframes as users give them; `lora`: Pusa LoRAs as PEFT adapters; `checks`: what is refused.
"""

from diffusers import WanTransformer3DModel

from .files import open_vae, open_wan, save_wan
from .forcing import as_wan
from .long_video import LongVideo
from .per_frame import velocity
from .pipeline import PusaWanPipeline, sample
from .scheduler import PusaScheduler

__all__ = [
    "LongVideo", "PusaScheduler", "PusaWanPipeline", "WanTransformer3DModel", "as_wan", "open_vae", "open_wan", "sample",
    "save_wan", "velocity",
]  # fmt: skip
