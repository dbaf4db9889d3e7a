"""LoRAs merged into a Wan checkpoint, tensor by tensor: W + sum of alpha * scale * up @ down, computed in fp32."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from .checkpoint import WanCheckpoint
from .lora import MODULE_KINDS, OTHER_MODEL, PusaLora, canonical_name, check_alpha, check_pairs, read_lora, refuse
from .lora_files import adapter_file, load_tensors
from .lora_report import amount
from .messages import describe, fault, mark, say
from .provenance import MergedLora, baked_metadata, identify, merged_before, merged_loras, repeated
from .safetensors_writer import SafetensorsWriter, check_target
from .wan import diffusers_key

FORMS = ("bf16", "fp8_scaled")
FP8 = torch.float8_e4m3fn
# What ComfyUI reads beside a weight in fp8. Inputs stay in full precision, as where a LoRA is on the model.
QUANT = json.dumps({"format": "float8_e4m3fn", "full_precision_matrix_mult": True}).encode()
METADATA_MARGIN = 256  # bytes for what stands around it
MAPPED = 2**30  # bytes of LoRAs that are read before their files are opened anew, which lets go what was read
OTHER_KEYS = mark("keys that are no LoRA of this checkpoint's modules")
DIFFERENCES = {".diff": ".weight", ".diff_b": ".bias"}  # whole tensors, as some Lightning LoRAs have them

Progress = Callable[[int, int], None]  # tensors written, and of how many

_PREFIX = re.compile(r"^(?:lora_unet_|base_model_model_|model_|diffusion_model_|transformer_2_|transformer_|pipe_dit_|dit_)*")


@dataclass(frozen=True)
class LoraFile:
    """A LoRA to merge: its file, or PEFT folder, and its strength.

    Raises:
        ValueError: the strength is no number.
    """

    path: Path
    alpha: float

    def __post_init__(self) -> None:
        check_alpha(self.path, self.alpha)


@dataclass(frozen=True)
class Updates:
    """One LoRA's changes of a checkpoint's parameters.

    Attributes:
        lora: pairs of factors by original module name.
        differences: whole tensors by parameter name.
    """

    alpha: float
    lora: PusaLora
    differences: dict[str, Tensor] = field(default_factory=dict)

    def apply(self, name: str, weight: Tensor) -> int:
        """Changes a parameter in place; how many bytes of the LoRA were read for it."""
        used: tuple[Tensor, ...] = ()
        if name in self.differences:
            used = (self.differences[name],)
            weight.add_(used[0].to(weight), alpha=self.alpha)
        module = self.lora.modules.get(name.removesuffix(".weight")) if name.endswith(".weight") else None
        if module is not None:
            used = *used, module.up, module.down
            weight.addmm_(module.up.to(weight), module.down.to(weight), alpha=self.alpha * module.scale)
        return sum(tensor.numel() * tensor.element_size() for tensor in used)


@dataclass(frozen=True)
class BakeReport:
    """What was baked; `str()` gives it in words, warnings at the end."""

    output: str
    base: str
    form: str
    size: int
    loras: tuple[MergedLora, ...]
    changed: int
    total: int
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        loras = ", ".join(f"{lora.file} ({lora.alpha:g})" for lora in self.loras)
        about = say(
            "{output}: {base} with {loras}\n{form}, {size}B; {changed} of {total} tensors changed",
            output=self.output, base=self.base, loras=loras, form=self.form, size=amount(self.size),
            changed=self.changed, total=self.total,
        )  # fmt: skip
        return "\n".join([about, *self.warnings])


def bake(
    base: Path,
    loras: Sequence[LoraFile],
    output: Path,
    form: str = "bf16",
    device: torch.device | str = "cpu",
    progress: Progress = lambda done, total: None,
) -> BakeReport:
    """Writes a checkpoint with LoRAs merged into it, under original names, as ComfyUI's loader reads them.

    Args:
        base: a Wan text-to-video checkpoint in bf16, fp16, fp32, fp8 or fp8 with scales, as `WanCheckpoint` takes it.
        form: "bf16", or "fp8_scaled": the blocks' attention and feed-forward weights in fp8 (e4m3), each with a scale.
        device: where products are computed.

    Raises:
        ValueError: a file cannot be used, or the new one cannot be written.
    """
    if form not in FORMS or not loras:
        raise fault(
            "{count} LoRAs and the form {form} were given: give at least one, and bf16 or fp8_scaled.",
            form=describe(form),
            count=len(loras),
        )
    checkpoint = WanCheckpoint(base)
    check_target(output, sum(_size(name, shape, form) for name, shape in checkpoint.shapes.items()))
    merger = _Merger(checkpoint, loras)
    added = [MergedLora(update.lora.name, update.alpha, identify(update.lora)) for update in merger.updates]
    existing = merged_loras(checkpoint.metadata)
    names = [part for name in checkpoint.shapes for part in _parts(name, form)]
    metadata = baked_metadata(checkpoint.metadata, checkpoint.name, form, [*existing, *added])
    changed = 0
    with SafetensorsWriter(output, names, len(json.dumps(metadata)) + METADATA_MARGIN) as writer:
        writer.metadata = metadata
        for done, name in enumerate(checkpoint.shapes, 1):
            weight = checkpoint.tensor(name).to(device)
            changed += merger.merge(name, weight)
            for part, tensor in _stored(name, weight, form):
                writer.add(part, tensor)
            progress(done, len(checkpoint.shapes))
    size, warnings = output.stat().st_size, _warnings(existing, added, checkpoint.name)
    return BakeReport(
        output.name, checkpoint.name, form, size, (*existing, *added), changed, len(checkpoint.shapes), warnings
    )


def _warnings(existing: Sequence[MergedLora], added: Sequence[MergedLora], base: str) -> tuple[str, ...]:
    times = {lora.id: [other for other in added if other.id == lora.id] for lora in added}
    twice = [line for same in times.values() for line in repeated(same[0].file, [lora.alpha for lora in same])]
    return (*merged_before(existing, times, base), *twice)


class _Merger:
    """Merges LoRAs into one parameter after another, holding little of their files in memory."""

    def __init__(self, checkpoint: WanCheckpoint, loras: Sequence[LoraFile]):
        self.files, self.shapes = loras, checkpoint.shapes
        self.find = module_finder({name.rpartition(".")[0] for name in checkpoint.shapes})
        self.updates = self._open()
        for update in self.updates:
            check_updates(update, checkpoint.shapes)

    def _open(self) -> list[Updates]:
        self.read = 0
        return [read_updates(file, self.find) for file in self.files]

    def merge(self, name: str, weight: Tensor) -> bool:
        """Whether anything was changed."""
        read = sum(update.apply(name, weight) for update in self.updates)
        self.read += read
        if self.read > MAPPED:
            self.updates = self._open()
        return read > 0


# --- LoRAs of any of the checkpoint's modules ------------------------------------------------------------------------


def module_finder(modules: Iterable[str]) -> Callable[[str], str | None]:
    """A function from a module's name as LoRA files spell it to its original name; None for those that are not there."""
    known = {}
    for name in modules:
        for spelling in (name, diffusers_key(f"{name}.weight").removesuffix(".weight")):
            known[spelling.replace(".", "_")] = name

    def find(path: str) -> str | None:
        return canonical_name(path) or known.get(_PREFIX.sub("", path.replace(".", "_")))

    return find


def read_updates(file: LoraFile, find: Callable[[str], str | None]) -> Updates:
    """A LoRA with all that it changes in a checkpoint."""
    lora = read_lora(file.path, find)
    places = {key: place for key in lora.strays if (place := _difference(key, find))}
    stored = load_tensors(adapter_file(file.path))[0] if places else {}
    strays = tuple(key for key in lora.strays if key not in places)
    return Updates(file.alpha, replace(lora, strays=strays), {place: stored[key] for key, place in places.items()})


def _difference(key: str, find: Callable[[str], str | None]) -> str | None:
    """The parameter that a whole tensor is added to."""
    path, dot, ending = key.rpartition(".")
    module = find(path)
    return f"{module}{DIFFERENCES[dot + ending]}" if module and dot + ending in DIFFERENCES else None


def check_updates(update: Updates, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuses a LoRA that a checkpoint has no place for, or that is damaged.

    Raises:
        LoraError: what is wrong.
    """
    lora = update.lora
    refuse(lora, OTHER_KEYS, lora.strays, OTHER_MODEL)
    check_pairs(lora)
    made = {name: tuple(tensor.shape) for name, tensor in update.differences.items()}
    made |= {f"{name}.weight": (module.up.shape[0], module.down.shape[1]) for name, module in lora.modules.items()}
    refuse(lora, mark("modules that this model lacks"), [name for name in made if name not in shapes], OTHER_MODEL)
    wrong = [name for name, shape in made.items() if shape != shapes[name]]
    refuse(lora, mark("modules of another shape than this model's"), wrong, OTHER_MODEL)


# --- what is stored --------------------------------------------------------------------------------------------------


def _is_quantised(name: str, form: str) -> bool:
    kind = name.split(".", 2)[-1].removesuffix(".weight")
    return form == "fp8_scaled" and name.startswith("blocks.") and name.endswith(".weight") and kind in MODULE_KINDS


def _parts(name: str, form: str) -> list[str]:
    stem = name.removesuffix("weight")
    return [name, *([f"{stem}weight_scale", f"{stem}comfy_quant"] if _is_quantised(name, form) else [])]


def _size(name: str, shape: tuple[int, ...], form: str) -> int:
    numbers = torch.Size(shape).numel()
    return 1024 + (numbers if _is_quantised(name, form) else 2 * numbers)


def _stored(name: str, weight: Tensor, form: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors that stand for a parameter.

    Raises:
        ValueError: it is not finite.
    """
    largest = weight.abs().amax()
    if not bool(largest.isfinite()):
        raise fault("{tensor} would not be finite: the checkpoint, a LoRA or an alpha is wrong.", tensor=name)
    if not _is_quantised(name, form):
        yield name, weight.to(torch.bfloat16)
        return
    scale = (largest / torch.finfo(FP8).max).clamp(min=torch.finfo(torch.float32).tiny)
    quant = torch.tensor(list(QUANT), dtype=torch.uint8)
    yield from zip(_parts(name, form), ((weight / scale).to(FP8), scale, quant))
