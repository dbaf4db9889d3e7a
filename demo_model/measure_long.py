"""What a long clip shows of one object that bounces: frame by frame, against the law of motion and against itself."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from .measure import Sighting, colour_masks, look_for
from .world import BOUNCE_SPEED, DIRECTIONS, SIZE, Scene, draw, draw_backdrop, reflect

AHEAD = 4  # frames that a clip's own motion is asked to predict
HALO = 3  # pixels around objects that are not background


def along(scene: Scene, positions: Tensor) -> Tensor:
    """The coordinate in which the object moves, of positions (T, 2): (T,)."""
    return positions[:, 0 if DIRECTIONS[scene.actors[0].direction or "right"][0] else 1]


def look_at(frames: Tensor, scene: Scene) -> Sighting:
    return look_for(frames, scene.actors[0].colour)


def track_errors(frames: Tensor, scene: Scene) -> Tensor:
    """Pixels between the object and its true track in every frame; as far as the picture is wide where it is not seen."""
    seen, truth = look_at(frames, scene).centre, scene.tracks(len(frames))[0, :, :2]
    return (seen - truth).norm(dim=1).nan_to_num(float(SIZE))


def law_errors(frames: Tensor, scene: Scene) -> Tensor:
    """Pixels between the object and where its motion in the frames before says that it must be, `AHEAD` frames later.

    Not a number in the first frames, and where it turned around meanwhile: then its motion says nothing.
    """
    seen, radius = along(scene, look_at(frames, scene).centre), scene.actors[0].radius
    errors = torch.full((len(frames),), math.nan)
    for now in range(2, len(frames) - AHEAD):
        earlier, last = seen[now - 1] - seen[now - 2], seen[now] - seen[now - 1]
        if earlier * last > 0:
            expected = reflect(seen[now] + torch.sign(last) * BOUNCE_SPEED * AHEAD, radius)
            errors[now + AHEAD] = (seen[now + AHEAD] - expected).abs().nan_to_num(SIZE / 2)
    return errors


def speed_errors(frames: Tensor, scene: Scene) -> Tensor:
    """How far the object's speed is from the law's, in pixels a frame; not a number in frame 0 and where it is not seen."""
    seen = along(scene, look_at(frames, scene).centre)
    return torch.cat([seen.new_full((1,), math.nan), (seen.diff().abs() - BOUNCE_SPEED).abs()])


def background_errors(frames: Tensor, scene: Scene) -> Tensor:
    """Difference from the true background where nothing else is, in levels of 255, of every frame."""
    objects = max_pool2d(colour_masks(frames).any(0).float()[:, None], 2 * HALO + 1, 1, HALO)[:, 0] > 0
    difference = 255 * (frames - draw_backdrop(scene.backdrop)).abs().mean(-1)
    return (difference * ~objects).sum((1, 2)) / (~objects).sum((1, 2)).clamp(min=1)


def presence(frames: Tensor, scene: Scene) -> Tensor:
    """Whether the object is there with at least half of its area, of every frame."""
    true = look_at(draw([scene], 1)[0], scene).area[0]
    return (look_at(frames, scene).area >= 0.5 * true).float()
