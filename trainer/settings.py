"""What a cache and a training run are made of. It imports no torch, so that help and mistakes cost no time."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

MAY_CHANGE = {"output", "steps", "checkpoint_every", "sample_every", "keep", "micro_batch", "checkpointing", "samples", "vae"}
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
        if value is not None and not value > 0:
            raise ValueError(f"--{key.replace('_', '-')} {value} was given; it must be greater than 0.")


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
        model: Wan text-to-video checkpoint, an original or ComfyUI .safetensors file or a Diffusers folder.
        cache: folder that `cache` filled.
        output: folder for the LoRA, checkpoints, samples and logs; a run that is there already goes on.
        vae: Wan VAE file, to make sample clips while training.
        steps: optimiser steps.
        batch: clips for each step, over all processes.
        micro_batch: clips at once on a device.
        rank: of the LoRA; 512 for the 14B model in the paper.
        lr: learning rate of AdamW.
        weight_decay: of AdamW.
        shift: flow shift of the sigma grid.
        rule: how sigmas are drawn. independent, every latent frame draws its own (Pusa); first_frame, the first latent frame
            is clean and the others share one (image to video only); shared, one for the whole clip (text to video).
        seed: of the LoRA's first weights, the order of clips, sigmas and noise.
        dtype: of the model and its activations; the LoRA is float32.
        checkpointing: gradient checkpointing, less memory for a third more time.
        checkpoint_every: steps between checkpoints.
        sample_every: steps between sample clips; 0 for none.
        samples: how many sample clips, made from the first of the cache.
        keep: how many checkpoints stay.
        name: of the LoRA's file.

    Raises:
        ValueError: a number that must be positive is not.
    """

    model: Path
    cache: Path
    output: Path
    vae: Path | None = None
    steps: int = 900
    batch: int = 8
    micro_batch: int = 1
    rank: int = 128
    lr: float = 1e-5
    weight_decay: float = 0.01
    shift: float = 5.0
    rule: Literal["independent", "first_frame", "shared"] = "independent"
    seed: int = 0
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    checkpointing: bool = True
    checkpoint_every: int = 50
    sample_every: int = 100
    samples: int = 2
    keep: int = 2
    name: str = "pusa_lora"

    def __post_init__(self) -> None:
        _require_positive(self, ("steps", "batch", "micro_batch", "rank", "lr", "shift", "checkpoint_every", "keep"))

    def as_plain(self) -> dict[str, Any]:
        """The settings as numbers and texts, for files and logs."""
        return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}

    def changed(self, existing: dict[str, Any]) -> str | None:
        """The first setting that may not differ from those of a run to go on with, but does."""
        paths = {"model", "cache"}  # may have moved
        for key, value in self.as_plain().items():
            old = existing.get(key, value)
            same = Path(old).name == Path(value).name if key in paths else old == value
            if key not in MAY_CHANGE and not same:
                return key
        return None
