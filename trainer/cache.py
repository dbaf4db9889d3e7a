"""Clips and captions -> cached latents and text embeddings, with ComfyUI's own VAE and text encoder.

Each model is loaded once, and is out of memory again before training begins.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from pusa_core.frames import latent_length
from pusa_core.hosts.comfyui_folder import import_comfyui
from pusa_core.pictures import fit_pictures

from .data import NEGATIVE, as_json, read_told, save_clip

VIDEOS = {".mp4", ".mov", ".mkv", ".webm", ".avi", ".gif", ".m4v"}


@dataclass(frozen=True)
class Source:
    """A clip to be cached."""

    path: Path
    caption: str

    @property
    def stamp(self) -> str:
        stat = self.path.stat()
        return f"{self.path.name} {stat.st_size} {stat.st_mtime_ns}"


def find_clips(folder: Path) -> list[Source]:
    """The videos of a folder with their captions: NAME.txt beside NAME.mp4, or lines of metadata.jsonl with
    "file_name" and "text".

    Raises:
        ValueError: there are no videos, or one has no caption.
    """
    videos = sorted(path for path in folder.rglob("*") if path.suffix.lower() in VIDEOS)
    if not videos:
        raise ValueError(f"{folder} holds no videos ({', '.join(sorted(VIDEOS))}): give a folder of clips.")
    listed = _listed_captions(folder / "metadata.jsonl")
    sources, missing = [], []
    for path in videos:
        beside = path.with_suffix(".txt")
        name = path.relative_to(folder).as_posix()
        caption = beside.read_text(encoding="utf-8").strip() if beside.is_file() else listed.get(name)
        if caption is None:
            missing.append(name)
        else:
            sources.append(Source(path, caption))
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(videos)} clips have no caption, {missing[0]} for one: write it into "
            f"{Path(missing[0]).with_suffix('.txt')} or into metadata.jsonl."
        )
    return sources


def _listed_captions(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    captions = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            entry = json.loads(line) if line.strip() else None
            if entry is not None:
                captions[entry["file_name"]] = entry["text"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f'Line {number} of {path} is no object with "file_name" and "text".') from error
    return captions


def read_clip(path: Path, length: int, width: int, height: int, fps: float | None) -> Tensor:
    """The first `length` frames of a video, fitted to the size by cropping; (length, height, width, 3) in [0, 1].

    Args:
        fps: take frames at this rate; None takes them as they are.

    Raises:
        ValueError: it cannot be read, or is too short.
    """
    from comfy_api.input_impl import VideoFromFile

    try:
        video = VideoFromFile(str(path)).get_components()
    except Exception as error:  # PyAV raises dozens of types for damaged files
        raise ValueError(f"{path} cannot be read ({type(error).__name__}: {error}): check the file.") from error
    pace = float(video.frame_rate) / fps if fps else 1.0
    chosen = [round(i * pace) for i in range(length)]
    if chosen[-1] >= len(video.images):
        raise ValueError(
            f"{path} has {len(video.images)} frames at {float(video.frame_rate):g} a second, but {chosen[-1] + 1} are needed "
            f"for {length} at {fps or float(video.frame_rate):g}: take a shorter --length or leave the clip out."
        )
    return fit_pictures(video.images[chosen], width, height, "crop")


def cache_clips(
    sources: Iterable[Source],
    folder: Path,
    read: Callable[[Source], Tensor],
    encode_pictures: Callable[[Tensor], Tensor],
    encode_text: Callable[[str], Tensor],
    negative: str,
    settings: dict[str, Any],
) -> list[str]:
    """Encodes what is not cached yet; a clip that fails is left out and reported.

    Args:
        read: a source's pictures (T, H, W, 3).
        encode_pictures: pictures -> the latent as the model sees it (C, F, h, w).
        encode_text: a caption -> (L, text width).
        settings: whatever else the cached tensors depend on; a clip cached with others is encoded again.

    Returns:
        what went wrong, one sentence for each clip that was left out.
    """
    failed = []
    save_clip(folder / f"{NEGATIVE}.safetensors", None, encode_text(negative), {"caption": negative})
    for source in tqdm(list(sources), desc="caching", unit="clip"):
        path = folder / f"{source.path.stem}.safetensors"
        key = as_json({**settings, "source": source.stamp, "caption": source.caption})
        if read_told(path).get("key") == key:
            continue
        try:
            latent = encode_pictures(read(source))
        except ValueError as error:
            failed.append(str(error))
            continue
        save_clip(path, latent, encode_text(source.caption), {"caption": source.caption, "key": key})
    return failed


def main(args: Any) -> None:
    """`python -m trainer cache`."""
    latent_length(args.length)
    sources = find_clips(args.clips)
    stems = [source.path.stem for source in sources]
    if len(set(stems)) < len(stems):
        twice = next(stem for stem in stems if stems.count(stem) > 1)
        raise ValueError(f"Two clips are called {twice}: give each its own name.")
    import_comfyui()
    with torch.inference_mode():
        texts = _encode_texts(args.text_encoder, [args.negative, *(source.caption for source in sources)])
        encode_pictures = picture_encoder(args.vae, args.width, args.height)
        settings = {name: str(getattr(args, name)) for name in ("length", "width", "height", "fps", "vae", "text_encoder")}
        failed = cache_clips(
            sources, args.output, lambda s: read_clip(s.path, args.length, args.width, args.height, args.fps),
            encode_pictures, texts.__getitem__, args.negative, settings,
        )  # fmt: skip
    print(f"{len(sources) - len(failed)} of {len(sources)} clips are cached in {args.output}.")
    print(*failed, sep="\n")


def _encode_texts(path: Path, texts: list[str]) -> dict[str, Tensor]:
    """Every caption's embedding, (L, text width); the text encoder is unloaded again."""
    import comfy.model_management
    import comfy.sd

    clip = comfy.sd.load_clip([str(path)], clip_type=comfy.sd.CLIPType.WAN)
    encoded = {
        text: clip.encode_from_tokens(clip.tokenize(text))[0].float().cpu()
        for text in tqdm(dict.fromkeys(texts), desc="reading captions", unit="caption")
    }
    del clip
    comfy.model_management.unload_all_models()
    return encoded


def picture_encoder(path: Path, width: int, height: int) -> Callable[[Tensor], Tensor]:
    """ComfyUI's VAE as a function from pictures (T, H, W, 3) to the latent as the model sees it (C, F, h, w).

    Raises:
        ValueError: it is not Wan's VAE, or the size does not suit it.
    """
    import comfy.sd
    import comfy.utils

    from pusa_core.hosts.comfyui import LATENT_FORMATS, check_vae

    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(path)))
    vae.throw_exception_if_invalid()
    check_vae(vae, width, height)
    form = LATENT_FORMATS[vae.latent_channels]()
    return lambda pictures: form.process_in(vae.encode(pictures).float().cpu())[0]


def picture_decoder(path: Path) -> Callable[[Tensor], Tensor]:
    """The way back, from latents as the model sees them (C, F, h, w) to pictures (T, H, W, 3)."""
    import_comfyui()
    import comfy.sd
    import comfy.utils

    from pusa_core.hosts.comfyui import LATENT_FORMATS

    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(path)))
    vae.throw_exception_if_invalid()
    form = LATENT_FORMATS[vae.latent_channels]()

    def decode(latent: Tensor) -> Tensor:
        with torch.inference_mode():
            return vae.decode(form.process_out(latent[None].float()))[0].cpu()

    return decode
