"""What `gpu.py` measures, in the order of its worth, and what it has measured."""

from __future__ import annotations

import json
import statistics
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PLAIN, PUSA = "plain", "Pusa schedule"
FRAMES, EXPANDED = "a timestep for every frame", "modulation expanded to tokens"
TOKENS = "a timestep for every token"
ALL = (PLAIN, PUSA, FRAMES, EXPANDED, TOKENS)


@dataclass(frozen=True)
class Group:
    """What one process measures: ways to sample with one model.

    Attributes:
        blocks: of the model; None for all.
        precision: bf16, fp8, fp8 scaled or GGUF.
        placement: resident; novram; lowvram, which leaves ComfyUI half of what the weights need; dynamic, ComfyUI's default
            on NVIDIA's cards; dynamic half, which leaves it as much as lowvram.
        lora: rank of a LoRA; 0 for none.
    """

    model: str
    size: str
    blocks: int | None = 10
    precision: str = "bf16"
    placement: str = "resident"
    lora: int = 0
    compiled: bool = False
    ways: tuple[str, ...] = (PLAIN, PUSA)

    @property
    def cells(self) -> list[str]:
        lora = f"rank {self.lora}" if self.lora else "-"
        compiled = "compiled" if self.compiled else "-"
        return [self.model, str(self.blocks or "all"), self.size, self.precision, self.placement, lora, compiled]

    @property
    def name(self) -> str:
        return " ".join(cell for cell in self.cells if cell != "-")

    @property
    def work(self) -> float:
        """Floating-point operations of a step of each way."""
        from tests import real_wan

        width, (x, y) = real_wan.WIDTHS[self.model], real_wan.SIZES[self.size]
        tokens = real_wan.FRAMES * (x // 16) * (y // 16)
        of_token = 2 * (8 * width.dim**2 + 2 * width.dim * width.ffn) + 4 * tokens * width.dim
        return len(self.ways) * (self.blocks or width.layers) * tokens * of_token


GROUPS = (
    Group("14B", "480p", None, ways=ALL),
    Group("1.3B", "480p", None, ways=ALL),
    Group("14B", "720p", ways=ALL),
    Group("14B", "480p", precision="fp8 scaled"),
    Group("14B", "480p", precision="GGUF"),
    Group("14B", "480p", placement="novram"),
    Group("14B", "480p", placement="dynamic"),
    Group("14B", "480p", compiled=True),
    Group("14B", "480p", lora=128),
    Group("14B", "480p", placement="novram", lora=128),
    Group("14B", "480p", placement="dynamic half", lora=128),
    Group("14B", "480p", placement="lowvram"),
    Group("14B", "480p", precision="fp8 scaled", placement="novram"),
    Group("14B", "480p", precision="GGUF", placement="novram"),
    Group("14B", "480p", precision="fp8"),
    Group("1.3B", "720p", None),
    Group("14B", "720p", None),
    Group("14B", "480p", None, precision="fp8 scaled"),
)


@dataclass
class Measured:
    """What was measured so far, and its file.

    Attributes:
        results: a row for each way of each group.
        seconds: by the name of a group, until its steps began and in all.
    """

    file: Path
    small: bool
    results: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[str, tuple[float, float]] = field(default_factory=dict)

    @classmethod
    def open(cls, file: Path, small: bool) -> Measured:
        """From a run before, if there is one."""
        if not file.exists():
            return cls(file, small)
        before = json.loads(file.read_text())
        if before["small"] != small:
            sys.exit(
                f"{file} was measured with{'' if before['small'] else 'out'} --small: give another --json, or delete it."
            )
        return cls(file, small, before["results"], before["seconds"])

    @property
    def place(self) -> str | None:
        return self.results[0]["place"] if self.results else None

    def add(self, group: Group, rows: list[dict[str, Any]], seconds: tuple[float, float]) -> None:
        if self.place not in (None, rows[0]["place"]):
            sys.exit(f"{self.file} was measured on {self.place}, and this is {rows[0]['place']}: give another --json.")
        self.results += rows
        self.seconds[group.name] = seconds
        self.write({})

    def write(self, left_out: dict[str, str]) -> None:
        content = {"place": self.place, "small": self.small, "results": self.results, "seconds": self.seconds}
        partial = self.file.with_name(f"{self.file.name}.part")
        partial.write_text(json.dumps({**content, "left_out": left_out}, indent=1))
        partial.replace(self.file)

    def estimate(self, group: Group) -> float:
        """Seconds that a group takes, by those that were measured; 0 if none was."""
        known = [(*self.seconds[other.name], other.work) for other in GROUPS if other.name in self.seconds]
        if not known:
            return 0
        rate = statistics.median((whole - begin) / work for begin, whole, work in known)
        return statistics.median(begin for begin, _, _ in known) + rate * group.work
