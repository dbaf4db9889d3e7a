"""ComfyUI's server, if there is one: programs import ComfyUI without it."""

from __future__ import annotations

import sys
from typing import Any


def running_server() -> Any | None:
    """The PromptServer of this process."""
    return getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
