"""python -m tests.pretend.real_steps: a step of Wan 14B's width in ComfyUI's modes, counted; see `real_size`.

Prints a line of JSON: for each precision and mode, plain, with a schedule, and with modulation expanded to every token, the
bytes of weights that stay on the card, of what is there at most beside them, and all that are written to new places.
"""

from __future__ import annotations

import json
from functools import partial

from tests import real_wan

# Before ComfyUI, which looks for a card where it is imported.
from .comfyui import import_pack  # isort: skip
from .real_size import Use, measured, use_card

CASES = ("bf16", "NORMAL_VRAM"), ("bf16", "NO_VRAM"), ("fp8 scaled", "NORMAL_VRAM"), ("fp8", "LOW_VRAM")
LAYERS, BUDGET = 2, 24 * 2**30


def steps(precision: str, state: str) -> list[Use]:
    use_card(BUDGET, state)
    model = real_wan.open_wan(real_wan.WIDTHS["14B"], precision, LAYERS)
    plan = real_wan.clip_plan(import_pack(), real_wan.SIZES["480p"])
    patched = import_pack().pusa_core.hosts.comfyui.apply_schedule(model, plan)
    others = (patched, real_wan.with_expanded_modulation(model, plan))
    return [measured(each, partial(real_wan.sample, each, plan.clean)) for each in (model, *others)]


def main() -> None:
    reports = {f"{precision} {state}": steps(precision, state) for precision, state in CASES}
    print(json.dumps({case: [(use.weights, use.over, use.made) for use in uses] for case, uses in reports.items()}))


if __name__ == "__main__":
    main()
