"""Workflows for models that take long, or more than one card: each a function like those of recipes.py."""

from __future__ import annotations

from litegraph import Node, Wire, Workflow
from recipes import BOAT, DEMO_END, DEMO_START, FIRST, SCENE, at, demo_sampled, load_coders, sampled, wan21, wan22

SECOND = "gpu:1"  # ComfyUI's name


def demo_compare_samplers(w: Workflow) -> None:
    """Which sampler and which sigmas come closest to a fine run in few model evaluations, on the small model that comes with
    the pack: nothing to download, half a minute on a CPU. The picture on the node shows all runs, the video is the best. What
    the small model shows is no promise for a large one: take the same node there."""
    demo_sampled(w, at(0, DEMO_START, 0), at(-1, DEMO_END, 0.3), sampler=comparison)


def wan21_compare_samplers(w: Workflow) -> None:
    """Which sampler and which sigmas come closest to a fine run in few model evaluations, on your own model, LoRAs, prompt
    and pictures. It takes as long as some 24 videos of 10 steps, and says so when it begins; try it at a small size first.
    Connect **sigmas** and **sampler** to a *Pusa KSampler*, or read them off the picture and set them there."""
    sampled(w, wan21(w), [*FIRST, at(-1, BOAT[2], 0.5)], SCENE, sampler=comparison)


def wan22_two_gpus(w: Workflow) -> None:
    """One image becomes the first frame of a video, with Wan2.2's two experts on two GPUs, so that neither makes room for the
    other: the high-noise model and the VAE on the first, the low-noise model and the text encoder on the second. Needs a
    ComfyUI with *Select Model Device* (0.33.0 has it). Where there is no second GPU, all run on the first."""
    clip, vae = load_coders(w)
    clip = w.add("SelectCLIPDevice", clip=clip, device=SECOND)["CLIP"]
    sampled(w, wan22(w, devices={"low": SECOND}), FIRST, SCENE, coders=(clip, vae))


def comparison(w: Workflow, models: dict, texts: dict, plan: Node, steps: int, cfg: float) -> Wire:
    compared = w.add("PusaCompareSamplers", seed=42, cfg=cfg, at_most=steps, latent=plan["latent"], **models, **texts)
    w.form += [(plan, "length"), (compared, "seed")]
    return compared["best"]


TITLES = {
    wan22_two_gpus: "Image to video, two GPUs (Wan 2.2)",
    demo_compare_samplers: "(9) Compare samplers (no download)",
    wan21_compare_samplers: "Compare samplers (Wan 2.1)",
}
