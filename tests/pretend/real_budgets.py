"""python -m tests.pretend.real_budgets FOLDER: a step of Wan 1.3B's width on the cards of `budgets`; see `real_size`.

Prints a line of JSON: for each precision and card, and each way to take a step, the bytes of all weights, of those that stay
on the card, and of what is there at most beside them. Files go to FOLDER.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from tests import real_wan, tiny

from . import dynamic
from .device import card

# Before ComfyUI, which looks for a card where it is imported.
from .comfyui import import_pack, management  # isort: skip
from .budgets import cards
from .real_size import measured, use_card

WIDTH, LAYERS = real_wan.WIDTHS["1.3B"], 2
RANK = 64  # of a LoRA whose tensors are hollow, too
BUFFER = 2 * 2 * WIDTH.dim * WIDTH.ffn  # bytes to fetch what is not on the card: two of the largest weights in bf16
PRECISIONS = "bf16", "fp8 scaled"
Prepare = Callable[[Any], Any]


def ways(plan: Any, folder: Path) -> dict[str, Prepare]:
    """What makes a model one that takes a step in such a way."""
    host, file = import_pack().pusa_core.hosts.comfyui, folder / "lora.safetensors"
    tiny.write_lora(file, dim=WIDTH.dim, layers=LAYERS, ffn=WIDTH.ffn, ranks=(RANK,))

    def schedule(model: Any) -> Any:
        return host.apply_schedule(model, plan)

    def lora(model: Any) -> Any:
        return host.load_pusa_lora(model, str(file), 1.4)[0]

    return {
        "plain": lambda model: model,
        "schedule": schedule,
        "plain, LoRA": lora,
        "schedule, LoRA": lambda model: schedule(lora(model)),
    }


def examine(model: Any, share: float, clean: Any) -> tuple[int, int, int]:
    """A model's step on a card that has room for a share of its weights."""
    dynamic.Pages.limit = int(share * model.model_size())
    beside = model.model.memory_required(clean.shape) + management.extra_reserved_memory()
    card.budget = int(beside + BUFFER + dynamic.Pages.limit)
    use = measured(model, partial(real_wan.sample, model, clean))
    return model.model_size(), use.weights, use.over


def main(folder: Path) -> None:
    use_card()
    plan = real_wan.clip_plan(import_pack(), real_wan.SIZES["480p"])
    prepared, reports = ways(plan, folder), {}
    gc.freeze()  # what is there now need not be looked through for garbage before every step
    for option, share in cards():
        for precision, (way, prepare) in product(PRECISIONS, prepared.items()):
            gc.collect()
            model = prepare(real_wan.open_wan(WIDTH, precision, LAYERS))
            reports[f"{precision}, {option}, {way}"] = examine(model, share, plan.clean)
    print(json.dumps(reports))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
