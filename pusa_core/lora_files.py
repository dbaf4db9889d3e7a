"""The containers that LoRA files come in: safetensors, PyTorch pickles, PEFT folders. Told by content, never run."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from .messages import either, mark, say, shorten
from .peft_config import PeftConfig, read_peft_config
from .pickle_scan import TooMuch, scan

WRAPPERS = ("state_dict", "module", "model")
CONFIG_FILE = "adapter_config.json"
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
AGAIN = mark("download it again")
SAFETENSORS = mark("ask for the safetensors form of this LoRA")
MAX_SHARED = 4  # times a torch file's size that its tensors may have, for several may share numbers


class LoraError(ValueError):
    """A LoRA file that cannot be read, or does not fit the model; the message is one sentence for the user."""


def short_name(path: Path) -> str:
    """A file's name as messages show it."""
    return shorten(path.name, 100)


def adapter_file(path: Path) -> Path:
    """The file to read: the path itself, or the weights of a PEFT folder."""
    if not _exists(path, folder=True):
        return path
    name = short_name(path)
    if not _exists(path / CONFIG_FILE):
        raise LoraError(
            say("The folder {name} is no PEFT adapter, {config} is missing: choose a file.", name=name, config=CONFIG_FILE)
        )
    for weights in ADAPTER_FILES:
        if _exists(path / weights):
            return path / weights
    raise LoraError(
        say(
            "The folder {name} has no {files}: {again} or choose a file.",
            name=name,
            files=either(*ADAPTER_FILES),
            again=say(AGAIN),
        )
    )


def _exists(path: Path, folder: bool = False) -> bool:
    try:
        return path.is_dir() if folder else path.is_file()
    except (OSError, ValueError):  # a name of 300 letters, or with a zero byte
        return False


def load_tensors(path: Path) -> tuple[dict[Any, Any], dict[str, str]]:
    """(what is stored, metadata). What the file is, is told by its first bytes."""
    head = _head(path)
    # First, because a header length may happen to begin like a pickle. The length has 8 bytes, the header is JSON.
    if head[4:9] == b"\0\0\0\0{":
        return _load_safetensors(path)
    if head.startswith((b"PK\x03\x04", b"\x80")):
        return _load_pickle(path, is_zip=head.startswith(b"PK")), {}
    raise LoraError(say(_what_it_is(head), name=short_name(path), again=say(AGAIN)))


def _head(path: Path) -> bytes:
    if not _exists(path):
        raise LoraError(say("{path} is not there or is not a file: check the path.", path=shorten(str(path), 200)))
    try:
        with path.open("rb") as file:
            return file.read(512)
    except OSError as error:
        raise LoraError(
            say("{name} cannot be opened ({reason}): check its permissions.", name=short_name(path), reason=error.strerror)
        ) from error


def _what_it_is(head: bytes) -> str:
    """Why bytes that start neither a safetensors nor a torch file are of no use, and what to do."""
    if not head:
        return mark("{name} is empty: {again}.")
    if head.startswith(b"version https://git-lfs"):
        return mark("{name} is a git-lfs pointer, not the LoRA itself: fetch it with `git lfs pull` or from the web page.")
    if head.startswith(b"GGUF"):
        return mark("{name} is a GGUF model, not a LoRA: choose it in a GGUF model loader and a LoRA here.")
    if not any(byte < 9 or 13 < byte < 32 for byte in head):
        return mark("{name} is a text or web page, not a LoRA; the download may have failed: {again}.")
    return mark("{name} is neither a safetensors nor a PyTorch file, or is cut off: {again}.")


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip()[:200]}".splitlines()[0]


def _load_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except Exception as error:  # damaged files raise a dozen types
        raise LoraError(
            say(
                "{name} is a damaged or incomplete safetensors file ({error}): {again}.",
                name=short_name(path),
                error=_first_line(error),
                again=say(AGAIN),
            )
        ) from error


_DAMAGED = {
    True: mark("{name} is a zip archive but no PyTorch file, or damaged ({error}): {again}, or unpack it."),
    False: mark("{name} is a damaged or incomplete PyTorch file ({error}): {again}."),
}


def _load_pickle(path: Path, is_zip: bool) -> dict[Any, Any]:
    name = short_name(path)
    misnamed = path.suffix.lower() == ".safetensors"  # torch 2.15 goes by the name of a path, but not of an open file
    try:
        scan(path, is_zip)
        with path.open("rb") as file:
            source = file if misnamed else path
            content = torch.load(source, map_location="cpu", weights_only=True, mmap=is_zip and not misnamed)
    except pickle.UnpicklingError as error:
        raise LoraError(
            say(
                "{name} was refused, because it contains code or objects that are not plain tensors; nothing "
                "of it was run: {advice}.",
                name=name,
                advice=say(SAFETENSORS),
            )
        ) from error
    except TooMuch as error:
        raise LoraError(
            say(
                "{name} was not opened, because what it holds beside tensors {error}: {advice}.",
                name=name,
                error=error,
                advice=say(SAFETENSORS),
            )
        ) from error
    except Exception as error:  # damaged files raise a dozen types
        raise LoraError(say(_DAMAGED[is_zip], name=name, error=_first_line(error), again=say(AGAIN))) from error
    tensors = _unwrap(name, content)
    _check_size(path, tensors)
    return tensors


def _check_size(path: Path, tensors: dict[Any, Any]) -> None:
    """Refuses tensors of many more numbers than the file has: views that repeat what is stored."""
    stored = path.stat().st_size
    size = sum(value.numel() * value.element_size() for value in tensors.values() if is_plain(value))
    if size > MAX_SHARED * stored:
        raise LoraError(
            say(
                "{name} has tensors of {size} bytes in a file of {stored}, so most of their numbers are copies: {advice}.",
                name=short_name(path),
                size=size,
                stored=stored,
                advice=say(SAFETENSORS),
            )
        )


def is_plain(value: object) -> bool:
    """An ordinary tensor with values, as opposed to sparse, nested, quantised or meta tensors and other objects."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and not (value.is_meta or value.is_quantized or value.is_nested)
    )


def _unwrap(name: str, content: Any) -> dict[Any, Any]:
    for _ in range(4):  # a pickled dict may contain itself
        inner = [content[key] for key in WRAPPERS if isinstance(content, dict) and isinstance(content.get(key), dict)]
        content = inner[0] if inner else content
    if not isinstance(content, dict):
        raise LoraError(
            say("{name} holds a {kind} instead of named tensors: choose a LoRA file.", name=name, kind=type(content).__name__)
        )
    return content


def peft_config(file: Path, metadata: dict[str, str]) -> PeftConfig | None:
    """The adapter's config: from beside the file, or from Diffusers' metadata; None if there is none."""
    beside = file.with_name(CONFIG_FILE)
    try:
        return read_peft_config(beside if file.name in ADAPTER_FILES and _exists(beside) else None, metadata)
    except (OSError, ValueError) as error:
        raise damaged_config(file, error) from error


def damaged_config(file: Path, error: Exception) -> LoraError:
    fault = str(error).rstrip(".\u3002")  # a full stop in East Asian writing
    return LoraError(
        say(
            "The adapter config of {name} is damaged, {fault}: {again}.", name=short_name(file), fault=fault, again=say(AGAIN)
        )
    )
