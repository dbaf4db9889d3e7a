"""Loops on the demo model: what happens over the seam, against the loop's other borders of latent frames and inside them.

Each loop shows one object, and a picture of it leads into it. An object that bounces or spins and is back after as many
frames as the loop has can close; one that moves on cannot. Where the object is at the seam is drawn at random, so that its
own turns fall on the seam as often as on other borders. Methods get the same pictures and noise; brackets are 95 % intervals
of means over clips (Student's t) and seeds.

- velocity change: of the object's velocity at a step between frames, in pixels (of 64) a frame.
- picture step: mean difference of a frame from the one before, in levels of 255.
- worst border: the mean velocity change over that border, the seam included, where it is largest, and the frame it leads to.
- speed: mean way of the object in pixels a frame.
- a dash: in some loop the object is not seen there, or it is not asked for.
- picture: how near the loop's frame 0 is to the picture that was given, PSNR in dB, where it comes back to it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import bench
import torch
from torch import Tensor

from demo_model import LORA
from demo_model.measure import decibels
from demo_model.measure_long import presence
from demo_model.measure_loop import picture_steps, places, velocities, velocity_changes
from demo_model.studio import Studio as Demo
from demo_model.text import encode
from demo_model.world import BOUNCE_SPEED, DIRECTIONS, SIZE, TEST_SEEDS, Scene, draw, scene
from pusa_core.frames import TEMPORAL_STRIDE
from pusa_core.intervals import mean_interval
from pusa_core.loop import Loop, turn
from pusa_core.rolling import Roll, Studio
from pusa_core.staircase import Staircase, Window

SCENES = TEST_SEEDS + 9000
CFG = 3.0
LEAD = 2  # latent frames
STAIRCASE = Staircase(4, 5.0, 1, window=Window(6, (0,)))


def returning(seed: int, length: float) -> Scene:
    """An object that bounces and is back after `length` frames, wherever it begins."""
    s = scene(seed, False, "bounces")
    actor = s.actors[0]
    margin = (SIZE - BOUNCE_SPEED * length / 2) / 2
    radius = (margin - 0.5) / 1.2
    along = random.Random(seed).uniform(margin, SIZE - margin)
    across = min(max(actor.start[1 if DIRECTIONS[actor.direction or "right"][0] else 0], margin), SIZE - margin)
    start = (along, across) if DIRECTIONS[actor.direction or "right"][0] else (across, along)
    return replace(s, actors=(replace(actor, radius=radius, start=start),))


@dataclass(frozen=True)
class Motion:
    """What loops show.

    Attributes:
        scene: of a seed and a loop's length in pixel frames.
        latents: of the loop.
        methods: numbers of `METHODS`.
        goes: whether it changes its place, so that it has a velocity.
    """

    scene: Callable[[int, int], Scene]
    latents: int
    methods: tuple[int, ...]
    goes: bool = True


MOTIONS = {
    "bounces, is back in 28 frames": Motion(returning, 7, (0, 1, 3)),
    "bounces, is back in 26 to 30 frames": Motion(lambda seed, length: returning(seed, length - 2 + seed % 5), 7, (0, 2)),
    "moves one way, 28 frames": Motion(lambda seed, _: scene(seed, False, "moves"), 7, (0, 2)),
    "spins, is back in 60 frames": Motion(lambda seed, _: scene(seed, False, "spins"), 15, (0,), goes=False),
}


@dataclass
class Maker:
    """The demo model with its Pusa LoRA, on loops of one seed."""

    demo: Demo
    scenes: Sequence[Scene]
    latents: int
    seed: int

    def positive(self, frame: int) -> Any:
        return [[torch.cat([encode(s.caption_at(frame)) for s in self.scenes]), {}]]

    def studio(self) -> Studio:
        from pusa_core.hosts.comfyui.long_video import Guidance, long_video_studio

        negative = [[torch.zeros_like(self.positive(0)[0][0]), {}]]
        model = self.demo.model(LORA, 1.0)
        shape = (len(self.scenes), 16, 8, 8)
        return long_video_studio(model, self.demo.vae, Guidance(self.positive, negative, CFG), self.seed, shape)

    @property
    def before(self) -> Tensor:
        """The pictures that are given, as latents."""
        form = self.demo.model(LORA, 1.0).model.latent_format
        return torch.cat([form.process_in(self.demo.encode(clip)) for clip in draw(self.scenes, 1)])

    def turned(self, roll: Roll) -> Tensor:
        """The pictures of a loop, or of a video that is played as one, as it is."""
        made = list(roll)[-self.latents :]
        return torch.cat([*turn([m.latent for m in made], roll.studio.decode, made[-1].pictures)], dim=1)

    def loop(self, lead: int) -> Tensor:
        return self.turned(Loop(STAIRCASE, self.latents, self.before, self.studio(), lead))

    def video(self) -> Tensor:
        return self.turned(Roll(STAIRCASE, 1 + LEAD + self.latents, {0: (self.before, 0.0)}, self.studio()))

    def same_ends(self) -> Tensor:
        given = (self.before, 0.0)
        return self.turned(Roll(STAIRCASE, 1 + self.latents, {0: given, self.latents: given}, self.studio()))


METHODS: dict[str, Callable[[Maker], Tensor]] = {
    "Pusa Loop": lambda maker: maker.loop(LEAD),
    "Pusa Loop, lead_in 0": lambda maker: maker.loop(0),
    "the same, not closed": Maker.video,
    "long video, the same picture at both ends": Maker.same_ends,
}

COMES_BACK = (1, 3)  # to the picture itself


def main() -> None:
    parser = bench.parser(__doc__, threads=1)
    parser.add_argument("--clips", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--motions", type=int, nargs="+", default=[*range(len(MOTIONS))], help="numbers of the motions")
    parser.add_argument("--methods", type=int, nargs="+", help="numbers of the methods; those that tell most of a motion")
    options = parser.parse_args()
    bench.use_comfyui(options)
    demo, rows = Demo(), []
    with torch.inference_mode():
        for number, (what, motion) in enumerate(MOTIONS.items()):
            if number in options.motions:
                rows += motion_rows(demo, what, motion, options)
    header = ["motion", "method", "velocity change: seam", "borders", "inside", "seam less borders", "worst border",
              "picture step: seam", "borders", "inside", "seam less borders", "speed", "permanence", "picture"]  # fmt: skip
    about = f"{options.clips} loops of each motion, seeds: {options.seeds}; cfg {CFG:g}."
    name = "loops, closed or not" if options.methods == [0, 2] else "loops"
    bench.publish(name, f"{about}\n\n{bench.table(header, rows)}", options.write)


def motion_rows(demo: Demo, what: str, motion: Motion, options: Any) -> list[list[str]]:
    length = TEMPORAL_STRIDE * motion.latents
    scenes = [motion.scene(SCENES + i, length) for i in range(options.clips)]
    rows = [[what, "the true clips", *figures(draw(scenes, length), scenes, motion)]]
    for number in options.methods or motion.methods:
        name, make = [*METHODS.items()][number]
        clips = torch.cat([make(Maker(demo, scenes, motion.latents, seed)) for seed in range(options.seeds)])
        rows.append([what, name, *figures(clips, scenes * options.seeds, motion, number in COMES_BACK)])
        print(" | ".join(rows[-1]), flush=True)
    return rows


def figures(clips: Tensor, scenes: Sequence[Scene], motion: Motion, comes_back: bool = False) -> list[str]:
    """The cells of a table's row."""
    changes = torch.stack([velocity_changes(clip, s) for clip, s in zip(clips, scenes)])
    speeds = torch.stack([velocities(clip, s).norm(dim=1).nanmean() for clip, s in zip(clips, scenes)])
    present = torch.stack([presence(clip, s).mean() for clip, s in zip(clips, scenes)])
    moved = [*_cells(changes), _worst(changes), _cell(speeds)] if motion.goes else ["-"] * 6
    picture = _cell(decibels(clips[:, 0], draw(scenes, 1)[:, 0])) if comes_back else "-"
    return [*moved[:5], *_cells(torch.stack([picture_steps(clip) for clip in clips])), moved[5], _cell(present), picture]


def _cells(steps: Tensor) -> list[str]:
    """Of a figure of every step, (B, T): means over the seam, other borders and inside, and the first two's difference."""
    seam, borders, inside = (steps[:, which].nanmean(1) for which in places(steps.shape[1]).values())
    return [_cell(seam), _cell(borders), _cell(inside), _cell(seam - borders)]


def _worst(steps: Tensor) -> str:
    means = steps.nanmean(0)[1::TEMPORAL_STRIDE]
    return f"{means.max():.2f} (frame {TEMPORAL_STRIDE * int(means.argmax()) + 1})"


def _cell(values: Tensor) -> str:
    if values.isnan().any():
        return "-"
    return f"{values.mean():.2f}" if values.std() < 1e-4 else str(mean_interval(values))


if __name__ == "__main__":
    main()
