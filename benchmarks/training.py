"""What a run costs in quality that keeps frozen weights in fp8, moments in 8 bits, or activations and weights on the CPU.

The loss of clips that are held out, the same clips, sigmas and noise for all, before and after a short training of the demo
model; and how far the last LoRA is from bfloat16's, relative, in the Frobenius norm of its updates.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import bench
import torch
from safetensors import safe_open

from demo_model import BASE
from demo_model.make_cache import main as make_cache
from pusa_core.lora import read_lora
from trainer.settings import Settings
from trainer.train import train

ON_CPU: dict[str, Any] = {"offload_activations": True, "offload_weights": True}
VARIANTS: dict[str, dict[str, Any]] = {
    "bfloat16": {},
    "`--fp8`": {"fp8": True},
    "`--optimizer adamw8bit`": {"optimizer": "adamw8bit"},
    "both": {"fp8": True, "optimizer": "adamw8bit"},
    "both, `--offload-activations --offload-weights`": {"fp8": True, "optimizer": "adamw8bit", **ON_CPU},
}


def held_out_loss(path: Path) -> float:
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["training_data"])["held_out_loss"]


def distance(path: Path, other: Path) -> float:
    """Of a LoRA from another one, relative."""
    one, reference = (read_lora(file).modules for file in (path, other))
    updates = [(_update(one[name]), _update(module)) for name, module in reference.items()]
    apart = sum(float((a - b).square().sum()) for a, b in updates)
    return (apart / sum(float(b.square().sum()) for _, b in updates)) ** 0.5


def _update(module: Any) -> torch.Tensor:
    return module.up.float() @ module.down.float()


def rows(settings: Settings, folder: Path) -> list[list[str]]:
    def trained(name: str, **options) -> Path:
        return train(replace(settings, output=folder / name, **options))

    before = held_out_loss(trained("before", steps=1, lr=1e-12))
    paths = {name: trained(f"run {number}", **options) for number, (name, options) in enumerate(VARIANTS.items())}
    reference = paths["bfloat16"]
    found = []
    for name, path in paths.items():
        loss = held_out_loss(path)
        apart = "-" if path == reference else f"{distance(path, reference):.3f}"
        found.append([name, f"{loss:.4f}", f"{loss - held_out_loss(reference):+.4f}", apart])
    return [["not trained", f"{before:.4f}", f"{before - held_out_loss(reference):+.4f}", "-"], *found]


def main() -> None:
    parser = bench.parser(__doc__, threads=1)
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--lr", type=float, default=1e-3)
    options = parser.parse_args()
    bench.use_comfyui(options)
    uncompiled = patch.object(torch, "compile", lambda function, **_: function)  # torchao's step: longer than the rest
    with uncompiled, TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        make_cache(cache, options.clips, work=Path(folder))
        settings = Settings(
            BASE, cache, Path(folder), steps=options.steps, batch=8, micro_batch=8, rank=32, lr=options.lr, held_out=0.25,
            held_out_samples=32, held_out_every=options.steps, checkpoint_every=options.steps, sample_every=0, trackers=(),
        )  # fmt: skip
        header = ["settings", "held-out loss", "less bfloat16's", "LoRA from bfloat16's"]
        table = bench.table(header, rows(settings, Path(folder)))
    title = (
        f"{options.steps} steps of 8 of {options.clips} clips, a quarter of which is kept out; rank 32, lr {options.lr:g}."
    )
    bench.publish("training", f"{title}\n\n{table}", options.write)


if __name__ == "__main__":
    main()
