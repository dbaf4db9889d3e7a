"""Where videos, sidecars and the report go: a folder here or one that fsspec reaches. Files are whole or not there."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile, gettempdir
from typing import Any, Protocol


class RunStopped(Exception):
    """Something that no job is at fault for and that every job would meet; the message is one sentence for the user."""


class Folder(Protocol):
    """Files by name. All that writes raises RunStopped where it cannot."""

    @property
    def address(self) -> str:
        """The path or URL that opens it."""

    def create(self) -> None:
        """Makes it, and sees that files can be written to it."""

    def read(self, names: Iterable[str]) -> dict[str, bytes]:
        """Of those that are there."""

    def existing(self, names: Iterable[str]) -> set[str]: ...

    def write(self, name: str, content: bytes) -> None: ...

    def new(self, name: str, sidecar: str) -> AbstractContextManager[Path]:
        """A context with the path of a file to write. It takes its name at the end, unless something was raised; the
        sidecar of what had that name goes first."""

    def local(self, name: str) -> AbstractContextManager[Path]:
        """A context with the path of a file to read."""

    def on_the_way(self, name: str) -> Path:
        """A folder for what a video that takes long needs to be gone on with; nobody else writes there."""


def open_folder(address: str | Path) -> Folder:
    """The folder of a path, or of a URL that fsspec knows, as s3://bucket/videos.

    Raises:
        ValueError: fsspec does not know it, or lacks a package for it.
    """
    if "://" not in str(address):
        return LocalFolder(str(Path(address).resolve()))
    try:
        from fsspec.core import url_to_fs
        from fsspec.implementations.local import LocalFileSystem
    except ImportError as error:
        raise ValueError('An --output with "://" needs fsspec, which is not installed: pip install ".[remote]"') from error
    try:
        files, root = url_to_fs(str(address))
    except (ImportError, ValueError) as error:
        raise ValueError(f"{address} cannot be opened ({error}): check the address, or install what is named.") from error
    return LocalFolder(root) if isinstance(files, LocalFileSystem) else RemoteFolder(str(address), files, root)


@contextmanager
def _writing(folder: Folder, *errors: type[Exception]) -> Iterator[None]:
    try:
        yield
    except errors as error:
        raise RunStopped(
            f"{folder.address} cannot be written to ({type(error).__name__}: {error}): make room or give another --output; "
            "the same command goes on with what is missing."
        ) from error


@dataclass(frozen=True)
class LocalFolder:
    address: str

    @property
    def path(self) -> Path:
        return Path(self.address)

    def create(self) -> None:
        with _writing(self, OSError):
            self.path.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=self.path) as probe:
                probe.write(b"1")

    def read(self, names: Iterable[str]) -> dict[str, bytes]:
        return {name: (self.path / name).read_bytes() for name in self.existing(names)}

    def existing(self, names: Iterable[str]) -> set[str]:
        return {name for name in names if (self.path / name).is_file()}

    def write(self, name: str, content: bytes) -> None:
        with _writing(self, OSError), self._part(name) as part:
            part.write_bytes(content)

    @contextmanager
    def new(self, name: str, sidecar: str) -> Iterator[Path]:
        with _writing(self, OSError), self._part(name) as part:
            yield part
            (self.path / sidecar).unlink(missing_ok=True)

    @contextmanager
    def _part(self, name: str) -> Iterator[Path]:
        """A file that becomes the named one; made by whoever writes it, so that its mode follows the umask."""
        part = self.path / f"{name}.{os.getpid()}.part"
        try:
            yield part
            part.replace(self.path / name)
        finally:
            part.unlink(missing_ok=True)

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        yield self.path / name

    def on_the_way(self, name: str) -> Path:
        return self.path / f"{name}.part"


@dataclass(frozen=True)
class RemoteFolder:
    """Files are written here first and then sent: under another name, which no reader takes for the whole.

    Attributes:
        files: a file system of fsspec's.
        root: the folder's path in it.
    """

    address: str
    files: Any
    root: str

    def create(self) -> None:
        with _writing(self, Exception):
            self.files.makedirs(self.root, exist_ok=True)
            probe = self._at(f".{platform.node()}.{os.getpid()}.probe")
            self.files.pipe_file(probe, b"1")
            self.files.rm_file(probe)

    def _at(self, name: str) -> str:
        return f"{self.root.rstrip('/')}/{name}"

    def read(self, names: Iterable[str]) -> dict[str, bytes]:
        paths = {self._at(name): name for name in self.existing(names)}
        contents = self.files.cat(list(paths), on_error="omit") if paths else {}
        return {paths[path]: content for path, content in contents.items()}

    def existing(self, names: Iterable[str]) -> set[str]:
        self.files.invalidate_cache()
        try:
            listed = {path.rsplit("/", 1)[-1] for path in self.files.ls(self.root, detail=False)}
        except FileNotFoundError:
            return set()
        return listed & set(names)

    def write(self, name: str, content: bytes) -> None:
        with _writing(self, Exception):
            self.files.pipe_file(self._at(name), content)

    @contextmanager
    def new(self, name: str, sidecar: str) -> Iterator[Path]:
        with _writing(self, OSError), TemporaryDirectory() as here:
            yield (file := Path(here, name))
            with _writing(self, Exception):
                self._send(file, name, sidecar)

    def _send(self, file: Path, name: str, sidecar: str) -> None:
        part = self._at(f"{name}.part")
        self.files.put_file(str(file), part)
        for old in (sidecar, name):
            if self.files.exists(self._at(old)):
                self.files.rm_file(self._at(old))
        self.files.mv(part, self._at(name))

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        with TemporaryDirectory() as here:
            file = Path(here, name)
            self.files.get_file(self._at(name), str(file))
            yield file

    def on_the_way(self, name: str) -> Path:
        """On this machine."""
        address = hashlib.sha256(self.address.encode()).hexdigest()[:16]
        return Path(gettempdir(), f"pusa_batch_{address}", name)
