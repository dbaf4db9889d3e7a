"""Cached clips: latents and text embeddings as the model takes them, one safetensors file for each clip."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import pad

NEGATIVE = "_negative"  # the file with the negative prompt's embedding, for sample clips


@dataclass(frozen=True)
class Clip:
    """One training clip.

    Attributes:
        latent: (C, F, H, W), normalised as the model sees it.
        text: (L, text width).
    """

    latent: Tensor
    text: Tensor


def save_clip(path: Path, latent: Tensor | None, text: Tensor, told: dict[str, str]) -> None:
    """Writes one clip, whole or not at all. Zeros at the end of the text, which text encoders pad with, take no space."""
    used = int(text.abs().sum(1).nonzero().max()) + 1 if bool(text.any()) else 1
    tensors = {"text": text[:used].to(torch.bfloat16).contiguous()}
    if latent is not None:
        tensors["latent"] = latent.half().contiguous()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata={**told, "text_length": str(len(text))})
    partial.replace(path)


def read_told(path: Path) -> dict[str, str]:
    """What `save_clip` was told; empty when the file is not there or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError):
        return {}


def read_text(path: Path) -> Tensor:
    """A text embedding at its full length, (L, text width), fp32."""
    with safe_open(path, framework="pt") as file:
        text, length = file.get_tensor("text").float(), int(file.metadata()["text_length"])
    return pad(text, (0, 0, 0, length - len(text)))


class ClipCache:
    """The clips of a cache folder, in a fixed order.

    Raises:
        ValueError: the folder holds no cached clips, or clips of different sizes.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.paths = sorted(path for path in folder.glob("*.safetensors") if path.stem != NEGATIVE)
        if not self.paths:
            raise ValueError(f"{folder} holds no cached clips: make them with `python -m trainer cache`.")
        shapes = {self._shape(path): path for path in reversed(self.paths)}
        if len(shapes) > 1:
            (a, first), (b, second) = list(shapes.items())[:2]
            raise ValueError(
                f"{folder} holds clips of different sizes, {first.name} of {a} and {second.name} of {b} "
                "(channels, frames, height, width of the latent): cache them with one size and length."
            )
        self.shape = next(iter(shapes))

    @staticmethod
    def _shape(path: Path) -> tuple[int, ...]:
        try:
            with safe_open(path, framework="pt") as file:
                return tuple(file.get_slice("latent").get_shape())
        except SafetensorError as error:
            raise ValueError(f"{path} is no cached clip, or damaged ({error}): delete it and cache it again.") from error

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Clip:
        path = self.paths[index]
        with safe_open(path, framework="pt") as file:
            return Clip(file.get_tensor("latent").float(), read_text(path))

    def caption(self, index: int) -> str:
        return read_told(self.paths[index]).get("caption", "")

    def negative(self) -> Tensor:
        """The negative prompt's embedding, (L, text width)."""
        return read_text(self.folder / f"{NEGATIVE}.safetensors")


def sample_index(number: int, clips: int, seed: int) -> int:
    """Which clip is the `number`-th to be trained on: every clip once, in a new order, before any comes again."""
    epoch, place = divmod(number, clips)
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return int(torch.randperm(clips, generator=generator)[place])


def as_json(values: dict) -> str:
    return json.dumps(values, sort_keys=True, default=str)
