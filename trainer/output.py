"""The folder that a command writes to: what cannot be written is told in a sentence, and leaves nothing half-written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

from safetensors import SafetensorError

TORCH_WRITER = "inline_container"  # torch.save raises its failures as RuntimeErrors that name this file


class OutputError(Exception):
    """Files that cannot be written, which no clip is at fault for; the message is one sentence for the user."""


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Within it what is raised because files cannot be written becomes an OutputError."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and TORCH_WRITER not in str(error):
            raise
        raise OutputError(
            f"{folder} cannot be written to ({_reason(error)}): make room or give another --output; the same command goes on "
            "with what is there."
        ) from error


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error).partition("\n")[0]


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A file that takes its name when it is whole; its folder is made.

    Raises:
        OutputError: it cannot be written.
    """
    partial = path.with_suffix(".partial")
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Makes the folder and sees that files can be written to it, before there is anything to lose.

    Raises:
        OutputError: they cannot.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder) as probe:
            probe.write(b"1")
