"""What is odd about the LoRAs on a model: twice the same, one that its checkpoint holds already, high and low exchanged.

Only what is certain is said: LoRAs are known again by their numbers, whichever loader put them on; what a checkpoint holds,
by the metadata of a file that this pack baked; Wan2.2's two models, by the names of files and inputs.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from .lora import PusaLora
from .messages import mark, say
from .provenance import MergedLora, expert, merged_before, merged_loras, pair_ids, repeated, swapped

SAFETENSORS = ".safetensors", ".sft"


@dataclass(frozen=True)
class Slot:
    """The place of one of Wan2.2's two models.

    Attributes:
        expert: "high" or "low".
        model, lora: what the user knows its model and its LoRA by.
    """

    expert: str
    model: str
    lora: str


@dataclass(frozen=True)
class PatchedModel:
    """What a host knows of a model and of the LoRAs on it.

    Attributes:
        path: of the file, or folder, that it was loaded from; None if that is not known.
        loras: what each is known by, as `pair_id` has it, and its strength, in their order.
    """

    path: Path | None
    loras: tuple[tuple[str, float], ...]

    @property
    def name(self) -> str:
        return self.path.name if self.path else ""

    @property
    def merged(self) -> tuple[MergedLora, ...]:
        """The LoRAs that its file was baked with."""
        if self.path is None or self.path.suffix not in SAFETENSORS:
            return ()
        try:
            with safe_open(self.path, "numpy") as file:
                return merged_loras(file.metadata() or {})
        except (OSError, SafetensorError):  # gone since it was loaded
            return ()

    def warnings_of(self, lora: PusaLora, slot: Slot | None, ids: Collection[str] = ()) -> list[str]:
        """What is odd about a LoRA that was just put on this model, a sentence each.

        Args:
            slot: where this model is to be; None if nobody said.
            ids: by which it is known on this model beside its own.
        """
        ids = {*pair_ids(lora), *ids}
        strengths = [strength for name, strength in self.loras if name in ids]
        again = [*repeated(lora.name, strengths), *merged_before(self.merged, ids, self.name)]
        if slot is None:
            return [*again, *swapped(lora.name, self.name, expert(self.name))]
        names = ((lora.name, slot.lora), (self.name, slot.model))
        return [*again, *(line for name, place in names for line in swapped(name, place, slot.expert))]

    def repetitions(self) -> list[str]:
        """A warning for each LoRA that is there more than once, whichever loaders put it there."""
        strengths: dict[str, list[float]] = {}
        for name, strength in self.loras:
            strengths.setdefault(name, []).append(strength)
        twice = [line for several in strengths.values() for line in repeated(say(mark("the same LoRA")), several)]
        return [*twice, *merged_before(self.merged, strengths, self.name)]

    def same_as(self, other: PatchedModel) -> list[str]:
        """A warning if the LoRAs that were last put on Wan2.2's two models are the same."""
        if not self.loras or not other.loras or self.loras[-1][0] != other.loras[-1][0]:
            return []
        return [
            say("Warning: both models got the same LoRA, but Wan2.2's two models have one each: choose the other file."),
        ]
