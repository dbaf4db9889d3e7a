"""More workflows: diffusion forcing, long video, and Wan2.2's 5B model as it is, each a function like those of recipes.py."""

from __future__ import annotations

from typing import Any

from litegraph import Download, Node, Wire, Workflow
from recipes import (
    BOAT,
    CLIP,
    CLIP_FPS,
    DEMO,
    DEMO_ALPHA,
    DEMO_LORA,
    DEMO_SIZE,
    DOWNLOADS,
    KIJAI,
    NEGATIVE,
    SCENE,
    TEXT_ENCODER,
    VAE,
    WAN22,
    at,
    demo_sampled,
    load_coders,
    load_model,
    planned,
    pusa_sampler,
    save_video,
    wan21,
)

SKYREELS = "Wan2_1-SkyReels-V2-DF-14B-720P_fp8_e4m3fn.safetensors"
SKYREELS_SMALL = "Wan2_1-SkyReels-V2-DF-1_3B-540P_fp32.safetensors"
MODEL_5B, VAE_5B = "wan2.2_ti2v_5B_fp16.safetensors", "wan2.2_vae.safetensors"
MORE_DOWNLOADS = DOWNLOADS | {
    name: Download(f"{source}/{name}", folder)
    for source, folder, names in (
        (f"{KIJAI}/Skyreels", "diffusion_models", [SKYREELS, SKYREELS_SMALL]),
        (f"{WAN22}/diffusion_models", "diffusion_models", [MODEL_5B]),
        (f"{WAN22}/vae", "vae", [VAE_5B]),
    )
    for name in names
}

# SkyReels-V2's and Wan's own sizes.
SIZE_720P: dict[str, Any] = {"width": 1280, "height": 720, "length": 121}
SIZE_540P: dict[str, Any] = {"width": 960, "height": 544, "length": 97}
SIZE_5B: dict[str, Any] = {"width": 1280, "height": 704, "length": 121}
LONG: dict[str, Any] = {"width": 832, "height": 480, "length": 321}
OVERLAP = 17  # frames, SkyReels-V2's overlap_history
SAIL = (
    "A red paper boat sails across a calm mountain lake at sunrise, the light is rose, ripples spread behind the boat. Flat "
    "illustration, smooth motion, steady camera.",
    "A red paper boat sails across a calm mountain lake at dusk, the light is violet, the first stars come out. Flat "
    "illustration, smooth motion, steady camera.",
)
SWAN = (
    "A graceful white swan swims across a misty lake at dawn, its reflection trembles on the water, it turns its head and "
    "dips its beak. Photographic, soft light, steady camera."
)
# Where the demo's object turns around: it bounces between the edges.
DEMO_SCENE, DEMO_SEED = "a pink circle bounces right on a stripes background", 7
DEMO_TURNS = (12, 27, 43)
DEMO_LONG: dict[str, Any] = {"width": 64, "height": 64, "length": 57}
# A scene whose object is back after 28 frames, and turns around 8 frames after its first picture, and 14 later.
DEMO_LOOP_SCENE, DEMO_LOOP_SEED = "a blue circle bounces right on a gradient background", 361
DEMO_LOOP: dict[str, Any] = {"width": 64, "height": 64, "length": 28, "lead_in": 8}
LAKE = (
    "A red paper boat is moored on a mountain lake and rocks gently on the waves, ripples spread around it, the light "
    "flickers on the water. Flat illustration, smooth motion, steady camera."
)


# --- diffusion forcing -----------------------------------------------------------------------------------------------


def skyreels_image_to_video(w: Workflow) -> None:
    """One image becomes the first frame of a video, with SkyReels-V2-DF 14B, which needs no Pusa LoRA. For text to video
    remove the image, and set **shift** to 8 and **cfg** to 6: SkyReels-V2's own settings."""
    forced(w, SKYREELS, [at(0, BOAT[0], 0)], SCENE, SIZE_720P, shift=5.0, cfg=5.0)


def skyreels_start_end(w: Workflow) -> None:
    """Two images become the first and the last frame of a video, with SkyReels-V2-DF 14B, which needs no Pusa LoRA. A single
    end image is read as four equal frames: SkyReels-V2 makes the video four frames longer and leaves them out, which *Get
    Image from Batch* does here; its **length** is four less than the timeline's."""
    size = {**SIZE_720P, "length": SIZE_720P["length"] + 4}
    forced(w, SKYREELS, [at(0, BOAT[0], 0), at(-1, BOAT[2], 0)], SCENE, size, shift=5.0, cfg=5.0, cut=4)


def skyreels_extension(w: Workflow) -> None:
    """The last 17 frames of a clip (**overlap_history**) become the first of a new one, which goes on from there, with
    SkyReels-V2-DF 14B. The model is shown them with a little noise (**addnoise_condition** 20), and they stay as they are. Do
    it again with what was made, as often as you like: this is how SkyReels-V2 makes long video. The 17 frames are cut off."""
    given = [at(0, CLIP, 0, [-OVERLAP, None])]
    forced(w, SKYREELS, given, SCENE, SIZE_720P, shift=8.0, cfg=6.0, addnoise_condition=20, skip=OVERLAP)


def skyreels_asynchronous(w: Workflow) -> None:
    """A video from text with SkyReels-V2-DF 1.3B, whose frames take their steps one after another: each block of 5 latent
    frames (**causal_block_size**) begins 5 evaluations (**ar_step**) after the one before it. *Pusa Forcing Frame Rate* tells
    the model its frame rate; it needs the same file as the loader."""
    forced(w, SKYREELS_SMALL, [], SWAN, SIZE_540P, shift=8.0, cfg=6.0, ar_step=5, causal_block_size=5)


def skyreels_long_video(w: Workflow) -> None:
    """A video of 13 seconds in the memory of a short one, from an image, with SkyReels-V2-DF 14B, which needs no Pusa LoRA:
    a window rolls along, in which each frame is a step behind the one before it. What is finished is on disk at once.
    SkyReels-V2's own way to long video is another: *Extend a video*, again and again."""
    model, size = load_model(w, SKYREELS, None), {**SIZE_720P, "length": LONG["length"]}
    rolled(w, model, [at(0, BOAT[0], 0)], size, cfg=5.0, fps=CLIP_FPS)


def demo_asynchronous(w: Workflow) -> None:
    """A small scene from a prompt, whose frames take their steps one after another: each latent frame begins 2 evaluations
    (**ar_step**) after the one before it. The small model that comes with the pack was trained with noise of its own for
    every frame: nothing to download, seconds on a CPU."""
    demo_sampled(w, sampler=one_after_another)


def one_after_another(w: Workflow, models: dict, texts: dict, plan: Node, steps: int, cfg: float) -> Wire:
    settings: dict[str, Any] = {"steps": steps, "shift": 5.0, "ar_step": 2, **DEMO_SIZE}
    forcing = w.add("PusaDiffusionForcing", latent=plan["latent"], **settings)
    sampler = w.add("PusaKSampler", seed=42, steps=steps, cfg=cfg, latent=forcing["latent"], **models, **texts)
    w.form += [(plan, "length"), (sampler, "seed")]
    return sampler["latent"]


# --- long video ------------------------------------------------------------------------------------------------------


def demo_long_video(w: Workflow) -> None:
    """The first 5 frames of a small scene become a video of any length, in the memory of a short one, with the small model
    that comes with the pack: nothing to download, seconds on a CPU. Each prompt says what happens from its frame on: which
    way the circle goes now."""
    pusa, vae = demo_models(w)
    ways = [DEMO_SCENE.replace("right", "left") if i % 2 else DEMO_SCENE for i in range(len(DEMO_TURNS) + 1)]
    negative = w.add("PusaDemoPrompt", "Negative prompt", text="")["conditioning"]
    prompts = [w.add("PusaDemoPrompt", prompt_title(i), text=text) for i, text in enumerate(ways)]
    scene = w.add("PusaDemoScene", text=DEMO_SCENE, seed=DEMO_SEED)
    given: dict[str, Any] = {"take": "first", "frame_count": 5, "noise_multipliers": "0", "behaviour": "hold"}
    start = w.add("PusaVideoKeyframes", video=scene["images"], **given)["keyframes"]
    positive = by_frame(w, [prompt["conditioning"] for prompt in prompts], [0, *DEMO_TURNS])
    inputs: dict[str, Any] = {"positive": positive, "negative": negative, "keyframes": start, "fps": 8.0, "seed": 5}
    whole_video(w, "PusaLongVideo", prompts, model=pusa, vae=vae, **inputs, **DEMO_LONG)


def wan21_long_video(w: Workflow) -> None:
    """A video of 20 seconds in the memory of a short one, from an image, with another one met on the way and a prompt for
    each part. What is finished is on disk at once; a video that was stopped goes on when it is queued again."""
    rolled(w, wan21(w)["model"], [at(0, BOAT[0], 0), at(160, BOAT[1], 0.3)], LONG)


# --- loops -----------------------------------------------------------------------------------------------------------


def demo_loop(w: Workflow) -> None:
    """The first picture of a small scene leads into a loop, with the small model that comes with the pack: nothing to
    download, seconds on a CPU. The circle is back where it was after 28 frames; a prompt says which way it goes from its
    frame on. Another **length** shows what a loop does whose motion cannot come back in time."""
    model, vae = demo_models(w)
    negative = w.add("PusaDemoPrompt", "Negative prompt", text="")["conditioning"]
    ways = [DEMO_LOOP_SCENE.replace("right", "left"), DEMO_LOOP_SCENE]
    prompts = [w.add("PusaDemoPrompt", prompt_title(i), text=text) for i, text in enumerate(ways)]
    scene = w.add("PusaDemoScene", text=DEMO_LOOP_SCENE, seed=DEMO_LOOP_SEED)
    positive = by_frame(w, [prompt["conditioning"] for prompt in prompts], [0, DEMO_LOOP["length"] // 2])
    inputs: dict[str, Any] = {
        "positive": positive,
        "negative": negative,
        "image": scene["start_image"],
        "fps": 8.0,
        "seed": 3,
    }
    whole_video(w, "PusaLoop", prompts, model=model, vae=vae, **inputs, **DEMO_LOOP)


def wan21_loop(w: Workflow) -> None:
    """A video from text that can be played round and round: its end is made towards its start. It works where the motion
    can come back in that many frames, as on water. For a loop around a picture connect that to **image** and set
    **lead_in** to 0."""
    model = wan21(w)["model"]
    clip, vae = load_coders(w)
    prompt = w.add("CLIPTextEncode", "Prompt", clip=clip, text=LAKE)
    negative = w.add("CLIPTextEncode", "Negative prompt", clip=clip, text=NEGATIVE)["CONDITIONING"]
    texts: dict[str, Any] = {"positive": prompt["CONDITIONING"], "negative": negative}
    whole_video(w, "PusaLoop", [prompt], model=model, vae=vae, seed=42, **texts)


# --- Wan2.2's 5B model -----------------------------------------------------------------------------------------------


def wan22_5b_image_to_video(w: Workflow) -> None:
    """One image becomes the first frame of a video, with Wan2.2's 5B model as it is: it was trained with a clean first frame,
    so it needs no LoRA, but **noise** 0 and no other pictures. For more of them train a Pusa LoRA."""
    model = load_model(w, MODEL_5B, None)
    texts, vae = encoded(w, SCENE, VAE_5B)
    plan = planned(w, [at(0, BOAT[0], 0)], {"vae": vae, **SIZE_5B})
    save_video(w, pusa_sampler(w, {"model": model}, texts, plan, 20, 5.0), vae, CLIP_FPS)


TITLES = {
    demo_long_video: "(5) Long video (no download)",
    wan21_long_video: "Long video (Wan 2.1)",
    demo_loop: "(6) Loop (no download)",
    wan21_loop: "Loop (Wan 2.1)",
    wan22_5b_image_to_video: "Image to video, no LoRA (Wan 2.2 5B)",
    skyreels_image_to_video: "Image to video (SkyReels-V2-DF)",
    skyreels_start_end: "Start and end image (SkyReels-V2-DF)",
    skyreels_extension: "Extend a video (SkyReels-V2-DF)",
    skyreels_long_video: "Long video (SkyReels-V2-DF)",
    demo_asynchronous: "(4) Text to video, asynchronous (no download)",
    skyreels_asynchronous: "Text to video, asynchronous (SkyReels-V2-DF 1.3B)",
}


# --- their parts -----------------------------------------------------------------------------------------------------


def prompt_title(number: int) -> str:
    return f"Prompt {number + 1}" if number else "Prompt"


def demo_models(w: Workflow) -> tuple[Wire, Wire]:
    """The demo model with its LoRA, and its VAE."""
    model = w.add("UNETLoader", unet_name=DEMO["unet_name"], weight_dtype="default")["MODEL"]
    pusa = w.add("PusaLoraLoader", model=model, lora_name=DEMO_LORA, alpha=DEMO_ALPHA)["model"]
    return pusa, w.add("VAELoader", vae_name=DEMO["vae_name"])["VAE"]


def rolled(w: Workflow, model: Wire, given: list[dict[str, Any]], size: dict[str, Any], **settings: Any) -> None:
    """A long video from a timeline, with a prompt for each half."""
    clip, vae = load_coders(w)
    negative = w.add("CLIPTextEncode", "Negative prompt", clip=clip, text=NEGATIVE)["CONDITIONING"]
    prompts = [w.add("CLIPTextEncode", prompt_title(i), clip=clip, text=text) for i, text in enumerate(SAIL)]
    positive = by_frame(w, [prompt["CONDITIONING"] for prompt in prompts], [0, 160])
    w.form += [(prompt, "text") for prompt in prompts]
    timeline = planned(w, [held(item) for item in given], {"vae": vae, **size})
    settings |= {"positive": positive, "negative": negative, "latent": timeline["latent"], "seed": 42, **size}
    whole_video(w, "PusaLongVideo", [], timeline, model=model, vae=vae, **settings)


def whole_video(w: Workflow, kind: str, prompts: list[Node], timeline: Node | None = None, **inputs: Any) -> None:
    """A node that samples, decodes and writes; its form has the prompts, the length, which may be the timeline's, and the
    seed."""
    node = w.add(kind, filename_prefix=f"video/pusa_{w.name}", **inputs)
    w.form += [*((prompt, "text") for prompt in prompts), (timeline or node, "length"), (node, "seed")]


def held(item: dict[str, Any]) -> dict[str, Any]:
    return {**item, "behaviour": "hold"}


def by_frame(w: Workflow, texts: list[Wire], frames: list[int]) -> Wire:
    """Prompts that hold one after another."""
    previous = None
    for text, frame in zip(texts, frames, strict=True):
        previous = w.add("PusaPromptFromFrame", conditioning=text, frame=frame, previous=previous)["conditioning"]
    assert previous is not None
    return previous


def encoded(w: Workflow, text: str, vae_name: str) -> tuple[dict[str, Any], Wire]:
    """The texts as inputs of a sampler, and the VAE."""
    clip = w.add("CLIPLoader", clip_name=TEXT_ENCODER, type="wan", device="default")["CLIP"]
    vae = w.add("VAELoader", vae_name=vae_name)["VAE"]
    positive = w.add("CLIPTextEncode", "Prompt", clip=clip, text=text)
    negative = w.add("CLIPTextEncode", "Negative prompt", clip=clip, text=NEGATIVE)
    w.form.append((positive, "text"))
    return {"positive": positive["CONDITIONING"], "negative": negative["CONDITIONING"]}, vae


def forced(
    w: Workflow,
    model_name: str,
    given: list[dict[str, Any]],
    text: str,
    size: dict[str, Any],
    *,
    shift: float,
    cfg: float,
    skip: int = 0,
    cut: int = 0,
    **settings: Any,
) -> None:
    """A workflow with SkyReels-V2-DF; the first `skip` and the last `cut` frames are left out of the video."""
    model = load_model(w, model_name, None)
    if model_name == SKYREELS_SMALL:
        model = w.add("PusaForcingFrameRate", model=model, unet_name=model_name, fps=CLIP_FPS)["model"]
    texts, vae = encoded(w, text, VAE)
    timeline = planned(w, given, {"vae": vae, **size})
    forcing = w.add("PusaDiffusionForcing", latent=timeline["latent"], steps=30, shift=shift, **size, **settings)
    sampler = w.add("PusaKSampler", seed=42, steps=30, cfg=cfg, shift=shift, latent=forcing["latent"], model=model, **texts)
    w.form += [(timeline, "length"), (sampler, "seed")]
    save_video(w, sampler["latent"], vae, CLIP_FPS, kept=(skip, size["length"] - skip - cut) if skip or cut else None)
