"""What Pusa does to quality, on the demo model: tables of fidelity, motion and sweeps, and a contact sheet.

Every clip has a known answer: captions say what moves where, so each painted frame has a place where the object must be.

- Keyframe fidelity: decibels of the given frames of a clip that is extended; the VAE alone is the ceiling.
- Motion error: pixels (of 64) between each object and the law of motion, in the frames that the model painted.
- Permanence: share of objects and painted frames in which the object is there with at least half of its area.
- Colour drift: change of an object's colour from the first frame to the last, in levels of 255.

Brackets are 95 % intervals of means over clips (Student's t). Differences are paired: all methods get the same clips and
the same noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bench
import torch
from torch import Tensor

from demo_model import FIRST_FRAME_LORA, LORA
from demo_model.measure import caption_share, colour_drifts, decibels, motion_errors, permanence
from demo_model.studio import TASKS, SampleSettings, Studio
from demo_model.world import TEST_SEEDS, Scene, draw, scene, scene_of
from pusa_core.figures import contact_sheet, save_image
from pusa_core.intervals import mean_interval, paired_difference

CLIPS = 64
SCENES, TEXTS = TEST_SEEDS + 3000, TEST_SEEDS + 4000  # seeds that training never looked at


@dataclass(frozen=True)
class Method:
    """A way to keep the given frames: pinned by a schedule, or by ComfyUI's noise mask."""

    lora: Path | None
    inpaint: bool = False

    def settings(self, task: str, **changed: Any) -> SampleSettings:
        return SampleSettings(task, self.lora, inpaint=self.inpaint, **changed)


PUSA, FIRST_FRAME = "base + Pusa LoRA", "base + LoRA trained with a clean first frame only"
METHODS = {
    "base, frames pinned, no LoRA": Method(None),
    "base, ComfyUI's noise mask": Method(None, inpaint=True),
    FIRST_FRAME: Method(FIRST_FRAME_LORA),
    PUSA: Method(LORA),
}
NOISES = (0.0, 0.2, 0.5)
# What Pusa's authors recommend: some noise in the given frames, and alpha 1.4.
RECOMMENDED_M = {"image to video": (0.2,), "start-end": (0.2, 0.5), "extension": (0.0, 0.3)}
RECOMMENDED_ALPHA = 1.4
# One frame tells neither when an object bounces nor what it passes.
MOTIONS = {"extension": ("moves", "crosses", "bounces")}


@dataclass(frozen=True)
class Setting:
    """One corner of the square: the noise multipliers and alpha, each plain or recommended."""

    recommended_m: bool
    recommended_alpha: bool

    def __str__(self) -> str:
        m = "recommended m" if self.recommended_m else "m = 0"
        return f"{m}, alpha {self.alpha:g}"

    @property
    def alpha(self) -> float:
        return RECOMMENDED_ALPHA if self.recommended_alpha else 1.0

    def m(self, task: str) -> tuple[float, ...]:
        return RECOMMENDED_M[task] if self.recommended_m else (0.0,)

    def applies_to(self, method: Method) -> bool:
        """Whether the method tells this setting from a plainer one: a noise mask has no m, the bare base no alpha."""
        return not (method.inpaint and self.recommended_m or method.lora is None and self.recommended_alpha)


SQUARE = [Setting(m, alpha) for m in (False, True) for alpha in (False, True)]
PLAIN, ONLY_ALPHA, ONLY_M, RECOMMENDED = SQUARE
SWEEPS: dict[str, tuple[Any, ...]] = {
    "alpha": (0.0, 0.5, 1.0, 1.4, 2.0, 3.0),
    "m": (0.0, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0),
    "steps": (1, 2, 4, 6, 10, 20, 50),
    "sampler": ("euler", "heun", "dpmpp_2m", "res_multistep", "uni_pc", "euler_ancestral", "dpmpp_2m_sde", "lcm"),
}
SHEET = bench.ROOT / "web" / "pictures" / "demo.png"
SHEET_TEXT = "a red circle moves right quickly and a blue triangle moves left quickly on a gradient background"


def main() -> None:
    parser = bench.parser(__doc__, threads=1)
    parser.add_argument("--clips", type=int, default=CLIPS, help="of each task; fidelity and sweeps take a quarter")
    parser.add_argument("--sheet", action="store_true", help=f"only draw {SHEET.relative_to(bench.ROOT)}, the contact sheet")
    parser.add_argument("--only", choices=("quality", "sweeps"), help="one of the two groups of tables")
    options = parser.parse_args()
    bench.use_comfyui(options)
    studio = Studio()
    with torch.inference_mode():
        if options.sheet:
            return draw_sheet(studio)
        if options.only != "sweeps":
            results = {task: measure_task(studio, task, options.clips) for task in RECOMMENDED_M}
            more = [fidelity_table(studio, options.clips // 4), text_table(studio, options.clips)]
            bench.publish("quality", "\n\n".join([*task_tables(results), *more]), options.write)
        if options.only != "quality":
            tables = [sweep_table(studio, name, options.clips // 4) for name in SWEEPS]
            bench.publish("sweeps", "\n\n".join(tables), options.write)


# --- measuring -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figures:
    """What is measured of clips, (B,) each."""

    motion_errors: Tensor
    permanence: Tensor
    colour_drifts: Tensor


Results = dict[tuple[str, Setting], Figures]  # of one task: method and setting


def scenes(count: int, motions: Sequence[str] = ("moves",)) -> list[Scene]:
    """Test scenes; a quarter have a colour and a shape that training never put together."""
    return [scene(SCENES + i, i // len(motions) % 4 == 0, motions[i % len(motions)]) for i in range(count)]


def measure(studio: Studio, clips: Sequence[Scene], settings: SampleSettings) -> Figures:
    frames, painted = studio.sample(clips, settings), TASKS[settings.task].painted
    return Figures(motion_errors(frames, clips, painted), permanence(frames, clips, painted), colour_drifts(frames, clips))


def measure_task(studio: Studio, task: str, count: int) -> Results:
    clips = scenes(count, MOTIONS.get(task, ("moves",)))
    return {
        (name, setting): measure(studio, clips, method.settings(task, m=setting.m(task), alpha=setting.alpha))
        for name, method in METHODS.items()
        for setting in SQUARE
        if setting.applies_to(method)
    }


# --- tables ----------------------------------------------------------------------------------------------------------


def task_tables(results: dict[str, Results]) -> list[str]:
    """All methods in all settings, Pusa's LoRA against the other, and what m and alpha do to either."""
    counts = {task: len(next(iter(of_task.values())).motion_errors) for task, of_task in results.items()}
    clips = "; ".join(f"{task}, {count} clips" for task, count in counts.items())
    recommended = "; ".join(f"{task} {', '.join(f'{m:g}' for m in ms)}" for task, ms in RECOMMENDED_M.items())
    return [
        f"{clips[0].upper()}{clips[1:]}. Recommended m: {recommended}. Brackets: 95 % intervals of the mean.",
        settings_table(results, "motion error (px)", lambda figures: str(mean_interval(figures.motion_errors))),
        settings_table(results, "permanence, colour drift", _permanence_and_drift),
        f"Motion error of {FIRST_FRAME} less that of {PUSA}, px (paired; above 0 the latter leads):",
        lead_table(results),
        "What each setting does to the motion error, px (paired; below 0 it helps):",
        effects_table(results),
    ]


def settings_table(results: dict[str, Results], what: str, cell: Callable[[Figures], str]) -> str:
    rows = [
        [task, name, *(cell(of_task[name, setting]) if (name, setting) in of_task else "-" for setting in SQUARE)]
        for task, of_task in results.items()
        for name in METHODS
    ]
    return bench.table([what, "method", *map(str, SQUARE)], rows)


def _permanence_and_drift(figures: Figures) -> str:
    return f"{figures.permanence.mean():.1%}, {figures.colour_drifts.nanmean():.1f}"


def lead_table(results: dict[str, Results]) -> str:
    """Pusa's LoRA against the one trained with a clean first frame, in the same settings and each in its own."""
    pairs = {str(setting): (setting, setting) for setting in SQUARE}
    pairs["Pusa's as recommended, the other with m = 0, alpha 1, as it was trained"] = (RECOMMENDED, PLAIN)
    rows = []
    for task, of_task in results.items():
        cells = [(of_task[FIRST_FRAME, other], of_task[PUSA, own]) for own, other in pairs.values()]
        rows.append([task, *(str(paired_difference(a.motion_errors, b.motion_errors)) for a, b in cells)])
    return bench.table(["task", *pairs], rows)


def effects_table(results: dict[str, Results]) -> str:
    """The two settings apart: each alone, and each on top of the other."""
    effects = {
        "m: recommended - 0, at alpha 1": (ONLY_M, PLAIN),
        f"the same at alpha {RECOMMENDED_ALPHA:g}": (RECOMMENDED, ONLY_ALPHA),
        f"alpha: {RECOMMENDED_ALPHA:g} - 1, at m = 0": (ONLY_ALPHA, PLAIN),
        "the same at recommended m": (RECOMMENDED, ONLY_M),
    }
    rows = []
    for task, of_task in results.items():
        for name in (FIRST_FRAME, PUSA):
            errors = {setting: of_task[name, setting].motion_errors for setting in SQUARE}
            rows.append([task, name, *(str(paired_difference(errors[a], errors[b])) for a, b in effects.values())])
    return bench.table(["task", "method", *effects], rows)


def fidelity_table(studio: Studio, count: int) -> str:
    clips = scenes(count)
    given = list(TASKS["extension"].given)
    true = draw(clips)[:, given]
    alone = studio.decode(torch.cat([studio.encode(clip) for clip in true]))
    rows = [["the VAE alone", *[f"{decibels(alone, true).mean():.1f}"] * len(NOISES)]]
    for name, method in METHODS.items():
        noises = NOISES[:1] if method.inpaint else NOISES
        made = [studio.sample(clips, method.settings("extension", m=(m,)))[:, given] for m in noises]
        cells = [f"{decibels(frames, true).mean():.1f}" for frames in made]
        rows.append([name, *cells, *["-"] * (len(NOISES) - len(cells))])
    return bench.table([f"given frames of extension, {count} clips, dB", *(f"m = {m:g}" for m in NOISES)], rows)


def text_table(studio: Studio, count: int) -> str:
    clips = [scene(TEXTS + i, i % 4 == 0) for i in range(count)]
    rows = []
    for name, method, alpha in (
        ("base", Method(None), 1.0),
        (f"{PUSA}, alpha 1", METHODS[PUSA], 1.0),
        (f"{PUSA}, alpha {RECOMMENDED_ALPHA:g}", METHODS[PUSA], RECOMMENDED_ALPHA),
    ):
        shares = caption_share(studio.sample(clips, method.settings("text to video", steps=20, alpha=alpha)), clips)
        rows.append([name, *(f"{share:.0%}" for share in shares.values())])
    header = [f"text to video, {count} clips, objects as captioned", "colour", "shape", "direction", "all three"]
    return bench.table(header, rows)


def sweep_table(studio: Studio, name: str, count: int) -> str:
    clips, tasks, rows = scenes(count), ("image to video", "extension"), []
    for value in SWEEPS[name]:
        setting = {name: (value,) if name == "m" else value}
        found = [measure(studio, clips, METHODS[PUSA].settings(task, **setting)) for task in tasks]
        cells = [c for f in found for c in (str(mean_interval(f.motion_errors)), f"{f.permanence.mean():.0%}")]
        rows.append([f"{value:g}" if isinstance(value, float) else str(value), *cells])
    measured = ("motion error (px)", "permanence")
    return bench.table([f"{name}, {count} clips", *(f"{task}: {what}" for task in tasks for what in measured)], rows)


# --- the contact sheet -----------------------------------------------------------------------------------------------


def draw_sheet(studio: Studio) -> None:
    """Frames by settings, as a picture: what was given has a white frame."""
    clip, own = scene_of(SHEET_TEXT, 0), METHODS[PUSA]
    settings = [(f"{task}: {PUSA}", own.settings(task)) for task in TASKS]
    settings += [(f"image to video: {name}", how.settings("image to video")) for name, how in METHODS.items() if how != own]
    settings += [(f"image to video: {PUSA}, alpha {a:g}", own.settings("image to video", alpha=a)) for a in (0.5, 2.0)]
    rows: list[tuple[str, Tensor, Sequence[int]]] = [("the true clip", draw([clip])[0], ())]
    rows += [(name, studio.sample([clip], how)[0], TASKS[how.task].given) for name, how in settings]
    save_image(contact_sheet(rows), SHEET)
    print(f"Drew {SHEET}")


if __name__ == "__main__":
    main()
