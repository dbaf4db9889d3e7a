"""What fewer ranks cost a Pusa LoRA: size, error of the weights, motion on the demo model; and how long it takes.

- Error: of each module's update, relative, in the Frobenius norm: mean and largest over the modules.
- Motion error: pixels (of 64) between each object and the law of motion, in the frames that the model painted; brackets are
  95 % intervals of means over clips (Student's t), differences are paired with the whole LoRA: the same clips and noise.
- Time of CPU: of one module of each size that a 14B model has, at the published rank, 512, with random numbers in it.
- With --full-size alone: the command on a whole file of that size. Its peak counts pages of mapped files.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import bench
import torch
from bake import write_lora
from quality import scenes
from torch import Tensor

from demo_model import LORA
from demo_model.measure import motion_errors
from demo_model.studio import TASKS, SampleSettings, Studio
from demo_model.world import Scene
from pusa_core.intervals import mean_interval, paired_difference
from pusa_core.lora import LoraModule, read_lora
from pusa_core.lora_compress import CompressReport, Limit, compress_lora, compress_module

TASK = "extension"
LIMITS = (*(Limit(rank) for rank in (16, 8, 4, 2, 1)), *(Limit(energy=energy) for energy in (0.99, 0.9)))
WIDTH, HIDDEN, RANK, BLOCKS = 5120, 13824, 512, 40  # of a 14B Wan, and of the LoRA that was published for it
SIZES = {"attention": (8, WIDTH, WIDTH), "ffn.0": (1, HIDDEN, WIDTH), "ffn.2": (1, WIDTH, HIDDEN)}  # (in a block, out, in)


def named(limit: Limit) -> str:
    return f"rank {limit.rank}" if limit.rank else f"energy {limit.energy:g}"


def figures(report: CompressReport) -> list[str]:
    """Ranks, size and errors of a compressed LoRA."""
    ranks, errors = [*report.ranks.values()], [*report.errors.values()]
    mean = sum(ranks) / len(ranks)
    return [f"{mean:.1f}", f"{report.size_after / 1000:.0f} kB", f"{sum(errors) / len(errors):.3f}", f"{max(errors):.3f}"]


def demo_table(studio: Studio, clips: list[Scene], folder: Path) -> str:
    """The demo model's LoRA, its smaller copies, and the model without one."""

    def measured(lora: Path | None) -> Tensor:
        return motion_errors(studio.sample(clips, SampleSettings(TASK, lora)), clips, TASKS[TASK].painted)

    lora, whole = read_lora(LORA), measured(LORA)
    ranks = {module.rank for module in lora.modules.values()}
    kilobytes = f"{LORA.stat().st_size / 1000:.0f} kB"
    rows = [["whole", ", ".join(map(str, ranks)), kilobytes, "0", "0", str(mean_interval(whole)), "-"]]
    for limit in LIMITS:
        path = folder / f"{named(limit)}.safetensors"
        made = figures(compress_lora(lora, path, limit))
        errors = measured(path)
        rows.append([named(limit), *made, str(mean_interval(errors)), str(paired_difference(errors, whole))])
    none = measured(None)
    rows.append(["no LoRA", "0", "-", "1", "1", str(mean_interval(none)), str(paired_difference(none, whole))])
    header = [
        "demo model's LoRA",
        "mean rank",
        "file",
        "mean error",
        "largest",
        "motion error (px)",
        "less that of the whole",
    ]
    return bench.table(header, rows)


def time_table() -> str:
    """Seconds of CPU for one module, and for a whole LoRA of the published size."""
    seconds = {name: module_seconds(rows, columns) for name, (_, rows, columns) in SIZES.items()}
    whole = BLOCKS * sum(count * seconds[name] for name, (count, _, _) in SIZES.items())
    cells = [f"{seconds[name]:.2f} s" for name in SIZES]
    header = [
        f"one module, rank {RANK}, time of CPU",
        *(f"{name} ({rows} x {columns})" for name, (_, rows, columns) in SIZES.items()),
    ]
    return bench.table(
        [*header, "400 modules, computed from these"], [["exact decomposition", *cells, f"{whole / 60:.1f} min"]]
    )


def module_seconds(rows: int, columns: int) -> float:
    module = LoraModule(torch.randn(RANK, columns).bfloat16(), torch.randn(rows, RANK).bfloat16())
    begin = time.process_time()
    compress_module(module, Limit(64))
    return time.process_time() - begin


def whole_file(threads: int) -> str:
    from tests.real_wan import WIDTHS

    with TemporaryDirectory() as folder:
        lora, output = (Path(folder) / name for name in ("lora.safetensors", "small.safetensors"))
        size = write_lora(lora, WIDTHS["14B"]).stat().st_size
        command = [sys.executable, "-m", "pusa_files", "compress", str(lora), str(output), "--rank", "64"]
        usage = bench.usage_of(command, threads)
        return (
            f"`python -m pusa_files compress --rank 64` of a LoRA of rank {RANK} for 14B, {size / 1e9:.2f} GB of random "
            f"numbers: {output.stat().st_size / 1e9:.2f} GB, {usage.ru_utime + usage.ru_stime:.0f} s of CPU, peak resident "
            f"memory {usage.ru_maxrss * 1024 / 1e9:.2f} GB."
        )


def main() -> None:
    parser = bench.parser(__doc__, threads=1)
    parser.add_argument("--clips", type=int, default=32)
    parser.add_argument("--full-size", action="store_true", help="only a file of the published size, 5 GB")
    options = parser.parse_args()
    bench.use_comfyui(options)
    if options.full_size:
        return bench.publish("compress, at full size", whole_file(options.threads), options.write)
    with TemporaryDirectory() as folder, torch.inference_mode():
        demo = demo_table(Studio(), scenes(options.clips, ("moves", "crosses", "bounces")), Path(folder))
    title = f"{TASK[0].upper()}{TASK[1:]}, {options.clips} clips, alpha 1, m = 0."
    bench.publish("compress", f"{title}\n\n{demo}\n\n{time_table()}", options.write)


if __name__ == "__main__":
    main()
