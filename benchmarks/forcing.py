"""Diffusion forcing on the demo model with its Pusa LoRA: frames that take their steps one after another, or all together.

- Motion error: pixels (of 64) between each object and the law of motion, in the frames that the model painted.
- Permanence: share of objects and painted frames in which the object is there with at least half of its area.

Brackets are 95 % intervals of means over clips (Student's t). Differences are paired: all get the same clips and noise.
"""

from __future__ import annotations

import bench
import quality
import torch

from demo_model.studio import SampleSettings, Studio
from pusa_core.intervals import mean_interval, paired_difference
from pusa_core.staircase import Staircase

TASKS = {"image to video": 1, "extension": 2}  # and latent frames that are given
LATENTS = 5
STAIRCASES = {
    "all together": Staircase(10),
    "ar_step 1": Staircase(10, delay=1),
    "ar_step 4 of 40 steps": Staircase(40, delay=4),
    "ar_step 2": Staircase(10, delay=2),
    "ar_step 5": Staircase(10, delay=5),
    "one after another": Staircase(10, delay=10),
    "ar_step 5, causal attention": Staircase(10, delay=5, causal=True),
}


def main() -> None:
    parser = bench.parser(__doc__, threads=1)
    parser.add_argument("--clips", type=int, default=32, help="of each task")
    options = parser.parse_args()
    bench.use_comfyui(options)
    studio = Studio()
    with torch.inference_mode():
        tables = [task_table(studio, task, options.clips) for task in TASKS]
    bench.publish("forcing", "\n\n".join(tables), options.write)


def task_table(studio: Studio, task: str, count: int) -> str:
    clips = quality.scenes(count, quality.MOTIONS.get(task, ("moves",)))
    measured = {
        name: quality.measure(studio, clips, SampleSettings(task, staircase=staircase))
        for name, staircase in STAIRCASES.items()
    }
    together, *_ = measured.values()
    rows = [
        [
            name,
            str(STAIRCASES[name].evaluations(LATENTS - TASKS[task])),
            str(mean_interval(figures.motion_errors)),
            "-" if figures is together else str(paired_difference(figures.motion_errors, together.motion_errors)),
            f"{figures.permanence.mean():.1%}",
        ]
        for name, figures in measured.items()
    ]
    header = [f"{task}, {count} clips", "evaluations", "motion error (px)", "less that of all together", "permanence"]
    return bench.table(header, rows)


if __name__ == "__main__":
    main()
