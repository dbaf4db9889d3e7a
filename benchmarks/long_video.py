"""Long video on the demo model: a rolling window against repeated extension, with figures that have a known answer.

Each clip shows one object that bounces; its first 5 frames are given, and the prompt says which way it goes now. Methods get
the same clips and noise; brackets are 95 % intervals of means over clips (Student's t) and seeds.

- track: pixels (of 64) between the object and its true track, in the last quarter of the frames.
- law: pixels between the object and where its own motion says that it must be 4 frames later.
- background: difference from the true background in the last quarter, in levels of 255.
- permanence: share of the made frames in which the object is there with at least half of its area.
- pop: error of the speed at the borders of latent frames, and elsewhere, in pixels a frame.
- growth: how much larger the track's or background's error is in the last quarter than in the second.
- cost: latent frames that go through the model for each new one (a half of them without guidance).

Each part is a table of `results.md`, and is made by itself.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import bench
import torch
from torch import Tensor

from demo_model import LORA
from demo_model.measure_long import background_errors, law_errors, presence, speed_errors, track_errors
from demo_model.studio import Studio as Demo
from demo_model.text import encode
from demo_model.world import LENGTH, TEST_SEEDS, Scene, draw, scene
from pusa_core.frames import pixel_length
from pusa_core.intervals import mean_interval
from pusa_core.keyframes import Keyframe, still_keyframe, video_keyframes
from pusa_core.plan import Plan, plan_clip
from pusa_core.rolling import Roll, WindowStep
from pusa_core.schedule import FrameSchedule
from pusa_core.staircase import Staircase, Window

SCENES = TEST_SEEDS + 7000
GIVEN = 2  # latent frames
CHUNK = 5  # latent frames of the clips that the model was trained on


@dataclass(frozen=True)
class Settings:
    """Those of every method.

    Attributes:
        cfg: the demo model's backgrounds stay nearer to the truth at 2 than at the nodes' 3.
        alpha: strength of the Pusa LoRA; backgrounds drift less at 0.8 than at 1.
    """

    cfg: float = 2.0
    shift: float = 5.0
    alpha: float = 0.8


@dataclass
class Maker:
    """The demo model with its Pusa LoRA, on clips of one seed.

    Attributes:
        evaluated: latent frames that went through the model, for all clips together.
    """

    demo: Demo
    scenes: Sequence[Scene]
    latents: int
    seed: int
    settings: Settings = Settings()
    evaluated: int = 0
    texts: dict[int, Any] = field(default_factory=dict)

    def positive(self, frame: int) -> Any:
        if frame not in self.texts:
            self.texts[frame] = [[torch.cat([encode(s.caption_at(frame)) for s in self.scenes]), {}]]
        return self.texts[frame]

    @property
    def negative(self) -> Any:
        return [[torch.zeros_like(self.positive(0)[0][0]), {}]]

    @property
    def model(self) -> Any:
        return self.demo.model(LORA, self.settings.alpha)

    def roll(
        self,
        moving: int,
        anchor: bool = True,
        kind: type[Roll] = Roll,
        later: Mapping[int, Tensor] | None = None,
        **options: Any,
    ) -> Tensor:
        """A rolling window.

        Args:
            later: the VAE's latents (B, C, 1, h, w) of latent frames that are met on the way.
            options: of `Roll`.
        """
        from pusa_core.hosts.comfyui.long_video import Guidance, long_video_studio

        size = moving + 1 + anchor
        staircase = Staircase(moving, self.settings.shift, 1, window=Window(size, (0,) if anchor else ()))
        guidance, shape = Guidance(self.positive, self.negative, self.settings.cfg), (len(self.scenes), 16, 8, 8)
        studio = long_video_studio(self.model, self.demo.vae, guidance, self.seed, shape)

        def counted(step: WindowStep, plan: Plan, latents: Tensor) -> Tensor:
            self._count(latents.shape[2])
            return studio.euler(step, plan, latents)

        form = self.model.model.latent_format
        start = torch.cat([form.process_in(self.demo.encode(clip)) for clip in draw(self.scenes, pixel_length(GIVEN))])
        given = {frame: (start[:, :, frame : frame + 1], 0.0) for frame in range(GIVEN)}
        given |= {frame: (form.process_in(latent), 0.0) for frame, latent in (later or {}).items()}
        roll = kind(staircase, self.latents, given, replace(studio, euler=counted), **options)
        return torch.cat([made.pictures for made in roll], dim=1)

    def chunks(self, steps: int, anchored: bool = False) -> Tensor:
        """Each clip goes on from the last 5 frames of the one before; anchored, from the video's first and its last 4, which
        start with some noise and are held."""
        video = draw(self.scenes, pixel_length(GIVEN))
        while video.shape[1] < pixel_length(self.latents):
            more = self._extended([_anchored(v) if anchored else _last(v) for v in video], steps, video.shape[1] - 1)
            video = torch.cat([video, more], dim=1)
        return video[:, : pixel_length(self.latents)]

    def _extended(self, keyframes: list[list[Keyframe]], steps: int, frame: int) -> Tensor:
        plans = [plan_clip(k, pixel_length(CHUNK), self.demo.encode) for k in keyframes]
        plan = replace(plans[0], clean=torch.cat([p.clean for p in plans if p.clean is not None]))
        latent = self.demo.host.plan_latent(self.demo.vae, plan, 64, 64, pixel_length(CHUNK), len(keyframes))
        settings, scheduler = self.settings, self.demo.host.PUSA_SCHEDULER
        sampling = self.demo.host.Sampling(self.seed + frame, steps, settings.cfg, "euler", scheduler, settings.shift)
        text = self.positive(frame), self.negative
        samples = self.demo.host.sample_clip(self.model, *text, latent, sampling)["samples"]
        self._count(steps * CHUNK)
        return self.demo.decode(samples)[:, pixel_length(GIVEN) :]

    def with_alpha(self, alpha: float) -> Maker:
        self.settings = replace(self.settings, alpha=alpha)
        return self

    def _count(self, latents: int) -> None:
        self.evaluated += latents


def _last(video: Tensor) -> list[Keyframe]:
    return [video_keyframes(video, "last", GIVEN, "latent", "start", 0, "0")]


def _anchored(video: Tensor) -> list[Keyframe]:
    last = video_keyframes(video[-LENGTH:], "last", GIVEN - 1, "latent", "index", 1, "0.2", "hold")
    return [still_keyframe(video[:1], 0, "latent", 0.2, "hold"), last]


class _Euler(Roll):
    def _take(self, *args: Any) -> None:
        self.denoised.clear()
        super()._take(*args)


class _Ancestral(Roll):
    """Euler ancestral's step of flow matching with the denoised value of second order: down further, up with fresh noise."""

    def _take(self, step: WindowStep, latents: Tensor, euler: Tensor) -> None:
        super()._take(step, latents, euler)
        for place, (frame, _, now, after) in enumerate(zip(step.frames, *step.sigmas.tolist())):
            if frame not in self.finished and now > after > 0:
                latent = latents[:, :, place : place + 1]
                denoised = latent + (self.moving[frame] - latent) / (1 - after / now)
                down = after**2 / now
                scale = (1 - after) / (1 - down)
                lower = denoised + down / now * (latent - denoised)
                fresh = self.studio.noise(frame + 1_000_000 * (1 + round(1000 * after)))
                self.moving[frame] = scale * lower + math.sqrt(after**2 - (scale * down) ** 2) * fresh


class _AsMade(Roll):
    def _shown(self, frame: int, step: WindowStep) -> Tensor:
        return self.finished[frame].latent


class _Resting(_AsMade):
    """The anchor is not shown at every third evaluation."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.seen = 0

    def _euler(self, step: WindowStep, plan: Plan, latents: Tensor) -> Tensor:
        self.seen += 1
        if self.seen % 3 != 1 or step.frames[1] == 1:
            return super()._euler(step, plan, latents)
        without = replace(step, frames=step.frames[1:], sigmas=step.sigmas[:, 1:])
        schedule = FrameSchedule(plan.schedule.frames[1:])
        clean = None if plan.clean is None else plan.clean[:, :, 1:]
        rest = super()._euler(without, replace(plan, schedules=(schedule,), clean=clean), latents[:, :, 1:])
        return torch.cat([latents[:, :, :1], rest], dim=2)


METHODS: dict[str, Callable[[Maker], Tensor]] = {
    "repeated extension, 10 steps": lambda maker: maker.chunks(10),
    "repeated extension, 4 steps": lambda maker: maker.chunks(4),
    "the same with an anchor and hold": lambda maker: maker.chunks(4, anchored=True),
    "rolling window, 4 moving": lambda maker: maker.roll(4),
    "rolling window, 5 moving": lambda maker: maker.roll(5),
    "4 moving, no anchor": lambda maker: maker.roll(4, anchor=False),
    "4 moving, anchor 8 frames off": lambda maker: maker.roll(4, distance=8),
    "4 moving, Euler's steps": lambda maker: maker.roll(4, kind=_Euler),
    "4 moving, fresh noise at every step": lambda maker: maker.roll(4, kind=_Ancestral),
    "4 moving, newest frame as it was made": lambda maker: maker.roll(4, kind=_AsMade),
    "the same, anchor at two of three evaluations": lambda maker: maker.roll(4, kind=_Resting),
    "4 moving, alpha 1": lambda maker: maker.with_alpha(1.0).roll(4),
}


@dataclass(frozen=True)
class Part:
    """One table.

    Attributes:
        latents: latent frames of each clip.
        methods: numbers of `METHODS`.
        bound: whether the true clips are measured through the VAE, too, which takes as long as a method.
    """

    name: str
    latents: int
    clips: int
    seeds: int
    methods: tuple[int, ...]
    bound: bool = False


PARTS = (
    Part("long video", 17, 64, 2, (1, 3), bound=True),
    Part("long video, 129 frames", 33, 32, 1, (3,)),
    Part("long video, 641 frames", 161, 16, 1, (3,)),
    Part("long video, variants", 17, 32, 2, (3, 11, 7, 4, 8, 9, 10)),
)


def main() -> None:
    parser = bench.parser(__doc__, threads=1)
    parser.add_argument("--part", type=int, default=0, choices=range(len(PARTS)), help="number of the table")
    for name in ("clips", "seeds", "latents"):
        parser.add_argument(f"--{name}", type=int, help="the part's own")
    parser.add_argument("--methods", type=int, nargs="+", help="numbers of the methods, from 0; the part's own")
    for setting in fields(Settings):
        parser.add_argument(f"--{setting.name}", type=float, default=setting.default)
    options = parser.parse_args()
    bench.use_comfyui(options)
    given = {f.name: getattr(options, f.name, None) for f in fields(Part)}
    part = replace(PARTS[options.part], **{name: value for name, value in given.items() if value is not None})
    settings = Settings(*(getattr(options, f.name) for f in fields(Settings)))
    header = ["method", "cost", "track (px)", "law (px)", "background", "permanence", "pop: at borders", "elsewhere",
              "growth: track", "background"]  # fmt: skip
    about = f"{part.clips} clips of {pixel_length(part.latents)} frames, seeds: {part.seeds}; cfg {settings.cfg:g}, "
    about += f"shift {settings.shift:g}, alpha {settings.alpha:g}."
    with torch.inference_mode():
        bench.publish(part.name, f"{about}\n\n{bench.table(header, rows(part, settings))}", options.write)


def rows(part: Part, settings: Settings) -> list[list[str]]:
    demo = Demo()
    scenes = [scene(SCENES + i, False, "bounces") for i in range(part.clips)]
    truth = draw(scenes, pixel_length(part.latents))
    rows = [["the true clips", "-", *figures(truth, scenes)]]
    if part.bound:
        rows.append(["the true clips through the VAE", "-", *figures(through_vae(demo, truth), scenes)])
    for number in part.methods:
        name, make = [*METHODS.items()][number]
        makers = [Maker(demo, scenes, part.latents, seed, settings) for seed in range(part.seeds)]
        clips = torch.cat([make(maker) for maker in makers])
        cost = sum(maker.evaluated for maker in makers) / (part.latents - GIVEN) / part.seeds
        rows.append([name, f"{cost:.1f}", *figures(clips, scenes * part.seeds)])
        print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    return rows


def through_vae(demo: Demo, clips: Tensor) -> Tensor:
    """What no method can surpass; encoded in parts as long as the VAE was trained on, decoded in one stream."""
    parts = clips.unfold(1, LENGTH, LENGTH - 1).movedim(-1, 2)  # (B, parts, LENGTH, H, W, 3), each begins where one ended
    encoded = [torch.cat([demo.encode(part)[:, :, i > 0 :] for i, part in enumerate(clip)], dim=2) for clip in parts]
    return demo.decode(torch.cat(encoded))


def figures(clips: Tensor, scenes: Sequence[Scene]) -> list[str]:
    """The cells of a table's row."""
    made = slice(pixel_length(GIVEN), None)
    quarter = (clips.shape[1] - 1) // 4
    second, last = slice(quarter, 2 * quarter), slice(-quarter, None)
    border = torch.arange(clips.shape[1]) % 4 == 1
    border[: pixel_length(GIVEN)] = False
    inside = torch.arange(clips.shape[1]) % 4 != 1
    inside[: pixel_length(GIVEN)] = False
    tracks = [track_errors(clip, s) for clip, s in zip(clips, scenes)]
    backgrounds = [background_errors(clip, s) for clip, s in zip(clips, scenes)]
    measured = {
        "track": [errors[last].mean() for errors in tracks],
        "law": [law_errors(clip, s)[made].nanmean() for clip, s in zip(clips, scenes)],
        "background": [errors[last].mean() for errors in backgrounds],
        "permanence": [presence(clip, s)[made].mean() for clip, s in zip(clips, scenes)],
        "pop": [speed_errors(clip, s)[border].nanmean() for clip, s in zip(clips, scenes)],
        "elsewhere": [speed_errors(clip, s)[inside].nanmean() for clip, s in zip(clips, scenes)],
        "track's growth": [errors[last].mean() - errors[second].mean() for errors in tracks],
        "background's growth": [errors[last].mean() - errors[second].mean() for errors in backgrounds],
    }
    return [_cell(torch.stack(values)) for values in measured.values()]


def _cell(values: Tensor) -> str:
    return f"{values.mean():.2f}" if values.std() < 1e-4 else str(mean_interval(values))


if __name__ == "__main__":
    main()
