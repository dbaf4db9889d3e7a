"""Writes clips of the world as the trainer caches them: python -m demo_model.make_cache --output training/cache"""

from __future__ import annotations

from pathlib import Path

import tyro

from trainer.data import NEGATIVE, PackedText, save_clip

from . import VAE
from .text import encode
from .vae import cache_clips, clips_key
from .world import TRAIN_SEEDS, scene


def main(output: Path, clips: int = 2000, vae: Path = VAE, work: Path = Path("training")) -> None:
    """Writes clips of the world as the trainer caches them.

    Args:
        output: folder for the cached clips.
        clips: how many.
        vae: the small VAE's file.
        work: folder for latents that other commands use, too.
    """
    key = clips_key(vae)
    for seed, latent in enumerate(cache_clips(vae, clips, work), TRAIN_SEEDS):
        caption = scene(seed).caption
        text = PackedText.pack(encode(caption)[0])
        save_clip(output / f"{seed:05d}.safetensors", latent, text, {"caption": caption, "key": key})
    save_clip(output / NEGATIVE, None, PackedText.pack(encode("")[0]), {"caption": ""})


if __name__ == "__main__":
    tyro.cli(main)
