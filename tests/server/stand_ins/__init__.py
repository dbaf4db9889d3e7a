"""A custom node pack for tests only: what stands in for models that cannot be made small.

Wan's text encoder (UMT5-XXL) has 5.7 billion parameters and one fixed size.
"""

import hashlib

import torch

TEXT_DIM = 4096  # as tests/tiny.py has it
TOKENS = 8


class TestTextEncode:
    """CLIPTextEncode without a CLIP: the same text always gives the same random embedding."""

    __test__ = False
    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "encode"
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"text": ("STRING", {"multiline": True})}, "optional": {"clip": ("CLIP",)}}

    def encode(self, text, clip=None):
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
        generator = torch.Generator().manual_seed(seed)
        return ([[torch.randn(1, TOKENS, TEXT_DIM, generator=generator), {}]],)


NODE_CLASS_MAPPINGS = {"TestTextEncode": TestTextEncode}
