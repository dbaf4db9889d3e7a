"""The pipeline that jobs share: opened once, its LoRAs changed from job to job where jobs ask for it."""

from __future__ import annotations

import os

import torch
from diffusers import ContextParallelConfig, DiffusionPipeline, SkyReelsV2DiffusionForcingPipeline, WanPipeline

from pusa_core.devices import default_dtype, find_device, free_memory, use_device
from pusa_core.hosts.diffusers import PusaWanPipeline

from .checks import check_extra
from .settings import DEMO, Models

PUSA, EXTRA = "pusa", "extra"  # adapters


class OpenModels:
    """One pipeline at a time: a job's video does not depend on what was open before.

    Args:
        models: what is the same for all jobs: device, dtype, offload, processes.

    Raises:
        ValueError: the device or the number of processes cannot be used.
    """

    def __init__(self, models: Models):
        _check_processes(models)
        self.device = find_device(models.device, int(os.environ.get("LOCAL_RANK", 0)))
        use_device(self.device)
        self.pipe: PusaWanPipeline | None = None
        self.opened: Models | None = None  # None, too, while LoRAs are changed

    def get(self, models: Models) -> PusaWanPipeline:
        """The pipeline with a job's models, ready to be called.

        Raises:
            ValueError: a model or LoRA cannot be used; the message says why.
        """
        before, self.opened = self.opened, None
        if self.pipe is None or before is None or not _may_stay(before, models):
            self._close()
            self.pipe = self._open(models)
        elif _files(before) != _files(models):
            self.pipe.unload_lora_weights()
            _load_loras(self.pipe, models)
        elif before != models:
            _set_alphas(self.pipe, models)
        self.opened = models
        return self.pipe

    def _close(self) -> None:
        self.pipe = None
        free_memory(self.device)

    def _open(self, models: Models) -> PusaWanPipeline:
        dtype = default_dtype(self.device) if models.dtype == "auto" else getattr(torch, models.dtype)
        pipe = open_model(models.model, dtype)
        _load_loras(pipe, models)
        if models.vae_tiling:
            pipe.vae.enable_tiling()
        if models.offload == "model":
            pipe.enable_model_cpu_offload(device=self.device)
        elif models.offload == "group":
            pipe.enable_group_offload(self.device, offload_type="leaf_level", use_stream=self.device.type == "cuda")
        else:
            pipe.to(self.device)
        if models.processes > 1:
            if not torch.distributed.is_initialized():
                torch.distributed.init_process_group()
            for wan in pipe.transformers:
                wan.enable_parallelism(config=ContextParallelConfig(ring_degree=models.ring, ulysses_degree=models.ulysses))
        return pipe


def _may_stay(before: Models, models: Models) -> bool:
    """Whether the open model can take the LoRAs of the next: a split one is hooked where they would go."""
    return before.model == models.model and (models.processes == 1 or _files(before) == _files(models))


def _files(models: Models) -> list[tuple[str, bool]]:
    return [(lora, low_noise) for lora, _, low_noise in [*models.extra_loras, *models.loras]]


def _check_processes(models: Models) -> None:
    processes, wanted = int(os.environ.get("WORLD_SIZE", 1)), models.processes
    if min(models.ulysses, models.ring) < 1:
        raise ValueError(f"--ulysses {models.ulysses} and --ring {models.ring} were given: give 1 or more of each.")
    if processes != wanted:
        raise ValueError(
            f"--ulysses {models.ulysses} and --ring {models.ring} need {wanted} processes, but there are {processes}: "
            f"start with torchrun --nproc_per_node {wanted} -m batch ..."
        )


def open_model(model: str, dtype: torch.dtype) -> PusaWanPipeline:
    """A model without LoRAs.

    Raises:
        ValueError: it is none, or cannot be had.
    """
    if model == DEMO:
        from demo_model.pipeline import open_demo

        return open_demo(dtype)
    try:
        wan = DiffusionPipeline.from_pretrained(model, torch_dtype={"default": dtype, "vae": torch.float32})
    except (OSError, ValueError) as error:
        raise ValueError(f"{model} is no Diffusers folder of Wan text to video ({error}).") from error
    if not isinstance(wan, WanPipeline | SkyReelsV2DiffusionForcingPipeline):
        raise ValueError(f"{model} is no Diffusers folder of Wan text to video (it is a {type(wan).__name__}).")
    return PusaWanPipeline.from_wan(wan)


def _load_loras(pipe: PusaWanPipeline, models: Models) -> None:
    for lora, alpha, low_noise in models.extra_loras:
        _load_extra(pipe, lora, alpha, low_noise)
    for lora, alpha, low_noise in models.loras:
        pipe.load_pusa_lora(lora, alpha, low_noise, PUSA)


def _load_extra(pipe: PusaWanPipeline, lora: str, alpha: float, low_noise: bool) -> None:
    wan = pipe.transformer_2 if low_noise else pipe.transformer
    if wan is None:
        raise ValueError(f"{lora} is for a low-noise model, which this one does not have: it is for Wan2.2.")
    check_extra(lora)  # else it is looked for on the hub
    try:
        pipe.load_lora_weights(lora, adapter_name=EXTRA, load_into_transformer_2=low_noise)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{lora} cannot be loaded ({error}): give a LoRA for this Wan.") from error
    wan.set_adapters(EXTRA, alpha)


def _set_alphas(pipe: PusaWanPipeline, models: Models) -> None:
    """Other strengths of the LoRAs that are loaded."""
    for wan, low_noise in ((pipe.transformer, False), (pipe.transformer_2, True)):
        kinds = ((EXTRA, models.extra_loras), (PUSA, models.loras))
        alphas = {name: alpha for name, loras in kinds for _, alpha, low in loras if low is low_noise}
        if alphas:
            wan.set_adapters(list(alphas), list(alphas.values()))
