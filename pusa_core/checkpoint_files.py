"""The files that a checkpoint lies in: one, or several with an index, as Hugging Face's libraries save large models."""

from __future__ import annotations

import re
from pathlib import Path

from .json_input import read_object
from .messages import fault, mark, shorten

SUFFIX, INDEX = ".safetensors", ".safetensors.index.json"
MAX_INDEX = 2**22  # characters; 14B's has a twentieth
PIPELINE, MODELS = "model_index.json", ("transformer", "transformer_2")  # of a pipeline's folder, as Diffusers saves it

_SHARD = re.compile(r"(.+)-\d+-of-\d+\.safetensors")


def checkpoint_files(path: Path) -> tuple[str, tuple[Path, ...]]:
    """(what messages call a checkpoint, its files).

    Args:
        path: a file; one of several that an index lists, or the index; or the folder that holds them, as Diffusers has it.

    Raises:
        ValueError: it is a folder or an index that leads to no files.
    """
    if path.is_dir():
        found = _in_folder(path)
        return _folder_name(found), _listed(found)
    shard = _SHARD.fullmatch(path.name)
    if shard or path.name.endswith(INDEX):
        return _folder_name(path), _listed(path.with_name(f"{shard[1]}{INDEX}") if shard else path)
    return path.name, (path,)


def _folder_name(path: Path) -> str:
    """Of the folder that a file is in; files of several, and those in folders, are called the same in all of them."""
    return "/".join(path.resolve().parent.parts[-2:]).lstrip("/")


def _in_folder(folder: Path) -> Path:
    """The index or the only weights of a folder."""
    if (folder / PIPELINE).is_file():
        if all((folder / name).is_dir() for name in MODELS):
            raise fault("{folder} has two models: give its transformer or transformer_2.", folder=folder)
        folder /= MODELS[0]
    for ending in (INDEX, SUFFIX):
        found = sorted(folder.glob(f"*{ending}"))
        if len(found) == 1:
            return found[0]
    raise fault(
        "{folder} has no model, or several: give the model's file, or the {index} that lists its files.",
        folder=folder, index=f"*{INDEX}",
    )  # fmt: skip


def _listed(path: Path) -> tuple[Path, ...]:
    """The files that an index lists; a file that is none stands for itself."""
    if not path.name.endswith(INDEX):
        return (path,)
    if not path.is_file():
        raise fault("{index} is not beside the model's files: download it, too.", index=shorten(path.name, 100))
    index = read_object(path.read_text(encoding="utf-8", errors="replace"), mark("The index of the model's files"), MAX_INDEX)
    places = index.get("weight_map")
    names = list(dict.fromkeys(places.values())) if isinstance(places, dict) else []
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise fault("{index} does not list a model's files: download it again.", index=shorten(path.name, 100))
    missing = [name for name in names if not path.with_name(name).is_file()]
    if missing:
        raise fault(
            "{file}, one of the {count} files of this model, is not beside {index}: download it, too.",
            file=shorten(missing[0], 100), count=len(names), index=shorten(path.name, 100),
        )  # fmt: skip
    return tuple(path.with_name(name) for name in names)
