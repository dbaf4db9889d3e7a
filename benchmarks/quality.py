"""What Pusa does to quality, on the demo model: tables of fidelity, motion and sweeps, and a contact sheet.

Every clip has a known answer: captions say what moves where, so each painted frame has a place where the object must be.

- Keyframe fidelity: decibels of the given frames of a clip that is extended; the VAE alone is the ceiling.
- Motion error: pixels (of 64) between each object and the law of motion, in the frames that the model painted.
- Permanence: share of objects and painted frames in which the object is there with at least half of its area.
- Colour drift: change of an object's colour from the first frame to the last, in levels of 255.
"""

from __future__ import annotations

import bench
import torch

from demo_model import FIRST_FRAME_LORA
from demo_model.measure import caption_share, colour_drift, decibels, mean_motion_error, permanence
from demo_model.studio import TASKS, Studio, Take
from demo_model.world import TEST_SEEDS, draw, scene, scene_of
from pusa_core.figures import contact_sheet, save_image

CLIPS = 16
SCENES, TEXTS = TEST_SEEDS + 3000, TEST_SEEDS + 4000  # seeds that training never looked at
PUSA = "base + Pusa LoRA"
METHODS = {
    "base, frames pinned, no LoRA": {"lora": None},
    "base, ComfyUI's noise mask": {"lora": None, "inpaint": True},
    "base + LoRA trained with a clean first frame only": {"lora": FIRST_FRAME_LORA},
    PUSA: {},
}
NOISES = (0.0, 0.2, 0.5)
# (given frames as they are, and the settings that Pusa's authors recommend: some noise in them, alpha 1.4)
SETTINGS = {
    "image to video": ((0.0,), (0.2,)),
    "start-end": ((0.0,), (0.2, 0.5)),
    "extension": ((0.0,), (0.0, 0.3)),
}
SWEEPS = {
    "alpha": (0.0, 0.5, 1.0, 1.4, 2.0, 3.0),
    "m": (0.0, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0),
    "steps": (1, 2, 4, 6, 10, 20, 50),
    "sampler": ("euler", "heun", "dpmpp_2m", "res_multistep", "uni_pc", "euler_ancestral", "dpmpp_2m_sde", "lcm"),
}
SHEET = bench.ROOT / "web" / "pictures" / "demo.png"
SHEET_TEXT = "a red circle moves right quickly and a blue triangle moves left quickly on a gradient background"


def main() -> None:
    parser = bench.parser(__doc__, threads=2)
    parser.add_argument("--clips", type=int, default=CLIPS)
    parser.add_argument("--sheet", action="store_true", help=f"only draw {SHEET.relative_to(bench.ROOT)}, the contact sheet")
    parser.add_argument("--only", choices=("quality", "sweeps"), help="one of the two groups of tables")
    options = parser.parse_args()
    bench.use_comfyui(options)
    studio = Studio()
    with torch.inference_mode():
        if options.sheet:
            return draw_sheet(studio)
        if options.only != "sweeps":
            tables = [table(studio, options.clips) for table in (tasks_table, fidelity_table, text_table)]
            bench.publish("quality", "\n\n".join(tables), options.write)
        if options.only != "quality":
            tables = [sweep_table(studio, name, options.clips // 2) for name in SWEEPS]
            bench.publish("sweeps", "\n\n".join(tables), options.write)


def scenes(count: int, motions: tuple[str, ...] = ("moves",)) -> list:
    """Test scenes; a quarter have a colour and a shape that training never put together."""
    return [scene(SCENES + i, i // len(motions) % 4 == 0, motions[i % len(motions)]) for i in range(count)]


def figures(studio: Studio, take: Take, clips: list) -> list[str]:
    """Motion error, permanence and colour drift of one way to sample."""
    frames, painted = studio.film(clips, take), TASKS[take.task].painted
    return [
        f"{mean_motion_error(frames, clips, painted):.1f}",
        f"{permanence(frames, clips, painted):.0%}",
        f"{colour_drift(frames, clips):.1f}",
    ]


def tasks_table(studio: Studio, count: int) -> str:
    rows = []
    for task, (exact, recommended) in SETTINGS.items():
        # one frame tells neither when an object bounces nor what it passes
        clips = scenes(count, ("moves", "crosses", "bounces") if task == "extension" else ("moves",))
        for name, how in METHODS.items():
            cells = figures(studio, Take(task, m=exact, **how), clips)
            if "inpaint" in how:  # a noise mask has no multiplier, and no LoRA
                more = ["-"] * len(cells)
            else:
                more = figures(studio, Take(task, m=recommended, alpha=1.4, **how), clips)
            rows.append([task, name, *cells, *more])
    measured = ("motion error (px)", "permanence", "colour drift")
    return bench.table(
        ["task", "method", *(f"m = 0, alpha 1: {what}" for what in measured), *(f"recommended: {what}" for what in measured)],
        rows,
    )


def fidelity_table(studio: Studio, count: int) -> str:
    clips = scenes(count)
    given = list(TASKS["extension"].given)
    true = draw(clips)[:, given]
    alone = studio.decode(torch.cat([studio.encode(clip) for clip in true]))
    rows = [["the VAE alone", *[f"{decibels(alone, true).mean():.1f}"] * len(NOISES)]]
    for name, how in METHODS.items():
        noises = NOISES[:1] if "inpaint" in how else NOISES  # a noise mask has no multiplier
        films = [studio.film(clips, Take("extension", m=(m,), **how))[:, given] for m in noises]
        cells = [f"{decibels(film, true).mean():.1f}" for film in films]
        rows.append([name, *cells, *["-"] * (len(NOISES) - len(cells))])
    return bench.table(["given frames of extension, dB", *(f"m = {m:g}" for m in NOISES)], rows)


def text_table(studio: Studio, count: int) -> str:
    clips = [scene(TEXTS + i, i % 4 == 0) for i in range(2 * count)]
    rows = []
    for name, how in (
        ("base", {"lora": None}),
        (f"{PUSA}, alpha 1", {}),
        (f"{PUSA}, alpha 1.4", {"alpha": 1.4}),
    ):
        shares = caption_share(studio.film(clips, Take("text to video", steps=20, **how)), clips)
        rows.append([name, *(f"{share:.0%}" for share in shares.values())])
    return bench.table(["text to video, objects as captioned", "colour", "shape", "direction", "all three"], rows)


def sweep_table(studio: Studio, name: str, count: int) -> str:
    clips, tasks, rows = scenes(count), ("image to video", "extension"), []
    for value in SWEEPS[name]:
        setting = {name: (value,) if name == "m" else value}
        cells = [cell for task in tasks for cell in figures(studio, Take(task, **setting), clips)[:2]]
        rows.append([f"{value:g}" if isinstance(value, float) else str(value), *cells])
    return bench.table([name, *(f"{task}: {what}" for task in tasks for what in ("motion error (px)", "permanence"))], rows)


def draw_sheet(studio: Studio) -> None:
    """Frames by settings, as a picture: what was given has a white frame."""
    clip = scene_of(SHEET_TEXT, 0)
    settings = [(f"{task}: {PUSA}", Take(task)) for task in TASKS]
    settings += [(f"image to video: {name}", Take("image to video", **how)) for name, how in METHODS.items() if name != PUSA]
    settings += [(f"image to video: {PUSA}, alpha {alpha:g}", Take("image to video", alpha=alpha)) for alpha in (0.5, 2.0)]
    rows = [("the true clip", draw([clip])[0], ())]
    rows += [(name, studio.film([clip], take)[0], TASKS[take.task].given) for name, take in settings]
    save_image(contact_sheet(rows), SHEET)
    print(f"Drew {SHEET}")


if __name__ == "__main__":
    main()
