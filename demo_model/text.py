"""The demo model's words as text embeddings, in the shape of the ones that Wan takes from its text encoder.

A caption is one or two clauses, `a red circle moves right quickly and a blue bar moves left quickly`, and a background,
`on a gradient background`. Each word becomes one token: a unit at the word's own place and one at its clause's, so the
model can tell which colour belongs to which shape.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .world import SILENT, WORDS, WorldError, check_word, words_of

TEXT_DIM = 4096  # that of Wan's text encoder
TOKENS = 12
UNIT = 10.0
CLAUSES = 2


def encode(caption: str) -> Tensor:
    """The text embedding of a caption, (1, TOKENS, TEXT_DIM); an empty caption is all zeros.

    Raises:
        ValueError: it has a word that the model was not taught, or too many words.
    """
    tokens = torch.zeros(1, TOKENS, TEXT_DIM)
    clause = place = 0
    for word in words_of(caption):
        check_word(word)
        clause += word == "and"
        if word in SILENT:
            continue
        if clause >= CLAUSES or place >= TOKENS:
            raise WorldError(
                "The demo model knows at most {objects} objects and {words} words; shorten the prompt.",
                objects=CLAUSES, words=TOKENS,
            )  # fmt: skip
        tokens[0, place, WORDS.index(word)] = UNIT
        tokens[0, place, len(WORDS) + clause] = UNIT
        place += 1
    return tokens
