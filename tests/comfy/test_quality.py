"""The demo model as a test of quality: its clips have known answers, so a sampler that is subtly wrong is found out."""

from dataclasses import replace

import pytest

from demo_model.measure import decibels, mean_motion_error, permanence
from demo_model.studio import TASKS, Studio, Take
from demo_model.world import TEST_SEEDS, draw, scene
from pusa_core import virtual

NOISE = 0.4  # of the given frames: enough for a wrong step to show
CLIPS = [scene(TEST_SEEDS + 8000 + i, held_out=i % 4 == 0, motion="moves") for i in range(16)]
TAKE = Take("extension", m=(NOISE,))


@pytest.fixture(scope="module")
def studio(comfyui):
    return Studio()


def quality(studio):
    """(decibels of the given frames, motion error in pixels of the painted ones, their permanence)."""
    task = TASKS[TAKE.task]
    frames, given = studio.film(CLIPS, TAKE), list(task.given)
    kept = decibels(frames[:, given], draw(CLIPS)[:, given]).mean()
    return float(kept), mean_motion_error(frames, CLIPS, task.painted), permanence(frames, CLIPS, task.painted)


def is_good(kept, error, there):
    return kept > 26 and error < 2.0 and there > 0.95


def test_the_clips_are_good(studio, inference_mode):
    kept, error, there = quality(studio)
    assert is_good(kept, error, there), (kept, error, there)


# name: what is done to a model evaluation's coefficients
WRONG = {
    "sigma * m applied twice to the timestep": lambda c: replace(c, ratio=c.ratio**2),
    "one timestep for all frames": lambda c: replace(c, ratio=c.ratio.clamp(min=1.0)),
    "the step of a keyframe not scaled by m": lambda c: replace(c, slope=c.slope / c.scale.clamp(min=0.01)),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_step_rules_are_found_out(studio, wrong, monkeypatch, inference_mode):
    import pusa_core.hosts.comfyui as host

    monkeypatch.setattr(host, "coefficients", lambda *where: WRONG[wrong](virtual.coefficients(*where)))
    kept, error, there = quality(studio)
    assert not is_good(kept, error, there), (kept, error, there)
