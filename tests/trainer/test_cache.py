"""Videos and captions -> cached clips, with a stand-in for the VAE and the text encoder."""

import json
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from pusa_core.video_files import write_video
from trainer import cache as caching
from trainer.data import ClipCache, PackedText, read_metadata
from trainer.settings import CacheSettings
from trainer.sources import find_clips, mixed_rates
from trainer.windows import bucket_sizes, nearest_size, read_source, read_windows

TEXT = PackedText.pack(torch.ones(2, 4))


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("one.mp4", "two.mp4"):
        (folder / name).write_bytes(name.encode())
        (folder / name).with_suffix(".txt").write_text(f" caption of {name}\n", encoding="utf-8")
    return folder


# --- finding clips -------------------------------------------------------------------------------------------------------


def test_captions_beside_clips_and_in_a_list(videos):
    (videos / "more").mkdir()
    (videos / "more" / "three.webm").write_bytes(b"3")
    line = json.dumps({"file_name": "more/three.webm", "text": "third"})
    (videos / "metadata.jsonl").write_text(f"{line}\n\n", encoding="utf-8")
    found = {source.name: source.caption for source in find_clips(videos)}
    assert found == {"one.mp4": "caption of one.mp4", "two.mp4": "caption of two.mp4", "more/three.webm": "third"}


def test_a_clip_without_a_caption_is_named(videos):
    (videos / "three.mov").write_bytes(b"3")
    with pytest.raises(ValueError, match=r"1 of 3 clips have no caption, three.mov for one"):
        find_clips(videos)


def test_a_broken_list_names_its_line(videos):
    (videos / "metadata.jsonl").write_text('{"file_name": "a"}\n', encoding="utf-8")
    with pytest.raises(ValueError, match="Line 1 of .*metadata.jsonl"):
        find_clips(videos)


def test_a_caption_that_is_no_text_is_none(videos):
    (videos / "metadata.jsonl").write_text('{"file_name": "one.mp4", "text": null}\n', encoding="utf-8")
    with pytest.raises(ValueError, match='Line 1 of .*metadata.jsonl is no object with "file_name" and "text"'):
        find_clips(videos)


def test_a_folder_without_videos(tmp_path):
    with pytest.raises(ValueError, match="holds no videos"):
        find_clips(tmp_path)


@pytest.mark.parametrize("name", ["nowhere", "one.mp4"])
def test_what_is_no_folder(videos, name):
    with pytest.raises(ValueError, match=f"{name} is not there, or is no folder"):
        find_clips(videos / name)


def test_what_is_no_clip_of_the_users(videos):
    """Files of macOS, and a folder that is named as a video."""
    (videos / "._one.mp4").write_bytes(b"Mac OS X")
    (videos / "cats.mp4").mkdir()
    assert [source.name for source in find_clips(videos)] == ["one.mp4", "two.mp4"]


def test_captions_from_windows(videos):
    (videos / "one.txt").write_bytes("\ufeffcaf\u00e9".encode())
    assert find_clips(videos)[0].caption == "caf\u00e9"
    (videos / "one.txt").write_bytes("caf\u00e9".encode("cp1252"))
    with pytest.raises(ValueError, match="one.txt is not UTF-8 text"):
        find_clips(videos)


# --- reading videos ------------------------------------------------------------------------------------------------------


def numbered(path, frames, fps=16, size=(32, 32)):
    """A video whose frame number shows as its brightness."""
    grey = torch.arange(frames).view(-1, 1, 1, 1) / 25 + 0.1
    write_video(path, grey.expand(-1, *reversed(size), 3), fps)
    return path


def first_frames(path, sizes=((32, 32),), first=0, **options):
    """The number of each window's first and last frame."""
    settings = CacheSettings(path.parent, path, "demo", path.parent, **{"width": 32, "height": 32, **options})
    windows = list(read_windows(path, settings, sizes, first))
    assert all(len(pictures) == settings.length for _, pictures in windows)
    return [(number, *(round(float(pictures[i].mean() - 0.1) * 25) for i in (0, -1))) for number, pictures in windows]


@pytest.mark.parametrize(
    "options, expected",
    [
        ({}, [(0, 0, 4), (1, 5, 9), (2, 10, 14)]),
        ({"windows": 1}, [(0, 0, 4)]),
        ({"windows": 2}, [(0, 0, 4), (1, 5, 9)]),
        ({"windows": 9}, [(0, 0, 4), (1, 5, 9), (2, 10, 14)]),
        ({"stride": 6}, [(0, 0, 4), (1, 6, 10), (2, 12, 16)]),
        ({"stride": 3, "windows": 3}, [(0, 0, 4), (1, 3, 7), (2, 6, 10)]),
        ({"fps": 8}, [(0, 0, 8)]),
        ({"first": 2}, [(2, 10, 14)]),
    ],
)
def test_a_long_video_gives_windows(tmp_path, options, expected):
    assert first_frames(numbered(tmp_path / "long.mp4", 17), length=5, **options) == expected


def test_a_video_that_is_too_short(tmp_path):
    path = numbered(tmp_path / "short.mp4", 9)
    with pytest.raises(ValueError, match="short.mp4 has 5 frames at 8 a second, but 9 are needed"):
        first_frames(path, length=9, fps=8)


def test_videos_of_one_rate_need_no_warning(tmp_path):
    for name, fps in (("a", 30), ("b", 29.97)):
        numbered(tmp_path / f"{name}.mp4", 3, fps).with_suffix(".txt").write_text("clip")
    assert mixed_rates(find_clips(tmp_path)) is None


def test_mixed_frame_rates_are_told(tmp_path):
    for name, fps in (("a", 30), ("b", 16), ("c", 16)):
        numbered(tmp_path / f"{name}.mp4", 3, fps).with_suffix(".txt").write_text("clip")
    (tmp_path / "d.mp4").write_bytes(b"no video")
    (tmp_path / "d.txt").write_text("clip")
    warning = mixed_rates(find_clips(tmp_path))
    assert "different frame rates, 16 (2 clips), 30 (1 clip)" in warning and "give --fps 16" in warning


# --- buckets -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked, multiple", [((832, 480), 16), ((1280, 704), 32), ((480, 480), 16), ((64, 64), 16)])
def test_buckets_have_the_area_and_are_what_the_vae_can_take(asked, multiple):
    sizes = bucket_sizes(*asked, multiple)
    assert sizes[0] == asked and any(w < h for w, h in sizes)
    for width, height in sizes:
        assert width % multiple == height % multiple == 0
        assert 0.7 < width * height / (asked[0] * asked[1]) <= 1


def test_the_buckets_of_480p():
    assert bucket_sizes(832, 480, 16) == [(832, 480), (480, 832), (720, 544), (624, 624), (544, 720)]


def test_tiny_areas_have_the_asked_size_alone():
    assert bucket_sizes(16, 16, 16) == [(16, 16)]


@pytest.mark.parametrize(
    "video, size",
    [((1920, 1080), (832, 480)), ((1080, 1920), (480, 832)), ((640, 480), (720, 544)), ((500, 500), (624, 624))],
)
def test_a_clip_goes_where_least_is_cut(video, size):
    assert nearest_size(bucket_sizes(832, 480, 16), *video) == size


def test_a_portrait_video_is_read_as_one(tmp_path):
    path = numbered(tmp_path / "tall.mp4", 5, size=(32, 64))
    settings = CacheSettings(tmp_path, path, "demo", tmp_path, length=5)
    sizes = [(64, 32), (32, 64)]
    assert [tuple(pictures.shape) for _, pictures in read_windows(path, settings, sizes)] == [(5, 64, 32, 3)]
    assert [tuple(pictures.shape) for _, pictures in read_windows(path, settings, sizes[:1])] == [(5, 32, 64, 3)]


# --- caching -------------------------------------------------------------------------------------------------------------


def run_cache(videos, folder, failing=(), text=TEXT, windows=1, broken_at=None, **encoding):
    """Caches with a VAE that fails at the window `broken_at`, as a killed run would."""
    read = []

    def pictures(source, first):
        read.append(source.name)
        if source.name in failing:
            raise ValueError(f"{source.name} is too short")
        return ((window, torch.full((5, 8, 8, 3), float(window))) for window in range(first, windows))

    def encode(pictures):
        if float(pictures.mean()) == broken_at:
            raise KeyboardInterrupt
        encoded.append(float(pictures.mean()))
        return torch.full((16, 2, 2, 2), float(pictures.mean()))

    encoded: list[float] = []
    work = caching.missing_windows(find_clips(videos), folder, encoding)
    failed = []
    try:
        failed = caching.cache_clips(work, folder, pictures, encode, lambda caption: text, encoding)
    except KeyboardInterrupt:
        failed = ["interrupted"]
    return SimpleNamespace(read=read, failed=failed, encoded=encoded)


def test_what_is_cached_is_not_encoded_again(videos, tmp_path):
    folder = tmp_path / "cache"
    assert run_cache(videos, folder, size=1).read == ["one.mp4", "two.mp4"]
    assert run_cache(videos, folder, size=1).read == []
    digest = ClipCache(folder).digest
    (videos / "two.txt").write_text("another caption", encoding="utf-8")
    assert run_cache(videos, folder, size=1).read == ["two.mp4"]
    assert run_cache(videos, folder, size=2).read == ["one.mp4", "two.mp4"]
    assert read_metadata(folder / "two.mp4.safetensors")["caption"] == "another caption"
    assert ClipCache(folder).digest != digest


def test_every_window_is_a_clip_of_its_own(videos, tmp_path):
    (videos / "two.mp4").unlink()
    run_cache(videos, tmp_path / "cache", windows=3)
    clips = ClipCache(tmp_path / "cache")
    assert [float(clips[i].latent.mean()) for i in range(3)] == [1, 2, 0]  # one.mp4.1, one.mp4.2, one.mp4
    assert run_cache(videos, tmp_path / "cache", windows=3).read == []


def test_windows_go_on_where_they_were_stopped(videos, tmp_path):
    (videos / "two.mp4").unlink()
    stopped = run_cache(videos, tmp_path / "cache", windows=4, broken_at=2)
    assert stopped.failed == ["interrupted"] and stopped.encoded == [0, 1]
    assert run_cache(videos, tmp_path / "cache", windows=4).encoded == [1, 2, 3]  # one is held back until its successor comes
    assert len(ClipCache(tmp_path / "cache")) == 4
    assert run_cache(videos, tmp_path / "cache", windows=4).read == []


def test_fewer_windows_leave_none_of_the_old_ones(videos, tmp_path):
    run_cache(videos, tmp_path / "cache", windows=3, stride=1)
    run_cache(videos, tmp_path / "cache", windows=2, stride=2)
    assert len(ClipCache(tmp_path / "cache")) == 4


def test_clips_of_one_name_in_two_folders(videos, tmp_path):
    (videos / "more").mkdir()
    for name in ("more/one.mp4", "one.webm"):
        (videos / name).write_bytes(name.encode())
        (videos / name).with_suffix(".txt").write_text("one more", encoding="utf-8")
    run_cache(videos, tmp_path / "cache")
    paths = [path.relative_to(tmp_path / "cache").as_posix() for path in ClipCache(tmp_path / "cache").paths]
    names = ["more/one.mp4", "one.mp4", "one.webm", "two.mp4"]
    assert paths == [f"{name}.safetensors" for name in names]


def test_one_bad_clip_does_not_stop_the_rest_and_is_not_trained_on(videos, tmp_path):
    run_cache(videos, tmp_path / "cache", windows=2, size=1)
    ran = run_cache(videos, tmp_path / "cache", failing={"one.mp4"}, size=2)
    assert ran.failed == ["one.mp4 is too short"]
    assert [path.name for path in ClipCache(tmp_path / "cache").paths] == ["two.mp4.safetensors"]


def test_a_video_that_breaks_off_leaves_none_of_its_windows(videos, tmp_path):
    def breaks_off(source, first):
        yield 0, torch.zeros(5, 8, 8, 3)
        yield 1, torch.zeros(5, 8, 8, 3)
        raise ValueError(f"{source.name} cannot be read")

    work = caching.missing_windows(find_clips(videos), tmp_path / "cache", {})
    failed = caching.cache_clips(
        work, tmp_path / "cache", breaks_off, lambda pictures: torch.zeros(16, 2, 2, 2), lambda caption: TEXT, {}
    )
    assert failed == ["one.mp4 cannot be read", "two.mp4 cannot be read"]
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_a_caption_that_is_too_long_is_named(videos, tmp_path):
    ran = run_cache(videos, tmp_path / "cache", text=PackedText(TEXT.used, 700))
    assert "one.mp4 has a caption of 700 tokens, over 512" in ran.failed[0]


def test_still_images_are_clips_where_they_are_asked_for(tmp_path):
    numbered(tmp_path / "a.mp4", 5).with_suffix(".txt").write_text("clip")
    Image.new("RGB", (64, 32), (255, 0, 0)).save(tmp_path / "b.png")
    assert [source.name for source in find_clips(tmp_path)] == ["a.mp4"]  # a.png beside a.mp4 may be a picture of it
    (tmp_path / "b.txt").write_text("red")
    video, still = find_clips(tmp_path, images=True)
    settings = CacheSettings(tmp_path, tmp_path, "demo", tmp_path, length=5, images=True)
    for source, frames in ((video, 5), (still, 1)):
        [(window, pictures)] = read_source(source, settings, [(16, 16), (32, 16)])
        assert window == 0 and pictures.shape == (frames, 16, 16 if source is video else 32, 3)
    assert mixed_rates([video, still]) is None
