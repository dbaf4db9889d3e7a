"""A small Wan that makes real video on a CPU in seconds: its world, its words, its weights, and how they were made."""

from pathlib import Path

MODELS = Path(__file__).resolve().parent / "models"  # folders named as ComfyUI's
BASE = MODELS / "diffusion_models" / "pusa_demo_t2v.safetensors"
VAE = MODELS / "vae" / "pusa_demo_vae.safetensors"
LORA = MODELS / "loras" / "pusa_demo_lora.safetensors"
FIRST_FRAME_LORA = MODELS / "loras" / "pusa_demo_first_frame_lora.safetensors"  # to compare with
