"""The trainer's cache of clips."""

import json
from types import SimpleNamespace

import pytest
import torch

from trainer import cache as caching
from trainer.data import NEGATIVE, ClipCache, PackedText, read_text, read_told, sample_index, save_clip

TEXT = PackedText.pack(torch.ones(2, 4))


def test_a_clip_comes_back(tmp_path):
    latent, text = torch.randn(16, 2, 4, 4), torch.zeros(10, 6)
    text[:3] = torch.arange(18.0).view(3, 6)
    save_clip(tmp_path / "a.safetensors", latent, PackedText.pack(text), {"caption": "hello"})
    clips = ClipCache(tmp_path)
    assert clips.shape == (16, 2, 4, 4) and read_told(clips.paths[0])["caption"] == "hello"
    torch.testing.assert_close(clips[0].latent, latent, rtol=1e-3, atol=1e-3)
    assert clips[0].text.equal(text)  # the padding too, which a model attends to


def test_an_empty_text_keeps_its_length(tmp_path):
    save_clip(tmp_path / f"{NEGATIVE}.safetensors", None, PackedText.pack(torch.zeros(7, 6)), {})
    assert read_text(tmp_path / f"{NEGATIVE}.safetensors").equal(torch.zeros(7, 6))


def test_no_clips(tmp_path):
    with pytest.raises(ValueError, match="holds no cached clips"):
        ClipCache(tmp_path)


def test_clips_of_different_sizes(tmp_path):
    for name, frames in (("a", 2), ("b", 3)):
        save_clip(tmp_path / f"{name}.safetensors", torch.randn(16, frames, 4, 4), TEXT, {})
    with pytest.raises(ValueError, match="clips of different sizes"):
        ClipCache(tmp_path)


def test_a_damaged_clip_is_named(tmp_path):
    save_clip(tmp_path / "a.safetensors", torch.randn(16, 2, 4, 4), TEXT, {})
    (tmp_path / "b.safetensors").write_bytes(b"not a clip")
    with pytest.raises(ValueError, match="b.safetensors is no cached clip"):
        ClipCache(tmp_path)


def test_every_clip_once_before_any_comes_again():
    for epoch in range(3):
        assert sorted(sample_index(epoch * 7 + i, 7, seed=3) for i in range(7)) == list(range(7))
    orders = [[sample_index(epoch * 7 + i, 7, seed=3) for i in range(7)] for epoch in range(3)]
    assert orders[0] != orders[1] != orders[2]


# --- finding and encoding clips ------------------------------------------------------------------------------------------


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("one.mp4", "two.mp4"):
        (folder / name).write_bytes(name.encode())
        (folder / name).with_suffix(".txt").write_text(f" caption of {name}\n", encoding="utf-8")
    return folder


def test_captions_beside_clips_and_in_a_list(videos):
    (videos / "three.webm").write_bytes(b"3")
    line = json.dumps({"file_name": "three.webm", "text": "third"})
    (videos / "metadata.jsonl").write_text(f"{line}\n\n", encoding="utf-8")
    found = {source.path.name: source.caption for source in caching.find_clips(videos)}
    assert found == {"one.mp4": "caption of one.mp4", "two.mp4": "caption of two.mp4", "three.webm": "third"}


def test_a_clip_without_a_caption_is_named(videos):
    (videos / "three.mov").write_bytes(b"3")
    with pytest.raises(ValueError, match=r"1 of 3 clips have no caption, three.mov for one"):
        caching.find_clips(videos)


def test_a_broken_list_names_its_line(videos):
    (videos / "metadata.jsonl").write_text('{"file_name": "a"}\n', encoding="utf-8")
    with pytest.raises(ValueError, match="Line 1 of .*metadata.jsonl"):
        caching.find_clips(videos)


def test_a_folder_without_videos(tmp_path):
    with pytest.raises(ValueError, match="holds no videos"):
        caching.find_clips(tmp_path)


def run_cache(videos, folder, failing=(), text=TEXT, **settings):
    read = []

    def pictures(source):
        read.append(source.path.name)
        if source.path.name in failing:
            raise ValueError(f"{source.path.name} is too short")
        return torch.zeros(5, 8, 8, 3)

    sources = caching.stale(caching.find_clips(videos), folder, settings)
    texts = {source.caption: text for source in sources}
    failed = caching.cache_clips(sources, folder, pictures, lambda pictures: torch.ones(16, 2, 1, 1), texts, settings)
    return SimpleNamespace(read=read, failed=failed)


def test_what_is_cached_is_not_encoded_again(videos, tmp_path):
    folder = tmp_path / "cache"
    assert run_cache(videos, folder, size=1).read == ["one.mp4", "two.mp4"]
    assert run_cache(videos, folder, size=1).read == []
    digest = ClipCache(folder).digest
    (videos / "two.txt").write_text("another caption", encoding="utf-8")
    assert run_cache(videos, folder, size=1).read == ["two.mp4"]
    assert run_cache(videos, folder, size=2).read == ["one.mp4", "two.mp4"]
    assert read_told(folder / "two.safetensors")["caption"] == "another caption"
    assert ClipCache(folder).digest != digest


def test_one_bad_clip_does_not_stop_the_rest_and_is_not_trained_on(videos, tmp_path):
    run_cache(videos, tmp_path / "cache", size=1)
    ran = run_cache(videos, tmp_path / "cache", failing={"one.mp4"}, size=2)
    assert ran.failed == ["one.mp4 is too short"]
    assert [path.stem for path in ClipCache(tmp_path / "cache").paths] == ["two"]


def test_a_caption_that_is_too_long_is_named(videos, tmp_path):
    ran = run_cache(videos, tmp_path / "cache", text=PackedText(TEXT.used, 700))
    assert "one.mp4 has a caption of 700 tokens, over 512" in ran.failed[0]


def test_captions_from_windows(videos):
    (videos / "one.txt").write_bytes("\ufeffcaf\u00e9".encode())
    assert caching.find_clips(videos)[0].caption == "caf\u00e9"
    (videos / "one.txt").write_bytes("caf\u00e9".encode("cp1252"))
    with pytest.raises(ValueError, match="one.txt is not UTF-8 text"):
        caching.find_clips(videos)


def test_two_clips_of_one_name(videos):
    (videos / "one.webm").write_bytes(b"1")
    with pytest.raises(ValueError, match="Two clips are called one"):
        caching.find_clips(videos)
