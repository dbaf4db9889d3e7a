"""The note in a workflow: what it is for, what to do, its files, and which settings to play with."""

from __future__ import annotations

from litegraph import Workflow

DROP = "Drop your own pictures on *Pusa Timeline*, or press **+ Add**; remove the samples with **Del**."
DROP_CLIP = (
    "Drop your own clip on *Pusa Timeline*, or press **+ Add**; remove the sample with **Del**. Set **fps** in *Create "
    "Video* to its frame rate."
)
LOAD = "Choose your own images in *Load Image*."
LOAD_CLIP = "Choose your own clip in *Load Video*, and set **fps** in *Create Video* to that of the new video."
WRITE, RUN = "Write what happens into *Prompt*.", "Press **Run**."
NOISE = "**noise**, the bars on the timeline: 0 keeps a picture exactly, more gives more motion."
TIPS = {
    "image": f"{NOISE} 0.2 for a first image, 0.5 for one in the middle or at the end.",
    "clip": f"{NOISE} Drag across the bars of a clip for a ramp.",
    "single": "**noise_multiplier**: 0 keeps the picture exactly, more gives more motion.",
    "strength": "**noise** (Pusa Video Strength), as frame: noise. 0 keeps a frame of the clip, 1 gives it no say.",
    "alpha": "**alpha** (Pusa LoRA Loader): too low loses coherence, too high is stiff.",
    "steps": "**steps** (10 is enough, 30 is the authors' setting) and **cfg**.",
    "lightning": "**strength_model** (Lightning LoRA): lower it a little when motion looks stiff. Keep 4 steps and cfg 1.",
    "devices": "**device** (Select Model Device, Select CLIP Device): gpu:1 is the second card. *Select VAE Device* moves "
    "the VAE. With one model and two cards, *MultiGPU CFG Split* behind the loader asks for both prompts at once.",
    "length": "**length**: 4n+1 frames, 81 is what the model knows best.",
    "demo": "**steps** and **cfg**, and the bars on the timeline (0 keeps a picture): it takes seconds, so try extremes.",
    "demo_long": "**length**, **moving_frames** (5 is smoother and costs more) and the frames at which prompts begin.",
    "forcing": "**steps** 30 to 50, **shift** 8 and **cfg** 6 from text, 5 and 5 from an image: SkyReels-V2's own. *Pusa "
    "KSampler* takes steps and shift from *Pusa Diffusion Forcing*; other samplers than euler need **ar_step** 0.",
    "demo_forcing": "**ar_step**: 0 is synchronous, more is slower. **steps** (Pusa Diffusion Forcing) and **cfg**: it takes "
    "seconds, so try extremes.",
    "asynchronous": "**ar_step** 5 with **causal_block_size** 5 is asynchronous: slower, and SkyReels-V2 found that it may "
    "follow the prompt better. 0 and 1 is synchronous.",
    "forcing_size": "Size and **length** are the timeline's: 1280 x 720 and 121 frames for the 720P model, 960 x 544 and 97 "
    "for 540P; less of both needs less memory.",
    "moving": "**moving_frames**: 4; 5 is smoother and costs a quarter more. **blend**: frames over which prompts change.",
    "loop": "**length**: 4n frames, as many as the motion needs to come back. **lead_in**: frames made before the loop and "
    "left out; 0 comes back to the image itself.",
    "long": "Size and **length** are the timeline's: as long as you like, the memory does not grow.",
    "native": "**steps** (20 to 50) and **cfg** 5. Size 1280 x 704 or 704 x 1280, 121 frames at 24 fps; less needs "
    "less memory.",
    "compare": "**samplers**, **schedulers**, **shifts** and **evaluations**, with commas, are compared; more of them take "
    "longer. **noises**: 2 or more give intervals.",
    "seed": "**seed** is fixed, so that you see what a setting does; set it to *randomize* for variety.",
}
T2V_ONLY = "Use text-to-video (T2V) models, not image-to-video ones."
# part of a file's name -> what to say instead
ADVICE = {
    "SkyReels": "Use diffusion forcing (DF) models, not SkyReels-V2's T2V or I2V ones. There are 540P and 720P ones of 14B, "
    "and 540P of 1.3B. GGUF files of 14B need less memory (on Hugging Face: wsbagnsv1/SkyReels-V2-DF-14B-540P-GGUF, "
    "ThePun1sher/SkyReels-V2-DF-14B-720P-GGUF); *Unet Loader (GGUF)* of ComfyUI-GGUF loads them.",
    "ti2v_5B": "ComfyUI says that this model fits 8 GB of GPU memory, with its own offloading. GGUF files need less (on "
    "Hugging Face: QuantStack/Wan2.2-TI2V-5B-GGUF); *Unet Loader (GGUF)* of ComfyUI-GGUF loads them.",
}
DEMO_WORDS = (
    "The demo model comes with this pack, and the loaders find it there. It knows few words; they are listed at *Pusa Demo "
    "Prompt* (right-click, *Node Info*). *Pusa Demo Scene* draws pictures of other scenes: connect them to the timeline."
)


def note(w: Workflow, about: str) -> str:
    """What the workflow does, what it needs, what to play with."""
    kinds = {node.kind for node in w.nodes}
    source = _source(w)
    given = LOAD_CLIP if "LoadVideo" in kinds else {"image": DROP, "clip": DROP_CLIP, "single": LOAD}.get(source)
    steps = [given, WRITE, RUN]
    todo = "\n".join(f"{number}. {step}" for number, step in enumerate(filter(None, steps), 1))
    settings = "\n".join(f"- {TIPS[tip]}" for tip in _tips(kinds, source) if tip in TIPS)
    files = DEMO_WORDS if "PusaDemoPrompt" in kinds else _files(w)
    return f"{' '.join(about.split())}\n\n{todo}\n\n## Files\n\n{files}\n\n## Settings to play with\n\n{settings}\n"


def _tips(kinds: set[str], source: str) -> list[str]:
    if "PusaCompareSamplers" in kinds:
        return ["compare", "alpha", "seed"]
    alpha = ["alpha"] * any(kind.startswith("PusaLora") for kind in kinds)
    if "PusaLongVideo" in kinds:
        return ["demo_long", "alpha"] if "PusaDemoPrompt" in kinds else ["image", *alpha, "moving", "long", "seed"]
    if "PusaLoop" in kinds:
        return ["loop", "moving", "alpha", "seed"]
    if {"PusaDemoPrompt", "PusaDiffusionForcing"} <= kinds:
        return ["demo_forcing", "alpha", "seed"]
    if "PusaDemoPrompt" in kinds:
        return ["strength" if source == "strength" else "demo", "alpha", "seed"]
    if "PusaDiffusionForcing" in kinds:
        return ["forcing", "asynchronous", "forcing_size", "seed"]
    if not alpha:
        return ["native", "seed"]
    if "SelectModelDevice" in kinds:
        return ["devices", source, "alpha", "steps", "seed"]
    return [source, "alpha", "lightning" if "LoraLoaderModelOnly" in kinds else "steps", "length", "seed"]


def _source(w: Workflow) -> str:
    """What is given: images, a clip, images by wire, a scene that is drawn, nothing."""
    if any(node.kind == "PusaVideoStrength" for node in w.nodes):
        return "strength"
    if any(node.kind == "PusaSchedule" for node in w.nodes):
        return "single"
    if any(node.kind == "PusaDemoScene" for node in w.nodes):
        return "scene"
    if any(node.kind == "PusaLoop" for node in w.nodes):
        return "text"
    [timeline] = (node.inputs["timeline"] for node in w.nodes if node.kind == "PusaTimeline")
    return "clip" if '"take"' in timeline else "image" if '"media"' in timeline else "text"


def _files(w: Workflow) -> str:
    """The model files by folder, as links."""
    used = {value for node in w.nodes for value in node.inputs.values() if isinstance(value, str)}
    folders: dict[str, list[str]] = {}
    for name in (name for name in w.downloads if name in used):
        folders.setdefault(w.downloads[name].folder, []).append(f"- [{name}]({w.downloads[name].url})")
    listed = "\n\n".join("\n".join([f"**models/{folder}**", "", *names]) for folder, names in folders.items())
    advice = next((text for part, text in ADVICE.items() if any(part in name for name in used)), T2V_ONLY)
    return f"{listed}\n\n{advice}"
