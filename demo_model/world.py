"""A procedural world of moving shapes: clips with captions and with the truth about every object in every frame.

Each clip shows one or two objects that move, bounce, spin, grow or shrink in front of a background. Everything about a
clip follows from its seed. Colours are hues 60 degrees apart, so that `demo_model.measure` can find them again.
"""

from __future__ import annotations

import difflib
import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

TRAIN_SEEDS, TEST_SEEDS = 0, 10**6  # where the seeds of the training and of the test clips start
SIZE = 64  # pixels
LENGTH = 17  # pixel frames, 5 latent frames
EDGE = 2.0  # width of an object's soft edge in pixels

COLOURS = {
    "red": (0.92, 0.12, 0.12),
    "yellow": (0.95, 0.90, 0.15),
    "green": (0.12, 0.80, 0.20),
    "cyan": (0.15, 0.88, 0.92),
    "blue": (0.15, 0.25, 0.95),
    "pink": (0.95, 0.20, 0.85),
}
SHAPES = ("circle", "bar", "triangle", "cross")
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
SPEEDS = {"slowly": 1.0, "quickly": 1.9}  # pixels a frame
BACKGROUNDS = ("plain", "gradient", "stripes")
MOTIONS = ("moves", "bounces", "spins", "grows", "shrinks")
SILENT = {"a", "an", "the", "and", "on", "background"}
VOCABULARY = {
    "colours": COLOURS,
    "shapes": SHAPES,
    "motions": MOTIONS,
    "directions": DIRECTIONS,
    "speeds": SPEEDS,
    "backgrounds": BACKGROUNDS,
}
WORDS = tuple(word for words in VOCABULARY.values() for word in words)
BOUNCE_SPEED = 2.4
SPIN = math.radians(6)  # a frame

# Never together in a training clip: what a model makes of them, it has understood.
HELD_OUT = {("red", "cross"), ("cyan", "triangle"), ("yellow", "circle"), ("blue", "bar")}
PAIRS = [(colour, shape) for colour in COLOURS for shape in SHAPES]


class WorldError(ValueError):
    """A text that the world cannot show, in English; its template and values are kept for those who translate."""

    def __init__(self, template: str, /, **values: object) -> None:
        super().__init__(template.format(**values))
        self.template, self.values = template, values


@dataclass(frozen=True)
class Actor:
    """What one object does: everything that its caption says, and where it starts."""

    colour: str
    shape: str
    motion: str
    direction: str | None = None
    speed: str | None = None
    start: tuple[float, float] = (SIZE / 2, SIZE / 2)
    radius: float = 12.0

    @property
    def caption(self) -> str:
        words = [self.colour, self.shape, self.motion, self.direction, self.speed]
        return "a " + " ".join(word for word in words if word)

    def track(self, length: int = LENGTH) -> Tensor:
        """(x, y, radius, angle) in every frame: (length, 4), in pixels and radians."""
        frame = torch.arange(length, dtype=torch.float32)
        radius = torch.full_like(frame, self.radius)
        angle = torch.zeros_like(frame)
        x, y = (torch.full_like(frame, value) for value in self.start)
        if self.motion in ("moves", "bounces"):
            pace = SPEEDS[self.speed] if self.speed else BOUNCE_SPEED
            dx, dy = DIRECTIONS[self.direction or "right"]
            x, y = x + dx * pace * frame, y + dy * pace * frame
        if self.motion == "bounces":
            x, y = reflect(x, self.radius), reflect(y, self.radius)
        if self.motion == "spins":
            angle = SPIN * frame
        if self.motion in ("grows", "shrinks"):
            share = frame / (length - 1)
            radius = 7 + 8 * (share if self.motion == "grows" else 1 - share)
        return torch.stack([x, y, radius, angle], dim=1)

    def going_at(self, frame: int) -> Actor:
        """The same object with the direction in which it goes from a frame on."""
        if self.motion != "bounces":
            return self
        step = self.track(frame + 2)[-2:, :2].diff(dim=0)[0].tolist()
        return replace(self, direction=max(DIRECTIONS, key=lambda way: sum(a * b for a, b in zip(DIRECTIONS[way], step))))


@dataclass(frozen=True)
class Backdrop:
    kind: str
    colours: tuple[tuple[float, float, float], tuple[float, float, float]]
    angle: float = 0.0
    period: float = 24.0

    @property
    def caption(self) -> str:
        return f"on {self.kind}" if self.kind == "stripes" else f"on a {self.kind} background"


@dataclass(frozen=True)
class Scene:
    """A clip before it is drawn. Actors that come first lie in front."""

    actors: tuple[Actor, ...]
    backdrop: Backdrop

    @property
    def caption(self) -> str:
        return " and ".join(actor.caption for actor in self.actors) + f" {self.backdrop.caption}"

    def tracks(self, length: int = LENGTH) -> Tensor:
        """(actors, length, 4), see `Actor.track`."""
        return torch.stack([actor.track(length) for actor in self.actors])

    def caption_at(self, frame: int) -> str:
        """The caption of a longer clip, where an object that bounces goes the other way now."""
        return replace(self, actors=tuple(actor.going_at(frame) for actor in self.actors)).caption


def scene(seed: int, held_out: bool = False, motion: str | None = None) -> Scene:
    """The scene of a seed.

    Args:
        held_out: whether the first actor's colour and shape are a combination that training never sees.
        motion: one of `MOTIONS`, or "crosses" for two objects that meet; default: any.
    """
    rng = random.Random(f"{seed} {held_out} {motion}")
    motion = motion or rng.choices([*MOTIONS, "crosses"], weights=[5, 2, 1, 1, 1, 3])[0]
    pairs = sorted(HELD_OUT) if held_out else [pair for pair in PAIRS if pair not in HELD_OUT]
    colour, shape = rng.choice([pair for pair in pairs if motion != "spins" or pair[1] != "circle"])
    if motion != "crosses":
        return Scene((_actor(rng, colour, shape, motion),), _backdrop(rng))
    others = [pair for pair in PAIRS if pair not in HELD_OUT and pair[0] != colour]
    return Scene(_crossing(rng, (colour, shape), rng.choice(others)), _backdrop(rng))


def scene_of(caption: str, seed: int) -> Scene:
    """A scene that a caption describes; what it leaves open follows from the seed.

    Raises:
        ValueError: it has a word that is none of the world's, or more than two objects.
    """
    rng = random.Random(seed)
    backdrop = _backdrop(rng)
    described = [_described(clause, rng) for clause in re.split(r"\band\b", caption.lower())]
    if len(described) > 2:
        raise WorldError("The world has at most 2 objects, but {count} are described; take some out.", count=len(described))
    kinds = [word for word in words_of(caption) if word in BACKGROUNDS]
    backdrop = replace(backdrop, kind=kinds[-1]) if kinds else backdrop
    if len(described) == 2:
        return Scene(_crossing(rng, described[0][:2], described[1][:2], described[0][3]), backdrop)
    return Scene((_actor(rng, *described[0]),), backdrop)


def words_of(text: str) -> list[str]:
    return re.findall(r"[\w'-]+", text.lower())


def _described(clause: str, rng: random.Random) -> tuple[str, str, str, str | None, str | None]:
    """(colour, shape, motion, direction, speed) of one object; what is left open is drawn, but for the last two."""
    words = words_of(clause)
    for word in words:
        check_word(word)
    colour, shape, motion, direction, speed = (
        next((word for word in words if word in known), None) for known in (COLOURS, SHAPES, MOTIONS, DIRECTIONS, SPEEDS)
    )
    return colour or rng.choice(list(COLOURS)), shape or rng.choice(SHAPES), motion or "moves", direction, speed


def check_word(word: str) -> None:
    """Refuses a word that the world does not have.

    Raises:
        ValueError: it is not in `WORDS`; the message lists them.
    """
    if word in WORDS or word in SILENT:
        return
    known = {name: ", ".join(words) for name, words in VOCABULARY.items()}
    for near in difflib.get_close_matches(word, WORDS, 1):
        raise WorldError(
            'The demo model does not know the word "{word}"; did you mean {near}? It knows colours ({colours}), shapes '
            "({shapes}), motions ({motions}), directions ({directions}), speeds ({speeds}) and backgrounds ({backgrounds}).",
            word=word[:40], near=near, **known,
        )  # fmt: skip
    raise WorldError(
        'The demo model does not know the word "{word}". It knows colours ({colours}), shapes ({shapes}), motions '
        "({motions}), directions ({directions}), speeds ({speeds}) and backgrounds ({backgrounds}).",
        word=word[:40], **known,
    )  # fmt: skip


def _actor(
    rng: random.Random, colour: str, shape: str, motion: str, direction: str | None = None, speed: str | None = None
) -> Actor:
    radius = rng.uniform(10.5, 13.5)
    margin = _margin(15 if motion in ("grows", "shrinks") else radius)
    drawn = rng.choice(list(DIRECTIONS)) if motion in ("moves", "bounces") else None
    direction = drawn and (direction or drawn)
    drawn = rng.choice(list(SPEEDS)) if motion == "moves" else None
    speed = drawn and (speed or drawn)
    x, y = rng.uniform(margin, SIZE - margin), rng.uniform(margin, SIZE - margin)
    if direction:
        way = SPEEDS[speed] * (LENGTH - 1) if speed else rng.uniform(0.25, 0.75) * BOUNCE_SPEED * (LENGTH - 1)
        along = _start_along(rng, radius, way, sum(DIRECTIONS[direction]), bounces=motion == "bounces")
        x, y = (along, y) if DIRECTIONS[direction][0] else (x, along)
    return Actor(colour, shape, motion, direction, speed, (x, y), radius)


def _margin(radius: float) -> float:
    """How near to the picture's edge an object's centre may come: a cross reaches so far."""
    return 1.2 * radius + 0.5


def _start_along(rng: random.Random, radius: float, way: float, sign: int, bounces: bool) -> float:
    """Where to start so that the object stays in the picture, or meets the wall after `way` pixels."""
    low, high = _margin(radius), SIZE - _margin(radius)
    way = min(way, high - low)
    start = high - way if bounces else rng.uniform(low, high - way)
    return start if sign > 0 else SIZE - start


def _crossing(
    rng: random.Random, first: tuple[str, str], second: tuple[str, str], way: str | None = None
) -> tuple[Actor, Actor]:
    """Two objects that go opposite ways along neighbouring lines and meet on the way; the first goes `way`."""
    direction = rng.choice(["left", "right", "up", "down"])
    direction = way or direction
    opposite = {"left": "right", "right": "left", "up": "down", "down": "up"}[direction]
    actors = []
    line = rng.uniform(24, 40)
    for (colour, shape), goes, offset in ((first, direction, -1), (second, opposite, 1)):
        radius = rng.uniform(9.5, 11.5)
        sign = sum(DIRECTIONS[goes])
        along = _margin(radius) + rng.uniform(0, 3)
        along = along if sign > 0 else SIZE - along
        across = line + offset * rng.uniform(4, 9)
        start = (along, across) if DIRECTIONS[goes][0] else (across, along)
        actors.append(Actor(colour, shape, "moves", goes, "quickly", start, radius))
    return actors[0], actors[1]


def _backdrop(rng: random.Random) -> Backdrop:
    kind = rng.choice(BACKGROUNDS)
    grey = rng.uniform(0.12, 0.5)
    step = rng.choice((-1, 1)) * rng.uniform(0.08, 0.16)
    step = -step if not 0.05 < grey + step < 0.6 else step
    tints = _tint(rng, grey), _tint(rng, grey + step)
    return Backdrop(kind, tints, rng.uniform(0, math.tau), rng.uniform(18, 32))


def _tint(rng: random.Random, grey: float) -> tuple[float, float, float]:
    red, green, blue = (grey + rng.uniform(-0.04, 0.04) for _ in range(3))
    return red, green, blue


def reflect(position: Tensor, radius: float) -> Tensor:
    """Where a position beyond the walls is after bouncing off them."""
    low, high = _margin(radius), SIZE - _margin(radius)
    span = high - low
    folded = (position - low) % (2 * span)
    return low + torch.where(folded > span, 2 * span - folded, folded)


# --- drawing -------------------------------------------------------------------------------------------------------------


def draw(scenes: Sequence[Scene], length: int = LENGTH, size: int = SIZE) -> Tensor:
    """The scenes as pictures in [0, 1]: (scenes, length, size, size, 3)."""
    return torch.stack([_draw(s, length, size) for s in scenes])


def _draw(scene: Scene, length: int, size: int) -> Tensor:
    scale = SIZE / size
    y, x = _grid(size)
    picture = draw_backdrop(scene.backdrop, size).expand(length, size, size, 3)
    for actor in reversed(scene.actors):
        track = actor.track(length)[:, :, None, None]  # (length, 4, 1, 1)
        px, py, radius, angle = track.unbind(1)
        dx, dy = x - px, y - py
        cos, sin = angle.cos(), angle.sin()
        distance = DISTANCES[actor.shape](cos * dx + sin * dy, cos * dy - sin * dx, radius)
        cover = (0.5 - distance / (EDGE * scale)).clamp(0, 1)[..., None]
        picture = picture + cover * (torch.tensor(COLOURS[actor.colour]) - picture)
    return picture


def _grid(size: int) -> tuple[Tensor, Tensor]:
    """y and x of every pixel's centre, in the world's pixels."""
    axis = (torch.arange(size) + 0.5) * SIZE / size
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return y, x


def draw_backdrop(backdrop: Backdrop, size: int = SIZE) -> Tensor:
    """(size, size, 3)."""
    y, x = _grid(size)
    first, second = (torch.tensor(colour) for colour in backdrop.colours)
    along = (x - SIZE / 2) * math.cos(backdrop.angle) + (y - SIZE / 2) * math.sin(backdrop.angle)
    if backdrop.kind == "plain":
        share = torch.zeros_like(x)
    elif backdrop.kind == "gradient":
        share = (along / SIZE + 0.5).clamp(0, 1)
    else:
        share = 0.5 + 0.5 * (along * math.tau / backdrop.period).sin()
    return first + share[..., None] * (second - first)


def _circle(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    return (x.square() + y.square()).sqrt() - r


def _bar(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    return torch.maximum(x.abs() - 1.15 * r, y.abs() - 0.5 * r)


def _triangle(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    return torch.maximum(0.866 * x.abs() - 0.5 * y, y) - 0.6 * r


def _cross(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    a, b, arm, reach = x.abs(), y.abs(), 0.33 * r, 1.2 * r
    return torch.minimum(torch.maximum(a - arm, b - reach), torch.maximum(b - arm, a - reach))


DISTANCES = {"circle": _circle, "bar": _bar, "triangle": _triangle, "cross": _cross}
