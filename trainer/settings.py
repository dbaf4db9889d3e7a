"""What a training run is made of. Standard library only, so that help and mistakes cost no import of torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

MAY_CHANGE = {"output", "steps", "checkpoint_every", "sample_every", "keep", "micro_batch", "checkpointing", "samples", "vae"}
DTYPES = ("bfloat16", "float32")


@dataclass(frozen=True)
class Settings:
    """The defaults are the paper's where it names one.

    Attributes:
        batch: clips for each step, over all processes.
        micro_batch: clips at once on a device.
        rank: 512 for the 14B model in the paper.
        rule: how sigmas are drawn, see `pusa_core.training.RULES`.
        dtype: of the model and its activations; the LoRA is fp32.
        checkpointing: gradient checkpointing, less memory for a third more time.
        keep: how many checkpoints stay.
        samples: clips of the cache that sample clips are made from.

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
    rule: str = "independent"
    seed: int = 0
    dtype: str = "bfloat16"
    checkpointing: bool = True
    checkpoint_every: int = 50
    sample_every: int = 100
    samples: int = 2
    keep: int = 2
    name: str = "pusa_lora"

    def __post_init__(self) -> None:
        for key in ("steps", "batch", "micro_batch", "rank", "lr", "shift", "checkpoint_every", "keep"):
            if not getattr(self, key) > 0:
                raise ValueError(f"--{key.replace('_', '-')} {getattr(self, key)} was given; it must be greater than 0.")
        if self.dtype not in DTYPES:
            raise ValueError(f"--dtype {self.dtype} was given; use {' or '.join(DTYPES)}.")

    def told(self) -> dict[str, Any]:
        """The settings as plain values, for files and logs."""
        return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}

    def changed(self, before: dict[str, Any]) -> str | None:
        """The first setting that may not differ from those of a run to go on with, but does."""
        paths = {"model", "cache"}  # may have moved
        for key, value in self.told().items():
            old = before.get(key, value)
            same = Path(old).name == Path(value).name if key in paths else old == value
            if key not in MAY_CHANGE and not same:
                return key
        return None
