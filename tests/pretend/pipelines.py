"""Diffusers' pipeline on the pretend card, with the models moved to it and off again as they are needed."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import WanPipeline
from torch import Tensor

from pusa_core.hosts.diffusers import PusaWanPipeline, open_vae, open_wan
from pusa_core.keyframes import still_keyframe
from tests import tiny

from . import STEPS
from .device import DEVICE, NAME, card
from .report import examine

SIZE, LENGTH = 64, 21  # pixels, pixel frames
BUDGET = 7 * 2**20  # bytes: one expert and what it computes with, but not two


def run_all(mode: str, folder: Path) -> tuple[dict[str, dict[str, Any]], dict[str, Tensor]]:
    """The reports and results of a pipeline with model offload, and its results on the CPU."""
    card.budget = BUDGET
    pipe = open_pipe(folder)
    results = {f"{name} on the CPU": run(pipe, folder, STEPS[-1]) for name, run in SCENARIOS.items()}
    pipe.enable_model_cpu_offload(device=NAME)
    reports: dict[str, dict[str, Any]] = {}
    for name, run in SCENARIOS.items():
        report, result = examine(lambda steps, run=run: run(pipe, folder, steps), lambda: weights(pipe))
        on_card = sum(tensor.device.type == NAME for tensor in weights(pipe))
        reports[name] = {**report.as_json(), "models": size(pipe), "on_card": on_card}
        reports[name]["plain_growth"] = reports["text to video"]["growth"]
        if result is not None:
            results[name] = result
    for way, offload in OFFLOADS.items():
        pipe = open_pipe(folder)
        gc.collect()  # the weights of the one before
        card.watch()
        offload(pipe)
        results[way] = lora(pipe, folder, STEPS[-1]).cpu()
        gc.collect()
        reports[way] = {"left": card.owners(), "peak": card.peak}
    return reports, results


def offload_groups(pipe: PusaWanPipeline) -> None:
    groups_on_the_card()
    pipe.enable_group_offload(DEVICE, offload_type="leaf_level")


OFFLOADS: dict[str, Callable[[PusaWanPipeline], None]] = {
    "sequential": lambda pipe: pipe.enable_sequential_cpu_offload(device=NAME),
    "groups": offload_groups,
}


def groups_on_the_card() -> None:
    """Has Diffusers' group offload move weights as those of other tensor classes: the card's have no storage to exchange."""
    from diffusers.hooks import group_offloading

    def swap(weight: Tensor, moved: Tensor) -> None:
        torch.utils.swap_tensors(weight, torch.nn.Parameter(moved, requires_grad=False))

    group_offloading._is_torchao_tensor = lambda tensor: True
    group_offloading._swap_torchao_tensor = swap


def open_pipe(folder: Path) -> PusaWanPipeline:
    experts = (open_wan(folder / f"{name}.safetensors", torch.float32) for name in ("high", "low"))
    pipe = PusaWanPipeline.from_wan(
        WanPipeline(None, None, open_vae(folder / "vae.safetensors"), None, *experts, boundary_ratio=0.875)
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def weights(pipe: PusaWanPipeline) -> Iterator[Tensor]:
    for model in (pipe.transformer, pipe.transformer_2, pipe.vae):
        yield from (*model.parameters(), *model.buffers())


def size(pipe: PusaWanPipeline) -> list[int]:
    """Bytes of both experts' weights."""
    return [sum(tensor.nbytes for tensor in model.parameters()) for model in (pipe.transformer, pipe.transformer_2)]


def sample(pipe: PusaWanPipeline, steps: int, **changed: Any) -> Tensor:
    # Texts as its text encoder gives them: stock Diffusers moves no others to an offloaded model that is on the card already.
    device = NAME if hasattr(pipe.transformer, "_hf_hook") else "cpu"
    positive, negative = (tiny.conditioning(seed=seed)[0][0].to(device) for seed in (1, 2))
    noise = torch.randn(1, 16, 6, SIZE // 8, SIZE // 8, generator=torch.Generator().manual_seed(7))
    settings = {"height": SIZE, "width": SIZE, "num_frames": LENGTH, "output_type": "latent", "latents": noise}
    return pipe(
        prompt_embeds=positive, negative_prompt_embeds=negative, num_inference_steps=2 * steps, **(settings | changed)
    ).frames  # fmt: skip


def text_to_video(pipe: PusaWanPipeline, folder: Path, steps: int) -> Tensor:
    return sample(pipe, steps)


def keyframes(pipe: PusaWanPipeline, folder: Path, steps: int) -> Tensor:
    images = torch.rand(2, SIZE, SIZE, 3, generator=torch.Generator().manual_seed(1)).split(1)
    placed = [still_keyframe(image, index, "pixel", 0.3) for image, index in zip(images, (0, -1))]
    return sample(pipe, steps, keyframes=placed)


def lora(pipe: PusaWanPipeline, folder: Path, steps: int) -> Tensor:
    for low_noise in (False, True):
        pipe.load_pusa_lora(folder / "lora.safetensors", 1.4, low_noise=low_noise)
    try:
        return keyframes(pipe, folder, steps)
    finally:
        pipe.delete_adapters("pusa")


SCENARIOS: dict[str, Callable[[PusaWanPipeline, Path, int], Tensor]] = {
    "text to video": text_to_video,
    "keyframes": keyframes,
    "LoRA": lora,
}
