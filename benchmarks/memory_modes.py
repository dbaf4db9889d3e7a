"""Which mode takes what memory at real size: computed, without a card. Tensors are counted, nothing is computed.

The pretend card of the tests has the bytes of a real one. ComfyUI's own memory management decides what of a model's weights
stays there; a step of its own euler at cfg 1 with a Pusa schedule, 81 frames, tells the peak. On Diffusers the pipeline's own
offload and casting do, for one step at cfg 1 with Pusa's keyframes. Attention counts as a fused kernel; the workspaces of
kernels, the CUDA context (about 0.5 GiB) and what the allocator loses are not counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import bench
import memory

from environment.pack import import_pack

GIB = 2**30
CARDS = (80, 48, 24, 16, 12, 8)  # GiB
PRECISIONS = ("bf16", "fp8", "fp8 scaled")
STATES = {"default": "NORMAL_VRAM", "--novram": "NO_VRAM"}
GGUF = ("Q8_0", "Q6_K", "Q5_K", "Q4_K")
# GB of the peak of one GPU without offload, by Wan2.1's README, whose weights are in fp32 with bf16 autocast
PUBLISHED = {"1.3B": ("480p", 8.19), "14B": ("720p", 69.1)}


def main() -> None:
    parser = bench.parser(__doc__, threads=1)
    parser.add_argument("--models", nargs="+", choices=memory.MODELS, default=["14B", "1.3B"])
    parser.add_argument("--cards", nargs="+", type=int, default=list(CARDS), help="GiB")
    options = parser.parse_args()
    bench.use_comfyui(options)
    parts = [part for model in options.models for part in (comfyui_report(model, options.cards), diffusers_report(model))]
    parts += [parts_report(), check_report()]
    bench.publish("memory_modes", "\n\n".join(parts), options.write, bench.computed())


def gib(count: float) -> str:
    return f"{count / GIB:.1f}"


# --- ComfyUI ---------------------------------------------------------------------------------------------------------


def comfyui_report(name: str, cards: list[int]) -> str:
    rows = []
    for precision in PRECISIONS:
        for card in cards:
            rows += [comfyui_row(name, precision, card, mode) for mode in STATES if mode == "default" or card == min(cards)]
    header = ["weights", "card, GiB", "mode", "480p: weights on it", "peak", "720p: weights on it", "peak"]
    sizes = ", ".join(f"{kind} {gib(gguf_bytes(name, kind))} GiB" for kind in GGUF)
    return (
        f"ComfyUI, Wan {name}, a step with a Pusa schedule; GiB.\n\n{bench.table(header, rows)}\n\n"
        f"Weights of a GGUF file, with the blocks' matrices quantised: {sizes}."
    )


def comfyui_row(name: str, precision: str, card: int, mode: str) -> list[str]:
    cells = [cell for size in memory.SIZES.values() for cell in comfyui_cells(name, precision, card, mode, size)]
    return [precision, str(card), mode, *cells]


def comfyui_cells(name: str, precision: str, card: int, mode: str, size: tuple[int, int]) -> list[str]:
    import torch

    from tests import real_wan
    from tests.pretend import real_size

    real_size.use_card(card * GIB, STATES[mode])
    pack = import_pack()
    model = real_wan.open_wan(real_wan.WIDTHS[name], precision)
    plan = real_wan.clip_plan(pack, size)
    patched = pack.pusa_core.hosts.comfyui.apply_schedule(model, plan)
    try:
        use = real_size.measured(patched, partial(real_wan.sample, patched, plan.clean))
    except torch.OutOfMemoryError:
        return ["-", "does not fit"]
    return [gib(use.weights), gib(use.peak)]


def gguf_bytes(name: str, kind: str) -> float:
    """Of a model whose blocks' matrices are of this kind and whose other weights are fp32."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    from tests import real_wan

    elements, size = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    total = 0.0
    for key, shape in real_wan.WIDTHS[name].shapes().items():
        total += math.prod(shape) * (size / elements if key.startswith("blocks") and len(shape) == 2 else 4)
    return total


# --- Diffusers -------------------------------------------------------------------------------------------------------


def diffusers_report(name: str) -> str:
    rows = [
        [what, *(gib(diffusers_peak(name, size, set_up)) for size in memory.SIZES.values())]
        for what, set_up in SET_UPS.items()
    ]
    return f"Diffusers, Wan {name}, a step with Pusa's keyframes; peak, GiB.\n\n{bench.table(['mode', *memory.SIZES], rows)}"


def diffusers_peak(name: str, size: tuple[int, int], set_up: Callable[[Any], Any]) -> int:
    import gc

    import torch

    from pusa_core.frames import pixel_length
    from pusa_core.hosts.diffusers import PusaScheduler, PusaWanPipeline
    from tests import real_wan
    from tests.pretend import real_size
    from tests.pretend.device import DEVICE, card

    gc.collect()
    card.budget, card.largest_computed = 2**40, real_size.LARGEST_COMPUTED
    wan = memory.transformer(name, real_wan.WIDTHS[name].layers)
    real_wan.fill(wan)
    pipe = PusaWanPipeline(tokenizer=None, text_encoder=None, vae=None, transformer=wan, scheduler=PusaScheduler())
    pipe.set_progress_bar_config(disable=True)
    width, height = size
    plan = bench.clip_plan(memory.FRAMES, {0: (0.2,), memory.FRAMES - 1: (0.5,)}, height // 8, width // 8)
    text = torch.zeros(memory.TEXT, dtype=torch.bfloat16).to(DEVICE)
    with torch.inference_mode():
        set_up(pipe)
        card.watch()
        pipe(
            prompt_embeds=text, guidance_scale=1.0, num_inference_steps=1, output_type="latent", keyframes=plan,
            num_frames=pixel_length(memory.FRAMES), height=height, width=width,
        )  # fmt: skip
    return card.peak


def resident(pipe: Any) -> None:
    from tests.pretend.device import DEVICE

    pipe.to(DEVICE)


def offloaded(pipe: Any, how: str) -> None:
    from tests.pretend.device import NAME

    getattr(pipe, f"enable_{how}_cpu_offload")(device=NAME)


def offloaded_in_groups(pipe: Any, **groups: Any) -> None:
    from tests.pretend.device import CPU, DEVICE
    from tests.pretend.pipelines import groups_on_the_card

    groups_on_the_card()
    pipe.transformer.enable_group_offload(onload_device=DEVICE, offload_device=CPU, **groups)


def cast_by_layers(pipe: Any) -> None:
    """On the card, where a cast takes no memory of this machine."""
    import torch

    resident(pipe)
    pipe.transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.bfloat16)


BLOCKS = {"offload_type": "block_level", "num_blocks_per_group": 1}
SET_UPS: dict[str, Callable[[Any], None]] = {
    "bf16 (and with model offload, while it runs)": resident,
    "layerwise fp8": cast_by_layers,
    "group offload, a block at a time": partial(offloaded_in_groups, **BLOCKS),
    "group offload, a layer at a time": partial(offloaded_in_groups, offload_type="leaf_level"),
    "sequential offload": partial(offloaded, how="sequential"),
}


# --- the other models, and what is published -------------------------------------------------------------------------


def parts_report() -> str:
    from tests.pretend import real_size

    real_size.use_card()
    rows = [["text encoder (UMT5-XXL, bf16)", *map(gib, uses(real_size.text_encoder_use()))]]
    for size, (width, height) in memory.SIZES.items():
        rows += [[f"VAE {size}, {what}", *map(gib, uses(use))] for what, use in real_size.vae_uses(width, height).items()]
    return f"ComfyUI, the other models; GiB.\n\n{bench.table(['model', 'weights', 'peak'], rows)}"


def uses(use: Any) -> tuple[int, int]:
    return use.weights, use.peak


def check_report() -> str:
    """Beside the published peaks: the weights in fp32, and a step with activations in bf16 and in fp32."""
    import torch

    from tests import real_wan
    from tests.pretend import real_size

    real_size.use_card()
    rows: list[list[str]] = []
    for name, (size, published) in PUBLISHED.items():
        clean = real_wan.clip_plan(import_pack(), memory.SIZES[size]).clean
        steps = {}
        for dtype in (torch.bfloat16, torch.float32):
            model = real_wan.open_wan(real_wan.WIDTHS[name], "bf16", dtype=dtype)
            model.set_model_compute_dtype(dtype)
            use = real_size.measured(model, partial(real_wan.sample, model, clean))
            steps[dtype] = use
        weights = steps[torch.float32].weights
        low, high = ((weights + use.over) / 1e9 for use in steps.values())
        rows.append([f"{name}, {size}", f"{published} GB", f"{weights / 1e9:.2f} GB", f"{low:.2f} GB", f"{high:.2f} GB"])
    header = ["Wan", "published", "weights in fp32", "with a step in bf16", "with a step in fp32"]
    return (
        "Check: with weights and residual stream in fp32 and the rest in bf16, as Wan's own code is taken to run, what is "
        f"published must lie between a step in bf16 and one in fp32.\n\n{bench.table(header, rows)}"
    )


if __name__ == "__main__":
    main()
