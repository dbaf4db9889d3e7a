"""The trainer's commands; README.md beside this file explains them."""

from __future__ import annotations

import sys

from .output import OutputError

PACKAGES = "accelerate diffusers peft tensorboard tyro"


def main() -> None:
    try:
        _run()
    except ImportError as error:
        sys.exit(f"error: {error.name or error} is not installed: pip install {PACKAGES}")
    except (OSError, OutputError, ValueError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("Stopped. The same command goes on with what is there.", file=sys.stderr)
        sys.exit(130)


def _run() -> None:
    from tyro.extras import subcommand_cli_from_dict

    from .settings import CacheSettings, MemorySettings, Settings

    settings = subcommand_cli_from_dict(
        {"cache": CacheSettings, "train": Settings, "memory": MemorySettings},
        prog="python -m trainer",
        description="Trains Pusa LoRAs for Wan text-to-video models.",
    )
    if isinstance(settings, CacheSettings):
        from .cache import cache

        cache(settings)
    elif isinstance(settings, MemorySettings):
        from .memory import report_memory

        print(report_memory(settings))
    else:
        from .train import train_experts

        for path in train_experts(settings):
            print(f"The {'checkpoint' if settings.full else 'LoRA'} is in {path}.")


if __name__ == "__main__":
    main()
