"""The shared workflows, each a function whose docstring says what it is for. Settings are Pusa's published ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from litegraph import Download, Node, Wire, Workflow

WAN21 = "https://huggingface.co/Comfy-Org/Wan_2.1_ComfyUI_repackaged/resolve/main/split_files"
WAN22 = "https://huggingface.co/Comfy-Org/Wan_2.2_ComfyUI_Repackaged/resolve/main/split_files"
KIJAI = "https://huggingface.co/Kijai/WanVideo_comfy/resolve/main"

MODEL = "wan2.1_t2v_14B_fp8_scaled.safetensors"
PUSA = "Wan21_PusaV1_LoRA_14B_rank512_bf16.safetensors"
LIGHTNING = "lightx2v_T2V_14B_cfg_step_distill_v2_lora_rank64_bf16.safetensors"
MODELS = {part: f"wan2.2_t2v_{part}_noise_14B_fp8_scaled.safetensors" for part in ("high", "low")}
PUSAS = {part: f"Wan22_PusaV1_lora_{part.upper()}_resized_dynamic_avg_rank_98_bf16.safetensors" for part in MODELS}
LIGHTNINGS = {part: f"wan2.2_t2v_lightx2v_4steps_lora_v1.1_{part}_noise.safetensors" for part in MODELS}
TEXT_ENCODER, VAE = "umt5_xxl_fp8_e4m3fn_scaled.safetensors", "wan_2.1_vae.safetensors"

# name -> where it comes from and its folder in models/
DOWNLOADS = {
    name: Download(f"{source}/{name}", folder)
    for source, folder, names in (
        (f"{WAN21}/diffusion_models", "diffusion_models", [MODEL]),
        (f"{WAN22}/diffusion_models", "diffusion_models", MODELS.values()),
        (f"{WAN21}/text_encoders", "text_encoders", [TEXT_ENCODER]),
        (f"{WAN21}/vae", "vae", [VAE]),
        (f"{KIJAI}/Pusa", "loras", [PUSA, *PUSAS.values()]),
        (f"{KIJAI}/Lightx2v", "loras", [LIGHTNING]),
        (f"{WAN22}/loras", "loras", LIGHTNINGS.values()),
    )
    for name in names
}

# In web/samples, see samples.py.
BOAT, CLIP, OTHER_CLIP = ("boat_start.jpg", "boat_middle.jpg", "boat_end.jpg"), "boat.mp4", "balloon.mp4"
STUTTER, STUCK = "boat_stutter.mp4", slice(33, 49)  # of which these frames stand still
CLIP_FPS = 24.0
IMAGE = "example.png"  # ComfyUI's own, for Load Image
SIZE = {"width": 832, "height": 480, "length": 81}
NEGATIVE = (
    "blurry, overexposed, grey, frozen picture, subtitles, watermark, compression artefacts, deformed hands, extra limbs"
)
SCENE = (
    "A red paper boat sails across a calm mountain lake. The sun rises over the hills, climbs and sets, the light turns from "
    "rose to gold to violet, ripples spread behind the boat. Flat illustration, smooth motion, steady camera."
)
CONTINUED = (
    "A red paper boat sails on across a calm mountain lake, ripples spread behind it, clouds drift by. Flat illustration, "
    "smooth motion, steady camera."
)
BETWEEN = (
    "A red paper boat sails across a mountain lake; the view rises from the water into the sky, where a hot-air balloon "
    "drifts over golden dunes. Flat illustration, smooth motion."
)
CAR = "a car turns from gold to white"

# The small model that comes with the pack.
DEMO = {"unet_name": "pusa_demo_t2v.safetensors", "vae_name": "pusa_demo_vae.safetensors"}
DEMO_LORA = "pusa_demo_lora.safetensors"
DEMO_SIZE = {"width": 64, "height": 64, "length": 17}
DEMO_TEXT = "a red circle moves right quickly and a blue triangle moves left quickly on a gradient background"
DEMO_ALPHA, DEMO_FPS, DEMO_ZOOM = 1.0, 8.0, 6.0
DEMO_START, DEMO_END, DEMO_CLIP, DEMO_STUTTER = "demo_start.png", "demo_end.png", "demo.mp4", "demo_stutter.mp4"


# --- the workflows ---------------------------------------------------------------------------------------------------


def demo_image_to_video(w: Workflow) -> None:
    """The first picture of a small scene becomes a video, with the small model that comes with the pack: nothing to
    download, seconds on a CPU. The same graph works with real Wan models and your own pictures."""
    demo_sampled(w, at(0, DEMO_START, 0))


def demo_start_end(w: Workflow) -> None:
    """The first and the last picture of a small scene become a video that leads from one to the other, with the small
    model that comes with the pack: nothing to download, seconds on a CPU."""
    demo_sampled(w, at(0, DEMO_START, 0), at(-1, DEMO_END, 0))


def demo_extension(w: Workflow) -> None:
    """The first 5 frames of a small scene go on with their own motion, with the small model that comes with the pack:
    nothing to download, seconds on a CPU."""
    demo_sampled(w, at(0, DEMO_CLIP, 0, [0, 5]))


def demo_text_to_video(w: Workflow) -> None:
    """A video from text alone, with the small model that comes with the pack: nothing to download, seconds on a CPU."""
    demo_sampled(w)


def wan21_image_to_video(w: Workflow) -> None:
    """One image becomes the first frame of a video."""
    sampled(w, wan21(w), FIRST, SCENE)


def wan21_start_end(w: Workflow) -> None:
    """Two images become the first and the last frame of a video; the model paints what lies between them."""
    sampled(w, wan21(w), [*FIRST, at(-1, BOAT[2], 0.5)], SCENE)


def wan21_three_keyframes(w: Workflow) -> None:
    """Three images at the start, in the middle and at the end, sampled with ComfyUI's own sampler nodes: *Pusa Apply
    Schedule* puts the schedule on the model, *Pusa Sigmas* gives the exact sigma grid."""
    sampled(w, wan21(w), [*FIRST, at(40, BOAT[1], 0.5), at(-1, BOAT[2], 0.5)], SCENE, sampler=stock_sampler)


def wan21_completion(w: Workflow) -> None:
    """The first 9 and the last 12 frames of a clip are given (3 + 3 latent frames); what lies between them is new."""
    sampled(w, wan21(w), [at(0, CLIP, 0.3, [0, 9]), at(-12, CLIP, 0.3, [-12, None])], CONTINUED)


def wan21_extension(w: Workflow) -> None:
    """The last 13 frames of a clip (4 latent frames) become the first 13 of a new one, which goes on from there with the
    clip's motion. Cut these 13 frames off when you join the two clips."""
    sampled(w, wan21(w), extension(0, 0.3, 0.4, 0.5), CONTINUED)


def wan21_transition(w: Workflow) -> None:
    """The last 9 frames of a clip are at the start, the first of another at the end: 12 of them, after one that leads in
    (3 + 3 latent frames). What lies between leads from one to the other."""
    sampled(w, wan21(w), [at(0, CLIP, 0.3, [-9, None]), at(-12, OTHER_CLIP, 0.3, [1, 13])], BETWEEN)


def wan21_text_to_video(w: Workflow) -> None:
    """A video from text alone: an empty timeline. The Pusa LoRA keeps the model's text-to-video ability."""
    sampled(w, wan21(w), [], CAR)


def wan21_image_to_video_lightning(w: Workflow) -> None:
    """One image becomes the first frame of a video, in 4 steps with the LightX2V (Lightning) LoRA."""
    sampled(w, wan21(w, lightning=True), FIRST, SCENE, lightning=True)


def wan21_extension_lightning(w: Workflow) -> None:
    """The last 13 frames of a clip (4 latent frames) become the first 13 of a new one, which goes on from there, in 4
    steps with the LightX2V (Lightning) LoRA. Cut these 13 frames off when you join the two clips."""
    sampled(w, wan21(w, lightning=True), extension(0, 0.3, 0.4, 0.5), CONTINUED, lightning=True)


def wan22_image_to_video(w: Workflow) -> None:
    """One image becomes the first frame of a video, with Wan2.2's two experts: the sampler takes the high-noise model
    while sigma is 0.875 or more, then the low-noise model."""
    sampled(w, wan22(w), FIRST, SCENE)


def wan22_extension(w: Workflow) -> None:
    """The last 13 frames of a clip (4 latent frames) become the first 13 of a new one, which goes on from there with the
    clip's motion, with Wan2.2's two experts. Cut these 13 frames off when you join the two clips."""
    sampled(w, wan22(w), extension(0.2, 0.4, 0.4, 0.4), CONTINUED)


def wan22_image_to_video_lightning(w: Workflow) -> None:
    """One image becomes the first frame of a video, with Wan2.2's two experts in 4 steps (2 each) with the Lightning
    LoRAs."""
    sampled(w, wan22(w, lightning=True), FIRST, SCENE, lightning=True)


def wan22_extension_lightning(w: Workflow) -> None:
    """The last 13 frames of a clip (4 latent frames) become the first 13 of a new one, with Wan2.2's two experts in 4
    steps (2 each) with the Lightning LoRAs. Cut these 13 frames off when you join the two clips."""
    sampled(w, wan22(w, lightning=True), extension(0.2, 0.4, 0.4, 0.4), CONTINUED, lightning=True)


def wan21_single_nodes(w: Workflow) -> None:
    """Start and end image with the nodes that *Pusa Timeline* stands for: *Load Image*, *Pusa Keyframe*, *Pusa Schedule*.
    Take these where pictures come from other nodes; chain more *Pusa Keyframe* nodes for more of them."""
    start = image_keyframe(w, "Start", frame_index=0, noise_multiplier=0.2)
    end = image_keyframe(w, "End", frame_index=-1, noise_multiplier=0.5, previous=start)
    sampled(w, wan21(w), end, SCENE)


# The file's name is the title that the page shows. Sorted by name, pages put digits last or first, but "(" always first: so
# begin those that need no download.
TITLES = {
    demo_image_to_video: "(1) Image to video (no download)",
    demo_start_end: "(2) Start and end image (no download)",
    demo_extension: "(3) Extend a video (no download)",
    demo_text_to_video: "(4) Text to video (no download)",
    wan21_image_to_video: "Image to video (Wan 2.1)",
    wan21_start_end: "Start and end image (Wan 2.1)",
    wan21_three_keyframes: "Three keyframes, stock samplers (Wan 2.1)",
    wan21_completion: "Video completion (Wan 2.1)",
    wan21_extension: "Extend a video (Wan 2.1)",
    wan21_transition: "Transition between two videos (Wan 2.1)",
    wan21_text_to_video: "Text to video (Wan 2.1)",
    wan21_image_to_video_lightning: "Image to video, 4 steps (Wan 2.1 Lightning)",
    wan21_extension_lightning: "Extend a video, 4 steps (Wan 2.1 Lightning)",
    wan22_image_to_video: "Image to video (Wan 2.2)",
    wan22_extension: "Extend a video (Wan 2.2)",
    wan22_image_to_video_lightning: "Image to video, 4 steps (Wan 2.2 Lightning)",
    wan22_extension_lightning: "Extend a video, 4 steps (Wan 2.2 Lightning)",
    wan21_single_nodes: "Start and end image, single nodes (Wan 2.1)",
}


# --- their parts -----------------------------------------------------------------------------------------------------


# (workflow, models, texts, plan, steps, cfg) -> latent
Sampler = Callable[[Workflow, dict, dict, Node, int, float], Wire]


def wan21(w: Workflow, lightning: bool = False) -> dict[str, Wire]:
    """Wan2.1's model with its LoRAs, as inputs of a sampler."""
    model = load_model(w, MODEL, LIGHTNING if lightning else None)
    return {"model": w.add("PusaLoraLoader", model=model, lora_name=PUSA, alpha=1.4)["model"]}


def wan22(w: Workflow, lightning: bool = False, devices: Mapping[str, str] = MappingProxyType({})) -> dict[str, Wire]:
    """Wan2.2's two models with their LoRAs, as inputs of a sampler, on devices by part, or on those of ComfyUI's choice."""
    inputs: dict[str, Any] = {}
    for part in MODELS:
        model = load_model(w, MODELS[part], LIGHTNINGS[part] if lightning else None, f" ({part} noise)")
        if part in devices:
            model = w.add("SelectModelDevice", model=model, device=devices[part])["MODEL"]
        inputs |= {f"{part}_noise_model": model, f"{part}_noise_lora": PUSAS[part]}
    pusa = w.add("PusaLoraLoaderHighLow", high_noise_alpha=1.5, low_noise_alpha=1.4, **inputs)
    return {"model": pusa["high_noise_model"], "low_noise_model": pusa["low_noise_model"]}


def load_model(w: Workflow, name: str, lightning: str | None, which: str = "") -> Wire:
    model = w.add("UNETLoader", f"Load Diffusion Model{which}", unet_name=name, weight_dtype="default")["MODEL"]
    if lightning is not None:
        model = w.add("LoraLoaderModelOnly", f"Lightning LoRA{which}", model=model, lora_name=lightning)["MODEL"]
    return model


def at(frame: int, sample: str, noise: float | list[float], take: list[int | None] | None = None) -> dict[str, Any]:
    """An item of the timeline: a sample file of the pack."""
    item = {"at": frame, "media": f"{sample} [pusa]", "take": take, "noise": noise}
    return {key: value for key, value in item.items() if value is not None}


FIRST = [at(0, BOAT[0], 0.2)]


def extension(*noise: float) -> list[dict[str, Any]]:
    return [at(0, CLIP, list(noise), [-13, None])]


def image_keyframe(w: Workflow, title: str, **inputs) -> Wire:
    image = w.add("LoadImage", f"{title} image", image=IMAGE)
    w.form.append((image, "image"))
    return w.add("PusaKeyframe", f"Pusa Keyframe: {title.lower()}", image=image["IMAGE"], **inputs)["keyframes"]


def sampled(
    w: Workflow,
    models: dict,
    given: list | Wire | Node,
    text: str,
    lightning: bool = False,
    sampler: Sampler | None = None,
    coders: tuple[Wire, Wire] | None = None,
) -> None:
    """The rest of every workflow with a real Wan: text, timeline, sampler, video.

    Args:
        sampler: the nodes that sample, pusa_sampler where none is named.
        coders: text encoder and VAE; by default from their loaders.
    """
    clip, vae = coders or load_coders(w)
    positive = w.add("CLIPTextEncode", "Prompt", clip=clip, text=text)
    negative = w.add("CLIPTextEncode", "Negative prompt", clip=clip, text=NEGATIVE)
    texts = {"positive": positive["CONDITIONING"], "negative": negative["CONDITIONING"]}
    w.form.append((positive, "text"))
    plan = planned(w, given, {"vae": vae, **SIZE})
    steps, cfg = (4, 1.0) if lightning else (10, 3.0)
    latent = (sampler or pusa_sampler)(w, models, texts, plan, steps, cfg)
    of_clip = isinstance(given, list) and any("take" in item for item in given)
    save_video(w, latent, vae, CLIP_FPS if of_clip or "low_noise_model" in models else 25.0)


def load_coders(w: Workflow) -> tuple[Wire, Wire]:
    """Text encoder and VAE of Wan."""
    clip = w.add("CLIPLoader", clip_name=TEXT_ENCODER, type="wan", device="default")["CLIP"]
    return clip, w.add("VAELoader", vae_name=VAE)["VAE"]


def demo_sampled(w: Workflow, *given: dict[str, Any], strength: Node | None = None, sampler: Sampler | None = None) -> None:
    """The rest of every workflow with the demo model, which the loaders find in the pack."""
    model = w.add("UNETLoader", unet_name=DEMO["unet_name"], weight_dtype="default")["MODEL"]
    pusa = w.add("PusaLoraLoader", model=model, lora_name=DEMO_LORA, alpha=DEMO_ALPHA)
    vae = w.add("VAELoader", vae_name=DEMO["vae_name"])["VAE"]
    positive = w.add("PusaDemoPrompt", "Prompt", text=DEMO_TEXT)
    negative = w.add("PusaDemoPrompt", "Negative prompt", text="")
    texts = {"positive": positive["conditioning"], "negative": negative["conditioning"]}
    w.form.append((positive, "text"))
    plan = planned(w, strength or list(given), {"vae": vae, **DEMO_SIZE})
    latent = (sampler or pusa_sampler)(w, {"model": pusa["model"]}, texts, plan, 10, 3.0)
    save_video(w, latent, vae, DEMO_FPS, DEMO_ZOOM)


def planned(w: Workflow, given: list | Wire | Node, video: dict[str, Any]) -> Node:
    """A timeline of items, or a schedule of keyframes that come by wire, or of a node that says the length, too."""
    if isinstance(given, Wire):
        return w.add("PusaSchedule", keyframes=given, **video)
    if isinstance(given, Node):
        w.form.insert(-1, (given, "noise"))  # before the prompt
        length = replace(given["length"], value=video["length"])
        return w.add("PusaSchedule", keyframes=given["keyframes"], **{**video, "length": length})
    text = json.dumps({"version": 1, "items": given}, separators=(",", ":"))
    timeline = w.add("PusaTimeline", timeline=text, **video)
    w.form.insert(0, (timeline, "timeline"))
    return timeline


def save_video(
    w: Workflow, latent: Wire, vae: Wire, fps: float, zoom: float | None = None, kept: tuple[int, int] | None = None
) -> None:
    """Args: kept: the first frame that is saved and their number; all without it."""
    images = w.add("VAEDecode", samples=latent, vae=vae)["IMAGE"]
    if kept is not None:
        images = w.add("ImageFromBatch", image=images, batch_index=kept[0], length=kept[1])["IMAGE"]
    if zoom is not None:
        images = w.add("ImageScaleBy", image=images, upscale_method="nearest-exact", scale_by=zoom)["IMAGE"]
    video = w.add("CreateVideo", images=images, fps=fps)["VIDEO"]
    w.add("SaveVideo", video=video, filename_prefix=f"video/pusa_{w.name}")


def pusa_sampler(w: Workflow, models: dict, texts: dict, plan: Node, steps: int, cfg: float) -> Wire:
    sampler = w.add("PusaKSampler", seed=42, steps=steps, cfg=cfg, latent=plan["latent"], **models, **texts)
    w.form += [(_says_length(w, plan), "length"), (sampler, "seed")]
    return sampler["latent"]


def _says_length(w: Workflow, plan: Node) -> Node:
    """The node whose widget is the video's length."""
    given = plan.inputs["length"]
    return w.nodes[given.node - 1] if isinstance(given, Wire) else plan


def stock_sampler(w: Workflow, models: dict, texts: dict, plan: Node, steps: int, cfg: float) -> Wire:
    model = w.add("PusaApplySchedule", schedule=plan["schedule"], **models)["model"]
    noise = w.add("RandomNoise", noise_seed=42)
    w.form += [(plan, "length"), (noise, "noise_seed")]
    return w.add(
        "SamplerCustomAdvanced",
        noise=noise["NOISE"],
        guider=w.add("CFGGuider", model=model, cfg=cfg, **texts)["GUIDER"],
        sampler=w.add("KSamplerSelect", sampler_name="euler")["SAMPLER"],
        sigmas=w.add("PusaSigmas", steps=steps)["sigmas"],
        latent_image=plan["latent"],
    )["output"]
