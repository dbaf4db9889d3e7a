"""All shared workflows."""

from __future__ import annotations

from collections.abc import Iterator

import at_full_size
import from_clips
import longer
import recipes
from litegraph import Workflow
from notes import note

TITLES = recipes.TITLES | longer.TITLES | from_clips.TITLES | at_full_size.TITLES


def workflows() -> Iterator[Workflow]:
    for describe, title in TITLES.items():
        workflow = Workflow(describe.__name__, longer.MORE_DOWNLOADS, title=title)
        describe(workflow)
        workflow.note = note(workflow, describe.__doc__ or "")
        yield workflow
