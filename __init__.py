"""Pusa for ComfyUI: per-frame timesteps for Wan text-to-video models."""

from .nodes import comfy_entrypoint

WEB_DIRECTORY = "./web"

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
