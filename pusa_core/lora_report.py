"""What a LoRA holds and how much of a model it covers, in words."""

from __future__ import annotations

from dataclasses import dataclass

from .messages import both, say


@dataclass(frozen=True)
class LoraReport:
    """What a LoRA holds and how much of the model it covers; `str()` gives it in words.

    Attributes:
        matched, total: modules that the LoRA changes, and modules that the model has.
        unmatched: how many modules of each kind the LoRA leaves alone.
        size_bytes: of the up and down tensors.
        warnings: what is odd about this LoRA on this model, a sentence each.
    """

    name: str
    spelling: str
    matched: int
    total: int
    unmatched: dict[str, int]
    rank_min: int
    rank_mean: float
    rank_max: int
    dtypes: tuple[str, ...]
    parameters: int
    size_bytes: int
    scale_min: float
    scale_max: float
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        left = ", ".join(f"{count} {kind}" for kind, count in self.unmatched.items())
        rest = say("; not in it: {modules}", modules=left) if left else ""
        mean = "" if self.rank_min == self.rank_max else say(" (mean {rank:.1f})", rank=self.rank_mean)
        about = say(
            "{name}: {matched} of {total} modules{rest}\n"
            "rank {rank}{mean}, {dtypes}, {parameters} parameters, {size}B\n"
            "scale in the file {scale}, keys like {spelling}",
            name=self.name, matched=self.matched, total=self.total, rest=rest,
            rank=_span(self.rank_min, self.rank_max), mean=mean, dtypes=both(*self.dtypes),
            parameters=amount(self.parameters), size=amount(self.size_bytes),
            scale=_span(self.scale_min, self.scale_max), spelling=self.spelling,
        )  # fmt: skip
        return "\n".join([about, *self.warnings])


def _span(low: float, high: float) -> str:
    return f"{low:g}" if low == high else say("{first} to {last}", first=f"{low:g}", last=f"{high:g}")


def amount(number: int) -> str:
    rounded = float(f"{number:.3g}")
    power = sum(rounded >= 1000**step for step in (1, 2, 3))
    return f"{rounded / 1000**power:.3g} {('', 'k', 'M', 'G')[power]}"
