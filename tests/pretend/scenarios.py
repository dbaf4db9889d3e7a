"""What a user runs, through the pack's own nodes, with small models on whatever device ComfyUI has.

A scenario samples with so many steps and returns latents; what ComfyUI alone does, to compare with, stands beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import comfy.context_windows
import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from comfy.cli_args import LatentPreviewMethod, args
from comfy.patcher_extension import WrappersMP
from comfy_extras import nodes_custom_sampler as stock
from comfy_extras.nodes_model_advanced import ModelSamplingSD3
from torch import Tensor

from tests import tiny

SIZE, LENGTH, SHIFT, CFG, SEED = 64, 21, 5.0, 3.0, 7  # pixels, pixel frames
FRAMES = 6  # latent
BOUNDARY = 0.875


def write_models(folder: Path) -> None:
    tiny.write_wan(folder / "high.safetensors", seed=1)
    tiny.write_wan(folder / "low.safetensors", seed=2)
    tiny.write_lora(folder / "lora.safetensors")
    tiny.write_vae(folder / "vae.safetensors")


@dataclass
class Studio:
    """The models of a process and the pack that runs them.

    Attributes:
        folder: where `write_models` wrote.
        runs: the models that the last run sampled with, patched.
        kept: tensors that a faulty run keeps.
    """

    pack: ModuleType
    folder: Path
    runs: list[Any] = field(default_factory=list)
    kept: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.high, self.low = (tiny.load_wan(self.folder / f"{name}.safetensors") for name in ("high", "low"))
        self.vae = tiny.load_vae(self.folder / "vae.safetensors")
        self.positive, self.negative = (tiny.conditioning(seed=seed) for seed in (1, 2))
        self.latent, self.plan = self.planned({0: 0.2, -1: 0.5})

    def planned(self, keyframes: dict[int, float]) -> tuple[dict[str, Any], Any]:
        """LATENT and schedule of keyframes {pixel frame: noise multiplier}, as the nodes make them."""
        chain = None
        for frame, multiplier in keyframes.items():
            image = torch.rand(1, SIZE, SIZE, 3, generator=torch.Generator().manual_seed(frame % LENGTH))
            node = self.pack.nodes.keyframes.PusaKeyframe
            chain = node.execute(image, frame, "pixel", multiplier, "evolve", chain).args[0]
        schedule = self.pack.nodes.schedule.PusaSchedule
        return schedule.execute(self.vae, SIZE, SIZE, LENGTH, 1, "crop", chain).args[:2]

    def ksampler(self, model, steps: int, latent=None, schedule=None, low=None) -> Tensor:
        """Pusa KSampler's samples."""
        self.runs = [model] if low is None else [model, low]
        node = self.pack.nodes.sampling.PusaKSampler
        latent = latent or self.latent
        output = node.execute(
            model,
            self.positive,
            self.negative,
            latent,
            SEED,
            steps,
            CFG,
            "euler",
            "pusa",
            SHIFT,
            1.0,
            schedule,
            low,
            BOUNDARY,
        )
        return output.args[0]["samples"]

    def plainly(self, model, sigmas: Tensor, samples: Tensor, goes_on: bool = False) -> Tensor:
        """ComfyUI's own sampling."""
        self.runs = [model]
        model = ModelSamplingSD3().patch(model, SHIFT)[0]
        noise = torch.zeros_like(samples, device="cpu") if goes_on else comfy.sample.prepare_noise(samples, SEED)
        sampler, callback = comfy.samplers.sampler_object("euler"), latent_preview.prepare_callback(model, len(sigmas) - 1)
        return comfy.sample.sample_custom(
            model, noise, CFG, sampler, sigmas, self.positive, self.negative, samples, callback=callback, disable_pbar=True,
            seed=SEED,
        )  # fmt: skip

    def sigmas(self, steps: int) -> Tensor:
        return self.pack.nodes.sampling.PusaSigmas.execute(steps, SHIFT, 1.0).args[0]

    def weights(self) -> Iterator[Tensor]:
        """Of all models, with those that ComfyUI puts aside while they are patched."""
        for patcher in (self.high, self.low, self.vae.patcher):
            aside = [module for module in patcher.object_patches_backup.values() if isinstance(module, torch.nn.Module)]
            for module in (patcher.model, *aside):
                yield from (*module.parameters(), *module.buffers())
            yield from (backup.weight for backup in patcher.backup.values())

    def with_lora(self):
        loaded = self.pack.pusa_core.hosts.comfyui.load_pusa_lora(self.high, str(self.folder / "lora.safetensors"), 1.4)
        return loaded[0]


def empty(clips: int = 1) -> Tensor:
    return torch.zeros(clips, 16, FRAMES, SIZE // 8, SIZE // 8)


# --- by ComfyUI alone ------------------------------------------------------------------------------------------------


def plain(studio: Studio, steps: int) -> Tensor:
    return studio.plainly(studio.high, studio.sigmas(steps), empty())


def plain_lora(studio: Studio, steps: int) -> Tensor:
    return studio.plainly(studio.with_lora(), studio.sigmas(steps), empty())


def plain_windows(studio: Studio, steps: int) -> Tensor:
    return studio.plainly(windowed(studio.high), studio.sigmas(steps), empty())


def plain_batch(studio: Studio, steps: int) -> Tensor:
    return studio.plainly(studio.high, studio.sigmas(steps), empty(3))


def plain_stages(studio: Studio, steps: int) -> Tensor:
    return plain(studio, 2 * steps)


def plain_experts(studio: Studio, steps: int) -> Tensor:
    sigmas = studio.sigmas(2 * steps)
    split = int((sigmas[:-1] >= BOUNDARY).sum())
    halfway = studio.plainly(studio.high, sigmas[: split + 1], empty())
    return studio.plainly(studio.low, sigmas[split:], halfway, goes_on=True)


def plain_previews(studio: Studio, steps: int) -> Tensor:
    with previews() as shown:
        samples = plain(studio, steps)
    assert len(shown) == steps
    return samples


# --- with the pack ---------------------------------------------------------------------------------------------------


def ksampler(studio: Studio, steps: int) -> Tensor:
    return studio.ksampler(studio.high, steps)


def two_stages(studio: Studio, steps: int) -> Tensor:
    """Two of the pack's advanced samplers in a row, joined by the LATENT alone."""
    studio.runs = [studio.high]
    node, latent = studio.pack.nodes.sampling.PusaKSamplerAdvanced, studio.latent
    for noise, first, last, left in (("enable", 0, steps, "enable"), ("disable", steps, 2 * steps, "disable")):
        latent = node.execute(
            studio.high, studio.positive, studio.negative, latent, noise, SEED, 2 * steps, CFG, "euler", "pusa", SHIFT, first,
            last, left,
        ).args[0]  # fmt: skip
    return latent["samples"]


def two_experts(studio: Studio, steps: int) -> Tensor:
    return studio.ksampler(studio.high, 2 * steps, low=studio.low)


def stock_sampler(studio: Studio, steps: int) -> Tensor:
    """SamplerCustomAdvanced, with the schedule on the model."""
    studio.runs = [studio.high]
    model = studio.pack.nodes.schedule.PusaApplySchedule.execute(studio.high, studio.plan).args[0]
    guider = stock.CFGGuider.execute(ModelSamplingSD3().patch(model, SHIFT)[0], studio.positive, studio.negative, CFG).args[0]
    noise, sampler = stock.RandomNoise.execute(SEED).args[0], comfy.samplers.sampler_object("euler")
    latent = stock.SamplerCustomAdvanced.execute(noise, guider, sampler, studio.sigmas(steps), studio.latent).args[0]
    return latent["samples"]


def lora(studio: Studio, steps: int) -> Tensor:
    return studio.ksampler(studio.with_lora(), steps)


def windows(studio: Studio, steps: int) -> Tensor:
    return studio.ksampler(windowed(studio.high), steps)


def windowed(model):
    """ComfyUI's context windows with FreeNoise, as its node for Wan sets them."""
    model = model.clone()
    model.model_options["context_handler"] = comfy.context_windows.IndexListContextHandler(
        context_schedule=comfy.context_windows.get_matching_context_schedule("standard_static"),
        fuse_method=comfy.context_windows.get_matching_fuse_method("pyramid"),
        context_length=4, context_overlap=2, dim=2, freenoise=True,
    )  # fmt: skip
    comfy.context_windows.create_prepare_sampling_wrapper(model)
    comfy.context_windows.create_sampler_sample_wrapper(model)
    return model


def rolling(studio: Studio, steps: int) -> Tensor:
    core = studio.pack.pusa_core
    staircase = core.staircase.Staircase(steps, SHIFT, 1, window=core.staircase.Window(3))
    return studio.ksampler(studio.high, steps, {"samples": empty()}, core.plan.plan_clip([], LENGTH, None, staircase))


def forcing(studio: Studio, steps: int) -> Tensor:
    """Frames that follow one another, and attend to no later ones."""
    core = studio.pack.pusa_core
    staircase = core.staircase.Staircase(steps, SHIFT, 1, 2, causal=True)
    return studio.ksampler(studio.high, steps, {"samples": empty()}, core.plan.plan_clip([], LENGTH, None, staircase))


def with_previews(studio: Studio, steps: int) -> Tensor:
    with previews() as shown:
        samples = ksampler(studio, steps)
    assert len(shown) == steps
    return samples


@contextmanager
def previews() -> Iterator[list[Any]]:
    """ComfyUI's own previews of every step, made by latent2rgb, in a list."""
    shown: list[Any] = []
    method, args.preview_method = args.preview_method, LatentPreviewMethod.Latent2RGB
    try:
        with progress(lambda value, total, preview: shown.append(preview[1].getpixel((0, 0)))):
            yield shown
    finally:
        args.preview_method = method


@contextmanager
def progress(told: Callable[[int, int, Any], None]) -> Iterator[None]:
    """Hears of every step, as ComfyUI's server does."""
    comfy.utils.set_progress_bar_global_hook(lambda value, total, preview, **_: told(value, total, preview))
    try:
        yield
    finally:
        comfy.utils.set_progress_bar_global_hook(None)


def batch(studio: Studio, steps: int) -> Tensor:
    """Videos of different keyframes, one of them without any."""
    join, latent = studio.pack.nodes.schedule.PusaBatchLatents, studio.latent
    for keyframes in ({}, {5: 0.0}):
        latent = join.execute(latent, studio.planned(keyframes)[0]).args[0]
    return studio.ksampler(studio.high, steps, latent)


def bent(studio: Studio, steps: int) -> Tensor:
    """A frame that comes late, beside a keyframe."""
    core = studio.pack.pusa_core
    late, key = core.schedule.FrameMap(((0.0, 0.0), (0.5, 0.0), (1.0, 1.0))), core.schedule.FrameMap.line(0.2)
    schedule = core.schedule.FrameSchedule.build(FRAMES, {0: key, 3: late})
    return studio.ksampler(studio.high, steps, schedule=core.plan.Plan((schedule,), studio.plan.clean))


def schedule_node(studio: Studio, steps: int) -> Tensor:
    """No sampling: the VAE at work."""
    studio.runs = [studio.vae.patcher]
    return studio.planned({0: 0.2, 9: 0.3})[0]["samples"]


def error(studio: Studio, steps: int) -> Tensor:
    return _breaks_off(studio, steps, ArithmeticError("in the middle"))


def interrupt(studio: Studio, steps: int) -> Tensor:
    return _breaks_off(studio, steps, comfy.model_management.InterruptProcessingException())


def _breaks_off(studio: Studio, steps: int, exception: BaseException) -> Tensor:
    """What ComfyUI samples after a run of the pack's that ended in its first step."""

    def stop(value, total, preview):
        raise exception

    try:
        with progress(stop):
            ksampler(studio, steps)
    except type(exception) as caught:
        if caught is not exception:
            raise
    else:
        raise AssertionError("the run went through")
    return plain(studio, steps)


# --- with a fault, which the report must show ------------------------------------------------------------------------


def faulty(fault: Callable[[Studio, Tensor, Tensor], Any]) -> Callable[[Studio, int], Tensor]:
    """A run in which every model evaluation does something wrong with x and t."""

    def run(studio: Studio, steps: int) -> Tensor:
        def wrapper(executor, x, t, *rest, **more):
            fault(studio, x, t)
            return executor(x, t, *rest, **more)

        model = studio.high.clone()
        model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "a fault", wrapper)
        return studio.ksampler(model, steps)

    return run


@dataclass(frozen=True)
class Scenario:
    """A run with the pack.

    Attributes:
        plain: the same by ComfyUI alone, where what the host waits for is compared.
        added_waits: how often more the host may wait for one evaluation of the model.
    """

    run: Callable[[Studio, int], Tensor]
    plain: Callable[[Studio, int], Tensor] | None = plain
    added_waits: int = 0


SCENARIOS = {
    "plain": Scenario(plain, None),
    "Pusa KSampler": Scenario(ksampler),
    "two stages": Scenario(two_stages, plain_stages),
    "two experts": Scenario(two_experts, plain_experts),
    "SamplerCustomAdvanced": Scenario(stock_sampler),
    "LoRA": Scenario(lora, plain_lora),
    # ComfyUI cuts every cond of a clip's length by a list of numbers, which goes to the card: two windows of two conds.
    "context windows": Scenario(windows, plain_windows, added_waits=4),
    "rolling window": Scenario(rolling),
    "previews": Scenario(with_previews, plain_previews),
    "batch of different keyframes": Scenario(batch, plain_batch),
    "bent map": Scenario(bent),
    "Pusa Schedule": Scenario(schedule_node, None),
    "error": Scenario(error, None),
    "interrupt": Scenario(interrupt, None),
}

FAULTS = {
    "reads": Scenario(faulty(lambda studio, x, t: float(t[0]))),
    "leaks": Scenario(faulty(lambda studio, x, t: studio.kept.append(x + 1))),
    "mixes": Scenario(faulty(lambda studio, x, t: x + torch.ones(x.shape))),
    "overflows": Scenario(faulty(lambda studio, x, t: x.new_empty(2**30))),
}
