"""The videos and captions that a cache is made from."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pusa_core.video_files import frame_rate

VIDEOS = {".mp4", ".mov", ".mkv", ".webm", ".avi", ".gif", ".m4v"}
IMAGES = {".png", ".jpg", ".jpeg", ".webp"}
SAME_RATE = 1.02  # 29.97 and 30 frames a second are one rate


@dataclass(frozen=True)
class Source:
    """A video, or a still image, to be cached.

    Attributes:
        name: its path in the folder of clips, with slashes.
    """

    path: Path
    name: str
    caption: str

    @property
    def is_image(self) -> bool:
        return self.path.suffix.lower() in IMAGES

    @property
    def stamp(self) -> str:
        """Changes with the file."""
        stat = self.path.stat()
        return f"{self.name} {stat.st_size} {stat.st_mtime_ns}"


def find_clips(folder: Path, images: bool = False) -> list[Source]:
    """The videos of a folder and of those in it with their captions: NAME.txt beside NAME.mp4, or lines of metadata.jsonl
    with "file_name" (the path in the folder) and "text".

    Args:
        images: whether still images are clips, too.

    Raises:
        ValueError: there is no folder, or no videos in it, or one has no caption.
    """
    kinds = VIDEOS | IMAGES if images else VIDEOS
    if not folder.is_dir():
        raise ValueError(f"{folder} is not there, or is no folder: give a folder of clips.")
    videos = sorted(path for path in folder.rglob("*") if path.suffix.lower() in kinds and _is_meant(path))
    if not videos:
        raise ValueError(f"{folder} holds no videos ({', '.join(sorted(kinds))}): give a folder of clips.")
    listed = _listed_captions(folder / "metadata.jsonl")
    sources, missing = [], []
    for path in videos:
        beside = path.with_suffix(".txt")
        name = path.relative_to(folder).as_posix()
        caption = _read_text_file(beside).strip() if beside.is_file() else listed.get(name)
        if caption is None:
            missing.append(name)
        else:
            sources.append(Source(path, name, caption))
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(videos)} clips have no caption, {missing[0]} for one: write it into "
            f"{Path(missing[0]).with_suffix('.txt')} or into metadata.jsonl."
        )
    return sources


def _is_meant(path: Path) -> bool:
    """Not what macOS writes beside files on other disks (._cat.mp4)."""
    return path.is_file() and not path.name.startswith(".")


def _read_text_file(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # Windows editors begin UTF-8 with a mark
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason}): save it as UTF-8.") from error


def _listed_captions(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    captions = {}
    for number, line in enumerate(_read_text_file(path).splitlines(), 1):
        try:
            entry = json.loads(line) if line.strip() else None
            if entry is not None:
                captions[entry["file_name"]] = _text(entry["text"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f'Line {number} of {path} is no object with "file_name" and "text".') from error
    return captions


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def mixed_rates(sources: Iterable[Source]) -> str | None:
    """A warning where the videos have different frame rates; None where they have one. Unreadable files do not count."""
    rates = Counter(rate for source in sources if (rate := _rate(source)) > 0)
    if not rates or max(rates) <= SAME_RATE * min(rates):
        return None
    listed = ", ".join(f"{rate:g} ({count} {'clip' if count == 1 else 'clips'})" for rate, count in sorted(rates.items()))
    return (
        f"The clips have different frame rates, {listed}, so the same motion would be learned at different speeds: "
        f"give --fps {min(rates):g} to take frames of all at one rate."
    )


def _rate(source: Source) -> float:
    try:
        return 0.0 if source.is_image else round(frame_rate(source.path), 2)
    except ValueError:
        return 0.0
