"""Clips and captions -> cached latents and text embeddings, with ComfyUI's own VAE and text encoder.

Each model is loaded once, and is out of memory again before training begins.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from environment.comfyui import import_comfyui
from pusa_core.frames import latent_length
from pusa_core.resize import fit_images
from pusa_core.video_files import frame_rate, read_frames

from .data import NEGATIVE, PackedText, as_json, read_told, save_clip

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
        ValueError: there are no videos, one has no caption, or two have one name.
    """
    videos = sorted(path for path in folder.rglob("*") if path.suffix.lower() in VIDEOS)
    if not videos:
        raise ValueError(f"{folder} holds no videos ({', '.join(sorted(VIDEOS))}): give a folder of clips.")
    named: dict[str, Path] = {}
    for path in videos:
        if path.stem in named:
            raise ValueError(f"Two clips are called {path.stem}, {named[path.stem]} and {path}: give each its own name.")
        named[path.stem] = path
    listed = _listed_captions(folder / "metadata.jsonl")
    sources, missing = [], []
    for path in videos:
        beside = path.with_suffix(".txt")
        name = path.relative_to(folder).as_posix()
        caption = _read_text_file(beside).strip() if beside.is_file() else listed.get(name)
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


def _read_text_file(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # Windows editors begin UTF-8 with a mark
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason}): save it as UTF-8.") from error


def _listed_captions(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    captions = {}
    for number, line in enumerate(_read_text_file(path).splitlines(), 1):
        try:
            entry = json.loads(line) if line.strip() else None
            if entry is not None:
                captions[entry["file_name"]] = str(entry["text"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f'Line {number} of {path} is no object with "file_name" and "text".') from error
    return captions


def read_clip(path: Path, length: int, width: int, height: int, fps: float | None) -> Tensor:
    """The first `length` frames of a video, fitted to the size by cropping; (length, height, width, 3) in [0, 1].

    Args:
        fps: take frames at this rate; None takes them as they are.

    Raises:
        ValueError: it cannot be read, is too short, or has fewer frames a second than asked for.
    """
    rate = frame_rate(path)
    if fps and fps > rate:
        raise ValueError(f"{path} has {rate:g} frames a second, fewer than --fps {fps:g}: give at most {rate:g}.")
    chosen = [round(i * rate / fps) if fps else i for i in range(length)]
    wanted, count, pictures = set(chosen), 0, []
    for count, picture in enumerate(itertools.islice(read_frames(path), chosen[-1] + 1), 1):
        if count - 1 in wanted:
            pictures.append(fit_images(picture, width, height, "crop"))
    if count <= chosen[-1]:
        raise ValueError(
            f"{path} has {count} frames at {rate:g} a second, but {chosen[-1] + 1} are needed "
            f"for {length} at {fps or rate:g}: take a shorter --length or leave the clip out."
        )
    return torch.cat(pictures)


def cache_key(source: Source, settings: dict[str, Any]) -> str:
    """Everything that a cached clip depends on."""
    return as_json({**settings, "source": source.stamp, "caption": source.caption})


def cached_path(folder: Path, source: Source) -> Path:
    return folder / f"{source.path.stem}.safetensors"


def stale(sources: Iterable[Source], folder: Path, settings: dict[str, Any]) -> list[Source]:
    """The sources that are not cached yet, or were with another caption or other settings."""
    return [s for s in sources if read_told(cached_path(folder, s)).get("key") != cache_key(s, settings)]


def cache_clips(
    sources: Iterable[Source],
    folder: Path,
    read: Callable[[Source], Tensor],
    encode_pictures: Callable[[Tensor], Tensor],
    texts: Mapping[str, PackedText],
    settings: dict[str, Any],
    longest: int = 512,
) -> list[str]:
    """Encodes clips; one that fails is left out and reported, and so is not in the cache.

    Args:
        read: a source's pictures (T, H, W, 3).
        encode_pictures: pictures -> the latent as the model sees it (C, F, h, w).
        texts: every caption's embedding.
        settings: whatever else the cached tensors depend on.
        longest: tokens that the model takes.

    Returns:
        what went wrong, one sentence for each clip that was left out.
    """
    failed = []
    for source in tqdm(list(sources), desc="caching", unit="clip"):
        path, text = cached_path(folder, source), texts[source.caption]
        try:
            if text.length > longest:
                raise ValueError(f"{source.path} has a caption of {text.length} tokens, over {longest}: shorten it.")
            latent = encode_pictures(read(source))
        except ValueError as error:
            path.unlink(missing_ok=True)
            failed.append(str(error))
            continue
        save_clip(path, latent, text, {"caption": source.caption, "key": cache_key(source, settings)})
    return failed


def main(args: Any) -> None:
    """`python -m trainer cache`.

    Raises:
        ValueError: the options cannot be used, or no clip could be cached.
    """
    latent_length(args.length)
    for path in (args.vae, args.text_encoder):
        if not path.is_file():
            raise ValueError(f"{path} is not there: give the path of the file.")
    sources = find_clips(args.clips)
    import_comfyui()
    settings = {name: str(getattr(args, name)) for name in ("length", "width", "height", "fps")}
    settings |= {name: getattr(args, name).name for name in ("vae", "text_encoder")}
    work = stale(sources, args.output, settings)
    failed = []
    if work:
        with torch.inference_mode():
            encode_pictures = picture_encoder(args.vae, args.width, args.height)
            texts = _encode_texts(args.text_encoder, [args.negative, *(source.caption for source in work)])
            save_clip(args.output / f"{NEGATIVE}.safetensors", None, texts[args.negative], {"caption": args.negative})
            failed = cache_clips(
                work,
                args.output,
                lambda source: read_clip(source.path, args.length, args.width, args.height, args.fps),
                encode_pictures,
                texts,
                settings,
            )
    print(f"{len(sources) - len(failed)} of {len(sources)} clips are cached in {args.output}.")
    print(*failed, sep="\n")
    known = {cached_path(args.output, source) for source in sources}
    others = [path for path in sorted(args.output.glob("*.safetensors")) if path not in known and path.stem != NEGATIVE]
    if others:
        print(
            f"{len(others)} cached clips are of no video in {args.clips}, {others[0].name} for one; they will be trained on, "
            "too, so delete them if that is not what you want."
        )
    if len(failed) == len(sources):
        raise ValueError("No clip could be cached; see above.")


def _encode_texts(path: Path, texts: list[str]) -> dict[str, PackedText]:
    """Every caption's embedding; the text encoder is unloaded again."""
    import comfy.model_management
    import comfy.sd

    clip = comfy.sd.load_clip([str(path)], clip_type=comfy.sd.CLIPType.WAN)

    def encode(text: str) -> PackedText:
        # brackets in a caption are no weights
        return PackedText.pack(clip.encode_from_tokens(clip.tokenize(text, disable_weights=True))[0].float().cpu())

    encoded = {text: encode(text) for text in tqdm(dict.fromkeys(texts), desc="reading captions", unit="caption")}
    comfy.model_management.unload_all_models()
    return encoded


def open_vae(path: Path) -> tuple[Any, Any]:
    """(ComfyUI's VAE, its latents' normalisation).

    Raises:
        ValueError: it is not Wan's VAE.
    """
    import_comfyui()
    import comfy.sd
    import comfy.utils

    from pusa_core.hosts.comfyui import LATENT_FORMATS, check_vae

    if not path.is_file():
        raise ValueError(f"{path} is not there: give the path of a Wan VAE file.")
    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(path)))
    vae.throw_exception_if_invalid()
    check_vae(vae, 64, 64)
    return vae, LATENT_FORMATS[vae.latent_channels]()


def picture_encoder(path: Path, width: int, height: int) -> Callable[[Tensor], Tensor]:
    """ComfyUI's VAE as a function from pictures (T, H, W, 3) to the latent as the model sees it (C, F, h, w).

    Raises:
        ValueError: it is not Wan's VAE, or the model cannot take the size.
    """
    vae, form = open_vae(path)
    multiple = 2 * vae.spacial_compression_encode()  # the model takes patches of 2x2
    if width % multiple or height % multiple:
        near = [max(multiple, round(side / multiple) * multiple) for side in (width, height)]
        raise ValueError(
            f"A size of {width}x{height} was given; with this VAE both must be multiples of {multiple}: "
            f"use {near[0]}x{near[1]}."
        )
    return lambda pictures: form.process_in(vae.encode(pictures).float().cpu())[0]


def picture_decoder(path: Path, channels: int) -> Callable[[Tensor], Tensor]:
    """The way back, from latents as the model sees them (C, F, h, w) to pictures (T, H, W, 3).

    Raises:
        ValueError: it is not the VAE of latents with these channels.
    """
    vae, form = open_vae(path)
    if vae.latent_channels != channels:
        raise ValueError(
            f"{path.name} is for latents of {vae.latent_channels} channels, but the cached ones have {channels}."
        )

    def decode(latent: Tensor) -> Tensor:
        with torch.inference_mode():
            return vae.decode(form.process_out(latent[None].float()))[0].cpu()

    return decode
