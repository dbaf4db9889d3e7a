"""Folders for what is made: here, by a file:// URL, and in a file system of fsspec's."""

import os
import pickle
import stat
import sys
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from batch.folder import LocalFolder, RemoteFolder, RunStopped, open_folder

KINDS = ("{path}", "file://{path}", "memory://{path}")


@pytest.fixture(params=KINDS)
def folder(request, tmp_path):
    folder = open_folder(request.param.format(path=(tmp_path / "out").as_posix()))
    folder.create()
    yield folder
    MemoryFileSystem.store.clear()


def listed(folder):
    if isinstance(folder, LocalFolder):
        return sorted(os.listdir(folder.address))
    return sorted(path.rsplit("/", 1)[1] for path in folder.files.ls(folder.root, detail=False))


def test_what_is_written_is_read(folder):
    assert folder.existing(["a", "b"]) == set() and folder.read(["a"]) == {} and listed(folder) == []
    folder.write("a", b"1")
    folder.write("a", b"2")
    folder.write("c", b"3")
    assert folder.existing(["a", "b"]) == {"a"} and folder.read(["a", "b", "c"]) == {"a": b"2", "c": b"3"}
    with folder.local("a") as path:
        assert path.read_bytes() == b"2" and path.name == "a"
    assert listed(folder) == ["a", "c"]
    again = pickle.loads(pickle.dumps(open_folder(folder.address)))  # as a worker opens it
    assert again.read(["a"]) == {"a": b"2"}


def test_a_new_file_takes_the_place_of_the_old_one_and_of_what_told_of_it(folder):
    for content in (b"one", b"two"):
        folder.write("a.json", b"of the one before")
        with folder.new("a.mp4", "a.json") as file:
            file.write_bytes(content)
            assert folder.read(["a.mp4"]) == ({} if content == b"one" else {"a.mp4": b"one"})
        assert folder.read(["a.mp4", "a.json"]) == {"a.mp4": content}
    assert listed(folder) == ["a.mp4"]


@pytest.mark.parametrize(
    "error, raised", [(OSError("No space left on device"), RunStopped), (ValueError("bad job"), ValueError)]
)
def test_a_file_that_is_not_whole_changes_nothing(folder, error, raised):
    folder.write("a.mp4", b"old")
    folder.write("a.json", b"old")
    with pytest.raises(raised, match=str(error)), folder.new("a.mp4", "a.json") as file:
        file.write_bytes(b"half")
        raise error
    assert folder.read(["a.mp4", "a.json"]) == {"a.mp4": b"old", "a.json": b"old"} and listed(folder) == ["a.json", "a.mp4"]


def test_a_transfer_that_breaks_changes_nothing(tmp_path, monkeypatch):
    folder = open_folder("memory:///out")
    folder.create()
    folder.write("a.mp4", b"old")

    def broken(*args, **kwargs):
        raise ConnectionError("the line is dead")

    monkeypatch.setattr(MemoryFileSystem, "put_file", broken)
    with (
        pytest.raises(
            RunStopped, match="memory:///out cannot be written to .ConnectionError: the line is dead.: make room or"
        ),
        folder.new("a.mp4", "a.json") as file,
    ):
        file.write_bytes(b"new")
    assert folder.read(["a.mp4"]) == {"a.mp4": b"old"}
    monkeypatch.setattr(MemoryFileSystem, "pipe_file", broken)
    for write in (folder.create, lambda: folder.write("a.json", b"")):
        with pytest.raises(RunStopped, match="the line is dead"):
            write()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/dev/full and /proc are Linux's")
def test_a_full_disk_and_a_folder_that_takes_no_files(tmp_path):
    folder = open_folder(tmp_path)
    (tmp_path / f"a.json.{os.getpid()}.part").symlink_to("/dev/full")
    with pytest.raises(RunStopped, match="cannot be written to .OSError: .*No space left on device"):
        folder.write("a.json", b"1")
    assert listed(folder) == []
    with pytest.raises(RunStopped, match="/proc cannot be written to"):
        open_folder("/proc").create()
    with pytest.raises(RunStopped, match="cannot be written to"):
        open_folder(Path(__file__) / "inside").create()


@pytest.mark.skipif(os.name != "posix", reason="there are no modes")
@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_modes_follow_the_umask(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        folder = open_folder(tmp_path / "out")
        folder.create()
        folder.write("a.json", b"1")
        with folder.new("a.mp4", "a.json") as file:
            file.write_bytes(b"1")
        folder.write("a.json", b"1")
    finally:
        os.umask(before)
    assert {stat.S_IMODE((tmp_path / "out" / name).stat().st_mode) for name in ("a.mp4", "a.json")} == {mode}


def test_addresses(tmp_path, monkeypatch):
    assert open_folder(f"file://{tmp_path}") == open_folder(tmp_path) == open_folder(str(tmp_path))
    assert isinstance(open_folder("memory://x"), RemoteFolder)
    with pytest.raises(ValueError, match="nosuch://x cannot be opened .Protocol not known"):
        open_folder("nosuch://x")
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(ValueError, match=r'needs fsspec, which is not installed: pip install "\.\[remote\]"'):
        open_folder("s3://x")
