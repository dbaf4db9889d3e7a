"""Video files there and back."""

import struct
import wave

import pytest
import torch

pytest.importorskip("av", reason="PyAV is not installed; it comes with ComfyUI")

from pusa_core.video_files import frame_rate, read_frames, write_video  # noqa: E402


@pytest.fixture
def pictures():
    """Red above, blue below, getting brighter; (5, 32, 64, 3)."""
    clip = torch.zeros(5, 32, 64, 3)
    light = torch.linspace(0.5, 1, 5)[:, None, None]
    clip[:, :16, :, 0] = light
    clip[:, 16:, :, 2] = light
    return clip


def read(path):
    return torch.cat(list(read_frames(path)))


def test_there_and_back(pictures, tmp_path):
    write_video(tmp_path / "a.mp4", pictures, 12.5, quality=0)
    assert frame_rate(tmp_path / "a.mp4") == 12.5
    assert (read(tmp_path / "a.mp4") - pictures).abs().mean() < 0.02


def test_telephones_clips_stand_upright(pictures, tmp_path):
    """They are stored sideways, with a matrix in the track's header that says how to turn them."""
    write_video(tmp_path / "a.mp4", pictures, 16, quality=0)
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    quarter = [0, 1, 0, -1, 0, 0, 32, 0]  # clockwise; x and y are 16.16
    struct.pack_into(">9i", data, data.index(b"tkhd") + 44, *(v << 16 for v in quarter), 1 << 30)
    (tmp_path / "turned.mp4").write_bytes(data)
    turned = read(tmp_path / "turned.mp4")
    assert turned.shape == (5, 64, 32, 3)
    assert (turned - pictures.rot90(-1, (1, 2))).abs().mean() < 0.02


def test_what_is_no_video_is_refused(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"a.mp4 cannot be read \(InvalidDataError: Invalid data found") as told:
        read(tmp_path / "a.mp4")
    assert str(told.value).count("a.mp4") == 1


def test_sound_without_pictures_is_refused(tmp_path):
    with wave.open(str(tmp_path / "a.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(16000))
    with pytest.raises(ValueError, match="^a.wav has no frames: check the file.$"):
        read(tmp_path / "a.wav")
