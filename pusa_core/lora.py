"""Any Pusa LoRA file -> one canonical set of tensors, and a report.

`read_lora` opens a file and sorts its keys; `fit` judges it against a model. Both raise `LoraError`.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from .lora_files import AGAIN, LoraError, adapter_file, damaged_config, is_plain, load_tensors, peft_config, short_name
from .lora_report import LoraReport
from .messages import describe, fault, mark, say, shorten
from .peft_config import PeftConfig

Shapes = Mapping[str, tuple[int, int]]
FindModule = Callable[[str], str | None]

MODULE_KINDS = (
    *(f"{attention}.{part}" for attention in ("self_attn", "cross_attn") for part in "qkvo"),
    "ffn.0",
    "ffn.2",
)
DIFFUSERS_KINDS = {
    **{f"attn1.to_{part}": f"self_attn.{part}" for part in "qkv"},
    **{f"attn2.to_{part}": f"cross_attn.{part}" for part in "qkv"},
    "attn1.to_out.0": "self_attn.o",
    "attn2.to_out.0": "cross_attn.o",
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
}
# Underscored, as kohya writes them: the dotted spelling is compared in this form too.
KIND_BY_TAIL = {tail.replace(".", "_"): kind for tail, kind in (*zip(MODULE_KINDS, MODULE_KINDS), *DIFFUSERS_KINDS.items())}
ROLES = {"lora_A": "down", "lora_down": "down", "lora_B": "up", "lora_up": "up", "alpha": "alpha"}
MAX_KEY = 256  # characters; the longest spelling takes a third
FLOATS = {torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2}
MODEL_SIZES = {1536: "1.3B", 3072: "5B", 5120: "14B"}

_KEY = re.compile(r"(?P<path>.+)\.(?P<role>lora_A|lora_B|lora_down|lora_up|alpha)((\.[^.]+)?\.weight)?")
_MODULE = re.compile(r"(.*?\.)?(lora_unet_)?blocks[._](?P<block>[0-9]{1,4})[._](?P<tail>.+)")
_ADAPTER_HINT = re.compile(r"lora|loha|lokr|hada|\.alpha$|\.diff(_b)?$", re.IGNORECASE)

OTHER_LOADER = mark("it does not look like a Pusa LoRA, use ComfyUI's own LoRA loader for others")
INCOMPLETE = mark("it is incomplete, download it again, or use ComfyUI's own LoRA loader if it is no Pusa LoRA")
STRAYS = mark("keys that are no LoRA pairs of Wan's attention and feed-forward modules")
INFINITE, ASK = mark("numbers that are infinite or not a number"), mark("download it again, or ask its maker")
OTHER_MODEL = mark("it was made for another model, choose that one")


@dataclass(frozen=True)
class LoraModule:
    """One module's low-rank update: its weight changes by scale * up @ down.

    Attributes:
        down: (rank, in).
        up: (out, rank).
        scale: what the file itself asks for; 1 in the published Pusa files.
    """

    down: Tensor
    up: Tensor
    scale: float = 1.0

    @property
    def rank(self) -> int:
        return self.down.shape[0] if self.down.ndim else 0


@dataclass(frozen=True)
class PusaLora:
    """The content of a LoRA file under the original Wan names.

    Attributes:
        modules: by canonical name, e.g. "blocks.0.self_attn.q".
        name: the file's name, for messages.
        spelling: how the first key was written, and in which container.
        strays: keys that are no LoRA tensor of a module of `MODULE_KINDS`.
        halves: keys whose counterpart is missing: a down without its up, an alpha without both.
        metadata: of the file.
    """

    modules: dict[str, LoraModule]
    name: str = "this LoRA"
    spelling: str = "canonical"
    strays: tuple[str, ...] = ()
    halves: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)

    def state_dict(self, prefix: str = "diffusion_model.") -> dict[str, Tensor]:
        """Canonical tensors that any LoRA loader applies as scale * up @ down at strength 1.

        An alpha (= scale * rank) is written only where the scale is not 1: without one, loaders use scale 1.
        """
        tensors = {}
        for name, module in self.modules.items():
            tensors[f"{prefix}{name}.lora_down.weight"] = module.down
            tensors[f"{prefix}{name}.lora_up.weight"] = module.up
            if module.scale != 1.0:
                tensors[f"{prefix}{name}.alpha"] = torch.tensor(module.scale * module.rank)
        return tensors


# --- Names -----------------------------------------------------------------------------------------------------------


def canonical_name(path: str) -> str | None:
    """The original Wan name of a module in any known spelling, e.g. "blocks.0.ffn.2"; None for other modules."""
    match = _MODULE.fullmatch(path)
    kind = match and KIND_BY_TAIL.get(match["tail"].replace(".", "_"))
    return f"blocks.{int(match['block'])}.{kind}" if match and kind else None


def _place(key: str, find: FindModule) -> tuple[str, str] | None:
    """Module and role ("down", "up" or "alpha") of a key; None if it is no LoRA tensor of a known module."""
    match = _KEY.fullmatch(key) if len(key) <= MAX_KEY else None
    name = match and find(match["path"])
    return (name, ROLES[match["role"]]) if match and name else None


def _sort_keys(name: str, keys: Iterable[str], find: FindModule) -> tuple[dict[str, dict[str, str]], list[str]]:
    """({module: {role: key}}, the keys that have no place)."""
    parts: dict[str, dict[str, str]] = {}
    strays = []
    for key in keys:
        place = _place(key, find)
        if place is None:
            strays.append(key)
            continue
        module, role = place
        other = parts.setdefault(module, {}).setdefault(role, key)
        if other != key:
            raise LoraError(
                say(
                    "{name} holds more than one LoRA for the same module ({other} and {key}): split it into "
                    "one file for each, such as one for the high-noise and one for the low-noise model.",
                    name=name,
                    other=shorten(other, 100),
                    key=shorten(key, 100),
                )
            )
    return parts, strays


def _examples(keys: Iterable[str]) -> str:
    keys = list(keys)
    shown = ", ".join(shorten(key, 100) for key in keys[:3])
    return say("{names} and {count} more", names=shown, count=len(keys) - 3) if len(keys) > 3 else shown


# --- Reading ---------------------------------------------------------------------------------------------------------


def check_alpha(lora: str | Path, alpha: float) -> None:
    """Refuses a strength that is no number, which some kernels take for 1.

    Raises:
        ValueError: whose it is.
    """
    if not math.isfinite(alpha):
        raise fault(
            "{lora} was given with the strength {alpha}, which is no number: give one, as 1.4.", lora=lora, alpha=alpha
        )


def read_lora(path: str | os.PathLike[str], find: FindModule = canonical_name) -> PusaLora:
    """Reads a LoRA file in any known container and spelling, by its content; tensors stay memory-mapped.

    The scale of a module is its stored alpha / rank; else that of a PEFT config (adapter_config.json beside
    adapter_model.*, or what Diffusers writes into the metadata); else 1, as in the Pusa authors' own loader.

    Args:
        path: a safetensors file, a torch pickle (opened without running code), or a PEFT folder.
        find: the name of the module that a key is for; None for a key that is to be among the strays.

    Raises:
        LoraError: there is no such file, it cannot be read, or it is no LoRA.
    """
    file = adapter_file(Path(path))
    name = short_name(Path(path))
    stored, metadata = load_tensors(file)
    named = {key if isinstance(key, str) else describe(key): value for key, value in stored.items()}
    tensors = {key: value for key, value in named.items() if is_plain(value)}
    if not tensors:
        raise LoraError(say("{name} holds no tensors: choose a LoRA file, or {again}.", name=name, again=say(AGAIN)))
    if not any(_ADAPTER_HINT.search(key) for key in tensors):
        raise LoraError(
            say(
                "{name} holds {count} tensors without a LoRA among them ({names}): it looks like a whole "
                "model, so choose it in a model loader and a LoRA here.",
                name=name,
                count=len(tensors),
                names=_examples(tensors),
            )
        )
    parts, strays = _sort_keys(name, tensors, find)
    strays += [key for key in named if key not in tensors]
    pairs = {module: keys for module, keys in parts.items() if {"down", "up"} <= keys.keys()}
    halves = [key for module, keys in parts.items() if module not in pairs for key in keys.values()]
    config = peft_config(file, metadata)
    try:
        modules = {module: _module(name, keys, tensors, config) for module, keys in pairs.items()}
    except LoraError:
        raise
    except ValueError as error:
        raise damaged_config(file, error) from error
    spelling = next((shorten(keys["down"], 100) for keys in pairs.values()), say("none that is known"))
    return PusaLora(modules, name, spelling, tuple(strays), tuple(halves), metadata)


def _module(name: str, keys: dict[str, str], tensors: dict[str, Tensor], config: PeftConfig | None) -> LoraModule:
    module = LoraModule(tensors[keys["down"]], tensors[keys["up"]])
    if "alpha" in keys:
        return replace(module, scale=_number(name, keys["alpha"], tensors) / max(module.rank, 1))
    if config is None:
        return module
    return replace(module, scale=config.scale(keys["down"].partition(".lora_")[0], module.rank))


def _number(name: str, key: str, tensors: dict[str, Tensor]) -> float:
    try:
        return float(tensors[key])
    except (RuntimeError, TypeError, ValueError) as error:
        raise LoraError(
            say("{name} is damaged, {key} must be one number: {again}.", name=name, key=shorten(key, 100), again=say(AGAIN))
        ) from error


# --- Fitting ---------------------------------------------------------------------------------------------------------


PAIR_FAULTS: dict[str, Callable[[LoraModule], bool]] = {
    mark("tensors that do not have 2 dimensions"): lambda pair: pair.down.ndim != 2 or pair.up.ndim != 2,
    mark("tensors that are not floating point"): lambda pair: not {pair.down.dtype, pair.up.dtype} <= FLOATS,
    mark("pairs whose ranks disagree or are zero"): lambda pair: pair.rank == 0 or pair.rank != pair.up.shape[1],
}


def fit(lora: PusaLora, shapes: Shapes) -> LoraReport:
    """Checks that a LoRA belongs to a model, whole and sound.

    Args:
        lora: what `read_lora` gave.
        shapes: (out, in) of every module of `MODULE_KINDS` in the model, by canonical name.

    Raises:
        LoraError: it is another model's LoRA, of another width, incomplete, damaged, or holds more than Pusa does.
    """
    if not shapes:
        raise LoraError(say("{name} cannot be applied, the model has no Wan blocks: choose a Wan model.", name=lora.name))
    check_pairs(lora)
    _check_width(lora, shapes)
    _check_modules(lora, shapes)
    infinite = [name for name, module in lora.modules.items() if not _is_finite(module)]
    refuse(lora, INFINITE, infinite, ASK)
    return _report(lora, shapes)


def check_pairs(lora: PusaLora) -> None:
    """Refuses a LoRA without modules, with halves of pairs, and with pairs that cannot be multiplied."""
    if not lora.modules and not lora.halves:
        refuse(lora, mark("only keys of another model's modules"), lora.strays or (say("none"),), mark("choose a Pusa LoRA"))
    refuse(lora, mark("keys without their counterpart"), lora.halves, AGAIN)
    for what, has_fault in PAIR_FAULTS.items():
        refuse(lora, what, [name for name, module in lora.modules.items() if has_fault(module)], AGAIN)


def refuse(lora: PusaLora, what: str, where: Collection[str], advice: str) -> None:
    """Raises if there is any place where the LoRA has what it must not have."""
    if where:
        raise LoraError(
            say(
                "{name} has {what} ({where}): {advice}.",
                name=lora.name,
                what=say(what),
                where=_examples(where),
                advice=say(advice),
            )
        )


def _check_width(lora: PusaLora, shapes: Shapes) -> None:
    name, module = next(iter(lora.modules.items()))
    made_for = _width(name, (module.up.shape[0], module.down.shape[1]))
    model = _width(*next(iter(shapes.items())))
    if made_for != model:
        raise LoraError(
            say(
                "{name} was made for a Wan model of width {made_for}, this model has width {model}: choose a "
                "LoRA and a model that belong together.",
                name=lora.name,
                made_for=_size(made_for),
                model=_size(model),
            )
        )


def _width(name: str, shape: tuple[int, int]) -> int:
    """The residual width that a module writes to (ffn.2) or reads from (all others)."""
    return shape[0] if name.endswith("ffn.2") else shape[1]


def _size(width: int) -> str:
    return f"{width} ({MODEL_SIZES[width]})" if width in MODEL_SIZES else str(width)


def _check_modules(lora: PusaLora, shapes: Shapes) -> None:
    """The LoRA's modules are modules of the model, and each kind that it has is there in every block."""
    refuse(lora, STRAYS, lora.strays, OTHER_LOADER)
    lacking = [name for name in lora.modules if name not in shapes]
    refuse(lora, mark("modules that this model lacks"), lacking, OTHER_MODEL)
    wrong = [name for name, m in lora.modules.items() if (m.up.shape[0], m.down.shape[1]) != tuple(shapes[name])]
    refuse(lora, mark("modules of another shape than this model's"), wrong, OTHER_MODEL)
    kinds = {_kind(name) for name in lora.modules}
    beyond = [name for name, m in lora.modules.items() if m.rank > max(shapes[name])]
    refuse(lora, mark("pairs of a larger rank than the module's own size"), beyond, AGAIN)
    missing = [name for name in shapes if _kind(name) in kinds and name not in lora.modules]
    refuse(lora, mark("nothing for some blocks, though it has for others"), missing, INCOMPLETE)


def _kind(name: str) -> str:
    return name.split(".", 2)[2]


def _is_finite(module: LoraModule) -> bool:
    tensors = (module.down, module.up)
    return math.isfinite(module.scale) and all(bool(_sample(tensor).float().isfinite().all()) for tensor in tensors)


def _sample(tensor: Tensor) -> Tensor:
    """Rows spread over a tensor, all of them if it is small.

    A run that diverged spoils every number, so some rows tell, and 5 GB need not be read from disk twice.
    """
    return tensor[:: max(1, tensor.numel() // 2**14)]


def _report(lora: PusaLora, shapes: Shapes) -> LoraReport:
    modules = lora.modules.values()
    ranks = [module.rank for module in modules]
    scales = [module.scale for module in modules]
    tensors = [tensor for module in modules for tensor in (module.down, module.up)]
    return LoraReport(
        name=lora.name,
        spelling=lora.spelling,
        matched=len(lora.modules),
        total=len(shapes),
        unmatched=dict(Counter(_kind(name) for name in shapes if name not in lora.modules)),
        rank_min=min(ranks),
        rank_mean=sum(ranks) / len(ranks),
        rank_max=max(ranks),
        dtypes=tuple(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors})),
        parameters=sum(tensor.numel() for tensor in tensors),
        size_bytes=sum(tensor.numel() * tensor.element_size() for tensor in tensors),
        scale_min=min(scales),
        scale_max=max(scales),
    )
