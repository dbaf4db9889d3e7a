"""What the demo model's clips are worth, through the pack on ComfyUI: fails when the sampler is subtly wrong.

The limits lie between what the right rule gives and what the nearest wrong one does; `python benchmarks/quality.py` has the
whole picture.
"""

import pytest
import torch

from demo_model.studio import Studio, Take, fidelity, mean_motion_error, permanence
from demo_model.world import draw, scene

CLIPS = 12
TEST = 10**6 + 2000


@pytest.fixture(scope="module")
def studio(comfyui):
    return Studio()


def scenes(motion="moves"):
    return [scene(TEST + i, held_out=i % 4 == 0, motion=motion) for i in range(CLIPS)]


def film(studio, take):
    with torch.inference_mode():
        return studio.film(scenes(), take)


def start_end(studio):
    """(decibels of keyframes at m = 0.5, motion error in pixels, permanence)."""
    take = Take("start-end", m=(0.5,))
    frames = film(studio, take)
    return (
        fidelity(frames, draw(scenes()), [True, False, False, False, True]),
        mean_motion_error(frames, scenes(), take.task),
        permanence(frames, scenes()),
    )


def extension(studio):
    take = Take("extension", m=(0.0, 0.5))
    return mean_motion_error(film(studio, take), scenes(), take.task)
