"""What the page and the core must agree on: one file, read by pytest and in the browser."""

import json
from pathlib import Path

CASES = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
