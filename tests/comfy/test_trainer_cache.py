"""The trainer's cache made by a real ComfyUI: videos from disk, through the stock VAE."""

from argparse import Namespace

import pytest

pytest.importorskip("accelerate", reason="the trainer's packages are not installed: pip install .[train]")

import av  # noqa: E402
import torch  # noqa: E402

from demo_model import VAE  # noqa: E402
from demo_model.studio import Studio  # noqa: E402
from demo_model.text import encode  # noqa: E402
from demo_model.world import draw, scene  # noqa: E402
from trainer import cache as caching  # noqa: E402
from trainer.data import ClipCache, PackedText  # noqa: E402


def write_video(path, frames, fps=16):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "5"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv444p"
        for frame in (frames * 255).byte().numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode())


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for i in range(2):
        one = scene(i)
        write_video(folder / f"{i}.mp4", draw([one])[0])
        (folder / f"{i}.txt").write_text(one.caption, encoding="utf-8")
    return folder


@pytest.fixture
def options(videos, tmp_path, monkeypatch, comfyui):
    # Wan's text encoder has one size, 5.7 billion weights: the demo model's stands in for it.
    monkeypatch.setattr(
        caching, "_encode_texts", lambda path, texts: {text: PackedText.pack(encode(text)[0]) for text in texts}
    )
    return Namespace(
        clips=videos,
        output=tmp_path / "cache",
        vae=VAE,
        text_encoder=VAE,
        length=17,
        width=64,
        height=64,
        fps=None,
        negative="",
    )


def test_videos_become_latents(options, inference_mode):
    caching.main(options)
    from comfy.latent_formats import Wan21

    clips = ClipCache(options.output)
    assert len(clips) == 2 and clips.shape == (16, 5, 8, 8)
    expected = Wan21().process_in(Studio().encode(draw([scene(1)])[0]).float())[0]
    assert (clips[1].latent - expected).norm() < 0.1 * expected.norm()  # what the video's compression changes
    assert clips[1].text.equal(encode(scene(1).caption)[0])
    assert not clips.negative().any()

    back = caching.picture_decoder(VAE, 16)(clips[1].latent)
    assert -10 * (back - draw([scene(1)])[0]).square().mean().log10() > 25


def test_frames_are_taken_at_another_rate(videos, comfyui):
    every, second = (caching.read_clip(videos / "0.mp4", 9, 64, 64, fps) for fps in (None, 8))
    assert every.shape == (9, 64, 64, 3)
    torch.testing.assert_close(second[:5], every[::2])


def test_clips_are_cropped_to_the_size(videos, comfyui):
    assert caching.read_clip(videos / "0.mp4", 5, 32, 64, None).shape == (5, 64, 32, 3)


def test_a_short_clip_is_left_out_and_named(options, videos, capsys, inference_mode):
    write_video(videos / "short.mp4", draw([scene(3)])[0][:9])
    (videos / "short.txt").write_text("a red circle", encoding="utf-8")
    (videos / "broken.mp4").write_bytes(b"not a video")
    (videos / "broken.txt").write_text("a red circle", encoding="utf-8")
    caching.main(options)
    said = capsys.readouterr().out
    assert "2 of 4 clips are cached" in said
    assert "short.mp4 has 9 frames at 16 a second, but 17 are needed" in said
    assert "broken.mp4 cannot be read" in said


@pytest.mark.parametrize("wrong, said", [({"length": 16}, "not 4n\\+1"), ({"width": 72}, "multiples of 16: use 64x64|80x64")])
def test_sizes_that_the_vae_cannot_take(options, wrong, said):
    with pytest.raises(ValueError, match=said):
        caching.main(Namespace(**{**vars(options), **wrong}))


def test_nothing_could_be_cached(options, videos, inference_mode):
    for path in videos.glob("*.mp4"):
        path.write_bytes(b"not a video")
    with pytest.raises(ValueError, match="No clip could be cached"):
        caching.main(options)


def test_a_rate_that_the_video_does_not_have(videos, comfyui):
    with pytest.raises(ValueError, match="16 frames a second, fewer than --fps 24"):
        caching.read_clip(videos / "0.mp4", 9, 64, 64, 24)


def test_clips_of_removed_videos_are_named(options, videos, capsys, inference_mode):
    caching.main(options)
    (videos / "0.mp4").unlink()
    caching.main(options)
    assert "1 cached clips are of no video" in capsys.readouterr().out


def test_missing_files_are_named(options, tmp_path):
    with pytest.raises(ValueError, match="nowhere.safetensors is not there"):
        caching.main(Namespace(**{**vars(options), "vae": tmp_path / "nowhere.safetensors"}))
