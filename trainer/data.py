"""Cached clips: latents and text embeddings as the model takes them, one safetensors file for each clip."""

from __future__ import annotations

import hashlib
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


@dataclass(frozen=True)
class PackedText:
    """A text embedding without the zeros at its end, which text encoders pad with: 512 tokens take 8 MB.

    Attributes:
        used: (at most L, text width), bf16.
        length: L.
    """

    used: Tensor
    length: int

    @classmethod
    def pack(cls, text: Tensor) -> PackedText:
        """text: (L, text width)."""
        used = int(text.abs().sum(1).nonzero().max()) + 1 if bool(text.any()) else 1
        return cls(text[:used].to(torch.bfloat16).contiguous(), len(text))


def save_clip(path: Path, latent: Tensor | None, text: PackedText, told: dict[str, str]) -> None:
    """Writes one clip, whole or not at all."""
    tensors = {"text": text.used}
    if latent is not None:
        tensors["latent"] = latent.half().contiguous()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata={**told, "text_length": str(text.length)})
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

    Attributes:
        shape: (C, F, H, W) of every latent.
        digest: of everything that the clips were made from; another one means other clips.

    Raises:
        ValueError: the folder holds no cached clips, or clips of different sizes.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.paths = sorted(path for path in folder.glob("*.safetensors") if path.stem != NEGATIVE)
        if not self.paths:
            raise ValueError(f"{folder} holds no cached clips: make them with `python -m trainer cache`.")
        shapes: dict[tuple[int, ...], Path] = {}
        digest = hashlib.sha256()
        for path in self.paths:
            shape, told = self._head(path)
            shapes.setdefault(shape, path)
            digest.update(f"{path.name} {told.get('key')}\n".encode())
        if len(shapes) > 1:
            (a, first), (b, second) = list(shapes.items())[:2]
            raise ValueError(
                f"{folder} holds clips of different sizes, {first.name} of {a} and {second.name} of {b} "
                "(channels, frames, height, width of the latent): cache them into an empty folder."
            )
        self.shape = next(iter(shapes))
        self.digest = digest.hexdigest()

    @staticmethod
    def _head(path: Path) -> tuple[tuple[int, ...], dict[str, str]]:
        try:
            with safe_open(path, framework="pt") as file:
                return tuple(file.get_slice("latent").get_shape()), file.metadata() or {}
        except SafetensorError as error:
            raise ValueError(f"{path} is no cached clip, or damaged ({error}): delete it and cache it again.") from error

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Clip:
        path = self.paths[index]
        with safe_open(path, framework="pt") as file:
            return Clip(file.get_tensor("latent").float(), read_text(path))

    def negative(self) -> Tensor:
        """The negative prompt's embedding, (L, text width).

        Raises:
            ValueError: it is not there.
        """
        path = self.folder / f"{NEGATIVE}.safetensors"
        if not path.is_file():
            raise ValueError(f"{path} is missing, which sample clips need: run `python -m trainer cache` again.")
        return read_text(path)


def sample_index(number: int, clips: int, seed: int) -> int:
    """Which clip is the `number`-th to be trained on: every clip once, in a new order, before any comes again."""
    epoch, place = divmod(number, clips)
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return int(torch.randperm(clips, generator=generator)[place])


def as_json(values: dict) -> str:
    return json.dumps(values, sort_keys=True, default=str)
