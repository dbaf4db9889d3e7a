"""The demo model's words as text embeddings, in the shape of the ones that Wan takes from its text encoder.

A caption is one or two clauses, `a red circle moves right quickly and a blue square moves left quickly`, and a background,
`on a gradient background`. Each word becomes one token: a unit at the word's own place and one at its clause's, so the
model can tell which colour belongs to which shape.
"""

from __future__ import annotations

import difflib
import re

import torch
from torch import Tensor

from .world import BACKGROUNDS, COLOURS, DIRECTIONS, MOTIONS, SHAPES, SPEEDS

TEXT_DIM = 4096  # that of Wan's text encoder
TOKENS = 12
UNIT = 10.0
WORDS = (*COLOURS, *SHAPES, *MOTIONS, *DIRECTIONS, *SPEEDS, *BACKGROUNDS)
SILENT = {"a", "an", "the", "on", "background"}
CLAUSES = 2


def encode(caption: str) -> Tensor:
    """The text embedding of a caption, (1, TOKENS, TEXT_DIM); an empty caption is all zeros.

    Raises:
        ValueError: it has a word that the model was not taught, or too many words.
    """
    tokens = torch.zeros(1, TOKENS, TEXT_DIM)
    clause = place = 0
    for word in re.findall(r"[\w'-]+", caption.lower()):
        if word == "and":
            clause += 1
            continue
        if word in SILENT:
            continue
        if word not in WORDS:
            raise ValueError(_unknown(word))
        if clause >= CLAUSES or place >= TOKENS:
            raise ValueError(f"The demo model knows at most {CLAUSES} objects and {TOKENS} words; shorten the prompt.")
        tokens[0, place, WORDS.index(word)] = UNIT
        tokens[0, place, len(WORDS) + clause] = UNIT
        place += 1
    return tokens


def _unknown(word: str) -> str:
    near = difflib.get_close_matches(word, WORDS, 1)
    return (
        f'The demo model does not know the word "{word[:40]}"{f"; did you mean {near[0]}?" if near else "."} '
        f"It knows colours ({', '.join(COLOURS)}), shapes ({', '.join(SHAPES)}), motions ({', '.join(MOTIONS)}), "
        f"directions ({', '.join(DIRECTIONS)}), speeds ({', '.join(SPEEDS)}) and backgrounds ({', '.join(BACKGROUNDS)})."
    )
