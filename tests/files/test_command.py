"""python -m pusa_files: its options, what it prints, how it ends."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

import pusa_files.__main__
from pusa_core.lora import read_lora
from pusa_core.provenance import merged_loras
from tests import tiny

PACK = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    tiny.write_wan(tmp_path / "wan.safetensors")
    tiny.write_lora(tmp_path / "pusa.safetensors", ranks=(4, 6))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*options):
    return pusa_files.__main__.main(options)


def test_compress(folder, capsys):
    assert call("compress", "pusa.safetensors", "small.safetensors", "--rank=3", "--modules") == 0
    told = capsys.readouterr().out
    assert "pusa.safetensors became small.safetensors" in told and "blocks.1.ffn.2\t3\t0." in told
    assert {module.rank for module in read_lora("small.safetensors").modules.values()} == {3}


def test_bake(folder, capsys):
    from safetensors import safe_open

    call("compress", "pusa.safetensors", "small.safetensors", "--energy=0.5")
    loras = ["--loras", "pusa.safetensors", "1.4", "small.safetensors", "0.5"]
    assert call("bake", "wan.safetensors", "new.safetensors", *loras) == 0
    told = capsys.readouterr().out
    assert "wan.safetensors with pusa.safetensors (1.4), small.safetensors (0.5)" in told
    assert "Warning: pusa.safetensors is on this model 2 times" in told, "the smaller one is the same LoRA"
    with safe_open("new.safetensors", "pt") as file:
        assert [lora.alpha for lora in merged_loras(file.metadata())] == [1.4, 0.5]


@pytest.mark.parametrize(
    "options, said",
    [
        (["compress", "none.pt", "new.safetensors", "--rank=2"], "none.pt is not there"),
        (["compress", "pusa.safetensors", "new.safetensors"], "Neither a rank nor an energy below 1"),
        (["compress", "pusa.safetensors", "pusa.safetensors", "--rank=2"], "pusa.safetensors exists already"),
        (["compress", "pusa.safetensors", "new.safetensors", "--rank=2", "--device=cdua"], '"cdua" is no device'),
        (["bake", "wan.safetensors", "new.safetensors", "--loras", "pusa.safetensors", "nan"], "with the strength nan"),
        (["bake", "wan.safetensors", "new.safetensors", "--loras", "pusa.safetensors", "inf"], "with the strength inf"),
        (["bake", "pusa.safetensors", "new.safetensors", "--loras", "pusa.safetensors", "1"], "pusa.safetensors is no Wan"),
        (["bake", "wan.safetensors", "no/new.safetensors", "--loras", "pusa.safetensors", "1"], "The folder no is not there"),
    ],
)
def test_faults_are_one_line(folder, options, said):
    with pytest.raises(SystemExit) as caught:
        call(*options)
    message = str(caught.value)
    assert message.startswith("error: ") and said in message and "\n" not in message.strip()
    assert not list(folder.glob("new*"))


def test_help_loads_no_torch():
    code = """
        import sys
        from pusa_files.__main__ import main
        for options in (["--help"], ["bake", "--help"], ["compress", "--help"]):
            try:
                main(options)
            except SystemExit:
                pass
        print("torch" in sys.modules)
    """
    made = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=PACK, capture_output=True, text=True)
    assert made.stdout.rstrip().endswith("False") and "fp8_scaled" in made.stdout, made.stderr


def test_a_killed_bake_leaves_no_file_of_that_name_and_the_next_one_is_whole(folder):
    """Killed as soon as it has begun to write."""
    tiny.write_wan(folder / "long.safetensors", layers=12)
    tiny.write_lora(folder / "long_lora.safetensors", layers=12)
    bake = ["bake", str(folder / "long.safetensors"), str(folder / "new.safetensors")]
    options = [*bake, "--loras", str(folder / "long_lora.safetensors"), "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "pusa_files", *options], cwd=PACK, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    until = time.monotonic() + 60
    while not (folder / "new.safetensors.part").exists() and time.monotonic() < until:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -9 and not (folder / "new.safetensors").exists()
    assert call(*options) == 0
    assert (folder / "new.safetensors").exists() and not (folder / "new.safetensors.part").exists()
