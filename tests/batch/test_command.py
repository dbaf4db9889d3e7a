"""python -m batch: its options, what it prints, how it ends."""

import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import batch.__main__
from batch import models
from batch.make import Maker
from batch.settings import Models

PACK = Path(__file__).resolve().parents[2]


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Options -> how the command ends, in this process."""
    lines = [{"prompt": "a blue bar spins", "steps": 1, "name": "good"}, {"promt": ""}]
    (tmp_path / "jobs.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    size = json.dumps({"width": 64, "height": 64, "length": 17})
    always = [str(tmp_path / "jobs.jsonl"), f"--output={tmp_path / 'out'}", f"--defaults={size}"]

    def call(*options):
        return batch.__main__.main([*always, *options])

    return call


def test_the_command(command, tmp_path, capsys, monkeypatch):
    with monkeypatch.context() as closed:
        closed.setattr(models, "open_model", lambda *_: pytest.fail("a model was opened"))
        assert command("--check") == 1
    assert capsys.readouterr().out == "1 jobs, 1 bad lines.\n" and not (tmp_path / "out").exists()
    assert command() == 1
    told = capsys.readouterr()
    assert "1 videos made, 0 were there already, 1 failed." in told.out
    assert 'line 2: "promt" is no setting, did you mean prompt?' in told.out
    assert told.err.startswith('line 2: "promt"')  # before the first video, too
    assert (tmp_path / "out" / "good.mp4").is_file()


@pytest.mark.parametrize(
    "wrong, said",
    [
        ("--dtype=fp16", "invalid choice 'fp16'"),
        ("--lroa=x", "Unrecognized options: --lroa"),
        ("--workers=two", "Error parsing --workers"),
        ("--lora=none.pt", "none.pt is not there"),
        ("--device=cdua", '"cdua" is no device'),
        ("--defaults={", "--defaults is not valid JSON"),
        ("--output=nosuch://x", "nosuch://x cannot be opened"),
        ("--defaults=[]", "--defaults must be a JSON object, not []"),
        ("--workers=-1", "-1 workers were asked for"),
        ("--model=nowhere", "nowhere is no Diffusers folder"),
        (f"--output={__file__}", "File exists"),
        ("--alpha=nan", "was given with the strength nan"),
        ("--ulysses=0", "--ulysses 0 and --ring 1 were given: give 1 or more of each"),
    ],
)
def test_wrong_options_are_told(command, wrong, said, capsys):
    with pytest.raises(SystemExit) as end:
        command(wrong)
    assert said in f"{end.value} {capsys.readouterr().err}"


def test_a_stopped_command_goes_on(command, monkeypatch, capsys):
    with monkeypatch.context() as stopped:
        stopped.setattr(Maker, "make", lambda self, job, sources: (_ for _ in ()).throw(KeyboardInterrupt))
        assert command() == 130
    assert "goes on with what is missing" in capsys.readouterr().err
    assert command() == 1 and "1 videos made" in capsys.readouterr().out


def test_a_command_that_is_stopped_while_it_begins(command, monkeypatch, capsys):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Models, "resolved", stopped)
    assert command() == 130 and "goes on with what is missing" in capsys.readouterr().err


def test_it_is_a_module():
    told = subprocess.run([sys.executable, "-m", "batch", "--help"], cwd=PACK, capture_output=True, text=True)
    assert told.returncode == 0 and "--low-noise-lora" in told.stdout


def test_every_option_is_explained_without_torch():
    """Help is not worth the seconds that torch takes to import."""
    code = "import sys, batch.__main__ as m\ntry: m.main(['--help'])\nfinally: assert 'torch' not in sys.modules"
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=PACK, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"}
    )
    assert told.returncode == 0, told.stderr
    assert "--low-noise-extra-lora" in told.stdout
    for kind in (batch.__main__.Command, Models):
        for field in fields(kind):
            assert field.name == "models" or f"    {field.name}: " in kind.__doc__, field.name
