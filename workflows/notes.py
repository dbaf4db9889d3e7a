"""The note in a workflow: what it is for, what to do, its files, and which settings to play with."""

from __future__ import annotations

from litegraph import Workflow

DROP = "Drop your own pictures on *Pusa Timeline*, or press **+ Add**; remove the samples with **Del**."
DROP_CLIP = (
    "Drop your own clip on *Pusa Timeline*, or press **+ Add**; remove the sample with **Del**. Set **fps** in *Create "
    "Video* to its frame rate."
)
LOAD = "Choose your own images in *Load Image*."
WRITE, RUN = "Write what happens into *Prompt*.", "Press **Run**."
NOISE = "**noise**, the bars on the timeline: 0 keeps a picture exactly, more gives more motion."
TIPS = {
    "image": f"{NOISE} 0.2 for a first image, 0.5 for one in the middle or at the end.",
    "clip": f"{NOISE} Drag across the bars of a clip for a ramp.",
    "single": "**noise_multiplier**: 0 keeps the picture exactly, more gives more motion.",
    "alpha": "**alpha** (Pusa LoRA Loader): too low loses coherence, too high is stiff.",
    "steps": "**steps** (10 is enough, 30 is the authors' setting) and **cfg**.",
    "lightning": "**strength_model** (Lightning LoRA): lower it a little when motion looks stiff. Keep 4 steps and cfg 1.",
    "length": "**length**: 4n+1 frames, 81 is what the model knows best.",
    "demo": "**steps** and **cfg**, and the bars on the timeline (0 keeps a picture): it takes seconds, so try extremes.",
    "seed": "**seed** is fixed, so that you see what a setting does; set it to *randomize* for variety.",
}
DEMO_WORDS = (
    "The demo model comes with this pack, and the loaders find it there. It knows few words; they are listed at *Pusa Demo "
    "Prompt* (right-click, *Node Info*). *Pusa Demo Scene* draws pictures of other scenes: connect them to the timeline."
)


def note(w: Workflow, about: str) -> str:
    """What the workflow does, what it needs, what to play with."""
    kinds = {node.kind for node in w.nodes}
    source = _source(w)
    steps = [{"image": DROP, "clip": DROP_CLIP, "single": LOAD}.get(source), WRITE, RUN]
    todo = "\n".join(f"{number}. {step}" for number, step in enumerate(filter(None, steps), 1))
    lightning = "LoraLoaderModelOnly" in kinds
    tips = [source, "alpha", "lightning" if lightning else "steps", "length", "seed"]
    if "PusaDemoPrompt" in kinds:
        tips = ["demo", "alpha", "seed"]
    settings = "\n".join(f"- {TIPS[tip]}" for tip in tips if tip in TIPS)
    files = DEMO_WORDS if "PusaDemoPrompt" in kinds else _files(w)
    return f"{' '.join(about.split())}\n\n{todo}\n\n## Files\n\n{files}\n\n## Settings to play with\n\n{settings}\n"


def _source(w: Workflow) -> str:
    """What is given: images, a clip, images by wire, nothing."""
    if any(node.kind == "PusaSchedule" for node in w.nodes):
        return "single"
    [timeline] = (node.inputs["timeline"] for node in w.nodes if node.kind == "PusaTimeline")
    return "clip" if '"take"' in timeline else "image" if '"media"' in timeline else "text"


def _files(w: Workflow) -> str:
    """The model files by folder, as links."""
    used = {value for node in w.nodes for value in node.inputs.values() if isinstance(value, str)}
    folders: dict[str, list[str]] = {}
    for name in (name for name in w.downloads if name in used):
        folders.setdefault(w.downloads[name].folder, []).append(f"- [{name}]({w.downloads[name].url})")
    listed = "\n\n".join("\n".join([f"**models/{folder}**", "", *names]) for folder, names in folders.items())
    return f"{listed}\n\nUse text-to-video (T2V) models, not image-to-video ones."
