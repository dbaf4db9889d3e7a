"""A long video on its way, on disk: what a run that was stopped or died needs to go on where it was."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from .messages import fault
from .rolling import Made, Progress, Roll

STATE = "progress.safetensors"
DENOISED = "denoised "  # before a frame's number


def settings_key(settings: dict[str, Any]) -> str:
    """A short name for everything that a video follows from: plain values, and tensors by their content."""
    digest = hashlib.sha256()
    for name, value in sorted(settings.items()):
        digest.update(f"{name}=".encode())
        if isinstance(value, Tensor):
            digest.update(repr(tuple(value.shape)).encode())
            digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
        else:
            digest.update(json.dumps(value, sort_keys=True).encode())
    return digest.hexdigest()[:16]


class RollFolder:
    """The folder of one video: a file for each finished latent frame, and one for the frames that have begun.

    The latter is put in place whole, after the former, so that a run that dies at any moment leaves what can be gone on from.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def save(self, made: Made, progress: Progress) -> None:
        """Keeps a frame that was made, and after the last one of a step where the run stands."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._put({"latent": made.latent.contiguous()}, self._latent(made.frame), {})
        if made.frame + 1 == progress.frames:
            tensors = {str(frame): latent for frame, latent in progress.moving.items()}
            tensors |= {f"{DENOISED}{frame}": latent for frame, latent in progress.denoised.items()}
            tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
            self._put(tensors, STATE, {"steps": str(progress.steps), "frames": str(progress.frames)})

    def keep(self, roll: Roll) -> Iterator[Made]:
        """Runs it; each frame that is made is kept before it is passed on."""
        existing = max(roll.given, roll.progress.frames)
        for made in roll:
            if made.frame >= existing:
                self.save(made, roll.progress)
            yield made

    def load(self, given: int) -> Progress:
        """Where an earlier run stopped; the beginning if there was none.

        Raises:
            ValueError: its files are damaged.
        """
        try:
            with safe_open(self.folder / STATE, "pt") as state:
                about = state.metadata()
                tensors = {name: state.get_tensor(name) for name in state.keys()}  # noqa: SIM118  # no mapping
            denoised = {int(n.removeprefix(DENOISED)): tensors.pop(n) for n in [*tensors] if n.startswith(DENOISED)}
            moving = {int(name): tensor for name, tensor in tensors.items()}
            steps, frames = int(about["steps"]), int(about["frames"])
        except FileNotFoundError:
            return Progress()
        except (OSError, KeyError, ValueError, TypeError, SafetensorError) as error:
            raise fault(
                "This video's state in {folder} cannot be read ({error}): delete that folder.",
                folder=self.folder,
                error=error,
            ) from error
        return Progress(steps, frames, moving, denoised, lambda: self.latents(given, frames))

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def latents(self, first: int, end: int) -> Iterator[Tensor]:
        """Those of the saved frames `first` to `end - 1`, (B, C, 1, h, w) each, read one by one."""
        for frame in range(first, end):
            yield load_file(self.folder / self._latent(frame))["latent"]

    @staticmethod
    def _latent(frame: int) -> str:
        return f"latent_{frame:06}.safetensors"

    def _put(self, tensors: dict[str, Tensor], name: str, metadata: dict[str, str]) -> None:
        partial = self.folder / f"{name}.part"
        save_file(tensors, partial, metadata)
        os.replace(partial, self.folder / name)
