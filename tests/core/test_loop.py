"""Loops, against the same video as one clip that has its start as keyframes after its end."""

import pytest
import torch

from pusa_core.frames import pixel_length
from pusa_core.keyframes import still_keyframe
from pusa_core.loop import Loop, Seam, loop_latents, turn
from pusa_core.plan import plan_clip
from pusa_core.rolling import Roll
from pusa_core.staircase import Staircase, Window
from tests.core.test_rolling import noise, studio
from tests.core.test_staircase import MultiStep, euler

CASES = [  # steps, delay, block, window, anchors, latents, given, lead-in
    (4, 1, 1, 6, (0,), 7, True, 0),
    (4, 1, 1, 6, (0,), 5, False, 2),
    (4, 1, 1, 5, (), 9, False, 0),
    (6, 2, 1, 5, (0,), 6, True, 3),
    (4, 2, 2, 8, (0, 1), 8, True, 2),
]


def made(loop):
    return torch.cat([m.latent for m in loop], 2)


@pytest.mark.parametrize("steps, delay, block, size, anchors, latents, given, lead", CASES)
def test_a_loop_is_a_clip_with_its_start_after_its_end(steps, delay, block, size, anchors, latents, given, lead):
    """The reference knows nothing of loops: it is one clip, whose keyframes are taken from the loop."""
    staircase, more = Staircase(steps, 5.0, delay, block, Window(size, anchors)), 9
    video = made(Loop(staircase, latents, noise(99) if given else None, studio(), lead))
    frames = 1 + lead + latents
    assert video.shape[2] == frames
    clean = torch.cat([video, *[video[:, :, 1 + lead + i % latents][:, :, None] for i in range(more)]], 2)
    places = [0] * given + [*range(frames, frames + more)]
    encoded = iter([clean[:, :, place : place + 1] for place in places])
    keyframes = [still_keyframe(torch.zeros(1, 8, 8, 3), place, "latent", 0.0) for place in places]
    plan = plan_clip(keyframes, pixel_length(frames + more), lambda _: next(encoded), staircase)
    whole = euler(plan, torch.cat([noise(f) for f in range(frames + more)], 2), change=MultiStep())
    torch.testing.assert_close(video, whole[:, :, :frames], rtol=0, atol=5e-5)


def test_the_end_knows_the_start():
    """Frames that are finished when the first comes into the window again are as in a video that does not close."""
    staircase = Staircase(4, 5.0, 1, window=Window(6, (0,)))
    loop, video = made(Loop(staircase, 9, noise(99), studio())), made(Roll(staircase, 10, {0: (noise(99), 0.0)}, studio()))
    differs = [not torch.equal(a, b) for a, b in zip(loop.unbind(2), video.unbind(2))]
    assert not any(differs[:7]) and differs[-1]


# --- the second turn -------------------------------------------------------------------------------------------------


class Causal:
    """In place of a VAE: four pictures that depend on a frame and on the `memory` frames before it."""

    def __init__(self, memory=3):
        self.seen, self.memory = [], memory

    def __call__(self, latent):
        self.seen = [*self.seen, latent][-self.memory - 1 :]
        mixed = sum(z * 0.5**age for age, z in enumerate(reversed(self.seen)))
        return torch.cat([mixed + i for i in range(4)], 2).permute(0, 2, 3, 4, 1)


def turned(latents):
    decode = Causal()
    first = [decode(z) for z in latents]
    return torch.cat([*turn(latents, decode, first[-1])], 1)


def test_a_turn_has_no_beginning():
    """Decoded from any other frame on, it is the same loop: no picture knows where the turn began."""
    latents = [noise(f) for f in range(6)]
    pictures = turned(latents)
    assert pictures.shape[1] == 24
    for start in range(1, 6):
        rotated = turned(latents[start:] + latents[:start])
        torch.testing.assert_close(rotated.roll(4 * start, 1), pictures)


def test_a_turn_begins_with_the_picture_before_the_loop():
    latents = [noise(f) for f in range(6)]
    decode = Causal()
    twice = torch.cat([decode(z) for z in latents * 2], 1)
    torch.testing.assert_close(turned(latents), twice[:, 23:47])


def test_the_seam_is_compared_with_the_other_borders():
    seam = Seam()
    for step in (0.6, 0.2, 0.4):
        seam.see(torch.tensor([0.0, step, step, 0.0]).view(1, 4, 1, 1, 1).expand(1, 4, 2, 2, 3))
    assert seam.ratio == pytest.approx(2.0)


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length, message", [(29, "use 28 or 32"), (-4, "from 0 to"), (2.5, "a whole number, not 2.5")])
def test_a_length_that_no_loop_has(length, message):
    with pytest.raises(ValueError, match=message):
        loop_latents(length)


def test_a_loop_that_is_too_short():
    with pytest.raises(ValueError, match=r"A loop of 16 frames is too short .* make it 20 frames or longer"):
        Loop(Staircase(4, 5.0, 1, window=Window(6, (0,))), 4, None, studio())
