"""A JSONL file of jobs, one video each. What can be told of a job without its pictures is told before a model is loaded."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from pusa_core.frames import latent_length

NAME = re.compile(r"[\w.-]{1,100}")
EXTENSION_NOISE = "0, 0.3, 0.4, 0.5"  # for 13 frames
REPORT = "report"  # report.json lies beside the sidecars
PIXELS = 16  # a token is two latents wide, a latent eight pixels


@dataclass(frozen=True)
class ImageAt:
    """A picture as a keyframe; `frame` counts pixel or latent frames, from the end when negative."""

    image: str
    frame: int = 0
    unit: Literal["pixel", "latent"] = "pixel"
    noise: float = 0.2
    behaviour: Literal["evolve", "hold"] = "evolve"


@dataclass(frozen=True)
class FramesOf:
    """Frames of a video as keyframes, with their motion; see `pusa_core.keyframes.video_keyframes`.

    Attributes:
        count: default 13 at the start, 12 later.
        noise: default EXTENSION_NOISE for 13 frames at the start, else 0.3.
    """

    video: str
    take: Literal["first", "last", "chosen"] = "last"
    count: int = 13
    unit: Literal["pixel", "latent"] = "pixel"
    place: Literal["start", "end", "index"] = "start"
    frame: int = 0
    noise: str = EXTENSION_NOISE
    behaviour: Literal["evolve", "hold"] = "evolve"
    chosen: str = ""


@dataclass(frozen=True)
class Job:
    """One video; sizes in pixels, `length` in frames, 4n+1.

    Attributes:
        name: of the video's file; default: the number of its line.
        fit: how pictures of another size are fitted, see `pusa_core.resize.fit_images`.
    """

    prompt: str
    name: str = ""
    negative_prompt: str = ""
    keyframes: tuple[ImageAt | FramesOf, ...] = ()
    width: int = 832
    height: int = 480
    length: int = 81
    steps: int = 10
    cfg: float = 3.0
    shift: float = 5.0
    seed: int = 0
    fps: float = 16.0
    fit: Literal["crop", "letterbox", "stretch"] = "crop"

    @property
    def inputs(self) -> list[Path]:
        return [Path(k.image if isinstance(k, ImageAt) else k.video) for k in self.keyframes]

    def told(self) -> dict[str, Any]:
        """The job as plain values, which `read_job` reads again."""
        return json.loads(json.dumps(asdict(self)))


@dataclass(frozen=True)
class Fault:
    """A job that failed, and why, in a sentence."""

    name: str
    reason: str


def read_jobs(path: Path, defaults: Mapping[str, Any] | None = None) -> tuple[list[Job], list[Fault]]:
    """The jobs of a JSONL file, and the lines that are none.

    Args:
        defaults: settings of jobs that do not have them.

    Raises:
        ValueError: the file cannot be read or has no jobs.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # JSON text may have other ends of lines in it
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({error}): give a JSONL file of jobs in UTF-8.") from error
    jobs: dict[str, Job] = {}
    faults = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            job = read_job(line, f"{number:05d}", path.parent, defaults or {})
            if job.name.casefold() in jobs:  # one file on Windows and macOS
                raise ValueError(f'An earlier job is called "{job.name}", too: give each its own name.')
            jobs[job.name.casefold()] = job
        except ValueError as error:
            faults.append(Fault(f"line {number}", str(error)))
    if not jobs and not faults:
        raise ValueError(f"{path} has no jobs: write one JSON object on each line.")
    return list(jobs.values()), faults


def read_job(line: str, name: str, folder: Path, defaults: Mapping[str, Any]) -> Job:
    """A job from its line.

    Args:
        name: of a job that has none.
        folder: what relative paths start from.

    Raises:
        ValueError: what is wrong with it.
    """
    try:
        given = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"It is not JSON ({error}): write one object on one line.") from error
    if not isinstance(given, dict):
        raise ValueError(f"It is a {type(given).__name__}, not an object: write {{...}}.")
    given = {"name": name, **defaults, **given}
    keyframes = given.pop("keyframes", [])
    if not isinstance(keyframes, list):
        raise ValueError('"keyframes" must be a list of objects.')
    job = _checked(Job, given)
    placed = tuple(_keyframe(k, folder) for k in keyframes)
    if not NAME.fullmatch(job.name) or job.name.startswith("."):
        raise ValueError(f'The name "{job.name[:40]}" cannot be a file: use letters, digits, "_", "-" and ".".')
    if job.name.casefold() == REPORT:
        raise ValueError(f'The name "{job.name}" is kept for the report of all jobs: choose another.')
    for what in ("width", "height", "length", "steps", "shift", "fps"):
        if not getattr(job, what) > 0:
            raise ValueError(f'"{what}" is {getattr(job, what)}; it must be greater than 0.')
    for what in ("width", "height"):
        if getattr(job, what) % PIXELS:
            raise ValueError(f'"{what}" is {getattr(job, what)}; it must be a multiple of {PIXELS}.')
    latent_length(job.length)
    if not 0 <= job.seed < 2**63:
        raise ValueError(f'"seed" is {job.seed}; it must be from 0 to 2**63 - 1.')
    return replace(job, keyframes=placed)


def _keyframe(given: Any, folder: Path) -> ImageAt | FramesOf:
    if not isinstance(given, dict) or ("image" in given) == ("video" in given):
        raise ValueError('A keyframe must be an object with either "image" or "video".')
    if "image" in given:
        image = _checked(ImageAt, given)
        return replace(image, image=str(_there(folder / image.image)))
    starts, latent = given.get("place", "start") == "start", given.get("unit") == "latent"
    extension = 4 if latent else 13
    given = {"count": extension if starts else extension - 1, **given}  # the first latent frame is one pixel frame
    noise = given.get("noise", "")
    if isinstance(noise, list):
        noise = ", ".join(map(str, noise))
    elif type(noise) in (int, float):
        noise = str(noise)
    if noise == "":
        usual = starts and given["count"] == extension and given.get("take") != "chosen"
        noise = EXTENSION_NOISE if usual else "0.3"
    video = _checked(FramesOf, {**given, "noise": noise})
    return replace(video, video=str(_there(folder / video.video)))


def _there(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"{path} is not there: give the path of a file, from where the jobs' file lies.")
    return path.resolve()


def _checked(kind: type, given: dict[str, Any]) -> Any:
    """A dataclass from plain values of the right types."""
    hints = get_type_hints(kind)
    for key in given:
        if key not in hints or key == "keyframes":
            near = difflib.get_close_matches(key, hints, 1)
            raise ValueError(f'"{key}" is no setting{f", did you mean {near[0]}?" if near else "; use " + ", ".join(hints)}')
    missing = [field.name for field in fields(kind) if field.default is MISSING and field.name not in given]
    if missing:
        raise ValueError(f'"{missing[0]}" is missing.')
    return kind(**{key: _value(key, value, hints[key]) for key, value in given.items()})


def _value(key: str, value: Any, hint: Any) -> Any:
    choices = get_args(hint)
    if choices:
        if value not in choices:
            raise ValueError(f'"{key}" is {json.dumps(value)[:60]}; use {", ".join(choices[:-1])} or {choices[-1]}.')
        return value
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint or (hint is float and not math.isfinite(value)):
        wanted = {int: "a whole number", float: "a number", str: "text"}[hint]
        raise ValueError(f'"{key}" is {json.dumps(value)[:60]}; it must be {wanted}.')
    return value
