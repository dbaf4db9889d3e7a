"""Long video that meets keyframes on the way, on the demo model: a still in its frame, a still beside it, a clip.

The clips of `long_video.py`, whose true pictures are given at two latent frames. Brackets are 95 % intervals of means over
clips (Student's t) and seeds.

- likeness: between the last of the four pictures there and the true one, in dB.
- speed, way in and way out: error of the object's speed at the borders of these frames, in pixels a frame; within: between
  their four pictures; elsewhere: in all others that were made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import bench
import torch
from long_video import GIVEN, SCENES, Maker
from torch import Tensor

from demo_model.measure_long import speed_errors
from demo_model.studio import Studio as Demo
from demo_model.world import Scene, draw, scene
from pusa_core.frames import pixel_frames, pixel_length
from pusa_core.intervals import mean_interval

KEYS, LATENTS, MOVING = (8, 16), 17, 4
LEAD_IN = 4  # latent frames encoded before a clip's


def stills(maker: Maker) -> dict[int, Tensor]:
    """The true pictures' latents, each encoded alone."""
    truth = draw(maker.scenes, pixel_length(LATENTS))
    return {key: torch.cat([maker.demo.encode(clip[[pixel_frames(key)[-1]]]) for clip in truth]) for key in KEYS}


def clips(maker: Maker) -> dict[int, Tensor]:
    """Those of the true four pictures, encoded after others."""
    truth, found = draw(maker.scenes, pixel_length(LATENTS)), {}
    for key in KEYS:
        end = pixel_frames(key)[-1] + 1
        parts = [maker.demo.encode(clip[end - pixel_length(LEAD_IN + 1) : end]) for clip in truth]
        found[key] = torch.cat([part[:, :, -1:] for part in parts])
    return found


WAYS: dict[str, Callable[[Maker], Tensor]] = {
    "none": lambda maker: maker.roll(MOVING),
    "a still, in place": lambda maker: maker.roll(MOVING, later=stills(maker)),
    "a still, beside": lambda maker: maker.roll(MOVING, later=stills(maker), beside=True),
    "a clip of 4 frames": lambda maker: maker.roll(MOVING, later=clips(maker)),
}


def main() -> None:
    parser = bench.parser(__doc__, threads=1)
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    bench.use_comfyui(options)
    scenes = [scene(SCENES + i, False, "bounces") for i in range(options.clips)]
    demo, rows = Demo(), []
    with torch.inference_mode():
        for name, way in WAYS.items():
            made = torch.cat([way(Maker(demo, scenes, LATENTS, seed)) for seed in range(options.seeds)])
            rows.append([name, *figures(made, scenes * options.seeds)])
            print(rows[-1], flush=True)
    header = ["keyframes", "likeness (dB)", "speed: way in", "within", "way out", "elsewhere"]
    about = f"{options.clips} clips, seeds: {options.seeds}."
    bench.publish("keyframes on the way", f"{about}\n\n{bench.table(header, rows)}", options.write)


def figures(made: Tensor, scenes: Sequence[Scene]) -> list[str]:
    """The cells of a table's row; pictures (B, T, H, W, 3)."""
    truth, frames = draw(scenes, pixel_length(LATENTS)), [pixel_frames(key) for key in KEYS]
    last = [four[-1] for four in frames]
    likeness = -10 * (made[:, last] - truth[:, last]).square().mean(dim=(2, 3, 4)).log10()
    speeds = torch.stack([speed_errors(clip, s) for clip, s in zip(made, scenes)])
    places = {
        "way in": [four[0] for four in frames],
        "within": [frame for four in frames for frame in four[1:]],
        "way out": [four[-1] + 1 for four in frames if four[-1] + 1 < made.shape[1]],
    }
    used = {frame for group in places.values() for frame in group}
    places["elsewhere"] = [frame for frame in range(pixel_length(GIVEN), made.shape[1]) if frame not in used]
    cells = [likeness.mean(1), *(speeds[:, group].nanmean(1) for group in places.values())]
    return [str(mean_interval(cell[cell.isfinite()])) for cell in cells]


if __name__ == "__main__":
    main()
