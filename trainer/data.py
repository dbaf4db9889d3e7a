"""Cached clips: latents and text embeddings as the model takes them, one safetensors file for each clip."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import pad

from .order import clip_index
from .output import whole_file

SAMPLES = "_samples"  # the folder of sample clips
NEGATIVE = "_negative.safetensors"  # the file with the negative prompt's embedding, for sample clips


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


def save_clip(path: Path, latent: Tensor | None, text: PackedText, metadata: dict[str, str]) -> None:
    """Writes one clip, whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    tensors = {"text": text.used}
    if latent is not None:
        tensors["latent"] = latent.half().contiguous()
    with whole_file(path) as partial:
        save_file(tensors, partial, metadata={**metadata, "text_length": str(text.length)})


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata that `save_clip` wrote; empty when the file is not there or damaged."""
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


@dataclass(frozen=True)
class Head:
    """What a cached clip's file says without its tensors being read.

    Attributes:
        shape: (C, F, H, W) of the latent.
        text_width: of the text embedding.
        key: of what the clip was made from.
    """

    shape: tuple[int, ...]
    text_width: int
    key: str | None

    @classmethod
    def read(cls, path: Path) -> Head:
        """The head of a file.

        Raises:
            ValueError: it is no cached clip.
        """
        try:
            with safe_open(path, framework="pt") as file:
                latent, text = (tuple(file.get_slice(name).get_shape()) for name in ("latent", "text"))
                return cls(latent, text[1], (file.metadata() or {}).get("key"))
        except SafetensorError as error:
            raise ValueError(f"{path} is no cached clip, or damaged ({error}): delete it and cache it again.") from error


def cached_paths(folder: Path) -> list[Path]:
    """The files of a cache's clips, in a fixed order."""
    others = folder / NEGATIVE, folder / SAMPLES
    return sorted(path for path in folder.rglob("*.safetensors") if not {path, *path.parents}.intersection(others))


class ClipCache:
    """The clips of a cache folder, in a fixed order.

    Args:
        paths: those of the folder's clips that are meant; None for all.
        repeats: how often clips come, by their names in the folder or by those of folders that they are in.

    Attributes:
        groups: the clips of each latent shape (C, F, H, W), as often as they come.
        channels, text_width: of all of them.
        digest: of everything that the clips were made from; another one means other clips.

    Raises:
        ValueError: the folder holds no cached clips, clips of different VAEs or text encoders, or none of those to repeat.
    """

    def __init__(self, folder: Path, paths: Sequence[Path] | None = None, repeats: Mapping[str, int] | None = None):
        self.folder = folder
        self.paths = list(paths or cached_paths(folder))
        if not self.paths:
            raise ValueError(f"{folder} holds no cached clips: make them with `python -m trainer cache`.")
        self.groups: dict[tuple[int, ...], list[int]] = {}
        digest = hashlib.sha256()
        heads = [Head.read(path) for path in self.paths]
        times = self._times(repeats or {})
        for index, (path, head) in enumerate(zip(self.paths, heads)):
            self.groups.setdefault(head.shape, []).extend([index] * times[index])
            digest.update(f"{path.relative_to(folder).as_posix()} {head.key}\n".encode())
        self.channels = self._one([head.shape[0] for head in heads], "latent channels", "VAE")
        self.text_width = self._one([head.text_width for head in heads], "text widths", "text encoder")
        self.digest = digest.hexdigest()

    def _times(self, repeats: Mapping[str, int]) -> list[int]:
        """How often each clip comes; where several names are meant, the longest counts."""
        names = [path.relative_to(self.folder).as_posix() for path in self.paths]
        chosen = [max((key for key in repeats if _is_in(name, key)), key=len, default=None) for name in names]
        unused = next((key for key in repeats if not any(_is_in(name, key) for name in names)), None)
        if unused is not None:
            raise ValueError(
                f'"{unused}" was given for clips that come more often, but {self.folder} has no clip or folder of that name: '
                f"give one, {names[0].removesuffix('.safetensors')} for one."
            )
        return [1 if key is None else repeats[key] for key in chosen]

    def _one(self, values: list[int], what: str, model: str) -> int:
        """The value that all clips have."""
        other = next((i for i, value in enumerate(values) if value != values[0]), None)
        if other is not None:
            raise ValueError(
                f"{self.folder} holds clips of different {what}, {self.paths[0].name} of {values[0]} and "
                f"{self.paths[other].name} of {values[other]}: cache them with one {model} into an empty folder."
            )
        return values[0]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Clip:
        path = self.paths[index]
        with safe_open(path, framework="pt") as file:
            return Clip(file.get_tensor("latent").float(), read_text(path))

    def sample(self, number: int, batch: int, seed: int) -> Clip:
        """The `number`-th clip to be trained on, see `order.clip_index`."""
        return self[clip_index(number, list(self.groups.values()), batch, seed)]

    def negative(self) -> Tensor:
        """The negative prompt's embedding, (L, text width).

        Raises:
            ValueError: it is not there.
        """
        path = self.folder / NEGATIVE
        if not path.is_file():
            raise ValueError(f"{path} is missing, which sample clips need: run `python -m trainer cache` again.")
        return read_text(path)


def _is_in(name: str, key: str) -> bool:
    """Whether a cached clip is of the video, or in the folder, of this name."""
    stem = key.strip("/")
    return name.startswith((f"{stem}/", f"{stem}.")) or name == stem


def as_json(values: dict) -> str:
    return json.dumps(values, sort_keys=True, default=str)
