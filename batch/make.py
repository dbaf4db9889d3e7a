"""One job -> a video and a sidecar that says everything that made it."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from diffusers import ContextParallelConfig, WanPipeline
from PIL import Image, ImageOps
from torch import Tensor

from pusa_core.frames import TEMPORAL_STRIDE
from pusa_core.hosts.diffusers import PusaScheduler, PusaWanPipeline
from pusa_core.keyframes import LEAD_IN, Keyframe, still_keyframe, video_keyframes
from pusa_core.pictures import fit_pictures
from pusa_core.videos import read_frames, write_video

from .jobs import FramesOf, ImageAt, Job

DEMO = "demo"
PACKAGES = ("torch", "diffusers", "transformers", "peft", "safetensors")


@dataclass(frozen=True)
class Models:
    """What makes the videos.

    Attributes:
        model: a Diffusers folder or repository of Wan text to video, or "demo", the model that comes with the pack.
        lora, low_noise_lora: Pusa LoRA files; the second is for Wan2.2's low-noise model.
        extra_lora, low_noise_extra_lora: other LoRAs beside them, as Lightning.
        offload: what Diffusers does to save memory.
        ulysses, ring: over how many processes one video is split; see README.md.
    """

    model: str = DEMO
    lora: str | None = None
    alpha: float = 1.4
    low_noise_lora: str | None = None
    low_noise_alpha: float = 1.4
    extra_lora: str | None = None
    low_noise_extra_lora: str | None = None
    extra_alpha: float = 1.0
    device: str = "cpu"
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    offload: Literal["none", "model", "group"] = "none"
    vae_tiling: bool = False
    ulysses: int = 1
    ring: int = 1


def open_pipeline(models: Models) -> PusaWanPipeline:
    """The pipeline, ready to be called.

    Raises:
        ValueError: a model or LoRA cannot be used; the message says why.
    """
    if models.model == DEMO:
        pipe = _open_demo(models)
    else:
        try:
            wan = WanPipeline.from_pretrained(models.model, torch_dtype=getattr(torch, models.dtype))
        except (OSError, ValueError) as error:
            raise ValueError(f"{models.model} is no Diffusers folder of Wan text to video ({error}).") from error
        pipe = PusaWanPipeline.from_wan(wan)
    for low_noise, extra in ((False, models.extra_lora), (True, models.low_noise_extra_lora)):
        if extra:
            pipe.load_lora_weights(extra, adapter_name="extra", load_into_transformer_2=low_noise)
            (pipe.transformer_2 if low_noise else pipe.transformer).set_adapters("extra", models.extra_alpha)
    for low_noise, lora, alpha in (
        (False, models.lora, models.alpha),
        (True, models.low_noise_lora, models.low_noise_alpha),
    ):
        if lora:
            pipe.load_pusa_lora(lora, alpha, low_noise)
    if models.vae_tiling:
        pipe.vae.enable_tiling()
    _place(pipe, models)
    _split(pipe, models)
    return pipe


def _open_demo(models: Models) -> PusaWanPipeline:
    """The demo model, with its own LoRA where none is named."""
    from demo_model import LORA
    from demo_model.pipeline import open_demo

    return open_demo(None if models.lora else LORA)


def _place(pipe: PusaWanPipeline, models: Models) -> None:
    device = torch.device(models.device)
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    if models.offload == "model":
        pipe.enable_model_cpu_offload(device=device)
    elif models.offload == "group":
        pipe.enable_group_offload(device, offload_type="leaf_level", use_stream=device.type == "cuda")
    else:
        pipe.to(device)


def _split(pipe: PusaWanPipeline, models: Models) -> None:
    """Diffusers' context parallelism over the processes that torchrun started."""
    processes = int(os.environ.get("WORLD_SIZE", 1))
    if processes != models.ulysses * models.ring:
        raise ValueError(
            f"--ulysses {models.ulysses} and --ring {models.ring} need {models.ulysses * models.ring} processes, but there "
            f"are {processes}: start with torchrun --nproc_per_node {models.ulysses * models.ring} -m batch ..."
        )
    if processes > 1:
        torch.distributed.init_process_group()
        for wan in pipe.transformers:
            wan.enable_parallelism(config=ContextParallelConfig(ring_degree=models.ring, ulysses_degree=models.ulysses))


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
        start = time.monotonic()
        pipe = self.pipe
        pipe.scheduler = PusaScheduler(shift=job.shift)
        fitted = partial(fit_pictures, width=job.width, height=job.height, method=job.fit)
        plan = pipe.plan([read_keyframe(k, fitted) for k in job.keyframes], job.height, job.width, job.length)
        pipe.set_progress_bar_config(desc=job.name, leave=False)
        frames = pipe(
            prompt=job.prompt, negative_prompt=job.negative_prompt, keyframes=plan, height=job.height, width=job.width,
            num_frames=job.length, num_inference_steps=job.steps, guidance_scale=job.cfg, output_type="pt",
            generator=torch.Generator().manual_seed(job.seed),
        ).frames[0]  # fmt: skip
        pictures = frames.float().cpu().permute(0, 2, 3, 1)
        if not torch.isfinite(pictures).all():
            raise ValueError("The model made numbers that are not finite: use --dtype bfloat16 or float32, or another LoRA.")
        if int(os.environ.get("RANK", 0)) > 0:  # every process of a split video has all of it
            return video_path(self.folder, job)
        told = {
            "key": key(job, self.models), "job": job.told(), "models": asdict(self.models),
            "inputs": {str(path): _digest(path) for path in job.inputs}, "schedule": json.loads(plan.schedule.to_json()),
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
    loras = [Path(path) for path in (models.lora, models.low_noise_lora) if path]
    stamps = [f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in [*loras, *job.inputs] if path.is_file()]
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
    return video_path(folder, job).is_file() and told.get("key") == key(job, models)


def save(folder: Path, job: Job, pictures: Tensor, told: dict[str, Any]) -> Path:
    """Writes the video, and its sidecar last: a job that was cut off has none, and is made again."""
    path = video_path(folder, job)
    sidecar = path.with_suffix(".json")
    part = path.with_suffix(f".{os.getpid()}.part")
    sidecar.unlink(missing_ok=True)
    write_video(part, pictures, job.fps)
    part.replace(path)
    part.write_text(json.dumps(told, indent=1), encoding="utf-8")
    part.replace(sidecar)
    return path


def versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
