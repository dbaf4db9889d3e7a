"""The demo model's text encoder, and pictures of its world. Everything else about that model is stock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from comfy_api.latest import io
from torch import Tensor

from ..demo_model.spoil import stutter, thin
from ..demo_model.text import encode
from ..demo_model.world import WorldError, draw, scene_of
from ..pusa_core.messages import fault
from .types import CATEGORY, search_aliases

EXAMPLE = "a red circle moves right quickly on a gradient background"
DEMO_CATEGORY = f"{CATEGORY}/demo model"
WORDS_TOOLTIP = (
    "Colours: red, yellow, green, cyan, blue, pink. Shapes: circle, bar, triangle, cross. "
    "Motions: moves (left, right, up, down; slowly, quickly), bounces (left, ...), spins, grows, shrinks. "
    "Backgrounds: on a plain background, on a gradient background, on stripes."
)

FRAMES: dict[str, Callable[[Tensor], Tensor]] = {
    "all": lambda clip: clip,
    "stuttering": stutter,
    "every 4th": partial(thin, every=4),
    "every 8th": partial(thin, every=8),
}


@contextmanager
def _translated() -> Iterator[None]:
    """The demo model, which knows nothing of this pack, says in English what is wrong with a text."""
    try:
        yield
    except WorldError as error:
        raise fault(error.template, **error.values) from error


class PusaDemoPrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PusaDemoPrompt",
            display_name="Pusa Demo Prompt",
            category=DEMO_CATEGORY,
            description="Text for the small demo model that comes with the pack, pusa_demo_t2v. It knows few words: one or "
            "two objects (a red circle moves right quickly and a blue bar moves left quickly) and a background.",
            **search_aliases("demo model", "text encode", "tiny model"),
            inputs=[
                io.String.Input(
                    "text",
                    default=EXAMPLE,
                    multiline=True,
                    tooltip=f"{WORDS_TOOLTIP} Leave it empty for a negative prompt.",
                ),
            ],
            outputs=[io.Conditioning.Output(display_name="conditioning", tooltip="For the demo model's sampler only.")],
        )

    @classmethod
    def execute(cls, text: str) -> io.NodeOutput:
        with _translated():
            return io.NodeOutput([[encode(text), {}]])


class PusaDemoScene(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PusaDemoScene",
            display_name="Pusa Demo Scene",
            category=DEMO_CATEGORY,
            description="Draws a clip of the demo model's world, 64x64 and 17 frames: pictures to give the demo model as "
            "keyframes, and the true clip to compare its video with.",
            **search_aliases("demo model", "test pictures", "test clip"),
            inputs=[
                io.String.Input(
                    "text",
                    default=EXAMPLE,
                    multiline=True,
                    tooltip=f"{WORDS_TOOLTIP} What is left out is drawn at random; two objects move quickly, in opposite "
                    "directions.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**32 - 1,
                    control_after_generate=True,
                    tooltip="Where the objects start, how large they are, and the background's shades.",
                ),
                io.Combo.Input(
                    "frames",
                    options=list(FRAMES),
                    default="all",
                    optional=True,
                    tooltip="all: the whole clip. stuttering: frames 5 to 12 stand still. every 4th, every 8th: only these "
                    "frames, to paint others in between.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="The clip: 17 frames, or fewer of them."),
                io.Image.Output(display_name="start_image", tooltip="Its first frame."),
                io.Image.Output(display_name="end_image", tooltip="Its last frame."),
                io.String.Output(display_name="caption", tooltip="What was drawn, in full: for Pusa Demo Prompt."),
            ],
        )

    @classmethod
    def execute(cls, text: str, seed: int, frames: str = "all") -> io.NodeOutput:
        with _translated():
            scene = scene_of(text, seed)
        images = draw([scene])[0]
        return io.NodeOutput(FRAMES[frames](images), images[:1], images[-1:], scene.caption)


NODES = [PusaDemoPrompt, PusaDemoScene]
