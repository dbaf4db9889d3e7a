"""The demo model as a test of quality: its clips have known answers, so a sampler that is subtly wrong is found out."""

from dataclasses import replace

import pytest

from demo_model.measure import caption_share, decibels, motion_errors, permanence
from demo_model.studio import TASKS, SampleSettings, Studio
from demo_model.world import TEST_SEEDS, draw, scene
from pusa_core.virtual_latent import ScheduleTable

CLIPS = [scene(TEST_SEEDS + 8000 + i, held_out=i % 4 == 0, motion="moves") for i in range(16)]
HASTY = SampleSettings("start-end", m=(0.5,), steps=2)  # noisy keyframes and few steps: the more a wrong step weighs
FEW = CLIPS[:8]  # enough where each takes ten steps


@pytest.fixture(scope="module")
def studio(comfyui):
    return Studio()


def quality(studio, settings):
    """(decibels of the given frames, motion error in pixels of the painted ones, their permanence)."""
    task, clips = TASKS[settings.task], CLIPS if settings is HASTY else FEW
    frames, given = studio.sample(clips, settings), list(task.given)
    fidelity = decibels(frames[:, given], draw(clips)[:, given])
    figures = fidelity, motion_errors(frames, clips, task.painted), permanence(frames, clips, task.painted)
    return tuple(float(figure.mean()) for figure in figures)


def is_good(fidelity, motion_error, permanence):
    return fidelity > 26.3 and motion_error < 2.2 and permanence > 0.93


@pytest.mark.parametrize("settings", [HASTY, SampleSettings("image to video"), SampleSettings("extension", m=(0.4,))])
def test_clips_are_good(studio, settings, inference_mode):
    assert is_good(*(found := quality(studio, settings))), found


def test_captions_are_followed(studio, inference_mode):
    shares = caption_share(studio.sample(FEW, SampleSettings("text to video")), FEW)
    assert min(shares.values()) > 0.8, shares


# name: what is done to a model evaluation's coefficients
WRONG = {
    "sigma * m applied twice to the timestep": lambda c: replace(c, ratio=c.ratio**2),
    "one timestep for all frames": lambda c: replace(c, ratio=c.ratio.clamp(min=1.0)),
    "the step of a keyframe not scaled by m": lambda c: replace(c, slope=c.slope / c.scale.clamp(min=0.01)),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_step_rules_are_found_out(studio, wrong, monkeypatch, inference_mode):
    right = ScheduleTable.at
    monkeypatch.setattr(ScheduleTable, "at", lambda *where: WRONG[wrong](right(*where)))
    assert not is_good(*(found := quality(studio, HASTY))), found
