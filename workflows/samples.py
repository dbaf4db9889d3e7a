"""Draws the pictures and clips in web/samples: python workflows/samples.py

A paper boat on a lake from dawn to dusk, a balloon over dunes, and a scene of the demo model's world. The same numbers
give the same pictures, drawn at twice the size and scaled down.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter
from recipes import STUCK, STUTTER

PACK = Path(__file__).resolve().parents[1]
SAMPLES = PACK / "web" / "samples"
WIDTH, HEIGHT, FINE = 832, 480, 2
W, H = WIDTH * FINE, HEIGHT * FINE
FPS, FRAMES = 24, 97
STILLS = {"boat_start.jpg": 0.0, "boat_middle.jpg": 0.5, "boat_end.jpg": 1.0}
HORIZON = 0.56  # of the height

# Colours at dawn, noon and dusk: above, at the horizon, the hills far and near, the sun, what light does to the boat.
LIGHT = {
    "above": [(86, 98, 168), (52, 138, 214), (38, 30, 84)],
    "middle": [(222, 142, 160), (132, 196, 236), (146, 62, 124)],
    "horizon": [(255, 206, 150), (222, 240, 246), (255, 140, 88)],
    "far": [(178, 138, 178), (132, 176, 206), (120, 66, 120)],
    "near": [(74, 70, 118), (44, 104, 104), (42, 24, 66)],
    "sun": [(255, 232, 190), (255, 252, 226), (255, 196, 120)],
    "boat": [(238, 108, 96), (236, 70, 58), (214, 64, 84)],
    "paper": [(255, 240, 226), (255, 255, 252), (255, 214, 196)],
    "cloud": [(255, 214, 206), (255, 255, 255), (240, 132, 126)],
}

DUNES = [
    ((236, 190, 124), 0.62, 0.03),
    ((222, 160, 88), 0.7, 0.045),
    ((190, 116, 62), 0.8, 0.06),
    ((120, 66, 48), 0.93, 0.05),
]

Colour = tuple[int, int, int]
Points = list[tuple[float, float]]


def mix(stops: list[Colour], time: float) -> Colour:
    """A colour between stops that are evenly spread over time 0 to 1."""
    place = min(max(time, 0.0), 1.0) * (len(stops) - 1)
    first = min(int(place), len(stops) - 2)
    part = place - first
    return tuple(round((1 - part) * a + part * b) for a, b in zip(stops[first], stops[first + 1]))  # type: ignore[return-value]


def shade(colour: Colour, factor: float) -> Colour:
    return tuple(min(255, round(value * factor)) for value in colour)  # type: ignore[return-value]


def gradient(stops: list[Colour], height: int) -> Image.Image:
    """From top to bottom; the width of all pictures."""
    place = np.linspace(0, len(stops) - 1, height)
    rows = [np.interp(place, range(len(stops)), [stop[i] for stop in stops]) for i in range(3)]
    grain = np.random.default_rng(0).uniform(0, 1, (height, W, 1))  # so that no bands show
    return Image.fromarray((np.stack(rows, -1)[:, None] + grain).clip(0, 255).astype(np.uint8))


def glow(image: Image.Image, x: float, y: float, radius: float, colour: Colour, strength: float) -> Image.Image:
    """Adds light around a point."""
    rows, columns = np.mgrid[0 : image.height, 0 : image.width]
    near = np.exp(-(((columns - x) ** 2 + (rows - y) ** 2) ** 0.5) / radius) * strength
    lit = np.asarray(image, float)
    lit += (np.array(colour) - lit) * near[..., None].clip(0, 1)
    return Image.fromarray(lit.clip(0, 255).astype(np.uint8))


def disc(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, colour: Colour) -> None:
    draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=colour)


def ridge(seed: int, top: float, rough: float, shift: float = 0.0) -> Points:
    """The outline of hills: a sum of waves, down to the bottom of the picture."""
    random = np.random.default_rng(seed)
    x = np.linspace(0, W, 240)
    y = np.full_like(x, top * H)
    for wave in range(1, 6):
        phase = random.uniform(0, 6.3)
        y += rough * H / wave * random.uniform(0.4, 1) * np.sin((x + shift * W) / W * wave * 2.9 + phase)
    return [(0, H), *zip(x, y), (W, H)]


def clouds(image: Image.Image, time: float, colour: Colour, seed: int = 4) -> Image.Image:
    layer = Image.new("L", image.size)
    draw, random = ImageDraw.Draw(layer), np.random.default_rng(seed)
    for _ in range(5):
        x, y, size = random.uniform(0, 1.1) * W + time * 0.12 * W, random.uniform(0.07, 0.3) * H, random.uniform(60, 130)
        for _ in range(7):
            dx, dy, r = random.uniform(-1.6, 1.6) * size, random.uniform(-0.12, 0.1) * size, random.uniform(0.2, 0.42) * size
            draw.ellipse([x + dx - 1.8 * r, y + dy - 0.5 * r, x + dx + 1.8 * r, y + dy + 0.5 * r], fill=150)
    layer = layer.filter(ImageFilter.GaussianBlur(9))
    return Image.composite(Image.new("RGB", image.size, colour), image, layer)


# --- a paper boat on a lake, from dawn to dusk -----------------------------------------------------------------------


def boat(time: float, wave: float) -> Image.Image:
    """The lake at a time of the day, 0 to 1; `wave` seconds move the water."""
    light = {name: mix(stops, time) for name, stops in LIGHT.items()}
    shore = round(HORIZON * H)
    sky = _lit_sky(time, light)
    water = np.asarray(sky.crop((0, 0, W, shore)).transpose(Image.Transpose.FLIP_TOP_BOTTOM), float)
    image = Image.new("RGB", (W, H))
    image.paste(sky.crop((0, 0, W, shore)))
    image.paste(_water(water, light, time, wave), (0, shore))
    image = _with_boat(image, time, wave, light)
    return _reeds(image, wave, light).resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)


def _lit_sky(time: float, light: dict[str, Colour]) -> Image.Image:
    sky = gradient([light["above"], light["middle"], light["horizon"]], round(HORIZON * H))
    image = Image.new("RGB", (W, H))
    image.paste(sky)
    x, y = (0.14 + 0.72 * time) * W, (0.43 - 0.33 * np.sin(np.pi * time)) * H
    if time > 0.8:
        _stars(image, (time - 0.8) / 0.2)
    image = glow(image, x, y, 210, light["sun"], 0.85)
    disc(ImageDraw.Draw(image), x, y, 46, light["sun"])
    image = clouds(image, time, light["cloud"])
    draw = ImageDraw.Draw(image)
    for layer, (top, rough) in enumerate([(0.40, 0.055), (0.455, 0.04), (0.515, 0.026)]):
        draw.polygon(ridge(layer + 11, top, rough), fill=mix([light["far"], light["near"]], layer / 2))
    return image


def _stars(image: Image.Image, strength: float) -> None:
    draw, random = ImageDraw.Draw(image), np.random.default_rng(8)
    for _ in range(70):
        x, y, bright = random.uniform(0, W), random.uniform(0, 0.25) * H, random.uniform(0.3, 1) * strength
        under = image.getpixel((int(x), int(y)))
        disc(draw, x, y, random.uniform(1, 2.6), mix([under, (255, 246, 226)], bright))  # type: ignore[list-item]


def _water(mirrored: np.ndarray, light: dict[str, Colour], time: float, wave: float) -> Image.Image:
    """The mirrored sky, bent by ripples that are wider the nearer they are, and lit where the sun is."""
    height = H - round(HORIZON * H)
    rows = np.arange(height)
    near = (rows + 6) / height
    phase = 46 / (near + 0.16)
    shift = (2 + 15 * near) * np.sin(phase - 2.2 * wave) + 6 * near * np.sin(2.3 * phase + 1.7 * wave)
    columns = (np.arange(W)[None] + shift[:, None]).clip(0, W - 1).astype(int)
    source = (rows * len(mirrored) / height * 0.9).astype(int)
    water = mirrored[source[:, None], columns]
    tint = np.array(shade(light["above"], 0.62))
    water = water + (tint - water) * (0.22 + 0.42 * near)[:, None, None]
    sun = (0.14 + 0.72 * time) * W
    glint = np.exp(-(((np.arange(W)[None] - sun) / (40 + 190 * near[:, None])) ** 2))
    glint = glint * (np.sin(phase * 1.6 - 3 * wave)[:, None] > 0.1) * (0.5 - 0.32 * near)[:, None]
    water += (np.array(light["sun"]) - water) * glint[..., None]
    return Image.fromarray(water.clip(0, 255).astype(np.uint8))


def _with_boat(image: Image.Image, time: float, wave: float, light: dict[str, Colour]) -> Image.Image:
    x, y = (0.24 + 0.5 * time) * W, 0.735 * H + 5 * np.sin(1.9 * wave)
    tilt = 0.035 * np.sin(1.3 * wave + 1)
    below = image.copy()
    _paper_boat(ImageDraw.Draw(below), x, y + 8, tilt, light, flip=-0.72)
    below = below.filter(ImageFilter.GaussianBlur(3))
    rows = np.arange(H)
    shift = (5 * np.sin(rows / 9 - 2.4 * wave)).astype(int)
    bent = np.asarray(below)[rows[:, None], (np.arange(W)[None] + shift[:, None]).clip(0, W - 1)]
    mask = Image.new("L", image.size)
    ImageDraw.Draw(mask).rectangle([0, y, W, H], fill=165)
    image = Image.composite(Image.fromarray(bent), image, mask)
    draw = ImageDraw.Draw(image, "RGBA")
    for ring in range(5):  # the wake
        reach, fade = 100 + 70 * ring + 26 * ((wave * 0.8) % 1), 80 - 15 * ring
        draw.arc([x - reach - 90, y - 4 - 5 * ring, x + 40, y + 16 + 7 * ring], 60, 190, (*light["paper"], fade), 4)
    _paper_boat(draw, x, y, tilt, light)
    return image


def _paper_boat(draw: ImageDraw.ImageDraw, x: float, y: float, tilt: float, light: dict[str, Colour], flip: float = 1.0):
    """A folded boat: two halves of the hull, and the peak of the paper between them."""

    def at(*points: tuple[float, float]) -> Points:
        return [(x + px + tilt * py * flip, y + flip * (py - tilt * px)) for px, py in points]

    red, paper = light["boat"], light["paper"]
    draw.polygon(at((-54, -46), (4, -158), (4, -30)), fill=paper)
    draw.polygon(at((60, -46), (4, -158), (4, -30)), fill=shade(paper, 0.84))
    draw.polygon(at((-150, -74), (-54, -46), (4, -62), (60, -46), (156, -74), (92, 6), (-86, 6)), fill=shade(red, 0.74))
    draw.polygon(at((-150, -74), (4, -34), (4, 6), (-86, 6)), fill=red)
    draw.polygon(at((156, -74), (4, -34), (4, 6), (92, 6)), fill=shade(red, 0.86))


def _reeds(image: Image.Image, wave: float, light: dict[str, Colour]) -> Image.Image:
    draw, random = ImageDraw.Draw(image), np.random.default_rng(21)
    dark = shade(light["near"], 0.42)
    for _ in range(34):
        x, tall, lean = random.uniform(-0.01, 0.17) * W, random.uniform(0.08, 0.34) * H, random.uniform(-30, 60)
        tall *= 1 - x / (0.24 * W)
        sway = lean + 9 * np.sin(1.2 * wave + x / 90)
        draw.polygon([(x - 4, H), (x + 5, H), (x + 0.45 * sway + 3, H - 0.55 * tall), (x + sway, H - tall)], fill=dark)
        if random.uniform() < 0.25:
            top = x + sway, H - tall
            draw.rounded_rectangle([top[0] - 6, top[1] - 30, top[0] + 6, top[1] + 26], 6, fill=shade(dark, 1.3))
    return image


# --- a balloon over dunes --------------------------------------------------------------------------------------------


def balloon(time: float, seconds: float) -> Image.Image:
    """A hot-air balloon that rises over dunes, which pass by below it."""
    image = gradient([(28, 104, 140), (98, 178, 178), (250, 226, 172)], H)
    image = glow(image, 0.78 * W, 0.5 * H, 330, (255, 240, 196), 0.8)
    disc(ImageDraw.Draw(image), 0.78 * W, 0.47 * H, 60, (255, 246, 214))
    image = clouds(image, seconds / 6, (255, 250, 236), seed=15)
    draw = ImageDraw.Draw(image)
    for layer, (colour, top, rough) in enumerate(DUNES):
        shift = seconds * 0.012 * (layer + 1) ** 1.5
        draw.polygon(ridge(layer + 40, top, rough, shift), fill=colour)
        draw.line(ridge(layer + 40, top, rough, shift)[1:-1], fill=shade(colour, 1.12), width=5)
    for bird in range(4):
        _bird(draw, (0.62 + 0.045 * bird + 0.02 * seconds) * W, (0.2 + 0.035 * (bird % 3)) * H, seconds * 6 + bird)
    _balloon(image, (0.3 + 0.12 * time) * W, (0.4 - 0.1 * time) * H + 5 * np.sin(1.4 * seconds))
    return image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)


def _bird(draw: ImageDraw.ImageDraw, x: float, y: float, beat: float) -> None:
    lift = 11 * np.sin(beat)
    draw.line([(x - 22, y - lift), (x - 7, y - 5), (x, y), (x + 7, y - 5), (x + 22, y - lift)], fill=(46, 62, 78), width=4)


def _balloon(image: Image.Image, x: float, y: float) -> None:
    """Stripes that narrow towards the sides, as on a ball, lit from the right."""
    draw = ImageDraw.Draw(image)
    colours = [(214, 62, 62), (250, 232, 200), (238, 128, 52), (250, 232, 200), (42, 116, 138)]
    heights = np.linspace(-1, 1, 60)
    round_top = np.sqrt(np.clip(1 - ((heights - 0.15) / 1.15) ** 2, 0, 1))
    girth = np.where(heights < 0.15, round_top, 1 - 0.86 * (np.clip(heights - 0.15, 0, 1) / 0.85) ** 1.7)
    edges = np.sin(np.linspace(-np.pi / 2, np.pi / 2, 11))
    for stripe, (left, right) in enumerate(zip(edges, edges[1:])):
        side = [(x + left * 150 * g, y + 190 * h) for h, g in zip(heights, girth)]
        other = [(x + right * 150 * g, y + 190 * h) for h, g in zip(heights, girth)]
        draw.polygon(side + other[::-1], fill=shade(colours[stripe % 5], 0.72 + 0.36 * (stripe / 9)))
    for rope in (-20, 20):
        draw.line([(x + rope, y + 188), (x + rope * 0.8, y + 246)], fill=(70, 50, 44), width=4)
    draw.rounded_rectangle([x - 25, y + 244, x + 25, y + 282], 8, fill=(126, 82, 54))
    draw.rectangle([x - 25, y + 244, x + 25, y + 252], fill=(92, 58, 42))


# --- files -----------------------------------------------------------------------------------------------------------


def write_clip(path: Path, pictures: Iterator[Image.Image], fps: int, crf: int) -> None:
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = None
        for picture in pictures:
            if stream is None:
                stream = container.add_stream("libx264", rate=Fraction(fps))
                stream.width, stream.height, stream.pix_fmt = *picture.size, "yuv420p"
                stream.options = {"crf": str(crf), "preset": "veryslow", "threads": "1"}
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode() if stream else [])


def frames(
    draw: Callable[[float, float], Image.Image], first: float, last: float, numbers: Iterable[int] = range(FRAMES)
) -> Iterator[Image.Image]:
    for number in numbers:
        yield draw(first + (last - first) * number / (FRAMES - 1), number / FPS)


def stuttering() -> list[int]:
    """The numbers of 81 frames of a clip that stands still for a while and then jumps on."""
    return [STUCK.start - 1 if number in range(STUCK.start, STUCK.stop) else number for number in range(81)]


def write_demo() -> None:
    """What a text of the demo model draws; six times as large in the clip, so that its colours survive."""
    sys.path.insert(0, str(PACK))
    from recipes import DEMO_CLIP, DEMO_END, DEMO_FPS, DEMO_START, DEMO_STUTTER, DEMO_TEXT

    from demo_model.spoil import stutter
    from demo_model.world import draw, scene_of

    clip = (draw([scene_of(DEMO_TEXT, 0)])[0].numpy() * 255).round().astype(np.uint8)
    pictures = [Image.fromarray(frame) for frame in clip]
    pictures[0].save(SAMPLES / DEMO_START, optimize=True)
    pictures[-1].save(SAMPLES / DEMO_END, optimize=True)
    pixels = torch.from_numpy(clip)
    for name, shown in ((DEMO_CLIP, pixels), (DEMO_STUTTER, stutter(pixels))):
        large = (Image.fromarray(frame).resize((384, 384), Image.Resampling.NEAREST) for frame in shown.numpy())
        write_clip(SAMPLES / name, large, round(DEMO_FPS), 14)


def main() -> None:
    SAMPLES.mkdir(exist_ok=True)
    for name, time in STILLS.items():
        boat(time, 4 * time).save(SAMPLES / name, quality=88, optimize=True)
    write_clip(SAMPLES / "boat.mp4", frames(boat, 0.16, 0.34), FPS, 25)
    write_clip(SAMPLES / STUTTER, frames(boat, 0.16, 0.34, stuttering()), FPS, 27)
    write_clip(SAMPLES / "balloon.mp4", frames(balloon, 0.0, 1.0), FPS, 25)
    write_demo()


if __name__ == "__main__":
    main()
