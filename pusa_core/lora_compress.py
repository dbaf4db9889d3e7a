"""A LoRA in fewer ranks, by the exact singular value decomposition of every module.

A module's update up @ down has no more than r (its rank) singular values. With QR decompositions up = Q_u R_u and
down^T = Q_d R_d it is Q_u (R_u R_d^T) Q_d^T, so the decomposition of the small r x r matrix in the middle is that of the
whole (out, in) matrix, which is never made. All r values are exact: the error of any rank is known before it is chosen,
where a randomised decomposition of the product estimates them, from more work, with settings of its own to choose.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .lora import ASK, INFINITE, OTHER_LOADER, STRAYS, LoraModule, PusaLora, check_pairs, refuse
from .lora_report import amount
from .messages import fault, say
from .provenance import compressed_metadata
from .safetensors_writer import SafetensorsWriter, check_target

METADATA_SIZE, METADATA_PER_MODULE = 4096, 64  # bytes

Progress = Callable[[int, int], None]  # modules done, and of how many


@dataclass(frozen=True)
class Limit:
    """How far to compress: each module gets the lowest rank that keeps `energy`, and at most `rank`.

    Attributes:
        rank: at most; 0 for no limit.
        energy: share of the squared singular values to keep, in (0, 1].
    """

    rank: int = 0
    energy: float = 1.0

    def __post_init__(self) -> None:
        if self.rank < 0 or not 0 < self.energy <= 1:
            raise fault(
                "Rank {rank} and energy {energy} were given: give a rank of 0 (no limit) or more, and an energy above 0, "
                "at most 1.",
                rank=self.rank,
                energy=self.energy,
            )
        if self.rank == 0 and self.energy == 1:
            raise fault("Neither a rank nor an energy below 1 was given, so nothing would get smaller: give one of them.")

    def at_most(self, rank: int) -> int:
        return min(rank, self.rank or rank)

    def choose(self, squares: Tensor) -> int:
        """The rank for squared singular values, largest first."""
        kept = squares.double().cumsum(0)
        enough = int((kept < self.energy * kept[-1]).sum()) + 1
        return self.at_most(min(enough, len(squares)))


@dataclass(frozen=True)
class CompressedModule:
    """What became of one module.

    Attributes:
        down, up: the factors that were kept, whose product is the update at strength 1: (rank, in), (out, rank).
        error: of the update, relative, in the Frobenius norm, that of rounding to the file's dtype included.
    """

    down: Tensor
    up: Tensor
    error: float


@dataclass(frozen=True)
class CompressReport:
    """What became of a LoRA; `str()` gives it in words.

    Attributes:
        ranks, errors: of every module, by its name.
    """

    name: str
    output: str
    ranks: dict[str, int]
    errors: dict[str, float]
    size_before: int
    size_after: int

    def __str__(self) -> str:
        worst = max(self.errors, key=lambda name: self.errors[name])
        ranks = [*self.ranks.values()]
        return say(
            "{name} became {output}: {before}B became {after}B\n"
            "{count} modules, rank {lowest} to {highest} (mean {mean:.1f})\n"
            "relative error of a module: mean {error:.4f}, largest {largest:.4f} ({module})",
            name=self.name, output=self.output, before=amount(self.size_before), after=amount(self.size_after),
            count=len(ranks), lowest=min(ranks), highest=max(ranks), mean=sum(ranks) / len(ranks),
            error=sum(self.errors.values()) / len(ranks), largest=self.errors[worst], module=worst,
        )  # fmt: skip

    def table(self) -> str:
        """A line for every module: name, rank, relative error."""
        return "\n".join(f"{name}\t{rank}\t{self.errors[name]:.6f}" for name, rank in self.ranks.items())


def decompose(module: LoraModule) -> tuple[Tensor, Tensor, Tensor]:
    """The singular value decomposition of a module's update, scale included: (out, r), (r,), (r, in) in fp32."""
    left, right = (torch.linalg.qr(side.float()) for side in (module.up, module.down.mT))
    u, s, v = torch.linalg.svd(module.scale * left.R @ right.R.mT)
    r = len(s)  # of a rank beyond the module's own size, QR leaves less
    return left.Q @ u[:, :r], s, v[:r] @ right.Q.mT


def compress_module(module: LoraModule, limit: Limit, dtype: torch.dtype = torch.bfloat16) -> CompressedModule:
    """The best approximation of a module's update in fewer ranks (Eckart and Young, Psychometrika 1, 1936).

    Both factors get the roots of the singular values, so that neither needs a larger range than the other. What is cut off
    and what rounding changes are orthogonal, as are the roundings of both factors but for products of roundings, which are
    left out of the error.
    """
    u, s, v = decompose(module)
    squares = s.square()
    rank, total = limit.choose(squares), float(squares.sum())
    root = s[:rank].sqrt()
    exact = u[:, :rank] * root, root[:, None] * v[:rank]
    up, down = (side.to(dtype) for side in exact)
    rounded = (up.float() - exact[0]) * root, root[:, None] * (down.float() - exact[1])
    lost = float(squares[rank:].sum()) + sum(float(side.square().sum()) for side in rounded)
    return CompressedModule(down, up, math.sqrt(lost / total) if total else 0.0)


def compress_lora(
    lora: PusaLora,
    output: Path,
    limit: Limit,
    device: torch.device | str = "cpu",
    progress: Progress = lambda done, total: None,
) -> CompressReport:
    """Writes a LoRA in fewer ranks, in bf16, its scale in its factors: strength 1 means what it meant before.

    Keys are spelled diffusion_model.blocks.0.self_attn.q.lora_A.weight, which ComfyUI and Diffusers read.

    Raises:
        ValueError: the LoRA is damaged or no Pusa LoRA, the limit cannot be met, or the file cannot be written.
    """
    check_pairs(lora)
    refuse(lora, STRAYS, lora.strays, OTHER_LOADER)
    check_target(output, sum(2 * limit.at_most(m.rank) * (m.up.shape[0] + m.down.shape[1]) for m in lora.modules.values()))
    ranks, errors = dict[str, int](), dict[str, float]()
    sides = "lora_A", "lora_B"
    names = [_key(name, side) for name in lora.modules for side in sides]
    with SafetensorsWriter(output, names, METADATA_SIZE + METADATA_PER_MODULE * len(lora.modules)) as writer:
        for name, module in lora.modules.items():
            made = _compressed(lora, name, module, limit, device)
            for side, tensor in zip(sides, (made.down, made.up)):
                writer.add(_key(name, side), tensor)
            ranks[name], errors[name] = made.up.shape[1], made.error
            progress(len(ranks), len(lora.modules))
        writer.metadata = compressed_metadata(lora, limit.rank, limit.energy, errors)
    return CompressReport(lora.name, output.name, ranks, errors, _size(lora), output.stat().st_size)


def _key(name: str, side: str) -> str:
    return f"diffusion_model.{name}.{side}.weight"


def _compressed(lora: PusaLora, name: str, module: LoraModule, limit: Limit, device: torch.device | str) -> CompressedModule:
    module = LoraModule(module.down.to(device), module.up.to(device), module.scale)
    finite = all(bool(side.float().isfinite().all()) for side in (module.down, module.up)) and math.isfinite(module.scale)
    refuse(lora, INFINITE, () if finite else (name,), ASK)
    return compress_module(module, limit)


def _size(lora: PusaLora) -> int:
    return sum(side.numel() * side.element_size() for m in lora.modules.values() for side in (m.down, m.up))
