"""Needs Diffusers, and neither a ComfyUI nor a download: the model is the one that comes with the pack."""

import pytest

pytest.importorskip("diffusers", reason="Diffusers is not installed: pip install .[diffusers]")
