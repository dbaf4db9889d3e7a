"""What cannot be written: told in a sentence, and nothing is lost or left half-written."""

import json
import os
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import trainer.__main__ as program
from trainer.data import PackedText, save_clip
from trainer.lora import save_weights
from trainer.output import OutputError, make_folder
from trainer.settings import CacheSettings
from trainer.train import train

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of files and /proc are Linux's")


@contextmanager
def full_disk(size):
    """Within it no file grows beyond a size, whatever writes it."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("folder", ["/proc/run", os.path.abspath(__file__)])
def test_a_folder_that_takes_no_files(settings, folder):
    with pytest.raises(OutputError, match=f"{folder} cannot be written to .* give another --output"):
        train(replace(settings, output=Path(folder)))


def test_a_folder_is_tried_before_anything_is_made(tmp_path):
    make_folder(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    with pytest.raises(OutputError, match="/proc cannot be written to"):
        make_folder(Path("/proc"))


def test_a_clip_on_a_full_disk(tmp_path):
    text = PackedText.pack(torch.ones(8, 64))
    save_clip(tmp_path / "a.mp4.safetensors", torch.zeros(16, 3, 4, 4), text, {})
    before = (tmp_path / "a.mp4.safetensors").read_bytes()
    with full_disk(1000), pytest.raises(OutputError, match="cannot be written to .*too large.*: make room"):
        save_clip(tmp_path / "a.mp4.safetensors", torch.ones(16, 3, 4, 4), text, {})
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4.safetensors"]
    assert (tmp_path / "a.mp4.safetensors").read_bytes() == before


def test_a_lora_on_a_full_disk(tmp_path):
    with full_disk(1000), pytest.raises(OutputError, match="cannot be written to"):
        save_weights({"a": torch.zeros(10_000)}, tmp_path / "lora.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [20_000, 60_000])  # less than the LoRA, than the optimiser's states
def test_a_checkpoint_on_a_full_disk(settings, size):
    settings = replace(settings, trackers=())
    train(replace(settings, steps=2))
    noted = json.loads((settings.output / "settings.json").read_text())
    with full_disk(size), pytest.raises(OutputError, match="cannot be written to"):
        train(settings)
    assert sorted(path.name for path in settings.output.iterdir()) == [
        "checkpoint-000002", "pusa_lora.safetensors", "settings.json",
    ]  # fmt: skip
    assert json.loads((settings.output / "settings.json").read_text()) == {**noted, "steps": 4}
    assert train(settings).is_file()


def test_settings_are_kept_when_they_cannot_be_noted_again(settings):
    train(replace(settings, steps=2))
    noted = (settings.output / "settings.json").read_bytes()
    with full_disk(100), pytest.raises(OutputError, match="cannot be written to"):
        train(replace(settings, trackers=()))
    assert (settings.output / "settings.json").read_bytes() == noted


@pytest.mark.parametrize(
    "raised, said, code",
    [
        (OutputError("/full cannot be written to: make room."), "error: /full cannot be written to: make room.", 1),
        (PermissionError(13, "Permission denied", "a.txt"), "error: [Errno 13] Permission denied: 'a.txt'", 1),
        (KeyboardInterrupt(), "Stopped. The same command goes on with what is there.", 130),
    ],
)
def test_what_ends_a_command_is_a_sentence(monkeypatch, tmp_path, capsys, raised, said, code):
    def cache(settings: CacheSettings):
        raise raised

    monkeypatch.setattr("trainer.cache.cache", cache)
    monkeypatch.setattr(sys, "argv", ["trainer", "cache", "c", "--vae", "v", "--text-encoder", "t", "--output", "o"])
    with pytest.raises(SystemExit) as end:
        program.main()
    text = end.value.code if isinstance(end.value.code, str) else capsys.readouterr().err.strip()
    assert text == said and code == (1 if isinstance(end.value.code, str) else end.value.code)
