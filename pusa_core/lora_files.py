"""The containers that LoRA files come in: safetensors, PyTorch pickles, PEFT folders. Told by content, never run."""

from __future__ import annotations

import json
import math
import pickle
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

WRAPPERS = ("state_dict", "module", "model")
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
AGAIN = "download it again"


class LoraError(ValueError):
    """A LoRA file that cannot be read, or does not fit the model; the message is one sentence for the user."""


def adapter_file(path: Path) -> Path:
    """The file to read: the path itself, or the weights of a PEFT folder."""
    if not path.is_dir():
        return path
    if not (path / "adapter_config.json").is_file():
        raise LoraError(f"The folder {path.name} is no PEFT adapter, adapter_config.json is missing: choose a file.")
    for name in ADAPTER_FILES:
        if (path / name).is_file():
            return path / name
    raise LoraError(f"The folder {path.name} has no {' or '.join(ADAPTER_FILES)}: {AGAIN} or choose a file.")


def load_tensors(path: Path) -> tuple[dict[Any, Any], dict[str, str]]:
    """(what is stored, metadata). What the file is, is told by its first bytes."""
    head = _head(path)
    # First, because a header length may happen to begin like a pickle. The length has 8 bytes, the header is JSON.
    if head[4:9] == b"\0\0\0\0{":
        return _load_safetensors(path)
    if head.startswith((b"PK\x03\x04", b"\x80")):
        return _load_pickle(path, is_zip=head.startswith(b"PK")), {}
    raise LoraError(f"{path.name} {_what_it_is(head)}.")


def _head(path: Path) -> bytes:
    if not path.is_file():
        raise LoraError(f"{path} is not there or is not a file: check the path.")
    try:
        with path.open("rb") as file:
            return file.read(512)
    except OSError as error:
        raise LoraError(f"{path.name} cannot be opened ({error.strerror}): check its permissions.") from error


def _what_it_is(head: bytes) -> str:
    """Why bytes that start neither a safetensors nor a torch file are of no use, and what to do."""
    if not head:
        return f"is empty: {AGAIN}"
    if head.startswith(b"version https://git-lfs"):
        return "is a git-lfs pointer, not the LoRA itself: fetch it with `git lfs pull` or from the web page"
    if head.startswith(b"GGUF"):
        return "is a GGUF model, not a LoRA: choose it in a GGUF model loader and a LoRA here"
    if not any(byte < 9 or 13 < byte < 32 for byte in head):
        return f"is a text or web page, not a LoRA; the download may have failed: {AGAIN}"
    return f"is neither a safetensors nor a PyTorch file, or is cut off: {AGAIN}"


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip()[:200]}".splitlines()[0]


def _load_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except Exception as error:  # damaged files raise a dozen types
        raise LoraError(
            f"{path.name} is a damaged or incomplete safetensors file ({_first_line(error)}): {AGAIN}."
        ) from error


def _load_pickle(path: Path, is_zip: bool) -> dict[Any, Any]:
    misnamed = path.suffix.lower() == ".safetensors"  # torch 2.15 goes by the name of a path, but not of an open file
    try:
        with path.open("rb") as file:
            source = file if misnamed else path
            content = torch.load(source, map_location="cpu", weights_only=True, mmap=is_zip and not misnamed)
    except pickle.UnpicklingError as error:
        raise LoraError(
            f"{path.name} was refused, because it contains code or objects that are not plain tensors; "
            "nothing of it was run: ask for the safetensors form of this LoRA."
        ) from error
    except Exception as error:  # damaged files raise a dozen types
        kind = "zip archive but no PyTorch file, or damaged" if is_zip else "damaged or incomplete PyTorch file"
        raise LoraError(f"{path.name} is a {kind} ({_first_line(error)}): {AGAIN}{', or unpack it' * is_zip}.") from error
    return _unwrap(path.name, content)


def _unwrap(name: str, content: Any) -> dict[Any, Any]:
    for _ in range(4):  # a pickled dict may contain itself
        inner = [content[key] for key in WRAPPERS if isinstance(content, dict) and isinstance(content.get(key), dict)]
        content = inner[0] if inner else content
    if not isinstance(content, dict):
        raise LoraError(f"{name} holds a {type(content).__name__} instead of named tensors: choose a LoRA file.")
    return content


def peft_config(file: Path, metadata: dict[str, str]) -> dict[str, Any]:
    """The adapter's config: from beside the file, or from Diffusers' metadata; empty if there is none."""
    beside = file.with_name("adapter_config.json")
    try:
        if file.name in ADAPTER_FILES and beside.is_file():
            return dict(json.loads(beside.read_text(encoding="utf-8")))
        packed = json.loads(metadata.get("lora_adapter_metadata", "{}"))
        return {key.partition(".")[2]: value for key, value in packed.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise LoraError(f"The adapter config of {file.name} is damaged ({_first_line(error)}): {AGAIN}.") from error


def peft_scale(name: str, path: str, rank: int, config: dict[str, Any]) -> float:
    """lora_alpha / r, or lora_alpha / sqrt(r) with use_rslora (arXiv 2312.03732), with PEFT's patterns for both.

    Args:
        name: the file's, for messages.
        path: the module as the file's keys spell it.
        rank: that of the module's tensors.
    """
    path = path.removeprefix("base_model.model.")
    try:
        r = int(_pattern_value(config.get("rank_pattern"), path, config["r"]))
        alpha = float(_pattern_value(config.get("alpha_pattern"), path, config["lora_alpha"]))
    except (KeyError, TypeError, ValueError, AttributeError, re.error) as error:
        raise LoraError(f"The adapter config of {name} is damaged ({_first_line(error)}): {AGAIN}.") from error
    if r != rank:
        raise LoraError(f"{name}: the adapter config says rank {r}, but {path} has rank {rank}: {AGAIN}.")
    return alpha / (math.sqrt(r) if config.get("use_rslora") else r) if r else 0.0


def _pattern_value(patterns: dict[str, Any] | None, path: str, default: Any) -> Any:
    """The first pattern that matches whole trailing parts of the dotted path, as in PEFT's `get_pattern_key`."""
    return next((value for key, value in (patterns or {}).items() if re.match(rf"(.*\.)?({key})$", path)), default)
