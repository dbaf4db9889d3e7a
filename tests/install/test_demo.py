"""What the demo says before it sets anything up."""

import pytest

from tests.server.shared import demo


@pytest.mark.parametrize(
    "named, asked, words",
    [
        ("comfyui", None, "made with the ComfyUI in {folder}."),
        ("comfyui", "diffusers", "made with Diffusers, as PUSA_DEMO_HOST says."),
        ("nothing", None, "made with Diffusers, because no ComfyUI was found. COMFYUI_PATH={folder} holds no main.py"),
    ],
)
def test_it_says_what_makes_the_clips(tmp_path, monkeypatch, named, asked, words):
    (tmp_path / "comfyui" / "comfy").mkdir(parents=True)
    (tmp_path / "comfyui" / "main.py").touch()
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path / named))
    monkeypatch.delenv("PUSA_DEMO_HOST", raising=False)
    if asked:
        monkeypatch.setenv("PUSA_DEMO_HOST", asked)
    assert words.format(folder=tmp_path / named) in demo.where()
