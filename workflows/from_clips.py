"""Workflows in which every frame starts from a clip, with noise of its own, each a function like those of recipes.py."""

from __future__ import annotations

from typing import Any

from litegraph import Workflow
from recipes import CLIP, CONTINUED, DEMO_STUTTER, DEMO_TEXT, SIZE, STUTTER, at, demo_sampled, sampled, wan21

LOADED_CLIP = "clip.mp4"  # of ComfyUI's input folder, for Load Video: the user's own
IN_BETWEEN: dict[str, Any] = {"noise": "0.2", "retime": "stretch"}  # of latent frames that hold a frame of the clip
RESTYLED = (
    "A red paper boat sails across a calm mountain lake, a watercolour painting on rough paper, soft edges, visible brush "
    "strokes, pigment that runs. Smooth motion, steady camera."
)


def demo_repair(w: Workflow) -> None:
    """A small scene whose frames 5 to 12 stand still is repaired, with the small model that comes with the pack: every frame
    starts from the clip. The good ones are held and end exactly on it, the bad ones have noise 1: they are made anew. Nothing
    to download, seconds on a CPU."""
    demo_sampled(w, held(DEMO_STUTTER, [0, 0.5, 1, 1, 0.5]))


def demo_in_between(w: Workflow) -> None:
    """Three frames of a small scene, 8 apart, become 17: the small model that comes with the pack paints those in between.
    Nothing to download, seconds on a CPU."""
    clip = w.add("PusaDemoScene", text=DEMO_TEXT, frames="every 8th")["images"]
    demo_sampled(w, strength=w.add("PusaVideoStrength", video=clip, length=17, **IN_BETWEEN))


def wan21_repair(w: Workflow) -> None:
    """A clip whose frames 33 to 48 stand still is repaired: every frame starts from the clip. The good ones are held and
    end exactly on it, the bad ones have noise 1: they are made anew, with the motion of the others."""
    sampled(w, wan21(w), [held(STUTTER, [0.0] + [0.5] * 8 + [1.0] * 4 + [0.5] * 8)], CONTINUED)


def wan21_restyle(w: Workflow) -> None:
    """A clip gets another look, its first and last frames stay: every frame starts from the clip, with noise that rises from
    0 to 0.7 and falls again. More noise follows the prompt further, less keeps more of the clip."""
    noise = [0.0, 0.25, 0.5] + [0.7] * 15 + [0.5, 0.25, 0.0]
    sampled(w, wan21(w), [at(0, CLIP, noise, [0, 81])], RESTYLED)


def wan21_in_between(w: Workflow) -> None:
    """A clip of few frames becomes a smooth one of 81: *Pusa Video Strength* stretches it, and the model paints the frames in
    between. 11 frames become 81 with 7 new ones between two, 21 with 3. The same makes slow motion of a longer clip."""
    clip = w.add("LoadVideo", "Load Video", file=LOADED_CLIP)
    w.form.append((clip, "file"))
    frames = w.add("GetVideoComponents", video=clip["VIDEO"])["images"]
    strength = w.add("PusaVideoStrength", video=frames, length=SIZE["length"], **IN_BETWEEN)
    sampled(w, wan21(w), strength, CONTINUED)


def held(sample: str, noise: list[float]) -> dict[str, Any]:
    """A clip for all frames, of which those with noise below 1 stay."""
    return {**at(0, sample, noise, [0, 4 * len(noise) - 3]), "behaviour": "hold"}


TITLES = {
    demo_repair: "(7) Repair a stuttering clip (no download)",
    demo_in_between: "(8) Frames in between (no download)",
    wan21_repair: "Repair a clip (Wan 2.1)",
    wan21_restyle: "Restyle a clip, ends stay (Wan 2.1)",
    wan21_in_between: "Frames in between, slow motion (Wan 2.1)",
}
