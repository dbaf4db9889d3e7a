"""The plan of a clip: its schedule and the clean latents of its keyframes, each in its place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from .frames import describe_latent_frame, latent_length, resolve_index
from .keyframes import Keyframe
from .schedule import FrameMap, FrameSchedule


@dataclass(frozen=True)
class Plan:
    """A clip's schedule with the clean latents of its keyframes.

    Attributes:
        schedule: every latent frame's sigma.
        clean: (1, C, F, H, W), the VAE's latents at keyframes and zeros elsewhere; None without keyframes.
        notes: what was placed where, one sentence each.
    """

    schedule: FrameSchedule
    clean: Tensor | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        needs = self.schedule.needs_clean_latent
        if self.clean is None and any(needs):
            raise ValueError(
                f"Latent frame {needs.index(True)} of the schedule starts from a picture, but none was given for it."
            )
        if self.clean is not None and self.clean.shape[2] != len(self.schedule):
            raise ValueError(f"The schedule has {len(self.schedule)} latent frames, the clean latents {self.clean.shape[2]}.")


def plan_clip(keyframes: Sequence[Keyframe], length: int, encode: Callable[[Tensor], Tensor]) -> Plan:
    """Places keyframes into a clip of `length` pixel frames.

    Args:
        keyframes: none makes plain text to video.
        length: pixel frames of the clip, 4n+1.
        encode: pictures (N, H, W, 3) -> clean latents (1, C, (N-1)/4+1, h, w).

    Raises:
        ValueError: the length is not 4n+1, a keyframe lies outside the clip, or two share a latent frame.
    """
    latents = latent_length(length)
    placed = [_place(keyframe, latents) for keyframe in keyframes]
    owner: dict[int, int] = {}
    for number, targets in enumerate(placed, 1):
        for target in targets:
            _claim(owner, target, number)
    maps, clean = {}, None
    for keyframe, targets in zip(keyframes, placed):
        encoded = encode(keyframe.pictures)  # (1, C, n, h, w)
        if clean is None:
            clean = encoded.new_zeros((1, encoded.shape[1], latents, *encoded.shape[3:]))
        clean[:, :, list(targets)] = encoded[:, :, list(keyframe.kept)]
        maps.update({t: FrameMap.line(m, keyframe.behaviour) for t, m in zip(targets, keyframe.multipliers)})
    notes = tuple(_note(number, k, t) for number, (k, t) in enumerate(zip(keyframes, placed), 1))
    return Plan(FrameSchedule.build(latents, maps), clean, notes)


def _place(keyframe: Keyframe, latents: int) -> tuple[int, ...]:
    anchor = resolve_index(keyframe.index, keyframe.unit, latents)
    targets = tuple(anchor + k - keyframe.kept[0] for k in keyframe.kept)
    if targets[-1] >= latents:
        raise ValueError(
            f"A keyframe clip of {len(targets)} latent frames at {describe_latent_frame(anchor)} runs past the clip's last, "
            f"{describe_latent_frame(latents - 1)}: place it earlier or make the clip longer."
        )
    if anchor == 0 and keyframe.kept[0] > 0:
        raise ValueError(
            "A keyframe clip prepared for a later place lands on latent frame 0, which holds a single frame: "
            "place it at index 0 or at the start."
        )
    return targets


def _claim(owner: dict[int, int], target: int, number: int) -> None:
    if target in owner:
        raise ValueError(
            f"Keyframes {owner[target]} and {number} both land on {describe_latent_frame(target)}: "
            "move one by at least 4 frames, or remove it."
        )
    owner[target] = number


def _note(number: int, keyframe: Keyframe, targets: tuple[int, ...]) -> str:
    what = "a picture" if len(keyframe.pictures) == 1 else "a clip"
    where = describe_latent_frame(targets[0])
    if len(targets) > 1:
        where += f" to {describe_latent_frame(targets[-1])}"
    same = len(set(keyframe.multipliers)) == 1
    noise = ", ".join(f"{m:g}" for m in (keyframe.multipliers[:1] if same else keyframe.multipliers))
    asked = f"{keyframe.unit} frame {keyframe.index}" if keyframe.place == "index" else f"the {keyframe.place}"
    return f"Keyframe {number}, {what} at {asked}: {where}; noise {noise}; {keyframe.behaviour}.{keyframe.remark}"
