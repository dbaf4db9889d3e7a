"""The demo model's text encoder. Everything else about that model is stock."""

from __future__ import annotations

from comfy_api.latest import io

from ..demo_model.text import encode
from .types import CATEGORY

EXAMPLE = "a red circle moves right quickly on a gradient background"


class PusaDemoPrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PusaDemoPrompt",
            display_name="Pusa Demo Prompt",
            category=f"{CATEGORY}/demo model",
            description="Text for the small demo model that comes with the pack, pusa_demo_t2v. It knows few words: one or "
            "two objects (a red circle moves right quickly and a blue square moves left quickly) and a background.",
            inputs=[
                io.String.Input(
                    "text",
                    default=EXAMPLE,
                    multiline=True,
                    tooltip="Colours: red, yellow, green, cyan, blue, pink. Shapes: circle, square, triangle, cross. "
                    "Motions: moves (left, right, up, down; slowly, quickly), bounces (left, ...), spins, grows, shrinks. "
                    "Backgrounds: on a plain background, on a gradient background, on stripes. Empty for a negative prompt.",
                ),
            ],
            outputs=[io.Conditioning.Output(display_name="conditioning", tooltip="For the demo model's sampler only.")],
        )

    @classmethod
    def execute(cls, text: str) -> io.NodeOutput:
        return io.NodeOutput([[encode(text), {}]])


NODES = [PusaDemoPrompt]
