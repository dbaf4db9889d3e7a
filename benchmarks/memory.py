"""What Pusa costs in memory at real size, without a card: tensors are only counted, nothing is computed.

A step on ComfyUI is its own euler's at cfg 1 on the pretend card of the tests, on Diffusers a call of the pipeline with one
step at cfg 1, without a text encoder and a VAE; with and without keyframes (m = 0.2 on the first latent frame, 0.5 on the
last), and on ComfyUI with a timestep for every token, too. Training is a forward and a backward with gradient checkpointing
and frozen weights, with a sigma for the clip and with one for every latent frame. Attention counts as a fused kernel, and no
kernel's workspace is counted. What a block takes is free again when the next begins, so few blocks tell a step's peak on
Diffusers; in training each keeps its input. Which mode takes what is told by `memory_modes.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import bench

if TYPE_CHECKING:
    from torch import Tensor

MODELS = "1.3B", "14B"
SIZES = {"480p": (832, 480), "720p": (1280, 720)}
FRAMES = 21  # latent; 81 frames
TEXT = (1, 512, 4096)
GOAL, COMFYUI_GOAL = 1.01, 1.005


def main() -> None:
    parser = bench.parser(__doc__, threads=1)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--layers", type=int, default=2, help="on Diffusers and in training")
    parser.add_argument("--account", action="store_true", help="only what a schedule's memory on ComfyUI consists of")
    options = parser.parse_args()
    bench.use_comfyui(options)
    if options.account:
        return bench.publish("memory, account", account_report(options.models), options.write, bench.computed())
    parts = [comfyui_report(options.models), other_report(options)]
    bench.publish("memory", "\n\n".join(parts), options.write, bench.computed())


def comfyui_report(models: list[str]) -> str:
    """A step on ComfyUI of whole models: plain, with a schedule, and in the ways to do without the pack."""
    from tests import real_wan
    from tests.pretend import real_size

    others = real_wan.with_frame_timesteps, real_wan.with_expanded_modulation, real_wan.with_token_timesteps
    peaks, writes = [], []
    for name, size, model, plan, patched in comfyui_cases(models):
        patches = [patched, *(other(model, plan) for other in others)]
        uses = [real_size.measured(m, partial(real_wan.sample, m, plan.clean)) for m in (model, *patches)]
        plain, pusa, *more = (use.over for use in uses)
        against = [f"{other / 2**20:,.0f} MiB ({(other - pusa) / 1e9:+.2f} GB)" for other in more]
        peaks.append([f"{name}, {size}", *cells(plain / 2**20, pusa / 2**20), *against])
        made = [use.made for use in uses]
        writes.append([f"{name}, {size}", f"{made[0] / 1e9:,.0f} GB", *(f"{each / made[0]:.3f}" for each in made[1:])])
    header = ["a timestep for every frame", "modulation expanded to tokens", "a timestep for every token"]
    return "\n\n".join(
        [
            f"A step on ComfyUI, 81 frames, bf16; peak over the weights. Goals: at most {COMFYUI_GOAL} times; at least 2 GB "
            "less than expanded modulation at 14B 480p and 4.6 GB at 720p.",
            bench.table(["Wan", "plain", "with a Pusa schedule", "ratio", *header], peaks),
            "All that the same step's operations write to new places, and how many times as much the others do.",
            bench.table(["Wan", "plain", "with a Pusa schedule", *header], writes),
        ]
    )


def comfyui_cases(models: list[str]) -> Iterator[tuple[str, str, Any, Any, Any]]:
    """(name, size, the model, a plan, the model with it) of real sizes on the pretend card."""
    from environment.pack import import_pack
    from tests import real_wan
    from tests.pretend import real_size

    real_size.use_card()
    pack = import_pack()
    for name in models:
        model = real_wan.open_wan(real_wan.WIDTHS[name], "bf16")
        for size in SIZES:
            plan = real_wan.clip_plan(pack, SIZES[size])
            yield name, size, model, plan, pack.pusa_core.hosts.comfyui.apply_schedule(model, plan)


def account_report(models: list[str]) -> str:
    """What a schedule's memory consists of when a step takes most."""
    from tests import real_wan
    from tests.pretend import real_size

    columns: dict[str, dict[str, int]] = {}
    for name, size, model, plan, patched in comfyui_cases(models):
        plain, pusa = (real_size.owners_at_peak(m, partial(real_wan.sample, m, plan.clean)) for m in (model, patched))
        columns[f"{name}, {size}"] = more = {line: pusa[line] - plain[line] for line in {**pusa, **plain}}
        more["all"] = sum(more.values())
    lines = {line: None for more in columns.values() for line, taken in more.items() if abs(taken) >= 2**20 / 100}
    rows = [
        ["/".join(line.split("/")[-2:]), *(f"{more[line] / 2**20:.2f} MiB" for more in columns.values())] for line in lines
    ]
    return bench.table(["more than plain, made in", *columns], rows)


def other_report(options) -> str:
    rows = [
        [f"{model} width, {size}", what, *cells(*peaks(model, SIZES[size], options.layers))]
        for what, peaks in (("a step", sampling), ("training", training))
        for model in options.models
        for size in SIZES
    ]
    header = ["Wan", "what", "without keyframes", "with Pusa's keyframes", "ratio"]
    what = f"Diffusers, {options.layers} blocks, 81 frames, bf16; peak over the weights; goal: at most {GOAL} times."
    return f"{what}\n\n{bench.table(header, rows)}"


def cells(plain: float, pusa: float) -> list[str]:
    return [f"{plain:,.0f} MiB", f"{pusa:,.0f} MiB", f"{pusa / plain:.3f}"]


def sampling(model: str, size: tuple[int, int], layers: int) -> tuple[float, float]:
    """MiB of a step without and with keyframes."""
    import torch
    from diffusers import WanPipeline

    from pusa_core.frames import pixel_length
    from pusa_core.hosts.diffusers import PusaWanPipeline

    width, height = size
    plan = bench.clip_plan(FRAMES, {0: (0.2,), FRAMES - 1: (0.5,)}, height // 8, width // 8)
    wan = entered_from_the_cpu(transformer(model, layers))
    call = {
        "prompt_embeds": torch.zeros(TEXT), "guidance_scale": 1.0, "num_inference_steps": 1, "output_type": "latent",
        "num_frames": pixel_length(FRAMES), "height": height, "width": width,
    }  # fmt: skip
    with torch.inference_mode():
        plain = peak(partial(pipeline(WanPipeline, wan), **call))
        return plain, peak(partial(pipeline(PusaWanPipeline, wan), **call, keyframes=plan))


def training(model: str, size: tuple[int, int], layers: int) -> tuple[float, float]:
    """MiB of a forward and a backward with one sigma for the clip and with one for every latent frame."""
    import torch

    from pusa_core.hosts.diffusers import velocity

    wan = transformer(model, layers)
    wan.enable_gradient_checkpointing()
    on_meta: dict[str, Any] = {"dtype": torch.bfloat16, "device": "meta"}
    latents = torch.zeros(1, 16, FRAMES, size[1] // 8, size[0] // 8, **on_meta, requires_grad=True)
    text = torch.zeros(TEXT, **on_meta)

    def step(sigmas: Tensor) -> None:
        velocity(wan, latents, sigmas, text).sum().backward()
        latents.grad = None

    shared, own = (torch.zeros(shape, device="meta") for shape in ((1,), (1, FRAMES)))
    return peak(partial(step, shared)), peak(partial(step, own))


def transformer(model: str, layers: int) -> Any:
    """A Wan of real width on `meta`, in the dtypes that Diffusers opens it in."""
    import torch

    from trainer.memory import CONFIGS, open_empty

    with torch.device("meta"):
        return open_empty({**CONFIGS[model], "num_layers": layers}, torch.bfloat16).requires_grad_(False)


def entered_from_the_cpu(wan: Any) -> Any:
    """The same transformer, whose inputs and outputs lie on the CPU, where the pipeline's sigmas have values."""
    import torch
    from torch.utils._pytree import tree_map_only

    forward = wan.forward

    def on_meta(*args: Any, **kwargs: Any) -> tuple[Tensor]:
        args, kwargs = tree_map_only(torch.Tensor, lambda tensor: tensor.to("meta"), (args, kwargs))
        output = forward(*args, **kwargs)[0]
        return (torch.zeros(output.shape, dtype=output.dtype),)

    wan.forward = on_meta
    return wan


def pipeline(cls: type, wan: Any) -> Any:
    import torch

    from pusa_core.hosts.diffusers import PusaScheduler

    on_cpu = type(cls.__name__, (cls,), {"_execution_device": property(lambda self: torch.device("cpu"))})
    pipe = on_cpu(tokenizer=None, text_encoder=None, vae=None, transformer=wan, scheduler=PusaScheduler())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def peak(run: Callable[[], Any]) -> float:
    from tests.peak_memory import PeakMemory, fused_attention

    with fused_attention(), PeakMemory() as memory:
        run()
    return memory.peak / 2**20


if __name__ == "__main__":
    main()
