"""How strong a LoRA is by its PEFT config: adapter_config.json, or what Diffusers writes into a file's metadata."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .json_input import read_object
from .messages import describe, fault, mark, shorten
from .module_patterns import ModulePatterns

MAX_CONFIG = 2**20  # characters; a pattern for each of 400 modules takes a tenth
METADATA_KEY = "lora_adapter_metadata"
IT = mark("it")  # behind "The adapter config of ... is damaged, "


@dataclass(frozen=True)
class PeftConfig:
    """The part of a PEFT config that says how strong a LoRA is.

    Attributes:
        rank, alpha: of modules for which no pattern has another.
        ranks, alphas: those that have their own.
        by_root: whether alpha is divided by the root of the rank (arXiv 2312.03732), not by the rank.
    """

    rank: int
    alpha: float
    ranks: ModulePatterns
    alphas: ModulePatterns
    by_root: bool

    def scale(self, module: str, rank: int) -> float:
        """The factor of a module's up @ down.

        Args:
            module: as the file's keys spell it.
            rank: that of its tensors.

        Raises:
            ValueError: the config says another rank, or its patterns take too long.
        """
        name = module.removeprefix("base_model.model.")
        r = self.ranks.get(name, self.rank)
        if r != rank:
            raise fault("it says rank {stated}, but {name} has rank {rank}", stated=r, name=shorten(name, 80), rank=rank)
        alpha = self.alphas.get(name, self.alpha)
        return alpha / (math.sqrt(r) if self.by_root else r) if r else 0.0


def read_peft_config(beside: Path | None, metadata: Mapping[str, str]) -> PeftConfig | None:
    """The adapter's config; None if there is none.

    Args:
        beside: an adapter_config.json that belongs to the file.
        metadata: the file's own.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged; the message says how.
    """
    if beside is not None:
        with beside.open(encoding="utf-8") as file:
            return _config(read_object(file.read(MAX_CONFIG + 1), IT, MAX_CONFIG))
    if METADATA_KEY in metadata:
        packed = read_object(metadata[METADATA_KEY], IT, MAX_CONFIG)
        return _config({key.partition(".")[2]: value for key, value in packed.items()})
    return None


def _config(given: dict[str, Any]) -> PeftConfig:
    by_root = given.get("use_rslora") or False
    if not isinstance(by_root, bool):
        raise fault('"use_rslora" is {value} in it, which must be true or false', value=describe(by_root))
    return PeftConfig(
        _rank("r", given.get("r")),
        _number("lora_alpha", given.get("lora_alpha")),
        _patterns(given, "rank_pattern", _rank),
        _patterns(given, "alpha_pattern", _number),
        by_root,
    )


def _patterns(given: dict[str, Any], key: str, check: Any) -> ModulePatterns:
    patterns = given.get(key) or {}
    if not isinstance(patterns, dict):
        raise fault('"{key}" is {value} in it, which must be an object of module names', key=key, value=describe(patterns))
    return ModulePatterns({pattern: check(key, value) for pattern, value in patterns.items()})


def _number(key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        if value is None:
            raise fault('"{key}" is missing in it, which must be a number', key=key)
        raise fault('"{key}" is {value} in it, which must be a number', key=key, value=describe(value))
    return float(value)


def _rank(key: str, value: Any) -> int:
    _number(key, value)
    if value != int(value):
        raise fault('"{key}" is {value} in it, which must be a whole number', key=key, value=describe(value))
    return int(value)
