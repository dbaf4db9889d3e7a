"""Strength by frame on the demo model: every frame starts from a clip, with its own noise; the true clip is known.

- Repair: frames 5 to 12 of 17 stand still. The bad frames are to move as in the true clip, the others to stay.
- Frames in between: of 17 frames only every 4th or 8th is given, and the clip is stretched back to 17. Latent frames
  that hold none of them have noise 1.

Brackets are 95 % intervals of means over clips (Student's t); all methods get the same clips and the same noise, at cfg 2.

- px: pixels (of 64) between each object and where the true clip has it.
- dB: fidelity to the true clip. The VAE alone is the ceiling.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import bench
import torch
from torch import Tensor

from demo_model.measure import decibels, look_for
from demo_model.spoil import STUCK, stutter, thin
from demo_model.studio import SampleSettings, Studio
from demo_model.world import LENGTH, SIZE, TEST_SEEDS, Scene, draw, scene
from pusa_core.intervals import mean_interval, paired_difference
from pusa_core.strength import Strength

SCENES = TEST_SEEDS + 9000
CFG = 2.0  # the demo model's backgrounds stay nearer to the truth than at the nodes' 3
BEST = "by frame: 0, 0.5, 1, 1, 0.5, good frames held"
BAD = list(range(STUCK.start, STUCK.stop))
REPAIRS = {
    "noise 0.5 for all frames": Strength("0.5", hold_up_to=0),
    "noise 0.8 for all frames": Strength("0.8", hold_up_to=0),
    "by frame: 0, 0.2, 1, 1, 0.2, all evolve": Strength("0, 0.2, 1, 1, 0.2", hold_up_to=0),
    BEST: Strength("0, 0.5, 1, 1, 0.5"),
}
BETWEEN = ("0", "0.2", "0.5")  # noise of latent frames that hold a frame of the clip, but for the first


@dataclass(frozen=True)
class Measured:
    """Of each clip, (B,): pixels off and fidelity in the frames that are to change, fidelity of the others."""

    error: Tensor
    changed: Tensor
    kept: Tensor

    def cells(self) -> list[str]:
        return [str(mean_interval(values)) for values in (self.error, self.changed, self.kept)]


@dataclass(frozen=True)
class Bench:
    """Clips of the world, and what is made of them."""

    studio: Studio
    scenes: Sequence[Scene]
    true: Tensor

    def measure(self, frames: Tensor, changed: Sequence[int]) -> Measured:
        kept = [number for number in range(LENGTH) if number not in changed]
        errors = torch.stack([track_errors(clip, s)[list(changed)].mean() for clip, s in zip(frames, self.scenes)])
        return Measured(errors, *(decibels(frames[:, n], self.true[:, n]) for n in (list(changed), kept)))

    def through_vae(self, clips: Sequence[Tensor]) -> Tensor:
        return self.studio.decode(torch.cat([self.studio.encode(clip) for clip in clips]))

    def made(self, clips: Sequence[Tensor], strength: Strength) -> Tensor:
        keyframes = [[strength.keyframe(clip)] for clip in clips]
        return self.studio.sample_from(keyframes, self.scenes, SampleSettings("text to video", cfg=CFG))


def track_errors(frames: Tensor, scene: Scene) -> Tensor:
    """Pixels between each object and its true place in every frame, their mean: (T,); not seen is a picture's width."""
    errors = [
        (look_for(frames, actor.colour).centre - path).norm(dim=1).nan_to_num(float(SIZE))
        for actor, path in zip(scene.actors, scene.tracks(len(frames))[:, :, :2])
    ]
    return torch.stack(errors).mean(0)


def repair_table(b: Bench) -> str:
    spoiled = [stutter(clip) for clip in b.true]
    rows = {
        "the true clip through the VAE": b.measure(b.through_vae([*b.true]), BAD),
        "the stuttering clip through the VAE": b.measure(b.through_vae(spoiled), BAD),
        **{name: b.measure(b.made(spoiled, strength), BAD) for name, strength in REPAIRS.items()},
    }
    best = rows[BEST]
    gains = [
        f"than {name}: {paired_difference(measured.error, best.error)} px, {paired_difference(best.kept, measured.kept)} dB"
        for name, measured in rows.items()
        if name in list(REPAIRS)[:2]
    ]
    header = [f"repair, {len(b.scenes)} clips", "bad frames: px", "bad frames: dB", "other frames: dB"]
    table = bench.table(header, [[name, *measured.cells()] for name, measured in rows.items()])
    return f"{table}\n\nThe last is better (paired; pixels in bad frames, dB in the others) {'; '.join(gains)}."


def between_table(b: Bench, every: int) -> str:
    clips = [thin(clip, every) for clip in b.true]
    new = [number for number in range(LENGTH) if number % every]
    blend = Strength("0", length=LENGTH, retime="stretch")
    rows = {"blends, through the VAE": b.measure(b.through_vae([blend.keyframe(clip).pictures for clip in clips]), new)}
    for noise in BETWEEN:
        strength = Strength(f"0: 0, 1: {noise}", length=LENGTH, retime="stretch", hold_up_to=0)
        rows[f"noise {noise}"] = b.measure(b.made(clips, strength), new)
    header = [f"every {every}. frame given, {len(b.scenes)} clips", "new frames: px", "new frames: dB", "given frames: dB"]
    return bench.table(header, [[name, *measured.cells()] for name, measured in rows.items()])


TABLES: dict[str, Callable[[Bench], str]] = {
    "repair": repair_table,
    **{f"every {n}": partial(between_table, every=n) for n in (4, 8)},
}


def main() -> None:
    parser = bench.parser(__doc__, threads=1)
    parser.add_argument("--clips", type=int, default=32)
    options = parser.parse_args()
    bench.use_comfyui(options)
    scenes = [scene(SCENES + i, i % 4 == 0, "moves") for i in range(options.clips)]
    with torch.inference_mode():
        b = Bench(Studio(), scenes, draw(scenes))
        bench.publish("strength", "\n\n".join(table(b) for table in TABLES.values()), options.write)


if __name__ == "__main__":
    main()
