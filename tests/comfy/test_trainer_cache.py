"""The trainer's cache made by a real ComfyUI: videos from disk, through the stock VAE."""

import io
import json
from dataclasses import replace
from functools import partial

import pytest

pytest.importorskip("accelerate", reason="the trainer's packages are not installed: pip install .[train]")

import av  # noqa: E402
import sentencepiece  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from demo_model import BASE, VAE  # noqa: E402
from demo_model.studio import Studio  # noqa: E402
from demo_model.text import encode  # noqa: E402
from demo_model.world import draw, scene  # noqa: E402
from tests import tiny  # noqa: E402
from trainer import cache as caching  # noqa: E402
from trainer.data import NEGATIVE, ClipCache, read_text  # noqa: E402
from trainer.settings import CacheSettings  # noqa: E402
from trainer.windows import read_windows  # noqa: E402


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
def settings(videos, tmp_path, comfyui):
    return CacheSettings(videos, VAE, "demo", tmp_path / "cache", length=17, width=64, height=64)


def test_videos_become_latents(settings, inference_mode):
    caching.cache(settings)
    from comfy.latent_formats import Wan21

    clips = ClipCache(settings.output)
    assert len(clips) == 2 and list(clips.groups) == [(16, 5, 8, 8)]
    expected = Wan21().process_in(Studio().encode(draw([scene(1)])[0]).float())[0]
    assert (clips[1].latent - expected).norm() < 0.1 * expected.norm()  # what the video's compression changes
    assert clips[1].text.equal(encode(scene(1).caption)[0])
    assert not clips.negative().any()

    from pusa_core.hosts.comfyui.vae import open_vae

    back = open_vae(VAE).decode(clips[1].latent)
    assert -10 * (back - draw([scene(1)])[0]).square().mean().log10() > 25


def test_frames_are_taken_at_another_rate(videos, settings):
    read = read_windows
    every, second = (
        next(iter(read(videos / "0.mp4", replace(settings, length=9, fps=fps), [(64, 64)])))[1] for fps in (None, 8)
    )
    assert every.shape == (9, 64, 64, 3)
    torch.testing.assert_close(second[:5], every[::2])


def test_a_short_clip_is_left_out_and_named(settings, videos, capsys):
    write_video(videos / "short.mp4", draw([scene(3)])[0][:9])
    (videos / "short.txt").write_text("a red circle", encoding="utf-8")
    (videos / "broken.mp4").write_bytes(b"not a video")
    (videos / "broken.txt").write_text("a red circle", encoding="utf-8")
    caching.cache(settings)
    said = capsys.readouterr().out
    assert "2 of 4 clips are cached" in said
    assert "short.mp4 has 9 frames at 16 a second, but 17 are needed" in said
    assert "broken.mp4 cannot be read" in said


def test_portrait_and_landscape_keep_their_shape(settings, videos):
    wide = draw([scene(3)])[0][:, 8:56]
    for name, frames in (("wide", wide), ("tall", wide.transpose(1, 2))):
        write_video(videos / f"{name}.mp4", frames)
        (videos / f"{name}.txt").write_text("a red circle", encoding="utf-8")
    caching.cache(settings)
    groups = ClipCache(settings.output).groups
    assert {shape: len(clips) for shape, clips in groups.items()} == {
        (16, 5, 8, 8): 2,
        (16, 5, 6, 8): 1,
        (16, 5, 8, 6): 1,
    }
    caching.cache(replace(settings, buckets=False))
    assert list(ClipCache(settings.output).groups) == [(16, 5, 8, 8)]


def test_a_long_clip_gives_windows(settings, videos, capsys):
    write_video(videos / "long.mp4", torch.cat([draw([scene(3)])[0], draw([scene(4)])[0]]))
    (videos / "long.txt").write_text("a red circle", encoding="utf-8")
    caching.cache(settings)
    assert "3 of 3 clips are cached" in (said := capsys.readouterr().out) and "in 4 windows" in said
    clips = ClipCache(settings.output)
    assert [path.name for path in clips.paths[2:]] == ["long.mp4.1.safetensors", "long.mp4.safetensors"]
    expected = Studio().encode(draw([scene(4)])[0])
    expected = Studio().model(None, 1.0).model.process_latent_in(expected.float())[0]
    assert (clips[2].latent - expected).norm() < 0.15 * expected.norm()


def test_mixed_frame_rates_are_told(settings, videos, capsys):
    write_video(videos / "fast.mp4", draw([scene(3)])[0], fps=30)
    (videos / "fast.txt").write_text("a red circle", encoding="utf-8")
    caching.cache(settings)
    assert "different frame rates, 16 (2 clips), 30 (1 clip)" in capsys.readouterr().out
    caching.cache(replace(settings, fps=16.0, length=9))
    assert "different frame rates" not in capsys.readouterr().out


@pytest.mark.parametrize("wrong, said", [({"length": 16}, "not 4n\\+1"), ({"width": 72}, "multiples of 16: use 64x64|80x64")])
def test_sizes_that_the_vae_cannot_take(settings, wrong, said):
    with pytest.raises(ValueError, match=said):
        caching.cache(replace(settings, **wrong))


def test_nothing_could_be_cached(settings, videos):
    for path in videos.glob("*.mp4"):
        path.write_bytes(b"not a video")
    with pytest.raises(ValueError, match="No clip could be cached"):
        caching.cache(settings)


def test_a_rate_that_the_video_does_not_have(videos, settings, capsys):
    with pytest.raises(ValueError, match="No clip could be cached"):
        caching.cache(replace(settings, fps=24.0))
    assert "16 frames a second, fewer than --fps 24" in capsys.readouterr().out


def test_clips_of_removed_videos_are_named(settings, videos, capsys):
    caching.cache(settings)
    (videos / "0.mp4").unlink()
    caching.cache(settings)
    assert "1 cached clips are of no video" in capsys.readouterr().out


def test_missing_files_are_named(settings, tmp_path):
    for name in ("vae", "text_encoder"):
        with pytest.raises(ValueError, match="nowhere.safetensors is not there"):
            caching.cache(replace(settings, **{name: tmp_path / "nowhere.safetensors"}))


# --- captions ------------------------------------------------------------------------------------------------------------


def test_words_that_the_demo_model_does_not_know(settings, videos, capsys):
    (videos / "1.txt").write_text("a purple circle", encoding="utf-8")
    caching.cache(settings)
    said = capsys.readouterr().out
    assert "1 of 2 clips are cached" in said and "1.mp4 has a caption that cannot be used" in said and "purple" in said


def test_another_negative_prompt_is_cached_alone(settings):
    caching.cache(settings)
    made = {path: path.stat().st_mtime_ns for path in ClipCache(settings.output).paths}
    caching.cache(replace(settings, negative="a red circle"))
    assert read_text(settings.output / NEGATIVE).equal(encode("a red circle")[0])
    assert made == {path: path.stat().st_mtime_ns for path in ClipCache(settings.output).paths}


def tensors_of_umt5(vocabulary=256384, width=4096, tokenizer=True):
    """A text encoder's tensors as far as they are looked at, tiny."""
    state = {
        "shared.weight": torch.zeros(vocabulary, 1, dtype=torch.int8),
        "encoder.final_layer_norm.weight": torch.zeros(width),
        "encoder.block.23.layer.1.DenseReluDense.wi_1.weight": torch.zeros(10240, 1),
    }
    return state | ({"spiece_model": torch.zeros(1, dtype=torch.uint8)} if tokenizer else {})


SMALL = {"num_layers": 2, "d_model": 8, "d_ff": 16, "d_kv": 4, "num_heads": 2}


def write_small_umt5(path):
    """Wan's text encoder at a small size, with a tokenizer of a few words; returns the tokenizer."""
    import comfy.ops
    from comfy.text_encoders.t5 import T5

    fixed = {"vocab_size": 256384, "is_gated_act": True, "dense_act_fn": "gelu_pytorch_tanh", "model_type": "umt5"}
    model = T5({**SMALL, **fixed}, torch.float32, "cpu", comfy.ops.manual_cast)
    generator = torch.Generator().manual_seed(0)
    state = {key: torch.randn(tensor.shape, generator=generator) for key, tensor in model.state_dict().items()}
    words = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a red circle moves left (quickly:1.5)", "the blue bar spins on stripes"] * 5),
        model_writer=words, vocab_size=40, pad_id=0, eos_id=1, unk_id=2, bos_id=-1, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    save_file(state | {"spiece_model": torch.tensor(list(words.getvalue()), dtype=torch.uint8)}, path)
    return sentencepiece.SentencePieceProcessor(model_proto=words.getvalue())


def test_captions_go_through_the_text_encoder(settings, videos, tmp_path, monkeypatch):
    import comfy.sd

    from pusa_core.hosts.comfyui import text

    # the real one has a single size, 5.7 billion weights
    monkeypatch.setattr(text, "WIDTH", SMALL["d_model"])
    monkeypatch.setattr(comfy.sd, "detect_te_model", lambda state: comfy.sd.TEModel.T5_XXL)
    options = {"model_options": {"umt5xxl_model_config": SMALL}}
    monkeypatch.setattr(comfy.sd, "load_clip", partial(comfy.sd.load_clip, **options))
    words = write_small_umt5(path := tmp_path / "umt5.safetensors")
    captions = "a red circle", "a (red:1.5) circle"  # brackets are no weights
    for name, caption in zip("01", captions):
        (videos / f"{name}.txt").write_text(caption, encoding="utf-8")
    caching.cache(replace(settings, text_encoder=str(path)))
    clips = ClipCache(settings.output)
    for clip, caption in zip((clips[0], clips[1]), captions):
        used = len(words.encode(caption)) + 1  # the end
        assert clip.text.shape == (512, 8)
        assert clip.text[:used].any(1).all() and not clip.text[used:].any()
    assert not clips[0].text.equal(clips[1].text)


CLIP_L = {"text_model.encoder.layers.0.mlp.fc1.weight": torch.zeros(2, 2)}
LLAMA = {"model.layers.0.post_attention_layernorm.weight": torch.zeros(4096)}
ORIGINAL = {"token_embedding.weight": torch.zeros(2, 2), "blocks.0.attn.q.weight": torch.zeros(2, 2)}


@pytest.mark.parametrize(
    "state, said",
    [
        (tensors_of_umt5(vocabulary=32128), "is a T5 with a vocabulary of 32128 and width 4096"),
        (tensors_of_umt5(width=768), "is a T5 with a vocabulary of 256384 and width 768"),
        (tensors_of_umt5(tokenizer=False), "is UMT5-XXL without its tokenizer"),
        (ORIGINAL, "is UMT5-XXL in the Wan authors' own format"),
        (CLIP_L, "is no UMT5-XXL"),
        (LLAMA, "is no UMT5-XXL"),
    ],
    ids=["t5_xxl", "umt5_base", "no_tokenizer", "original", "clip_l", "llama"],
)
def test_another_text_encoder_is_refused_before_it_is_loaded(settings, tmp_path, monkeypatch, state, said):
    import comfy.sd

    monkeypatch.setattr(comfy.sd, "load_clip", lambda *_, **__: pytest.fail("it was loaded"))
    save_file(state, path := tmp_path / "encoder.safetensors")
    with pytest.raises(ValueError, match=f"encoder.safetensors {said}.* give umt5_xxl_fp8_e4m3fn_scaled"):
        caching.cache(replace(settings, text_encoder=str(path)))
    assert not settings.output.exists()


def test_a_damaged_text_encoder_is_refused(settings, tmp_path):
    for name, content in (("cut.safetensors", b"x" * 1000), ("cut.pth", b"x" * 1000), ("caption.txt", b"a red circle moves")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} cannot be read as weights"):
            caching.cache(replace(settings, text_encoder=str(tmp_path / name)))


# --- VAEs ----------------------------------------------------------------------------------------------------------------

IMAGE_VAE = {
    "decoder.conv_in.weight": torch.zeros(512, 4, 3, 3),
    "encoder.conv_in.weight": torch.zeros(128, 3, 3, 3),
    "decoder.up_blocks.0.resnets.0.norm1.weight": torch.zeros(4),
}


@pytest.mark.parametrize("state", [IMAGE_VAE, CLIP_L, {"taesd_decoder.1.weight": torch.zeros(64, 4, 3, 3)}, None])
def test_another_vae_is_refused(settings, tmp_path, state):
    path = BASE
    if state is not None:
        save_file(state, path := tmp_path / "vae.safetensors")
    with pytest.raises(ValueError, match=f"{path.name} is no Wan video VAE: give wan_2.1_vae.safetensors"):
        caching.cache(replace(settings, vae=path))


def test_a_wan_vae_of_any_width_is_taken(settings, tmp_path):
    caching.cache(replace(settings, vae=tiny.write_vae(tmp_path / "vae.safetensors"), length=5))
    assert ClipCache(settings.output).channels == 16


def test_still_images_and_samples_of_ones_own(settings, videos, inference_mode):
    """An image is a clip of one frame; the samples have the keyframes and the size that they ask for."""
    from trainer.samples import samples_of

    Image.fromarray((draw([scene(5)])[0][0] * 255).byte().numpy()).save(videos / "still.png")
    (videos / "still.txt").write_text("a red circle", encoding="utf-8")
    keyframes = [{"image": "still.png"}, {"image": "still.png", "frame": -1, "noise": 0.5}]
    lines = [{"prompt": "a red circle", "keyframes": keyframes, "seed": 7}, {"prompt": "a red circle", "width": 128}]
    jobs = videos / "samples.jsonl"
    jobs.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    caching.cache(replace(settings, images=True, samples=jobs))
    clips = ClipCache(settings.output)
    assert sorted(clips.groups) == [(16, 1, 8, 8), (16, 5, 8, 8)] and len(clips) == 3
    first, second = samples_of(clips, 2)
    still = next(clips[i] for i in range(3) if clips[i].latent.shape[1] == 1).latent[:, 0]
    torch.testing.assert_close(first.clean[:, 0], still)
    assert first.seed == 7 and {index: frame.multiplier for index, frame in first.schedule.keyframes.items()} == {
        0: 0.2,
        4: 0.5,
    }
    assert second.clean.shape == (16, 5, 8, 16) and second.schedule.is_ordinary


def test_a_sample_that_is_none_is_named(settings, videos):
    (videos / "samples.jsonl").write_text('{"prompt": "a", "keyframes": [{"image": "nowhere.png"}]}', encoding="utf-8")
    with pytest.raises(ValueError, match="samples.jsonl, line 1: .*nowhere.png is not there"):
        caching.cache(replace(settings, samples=videos / "samples.jsonl"))


def test_samples_stay_where_a_new_one_cannot_be_read(settings, videos):
    jobs, picture = videos / "samples.jsonl", videos / "still.png"
    Image.effect_noise((64, 64), 90).save(picture)
    jobs.write_text('{"name": "one", "prompt": "a red circle"}', encoding="utf-8")
    caching.cache(replace(settings, samples=jobs))
    picture.write_bytes(picture.read_bytes()[:1000])
    jobs.write_text('{"name": "two", "prompt": "a red circle", "keyframes": [{"image": "still.png"}]}', encoding="utf-8")
    with pytest.raises(ValueError, match="still.png cannot be read"):
        caching.cache(replace(settings, samples=jobs))
    assert [path.stem for path in (settings.output / "_samples").iterdir()] == ["one"]
