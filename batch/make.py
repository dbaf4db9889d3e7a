"""One job -> a video and a sidecar that says everything that made it."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import av  # noqa: F401  # missing, it is to be told now and not when the first video is written
import numpy as np
import torch
from diffusers import ContextParallelConfig, WanPipeline
from PIL import Image, ImageOps
from torch import Tensor

from pusa_core.frames import TEMPORAL_STRIDE
from pusa_core.hosts.diffusers import PusaScheduler, PusaWanPipeline
from pusa_core.keyframes import LEAD_IN, Keyframe, still_keyframe, video_keyframes
from pusa_core.resize import fit_images
from pusa_core.video_files import read_frames, write_video

from .jobs import FramesOf, ImageAt, Job

DEMO = "demo"
PACKAGES = ("torch", "diffusers", "transformers", "peft", "safetensors")


@dataclass(frozen=True)
class Models:
    """What makes the videos.

    Attributes:
        model: a Diffusers folder or repository of Wan text to video, or "demo", the model that comes with the pack.
        lora, low_noise_lora: Pusa LoRA files; the second is for Wan2.2's low-noise model.
        alpha, low_noise_alpha: their strengths; default 1.4, and 1 for the demo model's own.
        extra_lora, low_noise_extra_lora: other LoRAs beside them, as Lightning.
        device, dtype: "auto" is a GPU and bfloat16 where there is one, else the CPU and float32.
        offload: what Diffusers does to save memory.
        ulysses, ring: over how many processes one video is split; see README.md.
    """

    model: str = DEMO
    lora: str | None = None
    alpha: float | None = None
    low_noise_lora: str | None = None
    low_noise_alpha: float = 1.4
    extra_lora: str | None = None
    low_noise_extra_lora: str | None = None
    extra_alpha: float = 1.0
    device: str = "auto"
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    offload: Literal["none", "model", "group"] = "none"
    vae_tiling: bool = False
    ulysses: int = 1
    ring: int = 1

    @property
    def loras(self) -> list[tuple[str | None, float, bool]]:
        """(Pusa LoRA, alpha, whether it is for the low-noise model)."""
        from demo_model import LORA

        if self.model == DEMO and self.lora is None:
            return [(str(LORA), 1.0 if self.alpha is None else self.alpha, False)]
        return [
            (self.lora, 1.4 if self.alpha is None else self.alpha, False),
            (self.low_noise_lora, self.low_noise_alpha, True),
        ]

    @property
    def files(self) -> list[Path]:
        """All that are named, where they are files or folders here."""
        named = [self.model, self.extra_lora, self.low_noise_extra_lora, *(lora for lora, _, _ in self.loras)]
        return [Path(name) for name in named if name and Path(name).exists()]

    def found(self) -> Models:
        """The same with whole paths, which workers elsewhere need."""
        names = ("model", "lora", "low_noise_lora", "extra_lora", "low_noise_extra_lora")
        paths = {name: Path(getattr(self, name)) for name in names if getattr(self, name)}
        whole: dict[str, Any] = {name: str(path.resolve()) for name, path in paths.items() if path.exists()}
        return replace(self, **whole)


def is_writer() -> bool:
    """Whether this process writes and tells; the others of a split video do not."""
    return int(os.environ.get("RANK", 0)) == 0


def open_pipeline(models: Models) -> PusaWanPipeline:
    """The pipeline, ready to be called.

    Raises:
        ValueError: a model or LoRA cannot be used; the message says why.
    """
    _check_processes(models)
    device = _device(models)
    dtype = models.dtype if models.dtype != "auto" else "float32" if device.type == "cpu" else "bfloat16"
    pipe = _open(models.model, getattr(torch, dtype))
    for lora, low_noise in ((models.extra_lora, False), (models.low_noise_extra_lora, True)):
        if lora:
            _load_extra(pipe, lora, models.extra_alpha, low_noise)
    for lora, alpha, low_noise in models.loras:
        if lora:
            pipe.load_pusa_lora(lora, alpha, low_noise)
    if models.vae_tiling:
        pipe.vae.enable_tiling()
    if models.offload == "model":
        pipe.enable_model_cpu_offload(device=device)
    elif models.offload == "group":
        pipe.enable_group_offload(device, offload_type="leaf_level", use_stream=device.type == "cuda")
    else:
        pipe.to(device)
    if models.ulysses * models.ring > 1:
        torch.distributed.init_process_group()
        for wan in pipe.transformers:
            wan.enable_parallelism(config=ContextParallelConfig(ring_degree=models.ring, ulysses_degree=models.ulysses))
    return pipe


def _check_processes(models: Models) -> None:
    processes, wanted = int(os.environ.get("WORLD_SIZE", 1)), models.ulysses * models.ring
    if processes != wanted:
        raise ValueError(
            f"--ulysses {models.ulysses} and --ring {models.ring} need {wanted} processes, but there are {processes}: "
            f"start with torchrun --nproc_per_node {wanted} -m batch ..."
        )


def _device(models: Models) -> torch.device:
    name = models.device if models.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f'"{name}" is no device: use cuda, cuda:1, mps or cpu.') from error
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError("There is no GPU that torch can use: leave --device out, or install torch for CUDA.")
        torch.cuda.set_device(device)
    return device


def _open(model: str, dtype: torch.dtype) -> PusaWanPipeline:
    if model == DEMO:
        from demo_model.pipeline import open_demo

        return open_demo(dtype)
    try:
        wan = WanPipeline.from_pretrained(model, torch_dtype={"default": dtype, "vae": torch.float32})
    except (OSError, ValueError) as error:
        raise ValueError(f"{model} is no Diffusers folder of Wan text to video ({error}).") from error
    return PusaWanPipeline.from_wan(wan)


def _load_extra(pipe: PusaWanPipeline, lora: str, alpha: float, low_noise: bool) -> None:
    wan = pipe.transformer_2 if low_noise else pipe.transformer
    if wan is None:
        raise ValueError(f"{lora} is for a low-noise model, which this one does not have: it is for Wan2.2.")
    if lora.endswith((".safetensors", ".pt")) and not Path(lora).is_file():  # else it is looked for on the hub
        raise ValueError(f"{lora} is not there: give the path of a LoRA file, or the name of a repository.")
    try:
        pipe.load_lora_weights(lora, adapter_name="extra", load_into_transformer_2=low_noise)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{lora} cannot be loaded ({error}): give a LoRA for this Wan.") from error
    wan.set_adapters("extra", alpha)


class Maker:
    """Opens the models once, and makes one video after another."""

    def __init__(self, models: Models, folder: Path):
        self.models, self.folder = models, folder
        self.pipe = open_pipeline(models)

    def make(self, job: Job) -> Path:
        """Makes a job's video; what was there under its name is replaced only when the new one is whole.

        Raises:
            ValueError: the job cannot be made; the message says why.
        """
        start, made_of = time.monotonic(), key(job, self.models)
        video = video_path(self.folder, job)
        pipe = self.pipe
        pipe.scheduler = PusaScheduler(shift=job.shift)
        fitted = partial(fit_images, width=job.width, height=job.height, method=job.fit)
        plan = pipe.plan([read_keyframe(k, fitted) for k in job.keyframes], job.height, job.width, job.length)
        pipe.set_progress_bar_config(desc=job.name, leave=False, disable=not is_writer())
        frames = pipe(
            prompt=job.prompt, negative_prompt=job.negative_prompt, keyframes=plan, height=job.height, width=job.width,
            num_frames=job.length, num_inference_steps=job.steps, guidance_scale=job.cfg, output_type="pt",
            generator=torch.Generator().manual_seed(job.seed),
        ).frames[0]  # fmt: skip
        pictures = frames.float().cpu().permute(0, 2, 3, 1)
        if not torch.isfinite(pictures).all():
            raise ValueError("The model made numbers that are not finite: use --dtype bfloat16 or float32, or another LoRA.")
        if not is_writer():  # every process of a split video has all of it
            return video
        told = {
            "key": made_of, "job": job.told(), "models": asdict(self.models),
            "inputs": {str(path): digest(path) for path in [*job.inputs, *self.models.files] if path.is_file()},
            "schedule": json.loads(plan.schedule.to_json()),
            "notes": plan.notes, "sigmas": [float(s) for s in pipe.scheduler.sigmas], "versions": versions(),
            "machine": platform.node(), "seconds": round(time.monotonic() - start, 2),
        }  # fmt: skip
        return save(self.folder, job, pictures, told)


def read_keyframe(keyframe: ImageAt | FramesOf, fitted: Callable[[Tensor], Tensor]) -> Keyframe:
    """A job's keyframe with its pictures.

    Args:
        fitted: pictures of any size -> of the video's.

    Raises:
        ValueError: the file cannot be read, or its frames do not fit.
    """
    if isinstance(keyframe, ImageAt):
        picture = fitted(read_image(Path(keyframe.image)))
        return still_keyframe(picture, keyframe.frame, keyframe.unit, keyframe.noise, keyframe.behaviour)
    frames: Iterator[Tensor] = map(fitted, read_frames(Path(keyframe.video)))
    needed = keyframe.count * (TEMPORAL_STRIDE if keyframe.unit == "latent" else 1) + LEAD_IN
    if keyframe.take == "first":
        frames = islice(frames, needed)
    pictures = deque(frames, needed if keyframe.take == "last" else None)
    if not pictures:
        raise ValueError(f"{keyframe.video} has no pictures: check the file.")
    return video_keyframes(
        torch.cat(list(pictures)), keyframe.take, keyframe.count, keyframe.unit, keyframe.place, keyframe.frame,
        keyframe.noise, keyframe.behaviour, keyframe.chosen,
    )  # fmt: skip


def read_image(path: Path) -> Tensor:
    """A picture file, (1, H, W, 3) in [0, 1]."""
    try:
        with Image.open(path) as image:
            pixels = np.asarray(ImageOps.exif_transpose(image).convert("RGB"), dtype=np.float32)
    except OSError as error:
        raise ValueError(f"{path} is no picture that can be read ({error}): check the file.") from error
    return torch.from_numpy(pixels / 255)[None]


def key(job: Job, models: Models) -> str:
    """What a job's video follows from: the same key, the same video."""
    files = [path for path in [*job.inputs, *models.files] if path.is_file()]
    stamps = [f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in files]
    text = json.dumps([job.told(), {**asdict(models), "device": "", "offload": ""}, stamps], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def video_path(folder: Path, job: Job) -> Path:
    return folder / f"{job.name}.mp4"


def is_made(folder: Path, job: Job, models: Models) -> bool:
    """Whether the video is there, made with these settings from these files."""
    try:
        told = json.loads(video_path(folder, job).with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return video_path(folder, job).is_file() and isinstance(told, dict) and told.get("key") == key(job, models)


def save(folder: Path, job: Job, pictures: Tensor, told: dict[str, Any]) -> Path:
    """Writes the video, and its sidecar last: a job that was cut off has none, and is made again."""
    path = video_path(folder, job)
    sidecar, part = path.with_suffix(".json"), path.with_suffix(f".{os.getpid()}.part")
    try:
        write_video(part, pictures, job.fps)
        sidecar.unlink(missing_ok=True)
        part.replace(path)
        part.write_text(json.dumps(told, indent=1), encoding="utf-8")
        part.replace(sidecar)
    finally:
        part.unlink(missing_ok=True)
    return path


def versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def digest(path: Path) -> str:
    """SHA-256 of a file; of one that has not changed it is computed once."""
    return _digest(path, path.stat().st_mtime_ns)


@cache
def _digest(path: Path, changed: int) -> str:
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            sha.update(block)
    return sha.hexdigest()
