"""The Timeline node: its files, what it makes of them, and what it says before a run."""

import json
import os
import re

import av
import numpy as np
import pytest
import torch
from PIL import Image

from environment.comfyui import PACK
from pusa_core.media import media_length, read_media
from tests import tiny

pytestmark = pytest.mark.usefixtures("inference_mode")
SIZE = {"width": 64, "height": 48, "length": 21, "batch_size": 1, "resize": "crop"}


@pytest.fixture(scope="module")
def vae(comfyui, tmp_path_factory):
    return tiny.load_vae(tiny.write_vae(tmp_path_factory.mktemp("vae") / "vae.safetensors"))


@pytest.fixture
def input_folder(tmp_path, monkeypatch):
    import folder_paths

    folder = tmp_path / "input"
    (folder / "pusa").mkdir(parents=True)
    monkeypatch.setattr(folder_paths, "input_directory", str(folder))
    (tmp_path / "secret.png").write_bytes(b"secret")
    for number, name in enumerate(("a.png", "pusa/b.png")):
        Image.fromarray(noise(number, 48, 64)).save(folder / name)
    with av.open(str(folder / "clip.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=16)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(20):
            picture = np.full((48, 64, 3), 12 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return folder


def noise(seed, height, width):
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


def timeline(*items):
    return json.dumps({"version": 1, "items": list(items)})


def run(pack, vae, *items, **options):
    return pack.nodes.timeline.PusaTimeline.execute(vae, **{**SIZE, **options}, timeline=timeline(*items))


def check(pack, *items, length=21, input_types=None):
    return pack.nodes.timeline.PusaTimeline.validate_inputs(timeline(*items), length, input_types=input_types)


def test_it_is_the_chained_nodes(pack, vae, input_folder):
    """One picture from a file, one by wire, one clip: the same latent, plan and report."""
    import nodes  # ComfyUI's

    loaded = nodes.LoadImage().load_image("pusa/b.png")[0]
    clip = torch.cat(list(pack.pusa_core.media.read_media(input_folder / "clip.mp4")))
    chain, more = pack.nodes.keyframes, torch.rand(1, 48, 64, 3, generator=torch.Generator().manual_seed(1))
    keyframes = chain.PusaKeyframe.execute(loaded, 0, "pixel", 0.2, "evolve").args[0]
    keyframes = chain.PusaKeyframe.execute(more, 6, "pixel", 0.3, "hold", keyframes).args[0]
    keyframes = chain.PusaVideoKeyframes.execute(
        clip[:17], "chosen", 13, "pixel", "index", -9, "0 to 0.5", "evolve", "0, 4, 8", keyframes
    ).args[0]
    last = chain.PusaKeyframe.execute(more, 12, "pixel", 0.1, "evolve").args[0]
    ours = run(
        pack, vae,
        {"at": 0, "media": "pusa/b.png", "noise": 0.2},
        {"at": 6, "input": 1, "noise": 0.3, "behaviour": "hold"},
        {"at": -9, "media": "clip.mp4", "take": [0, 9], "noise": "0 to 0.5"},
        images={"image1": more}, keyframes=last, length=25,
    )  # fmt: skip
    theirs = pack.nodes.schedule.plan_video(vae, 64, 48, 25, 1, "crop", [*keyframes, *last], None)
    assert torch.equal(ours.args[0]["samples"], theirs[0]["samples"])
    assert pack.pusa_core.plan.same_plan(ours.args[1], theirs[1])
    assert ours.args[3] == theirs[3] and len(ours.args[3].splitlines()) == 4
    assert ours.ui["text"] == (theirs[3],)
    assert json.loads(ours.ui["schedule"][0])["latent_frames"] == 7


def test_an_empty_timeline_is_text_to_video(pack, vae, input_folder):
    assert run(pack, vae).args[3] == "No keyframes: text to video."


def test_pictures_are_turned_and_lose_their_transparency(pack, input_folder):
    image = Image.fromarray(noise(3, 20, 40))
    exif = image.getexif()
    exif[0x0112] = 6  # turned by a quarter
    image.save(input_folder / "turned.png", exif=exif)
    Image.fromarray(np.dstack([noise(3, 20, 40), np.zeros((20, 40), np.uint8)])).save(input_folder / "clear.png")
    Image.fromarray(noise(3, 20, 40)[..., 0].astype(np.uint16) * 257).save(input_folder / "deep.png")
    turned, clear, deep = (
        next(pack.pusa_core.media.read_media(input_folder / f"{name}.png"))[0] for name in ("turned", "clear", "deep")
    )
    plain = torch.from_numpy(noise(3, 20, 40)).float() / 255
    assert torch.equal(turned, plain.rot90(-1))
    assert torch.equal(clear, plain)
    assert torch.equal(deep, plain[..., :1].expand(-1, -1, 3))


def test_frames_of_a_clip_are_taken_from_its_file(pack, vae, input_folder, monkeypatch):
    seen = {}
    schedule = pack.nodes.schedule
    monkeypatch.setattr(schedule, "plan_clip", lambda keyframes, *_: seen.update(keyframes=keyframes) or plan(keyframes, *_))
    plan = pack.pusa_core.plan.plan_clip
    run(pack, vae, {"at": 0, "media": "clip.mp4", "take": [-5, None]}, {"at": 9, "media": "clip.mp4", "take": [2, 3]})
    last, still = (keyframe.pictures.mean(dim=(1, 2, 3)) * 255 / 12 for keyframe in seen["keyframes"])
    assert last.tolist() == pytest.approx([15, 16, 17, 18, 19], abs=0.4)
    assert still.tolist() == pytest.approx([2], abs=0.4)


@pytest.mark.parametrize(
    "name", ["../secret.png", "/etc/passwd", "pusa/../../secret.png", "gone.png", "pusa", "", "../secret.png [input]", "\0"]
)
def test_files_outside_comfyuis_folders_are_not_read(pack, input_folder, name):
    with pytest.raises(ValueError, match="is not in ComfyUI's input folder: add it again"):
        pack.nodes.timeline.media_path(name)


def test_a_file_of_the_output_folder_is_found(pack, input_folder, tmp_path, monkeypatch):
    import folder_paths

    (tmp_path / "output").mkdir()
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    (tmp_path / "output" / "made.png").touch()
    assert pack.nodes.timeline.media_path("made.png [output]") == tmp_path / "output" / "made.png"


def test_samples_of_the_pack_are_found(pack, input_folder):
    assert pack.nodes.timeline.media_path("boat.mp4 [pusa]") == PACK / "web" / "samples" / "boat.mp4"


@pytest.mark.parametrize(
    "name", ["gone.png [pusa]", "../pictures/icon.png [pusa]", "/etc/passwd [pusa]", " [pusa]", "a.png [PUSA]"]
)
def test_nothing_else_of_the_pack_is_read(pack, input_folder, name):
    """Where the annotation is no folder's, it is a part of a name in the input folder."""
    where = "in ComfyUI's input folder: add it again" if "PUSA" in name else "among the pack's samples: choose another"
    with pytest.raises(ValueError, match=re.escape(f'the file "{name.removesuffix(" [pusa]")}" is not {where}.')):
        pack.nodes.timeline.media_path(name)


def test_samples_are_small_pictures_and_clips_that_fit_a_video():
    for path in (PACK / "web" / "samples").iterdir():
        assert path.stat().st_size <= (250_000 if path.suffix == ".mp4" else 60_000), path.name
        if path.name.startswith("demo"):
            continue
        frame = next(read_media(path))
        assert frame.shape == (1, 480, 832, 3), path.name
        frames, rate = media_length(path)
        assert frames == 1 or (frames >= 33 and frames % 4 == 1 and 16 <= rate <= 25), path.name


def test_a_good_timeline_is_accepted_before_a_run(pack, input_folder):
    wires = {"vae": "VAE", "images.image1": "IMAGE", "keyframes": "PUSA_KEYFRAMES"}
    assert check(
        pack, {"at": 0, "media": "a.png"}, {"at": 8, "input": 1}, {"at": -5, "media": "clip.mp4", "take": [3, 8]},
        input_types=wires,
    )  # fmt: skip
    assert pack.nodes.timeline.PusaTimeline.validate_inputs(input_types={"timeline": "STRING", "length": "INT"})


@pytest.mark.parametrize(
    "items, options, words",
    [
        ([{"at": 0, "media": "gone.png"}], {}, 'Item 1 of the timeline: the file "gone.png" is not in'),
        ([{"at": 0, "media": "a.png", "noise": 2}], {}, "Item 1 of the timeline: A noise multiplier of 2"),
        ([{"at": 0, "input": 2}], {"input_types": {"images.image1": "IMAGE"}}, "Item 1 .*nothing is connected to image2"),
        ([{"at": 0, "media": "clip.mp4"}], {}, "Item 1 .*takes 20 frames of the clip's 20, which is not 4n.1: use 17 "),
        ([{"at": 0, "media": "clip.mp4", "take": [10, 23]}], {}, "Item 1 .*the clip has 20 frames"),
        ([{"at": 0, "media": "clip.mp4", "take": [0, 17]}, {"at": 9, "media": "a.png"}], {}, "Keyframes 1 and 2 both land"),
        ([{"at": 21, "media": "a.png"}], {}, "Item 1 of the timeline: Pixel frame 21 lies outside"),
        ([], {"length": 20}, "use 17 or 21"),
        ([], {"length": 20_001}, "the most is 16384"),
        ([], {"input_types": {"images.image1": "LATENT"}}, "images.image1 got LATENT, but takes IMAGE"),
        ([], {"input_types": {"sigmas": "FLOAT"}}, "sigmas got FLOAT, but takes SIGMAS"),
    ],
)  # fmt: skip
def test_faults_are_raised_before_a_run(pack, input_folder, items, options, words):
    with pytest.raises(ValueError, match=words):
        check(pack, *items, **options)


def test_a_file_that_is_no_picture_is_told(pack, input_folder):
    (input_folder / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match="^Item 1 of the timeline: .*text.png cannot be read"):
        check(pack, {"at": 0, "media": "text.png"})


def test_a_clip_longer_than_the_video_is_told_before_it_is_read(pack, vae, input_folder, monkeypatch):
    monkeypatch.setattr(pack.nodes.timeline, "read_media", lambda path: pytest.fail("it was read"))
    with pytest.raises(ValueError, match="Item 1 of the timeline: it takes 17 frames, but the video has 9"):
        run(pack, vae, {"at": 0, "media": "clip.mp4", "take": [0, 17]}, length=9)


def test_a_changed_file_changes_the_fingerprint(pack, input_folder):
    ask = pack.nodes.timeline.PusaTimeline.fingerprint_inputs
    text = timeline({"at": 0, "media": "a.png"}, {"at": 4, "input": 1})
    before = ask(timeline=text, length=21)
    assert before == ask(timeline=text, length=21)
    os.utime(input_folder / "a.png", ns=(1, 1))
    assert ask(timeline=text, length=21) != before
    assert ask(timeline=None) == []
