"""Cached clips on the disk, and which of them comes when."""

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.data import NEGATIVE, SAMPLES, ClipCache, PackedText, cached_paths, read_metadata, read_text, save_clip
from trainer.held_out import held_out_videos
from trainer.order import clip_index, sample_index

TEXT = PackedText.pack(torch.ones(2, 4))


def test_a_clip_comes_back(tmp_path):
    latent, text = torch.randn(16, 2, 4, 4), torch.zeros(10, 6)
    text[:3] = torch.arange(18.0).view(3, 6)
    save_clip(tmp_path / "a.safetensors", latent, PackedText.pack(text), {"caption": "hello"})
    clips = ClipCache(tmp_path)
    assert list(clips.groups) == [(16, 2, 4, 4)] and (clips.channels, clips.text_width) == (16, 6)
    assert read_metadata(clips.paths[0])["caption"] == "hello"
    torch.testing.assert_close(clips[0].latent, latent, rtol=1e-3, atol=1e-3)
    assert clips[0].text.equal(text)  # the padding too, which a model attends to


def test_an_empty_text_keeps_its_length(tmp_path):
    save_clip(tmp_path / NEGATIVE, None, PackedText.pack(torch.zeros(7, 6)), {})
    assert read_text(tmp_path / NEGATIVE).equal(torch.zeros(7, 6))


def test_no_clips(tmp_path):
    with pytest.raises(ValueError, match="holds no cached clips"):
        ClipCache(tmp_path)


def test_clips_of_several_shapes_and_folders(tmp_path):
    shapes = {"a": (16, 2, 4, 6), "b/a": (16, 2, 6, 4), "c": (16, 2, 4, 6)}
    for name, shape in shapes.items():
        save_clip(tmp_path / f"{name}.safetensors", torch.randn(shape), TEXT, {})
    clips = ClipCache(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in clips.paths] == [f"{name}.safetensors" for name in shapes]
    assert clips.groups == {(16, 2, 4, 6): [0, 2], (16, 2, 6, 4): [1]}
    assert tuple(clips[1].latent.shape) == (16, 2, 6, 4)


@pytest.mark.parametrize(
    "shape, width, what",
    [((48, 2, 4, 4), 4, "latent channels, a.safetensors of 16 and b.safetensors of 48"), ((16, 2, 4, 4), 6, "text widths")],
)
def test_clips_of_different_models(tmp_path, shape, width, what):
    save_clip(tmp_path / "a.safetensors", torch.randn(16, 2, 4, 4), TEXT, {})
    save_clip(tmp_path / "b.safetensors", torch.randn(shape), PackedText.pack(torch.ones(2, width)), {})
    with pytest.raises(ValueError, match=f"clips of different {what}"):
        ClipCache(tmp_path)


def test_a_damaged_clip_is_named(tmp_path):
    save_clip(tmp_path / "a.safetensors", torch.randn(16, 2, 4, 4), TEXT, {})
    (tmp_path / "b.safetensors").write_bytes(b"not a clip")
    with pytest.raises(ValueError, match="b.safetensors is no cached clip"):
        ClipCache(tmp_path)


# --- the order -----------------------------------------------------------------------------------------------------------


def test_every_clip_once_before_any_comes_again():
    for epoch in range(3):
        assert sorted(sample_index(epoch * 7 + i, 7, seed=3) for i in range(7)) == list(range(7))
    orders = [[sample_index(epoch * 7 + i, 7, seed=3) for i in range(7)] for epoch in range(3)]
    assert orders[0] != orders[1] != orders[2]


groupings = st.lists(st.integers(1, 6), min_size=1, max_size=4)


@given(groupings, st.integers(1, 5), st.integers(0, 3))
def test_a_step_is_of_one_shape_and_all_clips_come_equally_often(sizes, batch, seed):
    clips = iter(range(sum(sizes)))
    groups = [[next(clips) for _ in range(size)] for size in sizes]
    steps = [[clip_index(step * batch + i, groups, batch, seed) for i in range(batch)] for step in range(2 * sum(sizes))]
    group_of = {clip: number for number, group in enumerate(groups) for clip in group}
    assert all(len({group_of[clip] for clip in step}) == 1 for step in steps)
    assert set(Counter(clip for step in steps for clip in step).values()) == {2 * batch}
    for group in groups:  # a shape's clips come once each before any of them comes again
        order = [clip for step in steps for clip in step if clip in group]
        assert all(sorted(order[i : i + len(group)]) == group for i in range(0, len(order), len(group)))


@given(st.integers(1, 9), st.integers(1, 5), st.integers(0, 60))
def test_clips_of_one_shape_come_in_the_order_of_their_numbers(count, batch, number):
    """Runs that began before there were shapes go on with the clips that would have come."""
    assert clip_index(number, [list(range(count))], batch, seed=5) == sample_index(number, count, seed=5)


def test_shapes_are_mixed_over_the_steps():
    order = [clip_index(step, [[0] * 20, [1] * 20], 1, seed=0) for step in range(40)]
    assert sorted(order) == [0] * 20 + [1] * 20
    assert 10 < sum(a != b for a, b in zip(order, order[1:])) < 39
    assert order != [clip_index(step, [[0] * 20, [1] * 20], 1, seed=1) for step in range(40)]


# --- repeats and clips held out ------------------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path):
    for name in ("a.mp4", "a.mp4.1", "a.mp4.2", "b.mp4", "more/c.mp4", "more/d.mp4"):
        save_clip(tmp_path / f"{name}.safetensors", torch.zeros(16, 2, 4, 4), TEXT, {})
    return tmp_path


def test_clips_and_folders_come_more_often(folders):
    clips = ClipCache(folders, repeats={"more": 3, "more/d.mp4": 2, "a.mp4": 2})
    times = Counter(
        clips.paths[index].relative_to(folders).as_posix() for [*group] in clips.groups.values() for index in group
    )
    assert times == {
        "a.mp4.safetensors": 2, "a.mp4.1.safetensors": 2, "a.mp4.2.safetensors": 2, "b.mp4.safetensors": 1,
        "more/c.mp4.safetensors": 3, "more/d.mp4.safetensors": 2,
    }  # fmt: skip
    with pytest.raises(ValueError, match='"less" was given for clips that come more often, but .* has no clip or folder'):
        ClipCache(folders, repeats={"less": 2})


@pytest.mark.parametrize("share, videos", [(0.01, 1), (0.5, 2), (0.99, 3)])
def test_a_share_of_the_videos_is_held_out_with_all_their_windows(folders, share, videos):
    paths = cached_paths(folders)
    held = held_out_videos(folders, paths, share)
    names = {path.name.split(".mp4")[0] for path in held}
    assert len(names) == videos and held == {path for path in paths if path.name.split(".mp4")[0] in names}


def test_samples_are_no_clips(folders):
    save_clip(folders / SAMPLES / "one.safetensors", torch.zeros(16, 2, 4, 4), TEXT, {})
    assert len(cached_paths(folders)) == 6
