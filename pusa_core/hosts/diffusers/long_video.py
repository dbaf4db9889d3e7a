"""A long video on Diffusers: each step of a rolling window is an Euler step with the pipeline's own models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor

from ...plan import Plan
from ...prompts import mixed, prompts_at
from ...roll_files import RollFolder, settings_key
from ...rolling import GRID, Made, Roll, Studio, WindowStep, noise_by_frame
from ...streaming import StreamingDecoder
from ...video_files import VideoWriter
from ...virtual_latent import per_frame
from .per_frame import velocity


@dataclass(frozen=True)
class LongVideo:
    """A long video, made while it is iterated over: pictures (N, H, W, 3) in [0, 1], 1 and then 4 at a time.

    Attributes:
        begin: a run of it, from where the last one stopped.
        notes: where each keyframe went, one sentence each.
        folder: where latents are kept on the way; None keeps none.
        progress_bar: the pipeline's.
        end: called when it is done, or given up.
    """

    begin: Callable[[], Roll]
    notes: tuple[str, ...]
    folder: RollFolder | None
    progress_bar: Callable[..., Any]
    end: Callable[[], None]

    def __iter__(self) -> Iterator[Tensor]:
        roll = self.begin()
        made: Iterator[Made] = iter(roll) if self.folder is None else self.folder.keep(roll)
        try:
            with self.progress_bar(total=roll.frames) as bar:
                for frame in made:
                    bar.update()
                    yield frame.pictures[0]
        finally:
            self.end()

    def save(self, path: str | Path, fps: float = 16.0) -> Path:
        """Writes an H.264 video as it is made, which can be watched meanwhile; what was kept on the way is removed then."""
        path = Path(path)
        with VideoWriter(path, fps) as writer:
            for pictures in self:
                writer.write(pictures)
        if self.folder is not None:
            self.folder.remove()
        return path


@dataclass(frozen=True)
class Guidance:
    """What a step is guided by; texts are (1, L, text width), on the models' device.

    Attributes:
        positive: of a pixel frame by number.
        negative: None without guidance.
        scales: guidance of every transformer.
        boundary: sigma below which a frame is sampled by the second transformer, where there is one.
    """

    positive: Callable[[int], Tensor]
    negative: Tensor | None
    scales: tuple[float, ...]
    boundary: float


def by_frame(given: Any, length: int) -> dict[int, Any]:
    """Prompts, or embeddings of such, by the pixel frame at which each begins to hold; one alone holds from the start.

    Args:
        length: frames of the video.

    Raises:
        ValueError: a frame is none of the video's, or a prompt is none.
    """
    found = dict(given) if isinstance(given, Mapping) else {0: given}
    if not found or not all(type(frame) is int and 0 <= frame < length for frame in found):
        raise ValueError(
            f"Prompts were given for the frames {[*found]}: give whole numbers from 0 to {length - 1}, as "
            '{0: "a boat", 120: "a storm"}.'
        )
    if wrong := [type(prompt).__name__ for prompt in found.values() if not isinstance(prompt, str | Tensor)]:
        raise ValueError(f"A long video's prompt is of the type {wrong[0]}: give text, or prompt_embeds.")
    return dict(sorted(found.items()))


def embedded(pipe: Any, text: Any, length: int) -> Tensor:
    """A prompt, or an embedding of one, (1, L, text width)."""
    if not isinstance(text, Tensor):
        text = pipe.encode_prompt(text, do_classifier_free_guidance=False, max_sequence_length=length)[0]
    return text.to(pipe._execution_device)


def blended(texts: Mapping[int, Tensor], blend: int) -> Callable[[int], Tensor]:
    """The text of a pixel frame; `texts` by the frames at which they begin to hold, in order."""
    begins = [*texts]

    def at(frame: int) -> Tensor:
        first, second, share = prompts_at(begins, blend, frame)
        before, after = texts[begins[first]], texts[begins[second]]
        return before if first == second else mixed(before, after, share)

    return at


def long_video_studio(pipe: Any, guidance: Guidance, seed: int, shape: tuple[int, int, int, int]) -> Studio:
    """What a pipeline can do for a long video; latents and pictures it gives are on the CPU.

    Args:
        shape: of its latents without frames, (1, C, h, w).

    Raises:
        ValueError: the VAE decodes whole clips only.
    """
    decoder = StreamingDecoder(pipe.vae.decoder, pipe._decode)

    @torch.no_grad()
    def decode(latent: Tensor) -> Tensor:
        return decoder.push(latent.to(pipe._execution_device)).cpu()

    @torch.no_grad()
    def encode(pictures: Tensor) -> Tensor:
        return pipe._normalised(pipe._encode(pictures[0])).cpu()

    return Studio(noise_by_frame(seed, shape), _Sampler(pipe, guidance), decode, encode)


@dataclass(frozen=True)
class _Sampler:
    pipe: Any
    guidance: Guidance

    @torch.no_grad()
    def __call__(self, step: WindowStep, plan: Plan, latents: Tensor) -> Tensor:
        device = self.pipe._execution_device
        text = self.guidance.positive(step.goes_on_from)
        grid, table, latents = GRID.to(device), plan.table.to(device), latents.to(device)
        clean = (torch.zeros_like(latents) if plan.clean is None else plan.clean).to(device)
        sigma, lower = grid
        at = table.at(sigma, grid)
        x = at.to_virtual(latents, clean)
        frames, sigmas = at.to_frame(x, clean), (at.ratio * sigma).expand(len(x), -1)
        made = self._velocity(frames, sigmas, plan, text, step.sigmas[1].to(device))
        x = x + at.velocity(x, clean, made, sigma) * (lower - sigma)
        return table.at(lower).to_frame(x, clean).cpu()

    def _velocity(self, frames: Tensor, sigmas: Tensor, plan: Plan, text: Tensor, own: Tensor) -> Tensor:
        """The guided velocity; with two transformers each frame follows the one for its `own` sigma."""
        made = [
            self._guided(wan, scale, frames, sigmas, plan, text)
            for wan, scale in zip(self.pipe.transformers, self.guidance.scales)
        ]
        if len(made) == 1:
            return made[0]
        high, low = made
        return torch.where(per_frame(own[None]) >= self.guidance.boundary, high, low)

    def _guided(self, wan: Any, scale: float, frames: Tensor, sigmas: Tensor, plan: Plan, text: Tensor) -> Tensor:
        def predict(embedding: Tensor) -> Tensor:
            return velocity(wan, frames.to(wan.dtype), sigmas, embedding.to(wan.dtype), plan.positions).float()

        positive = predict(text)
        if self.guidance.negative is None or scale == 1:
            return positive
        negative = predict(self.guidance.negative)
        return negative + scale * (positive - negative)


def video_key(
    pipe: Any,
    plain: Sequence[Any],
    texts: Mapping[int, Tensor],
    negative: Tensor | None,
    given: Mapping[int, tuple[Tensor, float]],
) -> str:
    """Another one for everything that makes another video."""
    settings = {"settings": plain, "negative": negative}
    settings |= {f"text {frame}": text for frame, text in texts.items()}
    settings |= {f"keyframe {frame}, noise {m}": latent for frame, (latent, m) in given.items()}
    for number, wan in enumerate(pipe.transformers):
        settings |= _fingerprint(f"model {number}", wan)
    return settings_key(settings)


def _fingerprint(name: str, wan: Any) -> dict[str, Any]:
    """What tells a transformer from others, cheaply: some weights, its LoRAs' and their strengths."""
    found: dict[str, Any] = {f"{name} weights": wan.proj_out.weight.detach().flatten()[:4096]}
    layers: Iterator[Any] = (module for module in wan.modules() if isinstance(module, LoraLayer))
    for layer in islice(layers, 1):
        for adapter in layer.active_adapters:
            found[f"{name} {adapter}"] = layer.lora_B[adapter].weight.detach().flatten()[:4096]
            found[f"{name} {adapter} strength"] = layer.scaling[adapter]
    return found
