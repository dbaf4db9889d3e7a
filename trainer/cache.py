"""Clips and captions -> cached latents and text embeddings, with ComfyUI's own VAE and text encoder.

Each model is loaded once, and is out of memory again before training begins.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from batch.jobs import Job
from environment.comfyui import import_comfyui
from pusa_core.frames import latent_length
from pusa_core.wan import PATCH

from .data import NEGATIVE, PackedText, as_json, cached_paths, read_metadata, save_clip
from .output import make_folder
from .samples import cache_samples, read_samples
from .settings import DEMO, CacheSettings, check_size
from .sources import Source, find_clips, mixed_rates
from .windows import Size, bucket_sizes, read_source

LONGEST = 512  # tokens that Wan takes
Windows = Iterable[tuple[int, Tensor]]  # numbered pictures (T, H, W, 3)


def cache_key(source: Source, encoding: dict[str, str]) -> str:
    """Everything that a cached clip depends on."""
    return as_json({**encoding, "source": source.stamp, "caption": source.caption})


def cached_path(folder: Path, source: Source, window: int = 0) -> Path:
    """The file of a source's window; sources of one name in two folders have two."""
    number = f".{window}" if window else ""
    return folder / f"{source.name}{number}.safetensors"


def cached_windows(folder: Path, source: Source) -> Iterator[Path]:
    """The files that there are of a source."""
    paths = (cached_path(folder, source, window) for window in itertools.count())
    return itertools.takewhile(Path.is_file, paths)


def first_missing(folder: Path, source: Source, key: str) -> int | None:
    """The first window of a source that is not cached yet, or was with another key; None where all are."""
    window = 0
    for path in cached_windows(folder, source):
        metadata = read_metadata(path)
        if metadata.get("key") != key:
            break
        if metadata.get("last"):
            return None
        window += 1
    return window


def missing_windows(sources: Iterable[Source], folder: Path, encoding: dict[str, str]) -> list[tuple[Source, int]]:
    """The sources that are not wholly cached, each with its first missing window."""
    firsts = ((source, first_missing(folder, source, cache_key(source, encoding))) for source in sources)
    return [(source, first) for source, first in firsts if first is not None]


def cache_clips(
    work: Iterable[tuple[Source, int]],
    folder: Path,
    read: Callable[[Source, int], Windows],
    encode: Callable[[Tensor], Tensor],
    text_of: Callable[[str], PackedText],
    encoding: dict[str, str],
) -> list[str]:
    """Encodes clips; one that fails is left out and reported, and so is not in the cache.

    Args:
        work: see `missing_windows`.
        read: a source's windows from a number on.
        encode: pictures (T, H, W, 3) -> the latent as the model sees it (C, F, h, w).
        text_of: a caption's embedding.
        encoding: whatever else the cached tensors depend on.

    Returns:
        what went wrong, one sentence for each clip that was left out.
    """
    failed = []
    for source, first in tqdm(list(work), desc="caching", unit="clip"):
        metadata = {"caption": source.caption, "key": cache_key(source, encoding)}
        _remove_windows(folder, source, first)
        try:
            text = _text(source, text_of)
            latents = ((window, encode(pictures)) for window, pictures in read(source, first))
            for window, latent, more in _with_last(latents):
                save_clip(cached_path(folder, source, window), latent, text, metadata | ({} if more else {"last": "yes"}))
        except ValueError as error:
            _remove_windows(folder, source, 0)
            failed.append(str(error))
    return failed


def _text(source: Source, text_of: Callable[[str], PackedText]) -> PackedText:
    try:
        text = text_of(source.caption)
    except ValueError as error:
        raise ValueError(f"{source.path} has a caption that cannot be used: {error}") from error
    if text.length > LONGEST:
        raise ValueError(f"{source.path} has a caption of {text.length} tokens, over {LONGEST}: shorten it.")
    return text


def _with_last(latents: Iterable[tuple[int, Tensor]]) -> Iterator[tuple[int, Tensor, bool]]:
    """Each window with whether more of them follow."""
    held: tuple[int, Tensor] | None = None
    for entry in latents:
        if held is not None:
            yield *held, True
        held = entry
    if held is not None:
        yield *held, False


def _remove_windows(folder: Path, source: Source, first: int) -> None:
    for path in list(itertools.islice(cached_windows(folder, source), first, None)):
        path.unlink()


# --- the command ---------------------------------------------------------------------------------------------------------


def cache(settings: CacheSettings) -> None:
    """`python -m trainer cache`.

    Raises:
        OutputError: the output folder cannot be written to.
        ValueError: the settings cannot be used, or no clip could be cached.
    """
    latent_length(settings.length)
    for path in (settings.vae, Path(settings.text_encoder)):
        if not path.is_file() and str(path) != DEMO:
            raise ValueError(f"{path} is not there: give the path of the file.")
    sources = find_clips(settings.clips, settings.images)
    warning = None if settings.fps else mixed_rates(sources)
    if warning:
        print(warning)
    work, samples = missing_windows(sources, settings.output, settings.encoding()), read_samples(settings)
    failed = _encode(settings, work, samples) if work or samples or _negative_missing(settings) else []
    _report(settings, sources, failed)
    if len(failed) == len(sources):
        raise ValueError("No clip could be cached; see above.")


@torch.inference_mode()
def _encode(settings: CacheSettings, work: Sequence[tuple[Source, int]], samples: Sequence[Job]) -> list[str]:
    import_comfyui()
    from pusa_core.hosts.comfyui.vae import open_vae

    vae = open_vae(settings.vae)
    sizes = _sizes(settings, vae.multiple)
    captions = [source.caption for source, _ in work] + [job.prompt for job in samples]
    text_of = _texts(settings, [settings.negative, *captions])
    _save_negative(settings, text_of)
    if samples:
        cache_samples(samples, settings.output, vae.channels, vae.multiple // PATCH, vae.encode, text_of)
    return cache_clips(
        work,
        settings.output,
        lambda source, first: read_source(source, settings, sizes, first),
        vae.encode,
        text_of,
        settings.encoding(),
    )


def _sizes(settings: CacheSettings, multiple: int) -> list[Size]:
    width, height = settings.width, settings.height
    check_size(width, height, multiple)
    return bucket_sizes(width, height, multiple) if settings.buckets else [(width, height)]


def _texts(settings: CacheSettings, texts: list[str]) -> Callable[[str], PackedText]:
    """The embedding of each of `texts`; the text encoder is unloaded again."""
    if settings.text_encoder == DEMO:
        from demo_model.text import encode as encode_words

        return lambda text: PackedText.pack(encode_words(text)[0])
    from pusa_core.hosts.comfyui.text import open_text_encoder

    with open_text_encoder(Path(settings.text_encoder)) as encode:
        make_folder(settings.output)  # before captions are read, which takes long
        every = tqdm(dict.fromkeys(texts), desc="reading captions", unit="caption")
        return {text: PackedText.pack(encode(text)) for text in every}.__getitem__


def _negative_metadata(settings: CacheSettings) -> dict[str, str]:
    return {"caption": settings.negative, "text_encoder": Path(settings.text_encoder).name}


def _negative_missing(settings: CacheSettings) -> bool:
    existing = read_metadata(settings.output / NEGATIVE)
    return any(existing.get(key) != value for key, value in _negative_metadata(settings).items())


def _save_negative(settings: CacheSettings, text_of: Callable[[str], PackedText]) -> None:
    save_clip(settings.output / NEGATIVE, None, text_of(settings.negative), _negative_metadata(settings))


def _report(settings: CacheSettings, sources: Sequence[Source], failed: Sequence[str]) -> None:
    known = {path for source in sources for path in cached_windows(settings.output, source)}
    windows = f", in {len(known)} windows" if len(known) > len(sources) - len(failed) else ""
    print(f"{len(sources) - len(failed)} of {len(sources)} clips are cached in {settings.output}{windows}.")
    print(*failed, sep="\n")
    others = [path for path in cached_paths(settings.output) if path not in known]
    if others:
        print(
            f"{len(others)} cached clips are of no video in {settings.clips}, {others[0].name} for one; they will be trained "
            "on, too, so delete them if that is not what you want."
        )
