"""Trains the small text-to-video Wan: python -m demo_model.train_base [--steps N] [--clips N]

The network is Diffusers' Wan at a small size, with one sigma for each clip as Wan-T2V itself was trained. It is written in
the original key layout, which ComfyUI's own loader opens.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
import tyro
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from pusa_core.hosts.diffusers import WanTransformer3DModel, sample, save_wan, velocity
from pusa_core.schedule import FrameSchedule
from pusa_core.training import add_noise, draw_sigmas

from . import BASE, VAE
from .loop import train
from .measure import caption_share
from .text import TEXT_DIM, TOKENS, UNIT, encode
from .vae import cache_clips, decode, latent_format, open_vae
from .world import TEST_SEEDS, TRAIN_SEEDS, WORDS, scene

# Heads of 128 channels: the widths that every ComfyUI since 0.8.0 infers from the file.
CONFIG = {
    "num_attention_heads": 2,
    "attention_head_dim": 128,
    "text_dim": TEXT_DIM,
    "ffn_dim": 512,
    "num_layers": 5,
}
BATCH = 32
# (first step, shift): high noise first, which decides what is there and where it goes; then shapes and edges.
SHIFTS = ((0, 3.0), (4000, 1.3))
DROP_TEXT = 0.1


def captions(count: int) -> Tensor:
    """The first `count` training captions as embeddings, one index a word: see `embed`."""
    return torch.stack([_indices(scene(TRAIN_SEEDS + seed).caption) for seed in range(count)])


def _indices(caption: str) -> Tensor:
    """Places of the two units of every token, (TOKENS, 2), or -1: 10,000 embeddings would take 2 GB."""
    places = torch.full((TOKENS, 2), -1)
    for i, token in enumerate(encode(caption)[0]):
        units = token.nonzero().flatten()
        places[i, : len(units)] = units
    return places


def embed(places: Tensor) -> Tensor:
    """Embeddings of `captions`' rows: (B, TOKENS, 2) -> (B, TOKENS, TEXT_DIM)."""
    tokens = torch.zeros(*places.shape[:2], TEXT_DIM)
    return tokens.scatter_add_(2, places.clamp(min=0), UNIT * (places >= 0))


def new_wan() -> WanTransformer3DModel:
    """An untrained network with Xavier weights; its output starts at zero."""
    torch.manual_seed(0)
    wan = WanTransformer3DModel(**CONFIG)
    for module in wan.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    text = wan.condition_embedder.text_embedder.linear_1.weight
    nn.init.zeros_(text)
    nn.init.normal_(text[:, : len(WORDS) + 2], std=1 / UNIT)
    nn.init.xavier_uniform_(wan.patch_embedding.weight.view(wan.patch_embedding.weight.shape[0], -1))
    nn.init.zeros_(wan.proj_out.weight)
    return wan


def optimizers(wan: nn.Module) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW for the rest."""
    matrices = [
        p for name, p in wan.named_parameters() if name.startswith("blocks.") and name.endswith("weight") and p.ndim == 2
    ]
    rest = [p for p in wan.parameters() if all(p is not m for m in matrices)]
    return [
        torch.optim.Muon(matrices, lr=3e-3, momentum=0.95, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=1.5e-3, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def batch_loss(wan: nn.Module, clean: Tensor, text: Tensor, generator: torch.Generator, shift: float) -> Tensor:
    """Flow matching with one sigma for each clip."""
    noise = torch.randn(clean.shape, generator=generator)
    sigmas = torch.stack([draw_sigmas(clean.shape[2], generator, "shared", shift) for _ in clean])
    # for 80 tokens plain attention is a fifth faster to train than flash attention
    with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        v = velocity(wan, add_noise(clean, noise, sigmas), sigmas[:, 0], text)
    return (v.float() - (noise - clean)).square().mean()


def generate(wan: nn.Module, text: Tensor, seed: int, steps: int = 20, cfg: float = 3.0, shift: float = 5.0) -> Tensor:
    """Text to video: latents (B, 16, 5, 8, 8)."""
    noise = torch.randn(len(text), 16, 5, 8, 8, generator=torch.Generator().manual_seed(seed))
    plain = FrameSchedule.build(noise.shape[2])
    return sample(wan, plain, torch.zeros_like(noise), noise, text, torch.zeros_like(text), steps, cfg, shift)


@torch.inference_mode()
def frame_dependence(wan: nn.Module, clean: Tensor, text: Tensor, sigma: float = 0.8) -> float:
    """How much frame 0's velocity changes when another noise is in the last frame, relative to its size."""
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    sigmas = torch.full(clean.shape[:1], sigma)
    x = add_noise(clean, noise, sigmas[:, None].expand(-1, clean.shape[2]))
    other = x.clone()
    other[:, :, -1] = x[:, :, -1].roll(1, 0)
    v, w = velocity(wan, x, sigmas, text)[:, :, 0], velocity(wan, other, sigmas, text)[:, :, 0]
    return float((v - w).norm() / v.norm())


def evaluate(wan: nn.Module, vae: nn.Module, count: int = 16) -> str:
    """Generates test captions and says how many objects are as they say."""
    scenes = [scene(TEST_SEEDS + 1000 + i, held_out=i % 4 == 0) for i in range(count)]
    text = torch.cat([encode(s.caption) for s in scenes])
    latents = generate(wan, text, seed=0)
    with torch.inference_mode():
        frames = torch.cat([decode(vae, z[None]) for z in latent_format().process_out(latents)])
        dependence = frame_dependence(wan, latents, text)
    shares = caption_share((frames / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 4, 1), scenes)
    return f"dependence {dependence:.3f} " + ", ".join(f"{what} {share:.0%}" for what, share in shares.items())


def main(steps: int = 12000, clips: int = 10000, vae: Path = VAE, work: Path = Path("training"), output: Path = BASE) -> None:
    """Trains the small text-to-video Wan.

    Args:
        steps: optimiser steps.
        clips: how many of the world's clips to train on.
        vae: the small VAE's file.
        work: folder for cached clips and checkpoints.
        output: the model's file.
    """
    network = open_vae(vae)
    latents = cache_clips(vae, clips, work)
    texts = captions(clips)
    wan = new_wan()
    compiled = cast(nn.Module, torch.compile(wan))  # nearly twice as fast; it needs a C++ compiler

    def step_loss(step: int) -> Tensor:
        generator = torch.Generator().manual_seed(step)
        chosen = torch.randint(len(latents), (BATCH,), generator=generator)
        text = embed(texts[chosen])
        text[torch.rand(BATCH, generator=generator) < DROP_TEXT] = 0
        _, shift = max(entry for entry in SHIFTS if entry[0] <= step)
        return batch_loss(compiled, latents[chosen].float(), text, generator, shift)

    mean = train(
        wan, optimizers(wan), step_loss, steps, work / "base.pt", decay=0.999, every=1000,
        evaluate=lambda model: evaluate(model, network),
    )  # fmt: skip
    print(evaluate(mean, network, 100))
    output.parent.mkdir(parents=True, exist_ok=True)
    save_wan(mean, output)


if __name__ == "__main__":
    tyro.cli(main)
