"""What a clip shows: where objects of each colour are in every frame, what shape they have, where they go.

The world's colours are far apart, so a pixel belongs to the colour that it is nearest to, or to the background.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .world import COLOURS, DIRECTIONS, DISTANCES, SHAPES, Actor, Scene, draw

# the turn after which a shape looks the same
SYMMETRY = {"circle": math.tau, "bar": math.pi, "triangle": math.tau / 3, "cross": math.pi / 2}
PRESENT = 25  # pixels of a colour that make an object
SATURATED = 0.3


def colour_masks(frames: Tensor) -> Tensor:
    """Which pixels have which of the world's colours: frames (T, H, W, 3) in [0, 1] -> (colours, T, H, W), bool."""
    palette = torch.tensor(list(COLOURS.values()))
    saturated = frames.amax(-1) - frames.amin(-1) > SATURATED
    nearest = (_tone(frames)[..., None, :] - _tone(palette)).square().sum(-1).argmin(-1)
    return torch.stack([(nearest == i) & saturated for i in range(len(palette))])


def _tone(rgb: Tensor) -> Tensor:
    """Colours without their brightness and grey."""
    chroma = rgb - rgb.amin(-1, keepdim=True)
    return chroma / chroma.amax(-1, keepdim=True).clamp(min=1e-3)


@dataclass(frozen=True)
class Sighting:
    """One colour's object in a clip.

    Attributes:
        area: (T,) pixels.
        centre: (T, 2) x and y in pixels; not a number where there is no object.
        masks: (T, H, W) bool.
    """

    area: Tensor
    centre: Tensor
    masks: Tensor

    @property
    def present(self) -> Tensor:
        return self.area >= PRESENT


def look_for(frames: Tensor, colour: str) -> Sighting:
    """The object of a colour in a clip (T, H, W, 3)."""
    masks = colour_masks(frames)[list(COLOURS).index(colour)]
    area = masks.sum((1, 2)).float()
    x, y = _pixels(*masks.shape[1:])
    centre = torch.stack([(masks * axis).sum((1, 2)) / area for axis in (x, y)], dim=1)
    centre[area < PRESENT] = math.nan
    return Sighting(area, centre, masks)


def shape_of(mask: Tensor, turns: int = 1) -> str:
    """The shape that overlaps a mask (H, W) best when drawn at its centre with its area, in `turns` orientations."""
    x, y = _pixels(*mask.shape)
    wide_x, wide_y = (axis - 40 for axis in _pixels(80, 80))
    area = mask.sum()
    dx, dy = x - (mask * x).sum() / area, y - (mask * y).sum() / area
    best = {}
    for shape, distance in DISTANCES.items():
        # a shape's area grows with the square of its radius
        unit = (distance(wide_x, wide_y, torch.tensor(20.0)) < 0).sum() / 400
        radius = (area / unit).sqrt()
        angles = [SYMMETRY[shape] * turn / turns for turn in range(turns)]
        drawn = [distance(*_turn(dx, dy, angle), radius) < 0 for angle in angles]
        best[shape] = max(float((d & mask).sum() / (d | mask).sum()) for d in drawn)
    return max(SHAPES, key=lambda shape: best[shape])


def _pixels(height: int, width: int) -> tuple[Tensor, Tensor]:
    """x and y of every pixel's centre, each (height, width)."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return x, y


def _turn(x: Tensor, y: Tensor, angle: float) -> tuple[Tensor, Tensor]:
    return math.cos(angle) * x + math.sin(angle) * y, math.cos(angle) * y - math.sin(angle) * x


@dataclass(frozen=True)
class Verdict:
    """Whether a clip shows what its caption says of one object."""

    colour: bool
    shape: bool
    direction: bool

    @property
    def all(self) -> bool:
        return self.colour and self.shape and self.direction


def follows(frames: Tensor, scene: Scene) -> list[Verdict]:
    """Compares a clip with its caption, object by object: colour there and no other, shape, and direction of motion."""
    areas = colour_masks(frames).sum((2, 3)).float()  # (colours, T)
    seen = {colour for colour, area in zip(COLOURS, areas) if (area >= PRESENT).float().mean() > 0.5}
    wanted = {actor.colour for actor in scene.actors}
    return [_verdict(look_for(frames, actor.colour), actor, seen == wanted) for actor in scene.actors]


def _verdict(sighting: Sighting, actor: Actor, colour: bool) -> Verdict:
    frames = sighting.present.nonzero().flatten()
    if len(frames) < 4:
        return Verdict(False, False, False)
    turns = 8 if actor.motion == "spins" else 1
    clear = frames[sighting.area[frames] >= 0.8 * sighting.area[frames].median()]
    shapes = [shape_of(sighting.masks[i], turns) for i in clear[:: max(1, len(clear) // 5)]]
    return Verdict(colour, max(set(shapes), key=shapes.count) == actor.shape, _goes(sighting, actor))


def _goes(sighting: Sighting, actor: Actor) -> bool:
    """Whether the object goes the way that its caption says; in place when it says none."""
    frames = sighting.present.nonzero().flatten()
    if actor.motion in ("grows", "shrinks"):
        growth = sighting.area[frames[-3:]].mean() / sighting.area[frames[:3]].mean()
        return bool(growth > 1.5 if actor.motion == "grows" else growth < 1 / 1.5)
    if actor.motion == "spins":
        return bool(velocity(sighting).norm() < 0.5)
    if actor.motion == "bounces":
        early = sighting.centre[frames[:4]]
        step = (early[-1] - early[0]) / (len(early) - 1)
    else:
        step = velocity(sighting)
    along = step @ torch.tensor(DIRECTIONS[actor.direction or "right"], dtype=torch.float32)
    return bool(along > 0.3 and along > 0.8 * step.norm())


def velocity(sighting: Sighting) -> Tensor:
    """Pixels a frame in x and y, by least squares over the frames where the object is seen; (2,)."""
    frames = sighting.present.nonzero().flatten()
    time = frames - frames.float().mean()
    return (time[:, None] * sighting.centre[frames]).sum(0) / time.square().sum()


def motion_error(frames: Tensor, scene: Scene, which: slice) -> float:
    """Mean distance in pixels between the objects and where they should be, over the frames of `which`.

    An object that is not seen counts as far away as the picture is wide.
    """
    truth = scene.tracks(len(frames))[:, which, :2]
    errors = []
    for actor, path in zip(scene.actors, truth):
        distance = (look_for(frames, actor.colour).centre[which] - path).norm(dim=1)
        errors.append(distance.nan_to_num(float(frames.shape[2])))
    return float(torch.stack(errors).mean())


# --- many clips ----------------------------------------------------------------------------------------------------------


def decibels(one: Tensor, other: Tensor) -> Tensor:
    """PSNR of each clip for values in [0, 1]: (B, ...) twice -> (B,)."""
    return -10 * (one.clamp(0, 1) - other.clamp(0, 1)).square().flatten(1).mean(1).log10()


def caption_share(clips: Tensor, scenes: Sequence[Scene]) -> dict[str, float]:
    """Share of objects whose colour, shape, direction, and all three, are as their caption says."""
    verdicts = [v for clip, s in zip(clips, scenes) for v in follows(clip, s)]
    return {what: sum(getattr(v, what) for v in verdicts) / len(verdicts) for what in ("colour", "shape", "direction", "all")}


def motion_errors(clips: Tensor, scenes: Sequence[Scene], which: slice) -> Tensor:
    """Pixels between each clip's objects and where the law of motion has them, over the frames of `which`; (B,)."""
    return torch.tensor([motion_error(clip, s, which) for clip, s in zip(clips, scenes)])


def permanence(clips: Tensor, scenes: Sequence[Scene], which: slice) -> Tensor:
    """Share of each clip's objects and frames in which the object is there with at least half of its area; (B,)."""
    shares = []
    for clip, s, truth in zip(clips, scenes, draw(scenes)):
        areas = [(look_for(clip, actor.colour).area, look_for(truth, actor.colour).area) for actor in s.actors]
        shares.append(torch.stack([(seen >= 0.5 * true)[which].float().mean() for seen, true in areas]).mean())
    return torch.stack(shares)


def colour_drifts(clips: Tensor, scenes: Sequence[Scene]) -> Tensor:
    """Change of each clip's objects' colour from its first frame to its last, in levels of 255; (B,).

    Not a number where no object is in both frames.
    """
    return torch.stack([torch.stack([_drift(clip, actor) for actor in s.actors]).nanmean() for clip, s in zip(clips, scenes)])


def _drift(clip: Tensor, actor: Actor) -> Tensor:
    masks = look_for(clip, actor.colour).masks
    if not (masks[0].any() and masks[-1].any()):
        return torch.tensor(math.nan)
    first, last = (clip[i][masks[i]].median(0).values for i in (0, -1))
    return 255 * (first - last).abs().mean()
