"""What a file of ours says of how it was made, and by what a LoRA is known again."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor

from .lora import LoraModule, PusaLora
from .messages import both, mark, say, shorten

KEY = "pusa_made"  # of a file's metadata: a JSON object
ANCHOR = "blocks.0.self_attn.q"  # whose numbers a LoRA is known by, if it has that module
NUMBERS = 256  # from each of its factors
EXPERTS = {"high": mark("high noise"), "low": mark("low noise")}

_EXPERT = re.compile(r"(?<![a-z])(high|low)(?![a-z])|(high|low)(?=noise)")
_OTHER_SENSE = re.compile(r"(high|low)[^a-z]*(res|resolution|quality|motion|detail|fps|rank|vram|memory|speed)(?![a-z])")


@dataclass(frozen=True)
class MergedLora:
    """A LoRA that was merged into a checkpoint.

    Attributes:
        file: its name.
        alpha: the strength that it was merged with.
        id: of `identify`.
    """

    file: str
    alpha: float
    id: str


def pair_id(down: Tensor, up: Tensor) -> str:
    """A short name for the content of a pair of factors: their shapes and first numbers."""
    digest = hashlib.sha256()
    for side in (down, up):
        numbers = side.detach().reshape(-1)[:NUMBERS].to("cpu", torch.float32)
        digest.update(repr(tuple(side.shape)).encode() + numbers.numpy().tobytes())
    return digest.hexdigest()[:16]


def identify(lora: PusaLora) -> str:
    """By what a LoRA is known again, in every spelling; one that was compressed is known as what it was made from."""
    made = _made(lora.metadata)
    if isinstance(made.get("id"), str):
        return made["id"]
    module: LoraModule = lora.modules.get(ANCHOR) or lora.modules[min(lora.modules)]
    return pair_id(module.down, module.up)


def pair_ids(lora: PusaLora) -> set[str]:
    """By what a LoRA is known on a model: its own numbers, or those of what it was made from."""
    module = lora.modules.get(ANCHOR)
    return {identify(lora), *([pair_id(module.down, module.up)] if module else [])}


def merged_loras(metadata: Mapping[str, str]) -> tuple[MergedLora, ...]:
    """The LoRAs that a checkpoint of ours was baked with, by its metadata; none for other files."""
    listed = _made(metadata).get("loras")
    entries = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    try:
        return tuple(MergedLora(str(e["file"]), float(e["alpha"]), str(e["id"])) for e in entries)
    except (KeyError, TypeError, ValueError):  # not ours
        return ()


def merged_before(merged: Iterable[MergedLora], ids: Iterable[str], name: str) -> list[str]:
    """A warning for each LoRA that a checkpoint already holds.

    Args:
        ids: of the LoRAs that are put on it.
        name: of the checkpoint.
    """
    wanted = {*ids}
    return [
        say(
            "Warning: {lora} was merged into {name} already, with alpha {alpha:g}, and what is done twice adds up: leave it "
            "away here.",
            lora=shorten(entry.file, 100),
            name=shorten(name, 100),
            alpha=entry.alpha,
        )
        for entry in merged
        if entry.id in wanted and entry.alpha
    ]


def repeated(name: str, strengths: Sequence[float]) -> list[str]:
    """A warning if a LoRA is on a model more than once, with these strengths."""
    if len(strengths) < 2:
        return []
    return [
        say(
            "Warning: {lora} is on this model {count} times, with strengths {strengths}, which add up: keep one.",
            lora=shorten(name, 100),
            count=len(strengths),
            strengths=both(*(f"{strength:g}" for strength in strengths)),
        )
    ]


def baked_metadata(existing: Mapping[str, str], base: str, form: str, loras: Iterable[MergedLora]) -> dict[str, str]:
    """A baked checkpoint's metadata: what its base said, and all LoRAs that are in it."""
    made = {"made": "baked", "base": base, "form": form, "loras": [asdict(lora) for lora in loras]}
    return {"format": "pt", **existing, KEY: json.dumps(made)}


def compressed_metadata(lora: PusaLora, rank: int, energy: float, errors: Mapping[str, float]) -> dict[str, str]:
    """A compressed LoRA's metadata: from what it was made, how far, and the relative error of each module."""
    rounded = {name: round(error, 6) for name, error in errors.items()}
    made = {"made": "compressed", "from": lora.name, "id": identify(lora), "rank": rank, "energy": energy, "errors": rounded}
    return {"format": "pt", KEY: json.dumps(made)}


def package_versions(packages: Iterable[str]) -> dict[str, str]:
    """The versions of those of some packages that are installed."""
    versions = {}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def _made(metadata: Mapping[str, str]) -> dict[str, Any]:
    try:
        made = json.loads(metadata.get(KEY, "{}"))
    except (TypeError, ValueError, RecursionError):
        return {}
    return made if isinstance(made, dict) else {}


# --- Wan2.2's two experts --------------------------------------------------------------------------------------------


def expert(name: str) -> str | None:
    """Which of Wan2.2's two models a file's name says that it is or is for: "high", "low", or None where it does not say."""
    plain = _OTHER_SENSE.sub("", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())
    named = {one or other for one, other in _EXPERT.findall(plain)}
    return named.pop() if len(named) == 1 else None


def swapped(lora: str, other: str, wanted: str | None) -> list[str]:
    """A warning if a LoRA's name says one expert, and what it is for is the other.

    Args:
        lora: the LoRA's name.
        other: what it was put on, for the message.
        wanted: the expert that this is; None if that is not known.
    """
    said = expert(lora)
    if None in (said, wanted) or said == wanted:
        return []
    return [
        say(
            "Warning: the name of {lora} says {said}, but {other} is for {wanted}: exchange them if the name is right.",
            lora=shorten(lora, 100),
            said=say(EXPERTS[said or ""]),
            other=shorten(other, 100),
            wanted=say(EXPERTS[wanted or ""]),
        )
    ]
