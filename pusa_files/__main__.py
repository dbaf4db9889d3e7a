"""python -m pusa_files compress pusa.safetensors small.safetensors --rank 64, or bake: see README.md."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

try:
    import tyro
    from tyro.extras import subcommand_cli_from_dict
except ImportError as error:
    sys.exit(f'error: {error}. This command needs what pip install ".[files]" brings.')


@dataclass(frozen=True)
class Compress:
    """Writes a Pusa LoRA in fewer ranks; strength 1 means what it meant before.

    Attributes:
        lora: its file, or PEFT folder
        output: the new .safetensors file
        rank: the highest that a module may have; 0 is no limit
        energy: share of each module's squared singular values to keep, in the lowest rank that does; 1 leaves it to --rank
        modules: print name, rank and relative error of every module
        device: where to compute, as cuda
    """

    lora: tyro.conf.Positional[Path]
    output: tyro.conf.Positional[Path]
    rank: int = 0
    energy: float = 1.0
    modules: bool = False
    device: str = "cpu"

    def run(self) -> None:
        from pusa_core.devices import find_device
        from pusa_core.lora import read_lora
        from pusa_core.lora_compress import Limit, compress_lora

        limit = Limit(self.rank, self.energy)
        report = compress_lora(read_lora(self.lora), self.output, limit, find_device(self.device), _bar("module"))
        if self.modules:
            print(report.table())
        print(report)


@dataclass(frozen=True)
class Bake:
    """Merges LoRAs into a Wan text-to-video checkpoint, tensor by tensor.

    Attributes:
        model: .safetensors file in bf16, fp16, fp32, fp8 or fp8 with scales; of several, any, or their folder or index
        output: the new .safetensors file
        loras: each with its strength, as: --loras pusa.safetensors 1.4 lightning.safetensors 1
        form: what the new file holds; fp8_scaled as ComfyUI reads it
        device: where to compute, as cuda
    """

    model: tyro.conf.Positional[Path]
    output: tyro.conf.Positional[Path]
    loras: tuple[tuple[Path, float], ...]
    form: Literal["bf16", "fp8_scaled"] = "fp8_scaled"
    device: str = "cpu"

    def run(self) -> None:
        from pusa_core.bake import LoraFile, bake
        from pusa_core.devices import find_device

        loras = [LoraFile(path, alpha) for path, alpha in self.loras]
        print(bake(self.model, loras, self.output, self.form, find_device(self.device), _bar("tensor")))


def _bar(unit: str) -> Callable[[int, int], None]:
    """Shows how far the work is, where somebody looks on."""
    from tqdm import tqdm

    bar = tqdm(unit=unit, disable=None)

    def show(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)
        if done == total:
            bar.close()

    return show


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code; `arguments` are the process's own if not given."""
    command = subcommand_cli_from_dict(
        {"compress": Compress, "bake": Bake},
        prog="python -m pusa_files",
        description="Makes compressed LoRAs, and checkpoints with LoRAs merged into them.",
        args=arguments,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    try:
        command.run()
    except ImportError as error:
        sys.exit(f'error: {error}. This command needs what pip install ".[files]" brings.')
    except (OSError, RuntimeError, ValueError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("Stopped; nothing was written.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
