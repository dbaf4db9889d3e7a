"""Loops on the real ComfyUI: the second turn against a decode of the whole, and the node."""

import logging
from functools import partial

import pytest
import torch

from tests import tiny

pytestmark = pytest.mark.usefixtures("inference_mode")
LATENTS = 5


@pytest.fixture(scope="module")
def vae(comfyui, tmp_path_factory):
    return tiny.load_vae(tiny.write_vae(tmp_path_factory.mktemp("vae") / "vae.safetensors", 16))


def test_the_second_turn_is_that_of_a_whole_decode(pack, wan, vae, text):
    """Two turns decoded at once hold the loop's pictures; those of the first turn know nothing of the end."""
    core, host = pack.pusa_core, pack.pusa_core.hosts.comfyui.long_video
    guidance = host.Guidance(lambda frame: text.positive, text.negative, 1.0)
    studio = host.long_video_studio(wan, vae, guidance, 7, (1, 16, 8, 8))
    staircase = core.staircase.Staircase(3, 5.0, 1, window=core.staircase.Window(5, (0,)))
    made = list(core.loop.Loop(staircase, LATENTS, None, studio, 1))
    latents = [m.latent for m in made]
    pictures = torch.cat([*core.loop.turn(latents[2:], studio.decode, made[-1].pictures)], 1)
    whole = vae.decode(wan.model.latent_format.process_out(torch.cat([*latents, *latents[2:]], 2)))
    assert pictures.shape == (1, 4 * LATENTS, 64, 64, 3)
    torch.testing.assert_close(pictures, whole[:, -4 * LATENTS - 1 : -1], rtol=0, atol=1e-4)
    first = torch.cat([m.pictures for m in made[2:]], 1)
    assert not torch.allclose(pictures[:, 1:4], first[:, :3], atol=1e-2)


@pytest.fixture
def make(pack, wan, vae, text, tmp_path, monkeypatch):
    """make(**changed inputs) -> (pictures of the file that the node wrote, report)."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    monkeypatch.setattr(pack.nodes.loop, "VideoWriter", partial(pack.nodes.loop.VideoWriter, quality=0))  # without loss
    inputs = {
        "model": wan, "positive": text.positive, "negative": text.negative, "vae": vae, "width": 64, "height": 64,
        "length": 4 * LATENTS, "lead_in": 4, "fps": 8.0, "seed": 1, "cfg": 1.0, "moving_frames": 3, "steps": 1,
        "shift": 5.0, "blend": 8, "resize": "crop", "filename_prefix": "video/loop",
    }  # fmt: skip

    def run(**changed):
        output = pack.nodes.loop.PusaLoop.execute(**{**inputs, **changed})
        [shown] = output.ui.as_dict()["images"]
        assert (tmp_path / shown["subfolder"] / shown["filename"]).is_file()
        return output.args[0].get_components().images, output.args[1]

    return run


def picture(seed=0, count=1):
    return torch.rand(count, 48, 64, 3, generator=torch.Generator().manual_seed(seed))


def test_the_node(make, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        from_text, report = make()
    assert any(record.message.startswith("Pusa Loop: frames are written to ") for record in caplog.records)
    assert from_text.shape == (4 * LATENTS, 64, 64, 3)
    assert report.startswith("Over the seam the picture changes ")
    assert [p.name for p in tmp_path.rglob("*.mp4")] == ["loop_00001_.mp4"]
    from_picture, _ = make(image=picture())
    assert from_picture.shape == from_text.shape and not torch.allclose(from_picture, from_text, atol=0.05)
    assert not list((tmp_path / "pusa_long_video").iterdir())


def test_the_node_shows_its_report_at_the_end(pack, make, monkeypatch):
    shown = []
    monkeypatch.setattr(pack.nodes.rolling, "send_progress", lambda _, words: shown.append(words))
    _, report = make()
    assert "frames; about" in shown[-2] and shown[-1] == report


def test_prompts_go_round(pack, make, text, monkeypatch):
    """Frames are the loop's; what leads into it is guided as its end is."""
    guided, studio = [], pack.nodes.loop.long_video_studio
    monkeypatch.setattr(pack.nodes.loop, "long_video_studio", lambda *args: guided.append(args[2].positive) or studio(*args))
    other = pack.nodes.long_video.PusaPromptFromFrame.execute(text.negative, 8, text.positive).args[0]
    make(positive=other, blend=0)
    [positive] = guided
    texts = [positive(frame)[0][0] for frame in (4, 11, 12, 23, 0, 24)]
    first, second = text.positive[0][0], text.negative[0][0]
    assert [shown is first for shown in texts] == [True, True, False, False, False, True]
    assert texts[2] is texts[4] is second


def test_a_seam_that_shows_is_told(pack):
    seam = pack.pusa_core.loop.Seam()
    seam.steps = [0.2, 0.1, 0.1]
    assert "changes 2.0 times as much" in pack.nodes.loop._about(seam) and "It may show" in pack.nodes.loop._about(seam)
    seam.steps = [0.11, 0.1, 0.1]
    assert "It may show" not in pack.nodes.loop._about(seam)


def test_a_loop_that_was_stopped_goes_on(pack, make, monkeypatch):
    """Interrupted in its second turn, where all is sampled: nothing is sampled again."""
    import comfy.model_management

    whole, report = make()
    turn = pack.nodes.loop.turn

    def interrupted(*args):
        comfy.model_management.interrupt_current_processing()
        yield from turn(*args)

    with monkeypatch.context() as patched:
        patched.setattr(pack.nodes.loop, "turn", interrupted)
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            make()
    monkeypatch.setattr(pack.pusa_core.hosts.comfyui.long_video._Sampler, "__call__", lambda *_: pytest.fail("sampled again"))
    again, said = make()
    assert torch.equal(again, whole) and said == report


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"image": picture(count=2)}, "begins from one image, but 2 were given"),
        ({"image": 3}, "The input image got '3', but takes images"),
        ({"length": 22}, "A length of 22 frames was given, .* use 20 or 24"),
        ({"lead_in": 6}, "A lead_in of 6 frames was given, .* use 4 or 8"),
        ({"length": 12}, "too short for a window of 4 latent frames: make it 16 frames or longer"),
        ({"width": 60}, "both must be multiples of 8"),
        ({"filename_prefix": "../loop"}, r"The filename_prefix '../loop' leads out of ComfyUI's output folder: give"),
    ],
)
def test_bad_input(make, tmp_path, changed, message):
    with pytest.raises(ValueError, match=message):
        make(**changed)
    assert not list(tmp_path.iterdir())
