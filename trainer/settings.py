"""What a cache and a training run are made of. It imports no torch, so that help and mistakes cost no time."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

MAY_CHANGE = {
    "output", "steps", "checkpoint_every", "sample_every", "keep", "micro_batch", "context_parallel", "checkpointing",
    "samples", "vae", "offload_activations", "offload_weights", "held_out_every", "held_out_samples", "trackers", "title",
    "author", "license",
}  # fmt: skip
PATHS = {"model", "cache", "lora"}  # may have moved
TRAINING = {
    "micro_batch", "context_parallel", "rank", "optimizer", "full", "fp8", "checkpointing", "offload_activations",
    "offload_weights", "dtype",
}  # fmt: skip
HIGHEST_SEED = 2**32 - 1  # that NumPy takes
DEMO = "demo"  # the demo model's list of words in place of a text encoder file
ENCODING = (
    "length",
    "width",
    "height",
    "buckets",
    "fps",
    "windows",
    "stride",
)  # what a cached latent depends on, with the VAE


def _require_positive(settings: Any, keys: tuple[str, ...]) -> None:
    for key in keys:
        value = getattr(settings, key)
        numbers = value.values() if isinstance(value, dict) else [value]
        if any(number is not None and not number > 0 for number in numbers):
            raise ValueError(f"--{key.replace('_', '-')} {value} was given; it must be greater than 0.")


def _refuse_negative(settings: Any, keys: tuple[str, ...]) -> None:
    for key in keys:
        if not getattr(settings, key) >= 0:
            raise ValueError(f"--{key.replace('_', '-')} {getattr(settings, key)} was given; it must be 0 or more.")


def check_size(width: int, height: int, multiple: int) -> None:
    """Refuses pixels that a VAE and the model's patches cannot divide.

    Raises:
        ValueError: which would do.
    """
    if width % multiple or height % multiple:
        near = [max(multiple, round(side / multiple) * multiple) for side in (width, height)]
        raise ValueError(
            f"A size of {width}x{height} was given; with this VAE both must be multiples of {multiple}: "
            f"use {near[0]}x{near[1]}."
        )


@dataclass(frozen=True)
class CacheSettings:
    """Encodes clips and captions once, with ComfyUI's VAE and text encoder.

    Attributes:
        clips: folder of videos, each with NAME.txt beside it, or a metadata.jsonl.
        vae: Wan VAE file.
        text_encoder: UMT5-XXL file in ComfyUI's format; "demo" for the demo model's words.
        output: folder for the cached clips.
        length: frames of each clip, 4n+1.
        width: of the clips in pixels.
        height: of the clips in pixels.
        buckets: portrait, square and 4:3 clips keep their aspect ratio at the area of width x height; --no-buckets crops all
            to that size.
        fps: take frames at this rate; by default as they are.
        windows: clips of --length frames to take from each video, one after another from its start; 0 for all that it holds.
        stride: frames from the start of one window to that of the next; by default --length, so that none overlap.
        negative: negative prompt of the sample clips.
        images: still images (.png, .jpg, .webp) are clips of one frame, with captions as videos have them.
        samples: file of sample clips to be made while training, one JSON object on a line, as the batch takes them: prompt,
            keyframes, seed; by default they are image to video from the first clips.

    Raises:
        ValueError: a number that must be positive is not.
    """

    clips: Positional[Path]
    vae: Path
    text_encoder: str
    output: Path
    length: int = 81
    width: int = 832
    height: int = 480
    buckets: bool = True
    fps: float | None = None
    windows: int = 0
    stride: int | None = None
    negative: str = ""
    images: bool = False
    samples: Path | None = None

    def __post_init__(self) -> None:
        _require_positive(self, ("length", "width", "height", "fps", "stride"))
        if self.windows < 0:
            raise ValueError(f"--windows {self.windows} was given; give how many to take from each video, or 0 for all.")

    def encoding(self) -> dict[str, str]:
        """What a cached clip depends on beside its video and caption."""
        files = {"vae": self.vae.name, "text_encoder": Path(self.text_encoder).name}
        return {key: str(getattr(self, key)) for key in ENCODING} | files


@dataclass(frozen=True)
class Settings:
    """Trains a LoRA on cached clips; the defaults are the paper's where it names one.

    Attributes:
        model: Wan text-to-video checkpoint, an original or ComfyUI .safetensors file or a Diffusers folder; of Wan2.2's
            two, the high-noise one.
        cache: folder that `cache` filled.
        output: folder for the LoRA, checkpoints, samples and logs; a run that is there already goes on.
        vae: Wan VAE file, to make sample clips while training.
        low_noise_model: Wan2.2's low-noise model, to be trained after the other, each on all noise levels.
        lora: Pusa LoRA to start from, in any spelling; modules that it has keep its ranks.
        full: trains all weights in place of a LoRA, in float32; the file is a whole checkpoint.
        steps: optimiser steps.
        batch: clips for each step, over all processes.
        micro_batch: clips at once on a device.
        context_parallel: processes that compute a clip together, each a part of its tokens (Diffusers' Ulysses).
        rank: of the LoRA; 512 for the 14B model in the paper.
        target_modules: modules that the LoRA is for, in Wan's or Diffusers' names ("self_attn.q", "to_q"); by default all
            that Pusa's is for.
        rank_pattern: modules whose rank is another, NAME RANK ...
        optimizer: adamw, or torchao's adamw8bit, whose moments take a quarter.
        lr: learning rate of AdamW, the highest where it changes.
        schedule: how the learning rate goes on after the warm-up. constant; linear or cosine, down to 0 at the last step.
        warmup: steps in which the learning rate rises from 0.
        max_grad_norm: the gradients' norm is clipped to this; by default it is not.
        ema: decay of the average of the weights over the steps, 0.99 for one; the file and the samples are the average.
        weight_decay: of AdamW.
        shift: flow shift of the sigma grid.
        rule: how sigmas are drawn. independent, every latent frame draws its own (Pusa); first_frame, the first latent frame
            is clean and the others share one (image to video only); shared, one for the whole clip (text to video).
        seed: of the LoRA's first weights, the order of clips, sigmas and noise.
        repeats: clips, or folders of clips, that come more often, NAME TIMES ...
        held_out: share of the videos, 0.05 for one, that is not trained on; their loss is measured.
        held_out_cache: folder that `cache` filled with clips whose loss is measured.
        held_out_every: steps between measurements.
        held_out_samples: samples of a measurement, each with the same clip, sigmas and noise every time.
        dtype: of the model and its activations; the LoRA is float32.
        fp8: keeps the frozen weights in fp8, half of bfloat16; what needs precision stays as it is.
        checkpointing: gradient checkpointing, less memory for a third more time.
        offload_activations: keeps checkpointed activations on the CPU; results are the same.
        offload_weights: keeps the frozen weights on the CPU but for the layer that computes (block swap); results are the
            same.
        checkpoint_every: steps between checkpoints.
        sample_every: steps between sample clips; 0 for none.
        samples: how many sample clips, made from the first of the cache.
        keep: how many checkpoints stay.
        trackers: where losses, learning rates and samples go, by Accelerate's names: tensorboard, wandb, trackio, ...
        name: of the LoRA's file.
        title: of the LoRA, in the file's metadata.
        author: in the file's metadata.
        license: in the file's metadata.

    Raises:
        ValueError: a number that must be positive is not.
    """

    model: Path
    cache: Path
    output: Path
    vae: Path | None = None
    low_noise_model: Path | None = None
    lora: Path | None = None
    full: bool = False
    steps: int = 900
    batch: int = 8
    micro_batch: int = 1
    context_parallel: int = 1
    rank: int = 128
    target_modules: tuple[str, ...] = ()
    rank_pattern: dict[str, int] = field(default_factory=dict)
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    lr: float = 1e-5
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup: int = 0
    max_grad_norm: float | None = None
    ema: float | None = None
    weight_decay: float = 0.01
    shift: float = 5.0
    rule: Literal["independent", "first_frame", "shared"] = "independent"
    seed: int = 0
    repeats: dict[str, int] = field(default_factory=dict)
    held_out: float = 0.0
    held_out_cache: Path | None = None
    held_out_every: int = 50
    held_out_samples: int = 16
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    fp8: bool = False
    checkpointing: bool = True
    offload_activations: bool = False
    offload_weights: bool = False
    checkpoint_every: int = 50
    sample_every: int = 100
    samples: int = 2
    keep: int = 2
    trackers: tuple[str, ...] = ("tensorboard",)
    name: str = "pusa_lora"
    title: str = ""
    author: str = ""
    license: str = ""

    def __post_init__(self) -> None:
        _refuse_negative(self, ("weight_decay", "warmup", "sample_every", "samples"))
        _require_positive(
            self,
            (
                "steps", "batch", "micro_batch", "context_parallel", "rank", "lr", "shift", "checkpoint_every", "keep",
                "max_grad_norm", "held_out_every", "held_out_samples", "repeats", "rank_pattern",
            ),
        )  # fmt: skip
        if not 0 <= self.seed <= HIGHEST_SEED:
            raise ValueError(f"--seed {self.seed} was given; give a whole number from 0 to {HIGHEST_SEED}.")
        if not 0 <= self.held_out < 1:
            raise ValueError(f"--held-out {self.held_out} was given; give the share of videos to keep out, 0.05 for one.")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"--ema {self.ema} was given; give the average's decay, between 0 and 1, 0.99 for one.")
        self._check_together()

    def _check_together(self) -> None:
        useless = [key for key in ("lora", "target_modules", "rank_pattern", "fp8", "offload_weights") if getattr(self, key)]
        if self.full and useless:
            raise ValueError(f"--full was given with --{useless[0].replace('_', '-')}, which is for a LoRA: take one out.")
        if self.held_out and self.held_out_cache is not None:
            raise ValueError("--held-out and --held-out-cache were given: give one of them.")

    def experts(self) -> list[Settings]:
        """The runs that the settings ask for: one for each of Wan2.2's models, or this one."""
        if self.low_noise_model is None:
            return [self]
        models = {"high_noise": self.model, "low_noise": self.low_noise_model}
        return [
            replace(self, model=model, low_noise_model=None, output=self.output / part, name=f"{self.name}_{part}")
            for part, model in models.items()
        ]

    def as_plain(self) -> dict[str, Any]:
        """The settings as JSON has them."""
        return {key: _as_json(value) for key, value in asdict(self).items()}

    def changed(self, existing: dict[str, Any]) -> str | None:
        """The first setting that may not differ from those of a run to go on with, but does."""
        existing = {**Settings(self.model, self.cache, self.output).as_plain(), **existing}
        for key, value in self.as_plain().items():
            if key not in MAY_CHANGE and _comparable(key, existing[key]) != _comparable(key, value):
                return key
        return None


def _as_json(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def _comparable(key: str, value: Any) -> Any:
    return Path(value).name if key in PATHS and value else value


@dataclass(frozen=True)
class MemorySettings:
    """Computes what training takes on a card, without one: tensors are counted, not made.

    Attributes:
        model: 1.3B, 5B or 14B, or a Wan checkpoint.
        width: of the clips in pixels.
        height: of the clips in pixels.
        length: frames of each clip, 4n+1.
        micro_batch: see `train`.
        context_parallel: see `train`.
        rank: see `train`.
        optimizer: see `train`.
        ema: whether the weights are averaged.
        full: see `train`.
        fp8: see `train`.
        checkpointing: see `train`.
        offload_activations: see `train`.
        offload_weights: see `train`.
        dtype: see `train`.
        shards: cards over which weights, gradients and the optimiser's states are divided (FSDP2, ZeRO-3).
        table: the table of README.md: settings for cards of 24, 48 and 80 GB, for 1.3B and 14B.

    Raises:
        ValueError: a number that must be positive is not.
    """

    model: str = "14B"
    width: int = 832
    height: int = 480
    length: int = 81
    micro_batch: int = 1
    context_parallel: int = 1
    rank: int = 128
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    ema: bool = False
    full: bool = False
    fp8: bool = False
    checkpointing: bool = True
    offload_activations: bool = False
    offload_weights: bool = False
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    shards: int = 1
    table: bool = False

    def __post_init__(self) -> None:
        _require_positive(self, ("width", "height", "length", "micro_batch", "context_parallel", "rank", "shards"))
        if self.offload_weights and self.context_parallel * self.shards > 1:
            raise ValueError("--offload-weights was given for several cards, but it is for one process: take it out.")
        self.training()

    def training(self) -> Settings:
        """The settings of such a run."""
        shared = {field.name: getattr(self, field.name) for field in fields(self) if field.name in TRAINING}
        return Settings(Path(self.model), Path(), Path(), ema=0.99 if self.ema else None, **shared)
