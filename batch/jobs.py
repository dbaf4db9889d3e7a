"""A job: one video, from the plain values of a JSON object."""

from __future__ import annotations

import difflib
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from pusa_core.frames import HELD, latent_length

from .settings import FILES, WEIGHTS, resolve_files

if TYPE_CHECKING:
    from pusa_core.strength import Strength

NAME = re.compile(r"[\w.-]{1,100}")
NAME_BYTES = 200  # in UTF-8: a file's may have 255, with what is written behind it
EXTENSION_NOISE = "0, 0.3, 0.4, 0.5"  # for 13 frames
STRENGTH = "0.5"  # of all frames of a clip that is started from
MAX_JOB = 2**20  # characters
REPORT = "report"  # report.json lies beside the sidecars
PIXELS = 16  # a token is two latents wide, a latent eight pixels
JOB = "job:"  # before the name of the job whose video is meant
FPS = (0.1, 1000)
KINDS: dict[str, dict[str, Any]] = {  # what each kind of job has beside a clip's settings, and other defaults of these
    "clip": {},
    "long": {"steps": 1, "prompts": [], "moving_frames": 4, "blend": 8, "anchor_distance": 1, "keyframes_beside": False},
    "forcing": {
        "steps": 30, "shift": 8.0, "ar_step": 0, "causal_block_size": 1, "causal_attention": False, "addnoise_condition": 0,
    },
}  # fmt: skip
KINDS_OF_ALL = {"steps", "shift"}
LISTS = ("keyframes", "prompts")


@dataclass(frozen=True)
class ImageAt:
    """A picture as a keyframe; `frame` counts pixel or latent frames, from the end when negative."""

    image: str
    frame: int = 0
    unit: Literal["pixel", "latent"] = "pixel"
    noise: float = 0.2
    behaviour: Literal["evolve", "hold"] = "evolve"

    @property
    def source(self) -> str:
        return self.image


@dataclass(frozen=True)
class FramesOf:
    """Frames of a video as keyframes, with their motion; see `pusa_core.keyframes.video_keyframes`.

    Attributes:
        video: a file, or JOB and the name of the job that makes it.
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

    @property
    def source(self) -> str:
        return self.video


@dataclass(frozen=True)
class StartOf:
    """A clip that every frame of the video starts from; see `pusa_core.strength.Strength`."""

    clip: str
    noise: str = STRENGTH
    unit: Literal["pixel", "latent"] = "pixel"
    retime: Literal["keep", "stretch"] = "keep"
    between: float = 1.0
    hold_up_to: float = HELD

    @property
    def source(self) -> str:
        return self.clip

    def strength(self, length: int) -> Strength:
        from pusa_core.strength import Strength  # takes the seconds of torch

        return Strength(self.noise, self.unit, length, self.retime, self.between, self.hold_up_to)


@dataclass(frozen=True)
class PromptFrom:
    """What holds from a pixel frame on."""

    prompt: str
    frame: int


@dataclass(frozen=True)
class Job:
    """One video; sizes in pixels, `length` in frames, 4n+1.

    Attributes:
        name: of the video's file.
        kind: a clip; a long video, see `PusaWanPipeline.long_video`; or one for diffusion forcing models.
        prompts: of a long video, after `prompt`, which holds at its start.
        ar_step, causal_block_size, causal_attention, addnoise_condition: of diffusion forcing, as SkyReels-V2 calls them.
        fit: how pictures of another size are fitted, see `pusa_core.resize.fit_images`.
        model: this and all below as in `Models`; None is the command's.
    """

    prompt: str
    name: str
    negative_prompt: str = ""
    keyframes: tuple[ImageAt | FramesOf | StartOf, ...] = ()
    width: int = 832
    height: int = 480
    length: int = 81
    steps: int = 10
    cfg: float = 3.0
    shift: float = 5.0
    seed: int = 0
    fps: float = 16.0
    fit: Literal["crop", "letterbox", "stretch"] = "crop"
    kind: Literal["clip", "long", "forcing"] = "clip"
    prompts: tuple[PromptFrom, ...] = ()
    moving_frames: int = 4
    blend: int = 8
    anchor_distance: int = 1
    keyframes_beside: bool = False
    ar_step: int = 0
    causal_block_size: int = 1
    causal_attention: bool = False
    addnoise_condition: int = 0
    model: str | None = None
    lora: str | None = None
    alpha: float | None = None
    low_noise_lora: str | None = None
    low_noise_alpha: float | None = None
    extra_lora: str | None = None
    low_noise_extra_lora: str | None = None
    extra_alpha: float | None = None

    @property
    def inputs(self) -> list[Path]:
        """Keyframes' files."""
        return [Path(keyframe.source) for keyframe in self.keyframes if not keyframe.source.startswith(JOB)]

    @property
    def needs(self) -> list[str]:
        """Names of the jobs whose videos are keyframes of this one."""
        sources = [keyframe.source for keyframe in self.keyframes]
        return list(dict.fromkeys(source.removeprefix(JOB) for source in sources if source.startswith(JOB)))

    @property
    def weights(self) -> dict[str, Any]:
        """Its own models, LoRAs and strengths; see `Models.override`."""
        return {name: getattr(self, name) for name in WEIGHTS if getattr(self, name) is not None}

    def settings(self) -> dict[str, Any]:
        """The job as plain values, which `read_job` reads again."""
        others = {name for kind in KINDS for name in KINDS[kind]} - {*KINDS_OF_ALL, *KINDS[self.kind]}
        if self.kind == "clip":
            others.add("kind")
        given = {name: value for name, value in asdict(self).items() if value is not None and name not in others}
        return json.loads(json.dumps(given))


@dataclass(frozen=True)
class Fault:
    """A job that failed, and why, in a sentence."""

    name: str
    reason: str


def read_job(given: Mapping[str, Any], folder: Path) -> Job:
    """A job from the plain values of its settings.

    Args:
        folder: what relative paths start from.

    Raises:
        ValueError: what is wrong with it.
    """
    given = _with_kind(given)
    lists = {name: given.pop(name, []) for name in LISTS}
    for name, entries in lists.items():
        if not isinstance(entries, list):
            raise ValueError(f'"{name}" must be a list of objects.')
    job = _checked(Job, given)
    _check_name(job.name)
    _check_numbers(job)
    placed = tuple(_keyframe(keyframe, folder) for keyframe in lists["keyframes"])
    prompts = tuple(_checked(PromptFrom, prompt) for prompt in lists["prompts"])
    _check_prompts(prompts, job.length)
    files = {name: getattr(job, name) for name in FILES}
    return replace(job, keyframes=placed, prompts=prompts, **resolve_files(files, folder))


def _with_kind(given: Mapping[str, Any]) -> dict[str, Any]:
    """A job's settings with what its kind has for them where they lack it."""
    kind = _value("kind", given.get("kind", "clip"), _hints(Job)["kind"])
    for other, settings in KINDS.items():
        for name in settings.keys() & given.keys() - KINDS[kind].keys() - KINDS_OF_ALL:
            raise ValueError(f'"{name}" is for jobs with "kind": "{other}", but this one is "{kind}".')
    return {**KINDS[kind], **given}


def _check_prompts(prompts: Sequence[PromptFrom], length: int) -> None:
    frames = [prompt.frame for prompt in prompts]
    for frame in frames:
        if not 0 < frame < length:
            raise ValueError(f'A prompt has "frame": {frame}; it must be from 1 to {length - 1}, the last of the video.')
        if frames.count(frame) > 1:
            raise ValueError(f'Two prompts have "frame": {frame}: give each its own.')


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name) or name.startswith("."):
        raise ValueError(f'The name "{name[:40]}" cannot be a file: use letters, digits, "_", "-" and ".".')
    if (size := len(name.encode())) > NAME_BYTES:
        raise ValueError(f'The name "{name[:40]}..." takes {size} bytes, but a file may have {NAME_BYTES}: shorten it.')
    if name.casefold() == REPORT:
        raise ValueError(f'The name "{name}" is kept for the report of all jobs: choose another.')


def _check_numbers(job: Job) -> None:
    for what in ("width", "height", "length", "steps", "shift", "fps", "moving_frames", "anchor_distance"):
        if not getattr(job, what) > 0:
            raise ValueError(f'"{what}" is {getattr(job, what)}; it must be greater than 0.')
    if job.blend < 0:
        raise ValueError(f'"blend" is {job.blend}; it must be 0 or more.')
    for what in ("width", "height"):
        if getattr(job, what) % PIXELS:
            raise ValueError(f'"{what}" is {getattr(job, what)}; it must be a multiple of {PIXELS}.')
    latent_length(job.length)
    if not 0 <= job.seed < 2**63:
        raise ValueError(f'"seed" is {job.seed}; it must be from 0 to 2**63 - 1.')
    if not FPS[0] <= job.fps <= FPS[1]:
        raise ValueError(f'"fps" is {job.fps:g}; it must be from {FPS[0]} to {FPS[1]}.')


def _keyframe(given: Any, folder: Path) -> ImageAt | FramesOf | StartOf:
    if not isinstance(given, dict) or sum(source in given for source in ("image", "video", "clip")) != 1:
        raise ValueError('A keyframe must be an object with either "image", "video" or "clip".')
    if "image" in given:
        image = _checked(ImageAt, given)
        if image.image.startswith(JOB):
            raise ValueError(f'"{image.image[:60]}" is a video: write "video" for "image" to take frames of it.')
        return replace(image, image=_existing(image.image, folder))
    given = {**given, "noise": _noise_text(given.get("noise", ""))}
    if "clip" in given:
        clip = _checked(StartOf, {key: value for key, value in given.items() if (key, value) != ("noise", "")})
        clip.strength(0)
        return replace(clip, clip=_existing(clip.clip, folder))
    starts, latent = given.get("place", "start") == "start", given.get("unit") == "latent"
    extension = 4 if latent else 13
    given = {"count": extension if starts else extension - 1, **given}  # the first latent frame is one pixel frame
    noise = given["noise"]
    if noise == "":
        usual = starts and given["count"] == extension and given.get("take") != "chosen"
        noise = EXTENSION_NOISE if usual else "0.3"
    video = _checked(FramesOf, {**given, "noise": noise})
    return replace(video, video=_existing(video.video, folder))


def _noise_text(noise: Any) -> Any:
    """Noise multipliers as text, as which they are read; what can be none stays as it is."""
    if isinstance(noise, list):
        return ", ".join(map(str, noise))
    return str(noise) if type(noise) in (int, float) else noise


def _existing(source: str, folder: Path) -> str:
    """A keyframe's file as a whole path; a job's video stays as it is."""
    if source.startswith(JOB):
        return source
    if not os.path.isfile(folder / source):  # False, too, of names that no file can have
        raise ValueError(f"{folder / source} is not there: give the path of a file, from where the jobs' file lies.")
    return str((folder / source).resolve())


def _checked(kind: type, given: Any) -> Any:
    """A dataclass from plain values of the right types."""
    if not isinstance(given, dict):
        raise ValueError(f"{json.dumps(given)[:60]} must be an object of settings.")
    hints = _hints(kind)
    for key in given:
        if key not in hints or key in LISTS:
            near = difflib.get_close_matches(key, hints, 1)
            raise ValueError(f'"{key}" is no setting{f", did you mean {near[0]}?" if near else "; use " + ", ".join(hints)}')
    missing = [field.name for field in fields(kind) if field.default is MISSING and field.name not in given]
    if missing:
        raise ValueError(f'"{missing[0]}" is missing.')
    return kind(**{key: _value(key, value, hints[key]) for key, value in given.items()})


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _value(key: str, value: Any, hint: Any) -> Any:
    choices = get_args(hint)
    if get_origin(hint) is Literal:
        if value not in choices:
            raise ValueError(f'"{key}" is {json.dumps(value)[:60]}; use {", ".join(choices[:-1])} or {choices[-1]}.')
        return value
    kind = next((choice for choice in choices if choice is not NoneType), hint)  # of "float | None"
    if kind is float and type(value) is int and abs(value) < 2**63:
        return float(value)
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
        wanted = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}[kind]
        raise ValueError(f'"{key}" is {json.dumps(value)[:60]}; it must be {wanted}.')
    return value
