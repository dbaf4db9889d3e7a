"""What Pusa does to quality, on the demo model: the README's tables of fidelity, motion and sweeps.

Every clip has a known answer: captions say what moves where, so each painted frame has a place where the object must be.

- Keyframe fidelity: decibels of the decoded keyframes against the clip that they come from; the VAE alone is the ceiling.
- Motion error: pixels (of 64) between each object and the law of motion, in the frames that the model painted.
- Permanence: share of frames in which every object is there with at least half of its true area.
- Colour drift: change of an object's colour from the first frame to the last, in levels of 255.
"""

from __future__ import annotations

import bench

CLIPS = 32
SHEET = bench.ROOT / "web" / "pictures" / "demo.png"
SHEET_TEXT = "a red circle moves right quickly and a blue triangle moves left quickly on a gradient background"
SHEET_EVERY, SHEET_ZOOM = 2, 2
PUSA, FIRST_FRAME = "base + Pusa LoRA", "base + LoRA trained with a clean first frame only"
PINNED, INPAINT = "base, frames pinned, no LoRA", "base, ComfyUI's noise mask"
NOISES = (0.0, 0.2, 0.5)
SWEEPS = {
    "alpha": (0.0, 0.5, 1.0, 1.4, 2.0, 3.0),
    "m": (0.0, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0),
    "steps": (1, 2, 4, 6, 10, 20, 50),
    "sampler": ("euler", "heun", "dpmpp_2m", "res_multistep", "uni_pc", "euler_ancestral", "dpmpp_2m_sde", "lcm"),
}


def main() -> None:
    parser = bench.parser(__doc__, threads=2)
    parser.add_argument("--clips", type=int, default=CLIPS)
    parser.add_argument("--sheet", action="store_true", help=f"only draw {SHEET.relative_to(bench.ROOT)}, the contact sheet")
    options = parser.parse_args()
    bench.use_comfyui(options)
    import torch

    from demo_model import FIRST_FRAME_LORA, LORA
    from demo_model.studio import Studio, Take

    studio = Studio()
    methods = {
        PINNED: {"lora": None},
        INPAINT: {"lora": None, "inpaint": True},
        FIRST_FRAME: {"lora": FIRST_FRAME_LORA},
        PUSA: {"lora": LORA},
    }
    with torch.inference_mode():
        if options.sheet:
            return draw_sheet(studio, methods, Take)
        parts = [
            tasks_table(studio, methods, options.clips, Take),
            fidelity_table(studio, methods, options.clips, Take),
            text_table(studio, options.clips, Take),
            *(sweep_table(studio, name, options.clips, Take) for name in SWEEPS),
        ]
    bench.publish("quality", "\n\n".join(parts), options.write)


def scenes(count: int, motion: str | None = None) -> list:
    """Test scenes with a law of motion, a quarter of them of colours and shapes that training never put together."""
    from demo_model.train_base import TEST_SEEDS
    from demo_model.world import scene

    motions = ("moves", "moves", "crosses", "bounces")
    return [scene(TEST_SEEDS + 1000 + i, i % 4 == 0, motion or motions[i % len(motions)]) for i in range(count)]


def figures(studio, take, clips: list) -> list[str]:
    """Motion error, permanence and colour drift of one way to sample."""
    from demo_model.studio import colour_drift, mean_motion_error, permanence

    frames = studio.film(clips, take)
    return [
        f"{mean_motion_error(frames, clips, take.task):.1f}",
        f"{permanence(frames, clips):.0%}",
        f"{colour_drift(frames, clips):.1f}",
    ]


def tasks_table(studio, methods: dict, count: int, Take) -> str:
    # a bounce is not told by one frame, so only extension has it
    rows = []
    for task in ("image to video", "start-end", "extension"):
        clips = scenes(count) if task == "extension" else scenes(count, "moves")
        rows += [[task, name, *figures(studio, Take(task, **how), clips)] for name, how in methods.items()]
    return bench.table(["task", "method", "motion error (px)", "permanence", "colour drift"], rows)


def fidelity_table(studio, methods: dict, count: int, Take) -> str:
    from demo_model.studio import fidelity
    from demo_model.world import draw

    clips = scenes(count, "moves")
    given, rows = draw(clips), []
    for name, how in methods.items():
        cells = []
        for m in NOISES:
            if how.get("inpaint") and m:
                cells.append("-")
                continue
            take = Take("start-end", m=(m,), **how)
            latents, plan = studio.latents(clips, take)
            cells.append(f"{fidelity(studio.decode(latents), given, plan.schedule.needs_clean_latent):.1f}")
        rows.append([name, *cells])
    header = ["keyframes of start-end, dB", *(f"m = {m:g}" for m in NOISES)]
    return bench.table(header, rows)


def text_table(studio, count: int, Take) -> str:
    from demo_model import LORA
    from demo_model.studio import caption_share
    from demo_model.train_base import TEST_SEEDS
    from demo_model.world import scene

    clips = [scene(TEST_SEEDS + i, i % 4 == 0) for i in range(2 * count)]
    rows = []
    for name, how in (
        ("base", {"lora": None}),
        ("base + Pusa LoRA, alpha 1", {"lora": LORA}),
        ("base + Pusa LoRA, alpha 1.4", {"lora": LORA, "alpha": 1.4}),
    ):
        shares = caption_share(studio.film(clips, Take("text to video", steps=20, **how)), clips)
        rows.append([name, *(f"{share:.0%}" for share in shares.values())])
    return bench.table(["text to video, objects as captioned", "colour", "shape", "direction", "all three"], rows)


def sweep_table(studio, name: str, count: int, Take) -> str:
    clips = scenes(count // 2, "moves")
    rows = []
    for value in SWEEPS[name]:
        setting = {name: (value,) if name == "m" else value}
        rows.append([f"{value:g}" if isinstance(value, float) else str(value)])
        for task in ("image to video", "extension"):
            rows[-1] += figures(studio, Take(task, **setting), clips)[:2]
    header = [name]
    for task in ("image to video", "extension"):
        header += [f"{task}: motion error (px)", "permanence"]
    return bench.table(header, rows)


def draw_sheet(studio, methods: dict, Take) -> None:
    """Frames by settings, as a picture: what was given has a white frame."""
    import torch
    from PIL import Image, ImageDraw

    from demo_model.studio import TASKS
    from demo_model.world import draw, scene_of

    clip = scene_of(SHEET_TEXT, 0)
    rows = [("the true clip", draw([clip])[0], [False] * 5)]
    tasks = [(task, PUSA, {}) for task in TASKS] + [("image to video", name, {}) for name in (FIRST_FRAME, PINNED, INPAINT)]
    tasks += [("image to video", f"{PUSA}, alpha {alpha:g}", {"alpha": alpha}) for alpha in (0.5, 2.0)]
    for task, name, more in tasks:
        take = Take(task, **{**methods.get(name, methods[PUSA]), **more})
        latents, plan = studio.latents([clip], take)
        rows.append((f"{task}: {name}", studio.decode(latents)[0], plan.schedule.needs_clean_latent))
    frames = range(0, len(rows[0][1]), SHEET_EVERY)
    side, gap, label = rows[0][1].shape[2] * SHEET_ZOOM, 4, 20
    sheet = Image.new("RGB", (len(frames) * (side + gap) + gap, len(rows) * (side + label + gap)), (24, 24, 27))
    pen = ImageDraw.Draw(sheet)
    for row, (name, pictures, given) in enumerate(rows):
        top = row * (side + label + gap)
        pen.text((gap, top + 4), name, fill=(228, 228, 231))
        for column, frame in enumerate(frames):
            picture = Image.fromarray((pictures[frame].clamp(0, 1) * 255).to(torch.uint8).numpy()).resize((side, side), 0)
            left = gap + column * (side + gap)
            sheet.paste(picture, (left, top + label))
            if given[(frame + 3) // 4]:
                pen.rectangle((left, top + label, left + side - 1, top + label + side - 1), outline="white", width=2)
    sheet.save(SHEET, optimize=True)
    print(f"Drew {SHEET}")


if __name__ == "__main__":
    main()
