"""ComfyUI's UMT5-XXL, Wan's text encoder, for programs beside ComfyUI.

Reached after `environment.comfyui.import_comfyui`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import comfy.model_management
import comfy.sd
from torch import Tensor

from ...messages import either, fault, mark
from .files import read_state

WIDTH, VOCABULARY = 4096, 256384
FILES = ("umt5_xxl_fp8_e4m3fn_scaled.safetensors", "umt5_xxl_fp16.safetensors")
WANTED = mark("UMT5-XXL in ComfyUI's format (umt5_xxl_fp8_e4m3fn_scaled.safetensors or umt5_xxl_fp16.safetensors)")


@contextmanager
def open_text_encoder(path: Path) -> Iterator[Callable[[str], Tensor]]:
    """A function from a text to its embedding, (L, 4096), fp32 on the CPU; at the end the encoder is unloaded.

    Raises:
        ValueError: the file is not there or damaged, or is another text encoder.
    """
    check_text_encoder(path.name, read_state(path, WANTED))
    clip = comfy.sd.load_clip([str(path)], clip_type=comfy.sd.CLIPType.WAN)

    def encode(text: str) -> Tensor:
        # brackets in a caption are no weights
        return clip.encode_from_tokens(clip.tokenize(text, disable_weights=True))[0].float().cpu()

    try:
        yield encode
    finally:
        comfy.model_management.unload_all_models()


def check_text_encoder(name: str, state: Mapping[str, Tensor]) -> None:
    """Refuses anything but UMT5-XXL in ComfyUI's format; ComfyUI itself opens CLIP or Llama in its place without a word.

    The width cannot tell, T5-XXL and Llama-8B have it too; the vocabulary does.

    Raises:
        ValueError: what the file is instead.
    """
    words, norm = state.get("shared.weight"), state.get("encoder.final_layer_norm.weight")
    if words is not None and norm is not None:
        size = words.shape[0], norm.shape[0]
        if size != (VOCABULARY, WIDTH):
            raise fault(
                "{name} is a T5 with a vocabulary of {words} and width {width}, but Wan's captions are "
                "read by UMT5-XXL, which has {known_words} and {known_width}: give {files}.",
                name=name,
                words=size[0],
                width=size[1],
                known_words=VOCABULARY,
                known_width=WIDTH,
                files=either(*FILES),
            )
        if "spiece_model" not in state:
            raise fault(
                "{name} is UMT5-XXL without its tokenizer, which ComfyUI needs in the file: give {files}.",
                name=name,
                files=either(*FILES),
            )
    elif {"token_embedding.weight", "blocks.0.attn.q.weight"} <= state.keys():
        raise fault(
            "{name} is UMT5-XXL in the Wan authors' own format, which ComfyUI cannot read: give {files}.",
            name=name,
            files=either(*FILES),
        )
    else:
        raise fault("{name} is no UMT5-XXL, which reads Wan's captions: give {files}.", name=name, files=either(*FILES))
