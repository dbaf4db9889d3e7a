"""The loss of clips that are not trained on: the same clips, sigmas and noise every time, so that losses compare."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from .data import ClipCache, cached_paths
from .settings import Settings
from .sharing import Groups

SEED = 20_250_722  # of all runs, so that these compare, too


def split_clips(settings: Settings) -> tuple[ClipCache, ClipCache | None]:
    """(the clips to train on, those held out).

    Raises:
        ValueError: the cache holds too few videos, or the clips held out are of another model.
    """
    if settings.held_out_cache is not None:
        clips, held = ClipCache(settings.cache, repeats=settings.repeats), ClipCache(settings.held_out_cache)
        if (clips.channels, clips.text_width) != (held.channels, held.text_width):
            raise ValueError(
                f"{held.folder} was cached with another VAE or text encoder than {clips.folder}: cache it again."
            )
        return clips, held
    if not settings.held_out:
        return ClipCache(settings.cache, repeats=settings.repeats), None
    paths = cached_paths(settings.cache)
    kept_out = held_out_videos(settings.cache, paths, settings.held_out)
    train, held_out = ([path for path in paths if (path in kept_out) is out] for out in (False, True))
    if not train or not held_out:
        raise ValueError(
            f"--held-out {settings.held_out} was given, but {settings.cache} holds the clips of one video only: "
            "cache more, or give --held-out-cache."
        )
    return ClipCache(settings.cache, train, settings.repeats), ClipCache(settings.cache, held_out)


def held_out_videos(folder: Path, paths: list[Path], share: float) -> set[Path]:
    """The cached clips of a share of the videos, at least one. Which ones follows from their names alone;
    all windows of a video go together."""
    videos: dict[str, list[Path]] = {}
    for path in paths:
        videos.setdefault(_video(path.relative_to(folder)), []).append(path)
    order = sorted(videos, key=lambda name: hashlib.sha256(name.encode()).digest())
    count = min(max(1, round(share * len(order))), len(order) - 1)
    return {path for name in order[:count] for path in videos[name]}


def _video(path: Path) -> str:
    """The video that a cached clip is a window of."""
    return re.sub(r"(\.[0-9]+)?\.safetensors$", "", path.as_posix())


@torch.no_grad()
def held_out_loss(
    accelerator: Accelerator, groups: Groups, count: int, clips: ClipCache, loss_of: Callable[[int, ClipCache], Tensor]
) -> float:
    """The mean loss of `count` samples, which the groups of processes share.

    Args:
        loss_of: the loss of the sample with a number, of one of the clips.
    """
    total = torch.zeros((), device=accelerator.device)
    for first in range(0, count, groups.count):  # all processes run the model as often: sharded ones have to
        number = first + groups.index
        loss = loss_of(number % count, clips).detach()
        total += loss if number < count else torch.zeros_like(loss)
    return float(accelerator.reduce(total, "sum")) / (groups.size * count)
