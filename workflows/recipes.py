"""The shared workflows, each a function whose docstring says what it is for. Settings are Pusa's published ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from litegraph import Download, Node, Wire, Workflow
from notes import note

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

IMAGE, CLIP = "example.png", "input_video.mp4"
SIZE = {"width": 832, "height": 480, "length": 81}
NEGATIVE = (
    "blurry, overexposed, grey, frozen picture, subtitles, watermark, compression artefacts, deformed hands, extra limbs"
)
DRAWING = (
    "A child's drawing comes alive: a girl in a pink dress with long yellow hair stands on a green hill under a blue sky. "
    "She waves her arms and hops, her hair swings, white clouds drift by. Flat hand-drawn animation, smooth motion."
)
CONTINUED = "Describe the scene of the clip and what happens in it. Smooth natural motion, steady camera, cinematic light."
CAR = "a car turns from gold to white"

# The small model that comes with the pack.
DEMO = {"unet_name": "pusa_demo_t2v.safetensors", "vae_name": "pusa_demo_vae.safetensors"}
DEMO_LORA = "pusa_demo_lora.safetensors"
DEMO_SIZE = {"width": 64, "height": 64, "length": 17}
DEMO_TEXT = "a red circle moves right quickly and a blue triangle moves left quickly on a gradient background"
DEMO_ALPHA, DEMO_FPS, DEMO_ZOOM = 1.0, 8.0, 6.0


# --- the workflows ---------------------------------------------------------------------------------------------------


def wan21_image_to_video(w: Workflow) -> None:
    """One image becomes the first frame of a video."""
    sampled(w, wan21(w), image_to_video(w, 0.2), DRAWING)


def wan21_start_end(w: Workflow) -> None:
    """Two images become the first and the last frame of a video; the model paints what lies between them."""
    start = image_keyframe(w, "Start", frame_index=0, noise_multiplier=0.2)
    end = image_keyframe(w, "End", row=1, frame_index=-1, noise_multiplier=0.5, previous=start)
    sampled(w, wan21(w), end, DRAWING)


def wan21_three_keyframes(w: Workflow) -> None:
    """Three images at the start, in the middle and at the end, sampled with ComfyUI's own sampler nodes: *Pusa Apply
    Schedule* puts the schedule on the model, *Pusa Sigmas* gives the exact sigma grid. Chain more *Pusa Keyframe*
    nodes for more images."""
    start = image_keyframe(w, "Start", frame_index=0, noise_multiplier=0.2)
    middle = image_keyframe(w, "Middle", row=1, frame_index=40, noise_multiplier=0.5, previous=start)
    end = image_keyframe(w, "End", row=2, frame_index=-1, noise_multiplier=0.5, previous=middle)
    sampled(w, wan21(w), end, DRAWING, stock=True)


def wan21_completion(w: Workflow) -> None:
    """The first 9 and the last 12 frames of a clip are given (3 + 3 latent frames); the 60 frames between them are new."""
    clip = load_clip(w)
    first = clip_keyframes(w, clip, "First frames", take="first", frame_count=9, place="start", noise_multipliers="0.3")
    last = clip_keyframes(
        w, clip, "Last frames", take="last", frame_count=12, place="end", noise_multipliers="0.3", previous=first
    )
    sampled(w, wan21(w), last, CONTINUED)


def wan21_extension(w: Workflow) -> None:
    """The last 13 frames of a clip (4 latent frames) become the first 13 of a new one, which goes on from there with the
    clip's motion. Cut these 13 frames off when you join the two clips."""
    sampled(w, wan21(w), extension(w, "0, 0.3, 0.4, 0.5"), CONTINUED)


def wan21_transition(w: Workflow) -> None:
    """The last 9 frames of clip A are at the start, the first 12 frames of clip B at the end (3 + 3 latent frames); the
    60 frames between them lead from one to the other."""
    start = clip_keyframes(
        w, load_clip(w, "Clip A"), "End of clip A", take="last", frame_count=9, place="start", noise_multipliers="0.3"
    )
    end = clip_keyframes(
        w, load_clip(w, "Clip B", 1), "Start of clip B", 1, take="first", frame_count=12, place="end",
        noise_multipliers="0.3", previous=start,
    )  # fmt: skip
    sampled(w, wan21(w), end, CONTINUED)


def wan21_text_to_video(w: Workflow) -> None:
    """A video from text alone: a schedule without keyframes. The Pusa LoRA keeps the model's text-to-video ability."""
    sampled(w, wan21(w), None, CAR)


def wan21_image_to_video_lightning(w: Workflow) -> None:
    """One image becomes the first frame of a video, in 4 steps with the LightX2V (Lightning) LoRA."""
    sampled(w, wan21(w, lightning=True), image_to_video(w, 0.2), DRAWING, lightning=True)


def wan21_extension_lightning(w: Workflow) -> None:
    """The last 13 frames of a clip (4 latent frames) become the first 13 of a new one, which goes on from there, in 4
    steps with the LightX2V (Lightning) LoRA. Cut these 13 frames off when you join the two clips."""
    sampled(w, wan21(w, lightning=True), extension(w, "0, 0.3, 0.4, 0.5"), CONTINUED, lightning=True)


def wan22_image_to_video(w: Workflow) -> None:
    """One image becomes the first frame of a video, with Wan2.2's two experts: the sampler takes the high-noise model
    while sigma is 0.875 or more, then the low-noise model."""
    sampled(w, wan22(w), image_to_video(w, 0.2), DRAWING)


def wan22_extension(w: Workflow) -> None:
    """The last 13 frames of a clip (4 latent frames) become the first 13 of a new one, which goes on from there with the
    clip's motion, with Wan2.2's two experts. Cut these 13 frames off when you join the two clips."""
    sampled(w, wan22(w), extension(w, "0.2, 0.4, 0.4, 0.4"), CONTINUED)


def wan22_image_to_video_lightning(w: Workflow) -> None:
    """One image becomes the first frame of a video, with Wan2.2's two experts in 4 steps (2 each) with the Lightning
    LoRAs."""
    sampled(w, wan22(w, lightning=True), image_to_video(w, 0.2), DRAWING, lightning=True)


def wan22_extension_lightning(w: Workflow) -> None:
    """The last 13 frames of a clip (4 latent frames) become the first 13 of a new one, with Wan2.2's two experts in 4
    steps (2 each) with the Lightning LoRAs. Cut these 13 frames off when you join the two clips."""
    sampled(w, wan22(w, lightning=True), extension(w, "0.2, 0.4, 0.4, 0.4"), CONTINUED, lightning=True)


def demo_image_to_video(w: Workflow) -> None:
    """The first picture of a small scene becomes a video, with the small model that comes with the pack: nothing to
    download, seconds on a CPU. The same graph works with real Wan models and your own pictures."""
    scene = demo_scene(w)
    demo_sampled(w, demo_keyframe(w, "Start", scene["start_image"], frame_index=0))


def demo_start_end(w: Workflow) -> None:
    """The first and the last picture of a small scene become a video that leads from one to the other, with the small
    model that comes with the pack: nothing to download, seconds on a CPU."""
    scene = demo_scene(w)
    start = demo_keyframe(w, "Start", scene["start_image"], frame_index=0)
    demo_sampled(w, demo_keyframe(w, "End", scene["end_image"], row=1, frame_index=-1, previous=start))


def demo_extension(w: Workflow) -> None:
    """The first 5 frames of a small scene go on with their own motion, with the small model that comes with the pack:
    nothing to download, seconds on a CPU."""
    demo_sampled(
        w,
        clip_keyframes(
            w, demo_scene(w)["images"], "First frames", take="first", frame_count=5, place="start", noise_multipliers="0"
        ),
    )


def demo_text_to_video(w: Workflow) -> None:
    """A video from text alone, with the small model that comes with the pack: nothing to download, seconds on a CPU."""
    demo_sampled(w, None)


WORKFLOWS = [
    demo_image_to_video,
    demo_start_end,
    demo_extension,
    demo_text_to_video,
    wan21_image_to_video,
    wan21_start_end,
    wan21_three_keyframes,
    wan21_completion,
    wan21_extension,
    wan21_transition,
    wan21_text_to_video,
    wan21_image_to_video_lightning,
    wan21_extension_lightning,
    wan22_image_to_video,
    wan22_extension,
    wan22_image_to_video_lightning,
    wan22_extension_lightning,
]


# --- their parts -----------------------------------------------------------------------------------------------------


def wan21(w: Workflow, lightning: bool = False) -> dict[str, Wire]:
    """Wan2.1's model with its LoRAs, as inputs of a sampler."""
    model = load_model(w, MODEL, LIGHTNING if lightning else None)
    pusa = w.add("PusaLoraLoader", model=model, lora_name=PUSA, alpha=1.4)
    w.form.append((pusa, "alpha"))
    return {"model": pusa["model"]}


def wan22(w: Workflow, lightning: bool = False) -> dict[str, Wire]:
    """Wan2.2's two models with their LoRAs, as inputs of a sampler."""
    inputs: dict[str, Any] = {}
    for part in MODELS:
        model = load_model(w, MODELS[part], LIGHTNINGS[part] if lightning else None, f" ({part} noise)")
        inputs |= {f"{part}_noise_model": model, f"{part}_noise_lora": PUSAS[part]}
    pusa = w.add("PusaLoraLoaderHighLow", high_noise_alpha=1.5, low_noise_alpha=1.4, **inputs)
    w.form += [(pusa, "high_noise_alpha"), (pusa, "low_noise_alpha")]
    return {"model": pusa["high_noise_model"], "low_noise_model": pusa["low_noise_model"]}


def load_model(w: Workflow, name: str, lightning: str | None, which: str = "") -> Wire:
    model = w.add("UNETLoader", f"Load Diffusion Model{which}", unet_name=name, weight_dtype="default")["MODEL"]
    if lightning is not None:
        model = w.add("LoraLoaderModelOnly", f"Lightning LoRA{which}", model=model, lora_name=lightning)["MODEL"]
    return model


def image_to_video(w: Workflow, noise: float) -> Wire:
    return image_keyframe(w, "Image", frame_index=0, noise_multiplier=noise)


def extension(w: Workflow, noise: str) -> Wire:
    return clip_keyframes(w, load_clip(w), "Last frames", take="last", frame_count=13, place="start", noise_multipliers=noise)


def image_keyframe(w: Workflow, title: str, row: int = 0, **inputs) -> Wire:
    image = w.add("LoadImage", title if title == "Image" else f"{title} image", row, image=IMAGE)
    keyframe = w.add("PusaKeyframe", f"Pusa Keyframe: {title.lower()}", row, image=image["IMAGE"], **inputs)
    w.form += [(image, "image"), (keyframe, "noise_multiplier")]
    return keyframe["keyframes"]


def demo_scene(w: Workflow) -> Node:
    scene = w.add("PusaDemoScene", text=DEMO_TEXT, seed=0)
    w.form += [(scene, "text"), (scene, "seed")]
    return scene


def demo_keyframe(w: Workflow, title: str, image: Wire, row: int = 0, **inputs) -> Wire:
    keyframe = w.add("PusaKeyframe", f"Pusa Keyframe: {title.lower()}", row, image=image, noise_multiplier=0.0, **inputs)
    w.form.append((keyframe, "noise_multiplier"))
    return keyframe["keyframes"]


def load_clip(w: Workflow, title: str = "Clip", row: int = 0) -> Wire:
    clip = w.add("LoadVideo", title, row, file=CLIP)
    w.form.append((clip, "file"))
    return w.add("GetVideoComponents", "", row, video=clip["VIDEO"])["images"]


def clip_keyframes(w: Workflow, clip: Wire, title: str, row: int = 0, **inputs) -> Wire:
    keyframes = w.add("PusaVideoKeyframes", f"Pusa Video Keyframes: {title[0].lower()}{title[1:]}", row, video=clip, **inputs)
    w.form.append((keyframes, "noise_multipliers"))
    return keyframes["keyframes"]


def sampled(
    w: Workflow, models: dict[str, Wire], keyframes: Wire | None, text: str, lightning: bool = False, stock: bool = False
) -> None:
    """The rest of every workflow with a real Wan: text, schedule, sampler, video."""
    clip = w.add("CLIPLoader", clip_name=TEXT_ENCODER, type="wan", device="default")["CLIP"]
    vae = w.add("VAELoader", vae_name=VAE)["VAE"]
    positive = w.add("CLIPTextEncode", "Prompt", clip=clip, text=text)
    negative = w.add("CLIPTextEncode", "Negative prompt", clip=clip, text=NEGATIVE)
    w.form.insert(0, (positive, "text"))
    texts = {"positive": positive["CONDITIONING"], "negative": negative["CONDITIONING"]}
    steps, cfg = (4, 1.0) if lightning else (10, 3.0)
    sampler = stock_sampler if stock else pusa_sampler
    latent = sampler(w, models, texts, {"vae": vae, "keyframes": keyframes, **SIZE}, steps, cfg)
    given = next((node["fps"] for node in w.nodes if node.kind == "GetVideoComponents"), None)
    save_video(w, latent, vae, given or (24.0 if "low_noise_model" in models else 25.0))


def demo_sampled(w: Workflow, keyframes: Wire | None) -> None:
    """The rest of every workflow with the demo model, which the loaders find in the pack."""
    model = w.add("UNETLoader", unet_name=DEMO["unet_name"], weight_dtype="default")["MODEL"]
    pusa = w.add("PusaLoraLoader", model=model, lora_name=DEMO_LORA, alpha=DEMO_ALPHA)
    vae = w.add("VAELoader", vae_name=DEMO["vae_name"])["VAE"]
    drawn = next((node["caption"] for node in w.nodes if node.kind == "PusaDemoScene"), None)
    positive = w.add("PusaDemoPrompt", "Prompt", text=drawn or DEMO_TEXT)
    negative = w.add("PusaDemoPrompt", "Negative prompt", text="")
    if drawn is None:
        w.form.insert(0, (positive, "text"))
    w.form.append((pusa, "alpha"))
    texts = {"positive": positive["conditioning"], "negative": negative["conditioning"]}
    clip = {"vae": vae, "keyframes": keyframes, **DEMO_SIZE}
    latent = pusa_sampler(w, {"model": pusa["model"]}, texts, clip, steps=10, cfg=3.0)
    save_video(w, latent, vae, DEMO_FPS, DEMO_ZOOM)


def save_video(w: Workflow, latent: Wire, vae: Wire, fps: float | Wire, zoom: float | None = None) -> None:
    images = w.add("VAEDecode", samples=latent, vae=vae)["IMAGE"]
    if zoom is not None:
        images = w.add("ImageScaleBy", image=images, upscale_method="nearest-exact", scale_by=zoom)["IMAGE"]
    video = w.add("CreateVideo", images=images, fps=fps)["VIDEO"]
    w.add("SaveVideo", video=video, filename_prefix=f"video/pusa_{w.name}")


def pusa_sampler(w: Workflow, models: dict, texts: dict, clip: dict, steps: int, cfg: float) -> Wire:
    schedule = add_schedule(w, clip)
    sampler = w.add("PusaKSampler", seed=42, steps=steps, cfg=cfg, latent=schedule["latent"], **models, **texts)
    w.form += [(sampler, "steps"), (sampler, "seed")]
    return sampler["latent"]


def stock_sampler(w: Workflow, models: dict, texts: dict, clip: dict, steps: int, cfg: float) -> Wire:
    sigmas = w.add("PusaSigmas", steps=steps)
    schedule = add_schedule(w, {**clip, "sigmas": sigmas["sigmas"]})
    model = w.add("PusaApplySchedule", schedule=schedule["schedule"], **models)["model"]
    noise = w.add("RandomNoise", noise_seed=42)
    w.form += [(sigmas, "steps"), (noise, "noise_seed")]
    return w.add(
        "SamplerCustomAdvanced",
        noise=noise["NOISE"],
        guider=w.add("CFGGuider", model=model, cfg=cfg, **texts)["GUIDER"],
        sampler=w.add("KSamplerSelect", sampler_name="euler")["SAMPLER"],
        sigmas=sigmas["sigmas"],
        latent_image=schedule["latent"],
    )["output"]


def add_schedule(w: Workflow, clip: dict) -> Node:
    schedule = w.add("PusaSchedule", **clip)
    w.form += [(schedule, widget) for widget in ("width", "height", "length")]
    return schedule


def workflows() -> Iterator[Workflow]:
    for describe in WORKFLOWS:
        yield built(describe)


def built(describe: Callable[[Workflow], None]) -> Workflow:
    workflow = Workflow(describe.__name__, DOWNLOADS)
    describe(workflow)
    workflow.form.sort(key=lambda item: item[1].endswith("alpha"))  # last: what is changed least
    workflow.note = note(workflow, describe.__doc__ or "", CLIP)
    return workflow
