"""What is measured of loops, on clips whose seam is known."""

import torch

from demo_model.measure_loop import picture_steps, places, velocities, velocity_changes
from demo_model.world import draw, scene


def test_a_jump_is_found_over_the_seam_and_nowhere_else():
    """A clip that goes one way, played as a loop: frame 0 is its last picture, as `turn` begins."""
    mover = scene(5, False, "moves")
    clip = draw([mover], 16)[0].roll(1, 0)
    where = places(16)
    for measured in (picture_steps(clip), velocity_changes(clip, mover)):
        assert measured.argmax() == 1 and where["seam"].nonzero().flatten().tolist() == [1]
        assert measured[where["seam"]].mean() > 3 * measured[where["borders"]].max()
    assert velocities(clip, mover)[3:].norm(dim=1).std() < 0.5


def test_every_step_has_one_place():
    assert torch.stack([*places(28).values()]).sum(0).eq(1).all()
    assert [int(which.sum()) for which in places(28).values()] == [1, 6, 21]
