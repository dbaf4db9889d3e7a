"""What baking takes at real size: memory and CPU time of `python -m pusa_files bake`.

Files are made here and deleted in the end: the checkpoint in bf16, in several files as Diffusers has it or in one, of zeros,
which take no room on most disks; a LoRA of rank 512 in all modules, as the published one for 14B has it, of random numbers.
Peak memory is what was resident at most, pages of mapped files included. A module of what was made is read back and compared.
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import bench

RANK, ALPHA = 512, 1.4
GOAL = 8  # GB
ANCHOR = "blocks.0.self_attn.q"
CASES = {"bf16": 12, "fp8_scaled": 1}  # files that a checkpoint is in which is baked to this form


def main() -> None:
    parser = bench.parser(__doc__, threads=1)
    parser.add_argument("--model", choices=["14B", "1.3B"], default="14B")
    parser.add_argument("--forms", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--folder", type=Path, help="where there is room for files: 34 GB for 14B in bf16")
    options = parser.parse_args()
    bench.use_comfyui(options)
    from tests import real_wan

    with TemporaryDirectory(dir=options.folder) as made:
        folder, width, rows = Path(made), real_wan.WIDTHS[options.model], []
        lora = write_lora(folder / "lora.safetensors", width)
        size = lora.stat().st_size
        for form in options.forms:
            base = write_base(folder / f"for {form}", width.shapes(), CASES[form])
            rows.append([str(CASES[form]), *bake(base, lora, folder / f"{form}.safetensors", form, options)])
    header = ["files in bf16", "new form", "new file", "peak resident memory", "CPU", "error of a module"]
    what = f"Wan {options.model} with a LoRA of rank {RANK} ({size / 1e9:.2f} GB); goal: at most {GOAL} GB of memory."
    bench.publish("bake", f"{what}\n\n{bench.table(header, rows)}", options.write)


def write_base(folder: Path, shapes: dict[str, tuple[int, ...]], files: int) -> Path:
    """A checkpoint of zeros in a folder, in so many files and their index, under Diffusers' names."""
    from pusa_core.wan import diffusers_key

    folder.mkdir()
    places: dict[str, str] = {}
    keys = list(shapes)
    for number in range(1, files + 1):
        names = keys[number - 1 :: files]
        file = f"diffusion_pytorch_model-{number:05d}-of-{files:05d}.safetensors"
        write_zeros(folder / file, {diffusers_key(name): shapes[name] for name in names})
        places |= {diffusers_key(name): file for name in names}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return folder


def write_zeros(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    import torch

    entries: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * torch.Size(shape).numel()
        entries[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
    header = json.dumps(entries).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + end)


def write_lora(path: Path, width: Any) -> Path:
    import torch

    from pusa_core.safetensors_writer import SafetensorsWriter
    from tests import tiny

    pairs: dict[str, tuple[int, int]] = {}
    for module, (rows, columns) in tiny.lora_modules(width.dim, width.layers, width.ffn).items():
        pairs |= {f"{module}.lora_A.weight": (RANK, columns), f"{module}.lora_B.weight": (rows, RANK)}
    with SafetensorsWriter(path, pairs) as writer:
        for name, shape in pairs.items():
            writer.add(name, torch.empty(shape, dtype=torch.bfloat16).normal_(std=0.02))
    return path


def bake(base: Path, lora: Path, output: Path, form: str, options: argparse.Namespace) -> list[str]:
    """Runs the command; its row."""
    loras = ["--loras", str(lora), str(ALPHA)]
    command = [sys.executable, "-m", "pusa_files", "bake", str(base), str(output), *loras, "--form", form]
    usage = bench.usage_of(command, options.threads)
    cells = [f"{output.stat().st_size / 1e9:.1f} GB", f"{usage.ru_maxrss * 1024 / 1e9:.2f} GB"]
    error = error_of_a_module(lora, output)
    output.unlink()  # makes room for the next
    return [form, *cells, f"{usage.ru_utime + usage.ru_stime:.0f} s", f"{error:.1e}"]


def error_of_a_module(lora: Path, output: Path) -> float:
    """Of a weight in the new checkpoint, relative, in the Frobenius norm."""
    from pusa_core.checkpoint import WanCheckpoint
    from pusa_core.lora import read_lora

    module = read_lora(lora).modules[ANCHOR]
    wanted = ALPHA * module.up.float() @ module.down.float()
    return ((WanCheckpoint(output).tensor(f"{ANCHOR}.weight") - wanted).norm() / wanted.norm()).item()


if __name__ == "__main__":
    main()
