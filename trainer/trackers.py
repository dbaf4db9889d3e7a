"""Where a run's losses and samples go: Accelerate's trackers, by their names."""

from __future__ import annotations

import json
from collections.abc import Sequence

from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from torch import Tensor

from .settings import Settings


def check_trackers(names: Sequence[str]) -> None:
    """Refuses trackers that Accelerate does not know, or whose package is missing, of which it would say nothing.

    Raises:
        ValueError: there is one.
    """
    available = [str(getattr(tracker, "value", tracker)) for tracker in get_available_trackers()]
    missing = next((name for name in names if name not in available), None)
    if missing is not None:
        raise ValueError(
            f"--trackers {missing} was given, but of Accelerate's trackers only these are installed: "
            f"{', '.join(available) or 'none'}. Install its package, or take one of these."
        )


def start_trackers(accelerator: Accelerator, settings: Settings) -> None:
    """Begins the logs, with the settings; lists and objects among them are JSON, for trackers that take no others."""
    plain = {key: value for key, value in settings.as_plain().items() if value is not None}
    config = {key: json.dumps(value) if isinstance(value, (list, dict)) else value for key, value in plain.items()}
    accelerator.init_trackers("log", config=config)


def log_image(accelerator: Accelerator, name: str, picture: Tensor, step: int) -> None:
    """Sends a picture, (H, W, 3) in [0, 1], to the trackers that take some."""
    for tracker in accelerator.trackers:
        if tracker.name == "tensorboard":
            tracker.log_images({name: picture[None].numpy()}, step, dataformats="NHWC")
        elif hasattr(tracker, "log_images"):
            tracker.log_images({name: [(picture * 255).byte().numpy()]}, step)
