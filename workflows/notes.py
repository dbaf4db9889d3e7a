"""The note in a workflow: what it is for, its files, and which settings to play with."""

from __future__ import annotations

from litegraph import Workflow

TIPS = {
    "image": "**noise_multiplier** (Pusa Keyframe): 0 keeps the picture exactly, more gives more motion. 0.2 for a first "
    "image, 0.5 for one in the middle or at the end.",
    "clip": "**noise_multipliers** (Pusa Video Keyframes): one value for each latent frame, or one for all. 0 keeps the "
    "clip's frames exactly, more blends better into what is new.",
    "alpha": "**alpha** (Pusa LoRA Loader): too low loses coherence, too high is stiff.",
    "steps": "**steps** (10 is enough, 30 is the authors' setting) and **cfg**.",
    "lightning": "**strength_model** (Lightning LoRA): lower it a little when motion looks stiff. Keep 4 steps and cfg 1.",
    "length": "**length** (Pusa Schedule): 4n+1 frames, 81 is what the model knows best.",
    "demo": "**steps** and **cfg**, and with given pictures **noise_multiplier** (0 keeps them): it takes seconds, so try "
    "extremes.",
    "seed": "**seed** is fixed, so that you see what a setting does; set it to *randomize* for variety.",
}


DEMO_WORDS = "\n\nThe model knows few words; they are listed at *Pusa Demo Prompt* (right-click, *Node Info*)."
DEMO_GIVEN = f"{DEMO_WORDS} Write what you want to see into *Pusa Demo Scene*: it draws the given pictures."
FIXED_LENGTH = {"LoadImage", "LoadVideo", "PusaDemoPrompt"}  # with these, the length is nothing to play with
SHOWN = "The picture on the *Pusa Schedule* node shows where each one went."


def note(w: Workflow, about: str, clip: str) -> str:
    """What the workflow does, what it needs, what to play with; `clip` is the file that stands where one's own goes."""
    used = {value for node in w.nodes for value in node.inputs.values() if isinstance(value, str)}
    kinds = {node.kind for node in w.nodes}
    folders: dict[str, list[str]] = {}
    for name in (name for name in w.downloads if name in used):
        folders.setdefault(w.downloads[name].folder, []).append(f"- [{name}]({w.downloads[name].url})")
    files = "\n\n".join("\n".join([f"**models/{folder}**", "", *names]) for folder, names in folders.items())
    source = "image" if "LoadImage" in kinds else "clip" if "LoadVideo" in kinds else None
    given = {
        "image": f"\n\nChoose your own images in *Load Image*; other sizes are cropped to fit. {SHOWN}",
        "clip": f"\n\nChoose your own clip in *Load Video* (`{clip}` is only a placeholder) and describe it in the prompt. "
        "The video has its frame rate. " + SHOWN,
        None: "",
    }[source]
    if "PusaDemoPrompt" in kinds:
        files = "The demo model comes with this pack, and the loaders find it there."
        given = DEMO_GIVEN if "PusaDemoScene" in kinds else DEMO_WORDS
    else:
        files += "\n\nUse text-to-video (T2V) models, not image-to-video ones."
    lightning = "LoraLoaderModelOnly" in kinds
    length = "length" if kinds.isdisjoint(FIXED_LENGTH) else None
    tips = [source, "alpha", "lightning" if lightning else "steps", length, "seed"]
    if "PusaDemoPrompt" in kinds:
        tips = ["demo", "alpha", "seed"]
    settings = "\n".join(f"- {TIPS[tip]}" for tip in tips if tip)
    return f"{' '.join(about.split())}{given}\n\n## Files\n\n{files}\n\n## Settings to play with\n\n{settings}\n"
