"""What each Wan checkpoint can do with Pusa: one table, read by the hosts' checks, the README and the tests."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .messages import fault, mark, say
from .plan import Plan

VAES = {
    16: mark("wan_2.1_vae.safetensors (for Wan2.1 and Wan2.2-A14B)"),
    48: mark("wan2.2_vae.safetensors (for Wan2.2-TI2V-5B)"),
}


@dataclass(frozen=True)
class Checkpoint:
    """A kind of Wan checkpoint.

    Attributes:
        name: as users know it.
        comfyui: its class in `comfy.model_base`.
        channels: of its latents.
        obstacle: why it cannot take a timestep for every latent frame; empty if it can.
        lora: where its Pusa LoRA comes from; empty if there is none to be had.
        native: what it was trained to do as it is, without a Pusa LoRA; empty if plain text to video is all.
        experts: 2 where a high-noise and a low-noise model share the sigmas.
    """

    name: str
    comfyui: str
    channels: int = 16
    obstacle: str = ""
    lora: str = ""
    native: str = ""
    experts: int = 1

    @property
    def works(self) -> bool:
        return not self.obstacle


PUBLISHED, TRAINED, NEEDLESS = "published", "train one", "not needed"
FIRST_FRAME, ANY_FRAME = "image to video, with noise 0", "all, asynchronous too"
IMAGE_CHANNELS = "takes its image as extra input channels"
OWN_TIMESTEPS = "handles timesteps in its own way"

CHECKPOINTS = (
    Checkpoint("Wan2.1 T2V 14B", "WAN21", lora=PUBLISHED),
    Checkpoint("Wan2.1 T2V 1.3B", "WAN21", lora=TRAINED),
    Checkpoint("Wan2.2 T2V A14B", "WAN21", lora=PUBLISHED, experts=2),
    Checkpoint("Wan2.2 TI2V 5B", "WAN22", channels=48, lora=TRAINED, native=FIRST_FRAME),
    Checkpoint("SkyReels-V2-DF 14B 540P and 720P", "WAN21", lora=NEEDLESS, native=ANY_FRAME),
    Checkpoint("SkyReels-V2-DF 1.3B 540P, with Pusa Forcing Frame Rate", "WAN21", lora=NEEDLESS, native=ANY_FRAME),
    Checkpoint("Wan2.1 and Wan2.2 I2V", "WAN21", obstacle=IMAGE_CHANNELS),
    Checkpoint("Fun Control and Fun InP", "WAN21", obstacle=IMAGE_CHANNELS),
    Checkpoint("VACE", "WAN21_Vace", obstacle=OWN_TIMESTEPS),
    Checkpoint("Fun Camera", "WAN21_Camera", obstacle=OWN_TIMESTEPS),
    Checkpoint("HuMo", "WAN21_HuMo", obstacle=OWN_TIMESTEPS),
    Checkpoint("autoregressive (causal)", "WAN21_CausalAR", obstacle=OWN_TIMESTEPS),
    Checkpoint("FlowRVS", "WAN21_FlowRVS", obstacle=OWN_TIMESTEPS),
    Checkpoint("SCAIL", "WAN21_SCAIL", obstacle=OWN_TIMESTEPS),
    Checkpoint("SCAIL 2", "WAN21_SCAIL2", obstacle=OWN_TIMESTEPS),
    Checkpoint("S2V (speech to video)", "WAN22_S2V", obstacle=OWN_TIMESTEPS),
    Checkpoint("Animate", "WAN22_Animate", obstacle=OWN_TIMESTEPS),
    Checkpoint("Animate 2", "WAN_Animate2", obstacle=OWN_TIMESTEPS),
    Checkpoint("WanDancer", "WAN22_WanDancer", obstacle=OWN_TIMESTEPS),
)

# Conditionings of ComfyUI that add frames of their own to the model's input, which have no sigma in a schedule.
EXTRA_FRAMES = {
    "reference_latent": mark("a reference image"),
    "time_dim_concat": mark("extra frames in time"),
    "context_latents": mark("in-context reference latents"),
}


def checkpoints_of(comfyui_class: str) -> list[Checkpoint]:
    """The kinds of checkpoint that ComfyUI opens as a class, those that work first."""
    return sorted((c for c in CHECKPOINTS if c.comfyui == comfyui_class), key=lambda c: not c.works)


def check_text_to_video(in_channels: int, out_channels: int) -> None:
    """Refuses a Wan that takes more than a noisy clip.

    Raises:
        ValueError: it is an image-to-video or control model.
    """
    if in_channels != out_channels:
        raise fault(
            "This Wan checkpoint takes {in_channels} input channels, so it is an image-to-video or "
            "control model: Pusa works on text-to-video (T2V) checkpoints, which take {out_channels}.",
            in_channels=in_channels,
            out_channels=out_channels,
        )


def beyond_training(checkpoint: Checkpoint, plan: Plan) -> str:
    """What a plan asks of a checkpoint without a LoRA that it was not trained for, in a sentence; empty if nothing is known.

    Most kinds cannot be told from each other by their weights, so little is.
    """
    if checkpoint.native != FIRST_FRAME or plan.is_ordinary:
        return ""
    firsts = (schedule.frames[0] for schedule in plan.schedules)
    if plan.is_straight and not plan.keyframed[:, 1:].any() and all(first.multiplier == 0 for first in firsts):
        return ""
    return say(
        "{name} was trained with one picture as its first frame, without noise, and nothing else: set the noise of frame 0 "
        "to 0 and take other keyframes out, or load a Pusa LoRA for it.",
        name=checkpoint.name,
    )


def as_markdown(checkpoints: Iterable[Checkpoint] = CHECKPOINTS) -> str:
    """The table as the README has it."""
    rows = ["| checkpoint | Pusa | LoRA | without a LoRA | VAE |", "| --- | --- | --- | --- | --- |"]
    for c in checkpoints:
        works = "yes" + (", two models" if c.experts == 2 else "") if c.works else f"no, it {c.obstacle}"
        vae = VAES[c.channels].partition(" ")[0] if c.works else ""
        rows.append(f"| {c.name} | {works} | {c.lora or '-'} | {c.native or '-'} | {vae or '-'} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(as_markdown())
