"""Long video on the demo model: a rolling window against repeated extension, with figures that have a known answer.

Each clip shows one object that bounces; its first 5 frames are given, and the prompt says which way it goes now. Methods get
the same clips and noise; brackets are 95 % intervals of means over clips (Student's t) and seeds.

- track: pixels (of 64) between the object and its true track, in the last quarter of the frames.
- law: pixels between the object and where its own motion says that it must be 4 frames later.
- background: difference from the true background in the last quarter, in levels of 255.
- permanence: share of the made frames in which the object is there with at least half of its area.
- pop: error of the speed at the borders of latent frames, and elsewhere, in pixels a frame.
- cost: latent frames that go through the model for each new one (a half of them without guidance).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import bench
import torch
from torch import Tensor

from demo_model import LORA
from demo_model.measure_long import background_errors, law_errors, presence, speed_errors, track_errors
from demo_model.studio import Studio as Demo
from demo_model.text import encode
from demo_model.world import TEST_SEEDS, Scene, draw, scene
from pusa_core.frames import pixel_length
from pusa_core.intervals import mean_interval
from pusa_core.keyframes import video_keyframes
from pusa_core.plan import plan_clip
from pusa_core.rolling import Roll
from pusa_core.staircase import Staircase, Window

SCENES = TEST_SEEDS + 7000
GIVEN = 2  # latent frames
CHUNK = 5  # latent frames of the clips that the model was trained on
CFG, SHIFT = 3.0, 5.0


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
        return self.demo.model(LORA, 1.0)

    def roll(
        self,
        moving: int,
        anchor: bool = True,
        as_picture: bool = True,
        later: Mapping[int, Tensor] | None = None,
        **options: Any,
    ) -> Tensor:
        """A rolling window.

        Args:
            as_picture: without it the newest finished frame is shown as it was made.
            later: the VAE's latents (B, C, 1, h, w) of latent frames that are met on the way.
            options: of `Roll`.
        """
        from pusa_core.hosts.comfyui.long_video import Guidance, long_video_studio

        size = moving + 1 + anchor
        staircase = Staircase(moving, SHIFT, 1, window=Window(size, (0,) if anchor else ()))
        guidance, shape = Guidance(self.positive, self.negative, CFG), (len(self.scenes), 16, 8, 8)
        studio = long_video_studio(self.model, self.demo.vae, guidance, self.seed, shape, progress=lambda: self._count(size))
        form = self.model.model.latent_format
        start = torch.cat([form.process_in(self.demo.encode(clip)) for clip in draw(self.scenes, pixel_length(GIVEN))])
        given = {frame: (start[:, :, frame : frame + 1], 0.0) for frame in range(GIVEN)}
        given |= {frame: (form.process_in(latent), 0.0) for frame, latent in (later or {}).items()}
        roll = (Roll if as_picture else _AsMade)(staircase, self.latents, given, studio, **options)
        return torch.cat([made.pictures for made in roll], dim=1)

    def chunks(self, steps: int) -> Tensor:
        """Each clip goes on from the last 5 frames of the one before."""
        video = draw(self.scenes, pixel_length(GIVEN))
        while video.shape[1] < pixel_length(self.latents):
            more = self._extended(video[:, -pixel_length(GIVEN) :], steps, video.shape[1] - 1)
            video = torch.cat([video, more], dim=1)
        return video[:, : pixel_length(self.latents)]

    def _extended(self, last: Tensor, steps: int, frame: int) -> Tensor:
        keyframes = [[video_keyframes(clip, "first", len(clip), "pixel", "start", 0, "0")] for clip in last]
        plans = [plan_clip(k, pixel_length(CHUNK), self.demo.encode) for k in keyframes]
        plan = replace(plans[0], clean=torch.cat([p.clean for p in plans if p.clean is not None]))
        latent = self.demo.host.plan_latent(self.demo.vae, plan, 64, 64, pixel_length(CHUNK), len(last))
        sampling = self.demo.host.Sampling(self.seed + frame, steps, CFG, "euler", self.demo.host.PUSA_SCHEDULER, SHIFT)
        text = self.positive(frame), self.negative
        samples = self.demo.host.sample_clip(self.model, *text, latent, sampling)["samples"]
        self._count(steps * CHUNK)
        return self.demo.decode(samples)[:, pixel_length(GIVEN) :]

    def _count(self, latents: int) -> None:
        self.evaluated += latents


class _AsMade(Roll):
    def _shown(self, frame: int, segment: Any) -> Tensor:
        return self.finished[frame].latent


METHODS: dict[str, Callable[[Maker], Tensor]] = {
    "repeated extension, 10 steps": lambda maker: maker.chunks(10),
    "repeated extension, 4 steps": lambda maker: maker.chunks(4),
    "rolling window, 4 moving": lambda maker: maker.roll(4),
    "rolling window, 5 moving": lambda maker: maker.roll(5),
    "4 moving, newest frame as it was made": lambda maker: maker.roll(4, as_picture=False),
    "4 moving, no anchor": lambda maker: maker.roll(4, anchor=False),
    "4 moving, anchor 8 frames off": lambda maker: maker.roll(4, distance=8),
}


def main() -> None:
    parser = bench.parser(__doc__, threads=1)
    parser.add_argument("--clips", type=int, default=32)
    parser.add_argument("--latents", type=int, default=17, help="latent frames of each clip; 17 are 65 frames")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--methods", type=int, nargs="+", help="numbers of the methods, from 0; all")
    options = parser.parse_args()
    bench.use_comfyui(options)
    demo = Demo()
    scenes = [scene(SCENES + i, False, "bounces") for i in range(options.clips)]
    names = [name for i, name in enumerate(METHODS) if i in (options.methods or range(len(METHODS)))]
    with torch.inference_mode():
        rows = [["the true clips", "-", *figures(draw(scenes, pixel_length(options.latents)), scenes)]]
        for name in names:
            makers = [Maker(demo, scenes, options.latents, seed) for seed in range(options.seeds)]
            clips = torch.cat([METHODS[name](maker) for maker in makers])
            cost = sum(maker.evaluated for maker in makers) / (options.latents - GIVEN) / options.seeds
            rows.append([name, f"{cost:.1f}", *figures(clips, scenes * options.seeds)])
    about = f"{options.clips} clips of {pixel_length(options.latents)} frames; seeds: {options.seeds}."
    header = ["method", "cost", "track (px)", "law (px)", "background", "permanence", "pop: at borders", "elsewhere"]
    name = "long video" if options.latents == 17 else f"long video, {pixel_length(options.latents)} frames"
    bench.publish(name, f"{about}\n\n{bench.table(header, rows)}", options.write)


def figures(clips: Tensor, scenes: Sequence[Scene]) -> list[str]:
    """The cells of a table's row."""
    made = slice(pixel_length(GIVEN), None)
    last = slice(-(clips.shape[1] - 1) // 4, None)
    border = torch.arange(clips.shape[1]) % 4 == 1
    border[: pixel_length(GIVEN)] = False
    inside = torch.arange(clips.shape[1]) % 4 != 1
    inside[: pixel_length(GIVEN)] = False
    measured = {
        "track": [track_errors(clip, s)[last].mean() for clip, s in zip(clips, scenes)],
        "law": [law_errors(clip, s)[made].nanmean() for clip, s in zip(clips, scenes)],
        "background": [background_errors(clip, s)[last].mean() for clip, s in zip(clips, scenes)],
        "permanence": [presence(clip, s)[made].mean() for clip, s in zip(clips, scenes)],
        "pop": [speed_errors(clip, s)[border].nanmean() for clip, s in zip(clips, scenes)],
        "elsewhere": [speed_errors(clip, s)[inside].nanmean() for clip, s in zip(clips, scenes)],
    }
    return [_cell(torch.stack(values)) for values in measured.values()]


def _cell(values: Tensor) -> str:
    return f"{values.mean():.2f}" if values.std() < 1e-4 else str(mean_interval(values))


if __name__ == "__main__":
    main()
