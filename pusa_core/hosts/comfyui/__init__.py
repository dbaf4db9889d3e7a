"""Pusa on ComfyUI: the only folder that touches `comfy`.

checks: what is refused; lora: a Pusa LoRA as weight patches; schedule: a plan on a model; latents: a plan in a LATENT;
sampling: both in one sampler; previews: a sheet of all frames. For programs: files, vae, text (encoders), vae_network.
"""

from .checks import LATENT_FORMATS, check_channels, check_model, check_single_rank, check_vae
from .latents import PLAN, image_encoder, join_latents, plan_latent, planned, retimed_latent
from .lora import load_pusa_lora
from .previews import with_preview_colours
from .sampling import PUSA_SCHEDULER, SAMPLERS, SCHEDULERS, Sampling, sample_clip, sigma_grid
from .schedule import apply_schedule

__all__ = [
    "LATENT_FORMATS",
    "PLAN",
    "PUSA_SCHEDULER",
    "SAMPLERS",
    "SCHEDULERS",
    "Sampling",
    "apply_schedule",
    "check_channels",
    "check_model",
    "check_single_rank",
    "check_vae",
    "image_encoder",
    "join_latents",
    "load_pusa_lora",
    "plan_latent",
    "planned",
    "retimed_latent",
    "sample_clip",
    "sigma_grid",
    "with_preview_colours",
]
