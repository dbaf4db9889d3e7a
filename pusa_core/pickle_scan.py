"""Looks through a torch file's pickles before anything of them is unpickled.

torch.load(weights_only=True) runs no code, but a few kilobytes can still keep it busy for minutes or fill the memory: tuples
of tuples whose hash takes for ever, copies of copies, compressed zeros. The pickle of a state dict needs none of that.
"""

from __future__ import annotations

import pickle
import pickletools
import re
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

from .messages import say

MAX_BYTES = 2**24  # of a pickle, which holds all but the tensors' numbers
MAX_OPCODES = 200_000  # a tensor takes about 40
MAX_TUPLE = 1_000  # entries of a tuple, those of the tuples in it counted as well
MAX_STATES = 16  # objects with attributes; a state dict is one
LEGACY_PICKLES = 5  # magic number, version, system, the content, the keys of the storages

CODE = {"STACK_GLOBAL", "INST", "OBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "PERSID"}  # torch uses GLOBAL alone
ORDERED_DICT = "collections OrderedDict"
_ALLOWED = re.compile(
    rf"{ORDERED_DICT}|torch(\.cuda)? [A-Za-z0-9]+Storage|torch\.storage (Typed|Untyped)Storage"
    r"|torch (b?float|complex|q?u?int)[0-9a-z_]*|torch (bool|device|Size)|torch\.serialization _get_layout"
    r"|torch\._utils _rebuild_(tensor(_v[23])?|parameter|qtensor|sparse_tensor|meta_tensor_no_storage)"
    r"|torch\.nn\.parameter Parameter"
)


class TooMuch(ValueError):
    """A pickle that asks for more than tensors need; the message says how, after "what it holds"."""


def scan(path: Path, is_zip: bool) -> None:
    """Refuses a torch file whose pickles are more than a state dict's.

    Raises:
        TooMuch: they are too long, nested or compressed.
        pickle.UnpicklingError: they hold code or objects that are not plain tensors.
        ValueError, IndexError, zipfile.BadZipFile: they are damaged.
    """
    left = iter(range(MAX_OPCODES))
    for content in _zipped(path) if is_zip else _legacy(path):
        machine = _Machine()
        for opcode, argument, _ in pickletools.genops(content):
            if next(left, None) is None:
                raise TooMuch(say("is too long"))
            machine.step(opcode, argument)


def _legacy(path: Path) -> Iterator[BytesIO]:
    """The pickles that a file without a zip begins with, one behind the other."""
    with path.open("rb") as file:
        content = BytesIO(file.read(MAX_BYTES))
    for _ in range(LEGACY_PICKLES):
        yield content


def _zipped(path: Path) -> Iterator[BytesIO]:
    """The pickles of a zip file, of whose entries none may be compressed: torch compresses none."""
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.compress_type != zipfile.ZIP_STORED:
                raise TooMuch(say("is compressed"))
            if entry.filename.endswith(".pkl"):
                if entry.file_size > MAX_BYTES:
                    raise TooMuch(say("is too long"))
                with archive.open(entry) as file:
                    yield BytesIO(file.read())


class _Machine:
    """Follows one pickle; a value on its stack is the size of a tuple, a class's or function's name, or a mark (None)."""

    def __init__(self) -> None:
        self.stack: list[int | str | None] = []
        self.memo: dict[int, int | str | None] = {}
        self.states = 0

    def step(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif opcode.name in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif opcode.name == "MARK":
            self.stack.append(None)
        else:
            used = self.take(opcode)
            self.check(opcode.name, argument, used)
            self.put(opcode, argument, used)

    def take(self, opcode: pickletools.OpcodeInfo) -> list[int | str | None]:
        """What an opcode takes off the stack, the last first."""
        before = opcode.stack_before
        if pickletools.stackslice not in before:
            return [self.stack.pop() for _ in before]
        used = []
        while (value := self.stack.pop()) is not None:
            used.append(value)
        return used + [self.stack.pop() for _ in range(before.index(pickletools.markobject))]

    def check(self, name: str, argument: Any, used: list[int | str | None]) -> None:
        if name in CODE or (name == "GLOBAL" and not _ALLOWED.fullmatch(argument)):
            raise pickle.UnpicklingError(f"{argument or name} is not allowed")
        if name == "REDUCE" and (used[1] == ORDERED_DICT and used[0] != 1 or used == [2, "torch Size"]):
            raise TooMuch(say("is copied"))  # Size of a list, not of a tuple, whose entries are counted
        self.states += name == "BUILD"
        if self.states > MAX_STATES:
            raise TooMuch(say("has too many attributes"))

    def put(self, opcode: pickletools.OpcodeInfo, argument: Any, used: list[int | str | None]) -> None:
        """What comes of what an opcode used up."""
        if opcode.name.startswith("TUPLE"):
            size = 1 + sum(value if isinstance(value, int) else 1 for value in used)
            if size > MAX_TUPLE:
                raise TooMuch(say("is nested too deeply"))
            self.stack.append(size)
        elif opcode.name == "GLOBAL":
            self.stack.append(argument)
        elif opcode.name == "DUP":
            self.stack += used * 2
        else:
            self.stack += [1] * len(opcode.stack_after)
