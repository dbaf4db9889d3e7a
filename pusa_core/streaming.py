"""A Wan VAE that decodes latent frames as they come, at the memory of one: what it remembers of the frames before is kept.

ComfyUI's and Diffusers' networks decode a clip frame by frame already, with a cache of each convolution's last inputs that
they throw away at the end of a call. Here it is kept from call to call, by a hook that hands it to the decoder.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from .messages import fault

KEPT = 2  # inputs before its newest that a convolution over three frames sees


class _Cache(list):
    """As long as the network that fills it wants, and with as many inputs as a convolution sees.

    A network that takes frames two at a time keeps the last two of what it was given; given one, the one before is added.
    """

    def __init__(self) -> None:
        super().__init__()
        self._before: dict[int, Any] = {}

    def __getitem__(self, index: Any) -> Any:
        return super().__getitem__(index) if index < len(self) else None

    def __setitem__(self, index: Any, value: Any) -> None:
        self.extend([None] * (index + 1 - len(self)))
        before = self._before.get(index)
        if isinstance(value, Tensor) and isinstance(before, Tensor) and value.shape[2] < KEPT:
            value = torch.cat([before[:, :, value.shape[2] - KEPT :], value], dim=2)
        if value is not None:  # which it is while the convolution runs
            self._before[index] = value
        super().__setitem__(index, value)


class StreamingDecoder:
    """Decodes one latent frame after another, as a decode of all of them would.

    Args:
        decoder: the VAE's network from latents to pictures.
        decode: the VAE's decode of a clip, (B, C, F, h, w) -> (B, T, H, W, 3), which calls `decoder`.

    Raises:
        ValueError: the network keeps no cache, as a tiny VAE for previews.
    """

    def __init__(self, decoder: nn.Module, decode: Callable[[Tensor], Tensor]):
        known = inspect.signature(decoder.forward).parameters
        if "feat_cache" not in known:
            raise fault(
                "This VAE ({kind}) decodes whole clips only, but a long video is decoded as it is made: load Wan's own VAE.",
                kind=type(decoder).__name__,
            )
        self.decoder, self.decode = decoder, decode
        self.caches: dict[int, _Cache] = defaultdict(_Cache)  # of every tile, where a frame is decoded in tiles
        self.tells_first = "first_chunk" in known

    def push(self, latent: Tensor) -> Tensor:
        """The pictures of the next latent frame (B, C, 1, h, w): 1 for the first, 4 for each later one. (B, N, H, W, 3)"""
        hook = self.decoder.register_forward_pre_hook(partial(self._remember, count()), with_kwargs=True)
        try:
            return self.decode(latent)
        finally:
            hook.remove()

    def _remember(
        self, calls: Iterator[int], decoder: nn.Module, args: tuple, kwargs: dict[str, Any]
    ) -> tuple[tuple, dict[str, Any]]:
        cache = self.caches[next(calls)]
        more = {"first_chunk": not cache} if self.tells_first else {}
        return args, {**kwargs, "feat_cache": cache, "feat_idx": [0], **more}
