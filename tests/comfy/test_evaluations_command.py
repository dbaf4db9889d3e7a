"""benchmarks/evaluations.py --prompt: what is said of a prompt that cannot be compared, before any server is asked."""

import json
import sys

import pytest

from environment.comfyui import PACK

SAMPLER = {"class_type": "PusaKSampler", "inputs": {}}


@pytest.fixture
def command(comfyui, monkeypatch):
    """The command as a module, whose options `command.run` takes."""
    monkeypatch.syspath_prepend(PACK / "benchmarks")
    import evaluations

    def run(*options):
        monkeypatch.setattr(sys, "argv", ["evaluations.py", *map(str, options)])
        with pytest.raises(SystemExit) as end:
            evaluations.main()
        return str(end.value)

    return run


@pytest.mark.parametrize(
    "content, said",
    [
        (b"", "prompt.json cannot be read (Expecting value"),
        (b"\xff\xfe", "prompt.json cannot be read ('utf-8' codec"),
        (json.dumps({"last_node_id": 3, "nodes": [], "links": []}).encode(), "but perhaps a workflow"),
        (b"[]", "is no API prompt"),
        (json.dumps({"1": {**SAMPLER, "class_type": "KSampler"}}).encode(), "has 0 Pusa KSamplers"),
    ],
)
def test_prompts_that_are_none(command, tmp_path, content, said):
    (tmp_path / "prompt.json").write_bytes(content)
    assert said in command("--prompt", tmp_path / "prompt.json")


def test_a_prompt_that_is_not_there(command, tmp_path):
    assert "none.json cannot be read ([Errno 2]" in command("--prompt", tmp_path / "none.json")


def test_evaluations_that_are_no_numbers(command, tmp_path):
    (tmp_path / "prompt.json").write_text(json.dumps({"1": SAMPLER}))
    told = command("--prompt", tmp_path / "prompt.json", "--evaluations", "4 bis 8")
    assert told.startswith("--evaluations: ") and "4 bis 8" in told


def test_a_server_that_is_not_there(command, tmp_path):
    (tmp_path / "prompt.json").write_text(json.dumps({"1": SAMPLER}))
    told = command("--prompt", tmp_path / "prompt.json", "--server", "127.0.0.1:9")
    assert told.startswith("No ComfyUI answers at http://127.0.0.1:9")
