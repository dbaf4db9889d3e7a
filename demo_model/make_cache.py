"""Writes clips of the world as the trainer caches them: python -m demo_model.make_cache --output training/cache"""

from __future__ import annotations

import argparse
from pathlib import Path

from trainer.data import NEGATIVE, PackedText, save_clip

from . import VAE
from .text import encode
from .vae import cache_clips, clips_key
from .world import TRAIN_SEEDS, scene


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=2000)
    parser.add_argument("--vae", type=Path, default=VAE)
    parser.add_argument("--work", type=Path, default=Path("training"))
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    told = {"key": clips_key(args.vae)}
    for seed, latent in enumerate(cache_clips(args.vae, args.clips, args.work), TRAIN_SEEDS):
        caption = scene(seed).caption
        text = PackedText.pack(encode(caption)[0])
        save_clip(args.output / f"{seed:05d}.safetensors", latent, text, {"caption": caption, **told})
    save_clip(args.output / f"{NEGATIVE}.safetensors", None, PackedText.pack(encode("")[0]), {"caption": ""})


if __name__ == "__main__":
    main()
