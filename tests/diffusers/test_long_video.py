"""Long videos on Diffusers: the call, what is decoded as it comes, stopping and going on, memory."""

import pytest
import torch
from PIL import Image

from pusa_core.hosts.diffusers import long_video, open_vae
from pusa_core.keyframes import clip_keyframe
from pusa_core.streaming import StreamingDecoder
from pusa_core.video_files import read_frames
from tests import tiny

SIZE = 32


@pytest.fixture(scope="module")
def pipe(make_pipe, vae_file):
    return make_pipe(vae=open_vae(vae_file))


def text(seed):
    return torch.randn(1, 8, tiny.TEXT_DIM, generator=torch.Generator().manual_seed(seed))


def call(**changed):
    settings = {
        "prompt_embeds": text(1), "negative_prompt_embeds": text(2), "height": SIZE, "width": SIZE, "num_frames": 29,
        "guidance_scale": 1.0, "moving_frames": 3, "generator": torch.Generator().manual_seed(7),
    }  # fmt: skip
    return {**settings, **changed}


def picture(seed, count=1):
    return torch.rand(count, SIZE, SIZE, 3, generator=torch.Generator().manual_seed(seed))


def made(pipe, **changed):
    return torch.cat(list(pipe.long_video(**call(**changed))))


def test_as_many_frames_as_asked(pipe):
    video = made(pipe)
    assert video.shape == (29, SIZE, SIZE, 3) and video.min() >= 0 and video.max() <= 1
    torch.testing.assert_close(made(pipe, num_frames=17), video[:17], rtol=0, atol=1e-5)
    assert not torch.allclose(made(pipe, generator=torch.Generator().manual_seed(8)), video, atol=1e-2)
    assert not torch.allclose(made(pipe, guidance_scale=3.0), video, atol=1e-2)


def test_keyframes(pipe):
    """An image, the end of a clip, a still on the way and at the end, a clip on the way."""
    image = Image.fromarray((picture(1)[0] * 255).byte().numpy())
    clip = clip_keyframe(picture(2, 4), 13, "pixel", 0.0)
    video = pipe.long_video(**call(keyframes=[(image, 0, 0.0), clip, (image, -1, 0.0)]))
    places = ["a picture at pixel frame 0", "a clip at pixel frame 13", "a picture at pixel frame -1"]
    assert all(place in note for place, note in zip(places, video.notes, strict=True))
    assert all(note.endswith("hold.") for note in video.notes)
    frames = torch.cat(list(video))
    plan = pipe.plan([(image, 0, 0.0), clip], SIZE, SIZE, 29)
    whole = pipe._decode(pipe._normalised(plan.clean))[0]
    torch.testing.assert_close(frames[0], whole[0], rtol=0, atol=1e-4)
    assert len(list(pipe.long_video(**call(keyframes=(picture(3, 9), 0, 0.0))))) == 8


def test_prompts_by_frame(pipe):
    one, both = made(pipe), made(pipe, prompt_embeds={0: text(1), 17: text(5)}, blend=0)
    torch.testing.assert_close(both[:13], one[:13], rtol=0, atol=1e-5)
    assert not torch.allclose(both[17:], one[17:], atol=1e-2)
    blended = made(pipe, prompt_embeds={0: text(1), 17: text(5)}, blend=8)
    assert not torch.allclose(blended[13:], both[13:], atol=1e-3)


@pytest.mark.parametrize("prompts", [{}, {-1: "a"}, {0.5: "a"}, {0: "a", 321: "b"}])
def test_prompts_of_no_frame(pipe, prompts):
    with pytest.raises(ValueError, match="Prompts were given for the frames .*: give whole numbers from 0"):
        pipe.long_video(prompts, negative_prompt_embeds=text(2), height=SIZE, width=SIZE)


@pytest.mark.parametrize("prompt, kind", [(None, "NoneType"), (["a", "b"], "list"), ({0: 3}, "int")])
def test_what_is_no_prompt(pipe, prompt, kind):
    with pytest.raises(ValueError, match=f"prompt is of the type {kind}: give text"):
        pipe.long_video(prompt, negative_prompt_embeds=text(2), height=SIZE, width=SIZE)


@pytest.mark.parametrize("wrong", [{"moving_frames": 0}, {"steps": 0}, {"blend": -1}, {"anchor_distance": 0}])
def test_numbers_that_no_window_can_have(pipe, wrong):
    [(name, value)] = wrong.items()
    with pytest.raises(ValueError, match=f"^{name} is {value}: give {value + 1} or more"):
        pipe.long_video(**call(**wrong))


def test_two_transformers(pipe, make_pipe, vae_file, tmp_path):
    from pusa_core.hosts.diffusers import open_wan

    low = open_wan(tiny.write_wan(tmp_path / "low.safetensors", seed=2), torch.float32)
    same = make_pipe(vae=open_vae(vae_file), transformer_2=pipe.transformer)
    other = make_pipe(vae=open_vae(vae_file), transformer_2=low)
    torch.testing.assert_close(made(same), made(pipe), rtol=0, atol=1e-5)
    assert not torch.allclose(made(other), made(pipe), atol=1e-2)


def test_without_a_vae(make_pipe):
    with pytest.raises(ValueError, match="has no VAE, with which a long video is decoded as it is made"):
        make_pipe().long_video(**call())


@pytest.mark.parametrize("tiled", [False, True])
def test_decoded_as_it_comes(vae_file, tiled):
    vae = open_vae(vae_file)
    if tiled:
        vae.enable_tiling(32, 32, 24, 24)
    latents = torch.randn(1, 16, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    decoder = StreamingDecoder(vae.decoder, lambda z: vae.decode(z, return_dict=False)[0])
    with torch.no_grad():
        parts = [decoder.push(latent) for latent in latents.split(1, dim=2)]
        whole = vae.decode(latents, return_dict=False)[0]
    assert [part.shape[2] for part in parts] == [1, 4, 4, 4]
    assert len(decoder.caches) == (9 if tiled else 1)
    torch.testing.assert_close(torch.cat(parts, 2), whole, rtol=0, atol=1e-5)


# --- stopped and gone on -------------------------------------------------------------------------------------------------


def test_a_video_that_was_stopped_goes_on(pipe, tmp_path, monkeypatch):
    settings = {"folder": tmp_path / "state", "keyframes": [(picture(1)[0], 0, 0.0)]}
    whole = made(pipe, **{**settings, "folder": None})
    original, evaluated = long_video.velocity, []

    def dies(*args):
        evaluated.append(args)
        if len(evaluated) == 6:
            raise RuntimeError("the power went off")
        return original(*args)

    monkeypatch.setattr(long_video, "velocity", dies)
    with pytest.raises(RuntimeError, match="the power went off"):
        pipe.long_video(**call(**settings)).save(tmp_path / "video.mp4", fps=8)
    assert sum(1 for _ in read_frames(tmp_path / "video.mp4")) == 13  # what was made can be watched
    [kept] = (tmp_path / "state").iterdir()
    assert torch.equal(made(pipe, **settings), whole)
    assert len(evaluated) == 6 + 9 - 5
    assert kept.is_dir()
    pipe.long_video(**call(**settings)).save(tmp_path / "video.mp4")
    assert not kept.exists() and sum(1 for _ in read_frames(tmp_path / "video.mp4")) == 29


@pytest.mark.parametrize(
    "changed",
    [
        {"prompt_embeds": text(3)}, {"generator": torch.Generator().manual_seed(8)}, {"keyframes_beside": True},
        {"keyframes": [(picture(1)[0], 0, 0.1)]}, {"anchor_distance": 8}, {"num_frames": 33},
    ],
    ids=lambda changed: next(iter(changed)),
)  # fmt: skip
def test_another_video_does_not_go_on(pipe, tmp_path, changed):
    settings = {"folder": tmp_path, "keyframes": [(picture(1)[0], 0, 0.0)]}
    keys = [pipe.long_video(**call(**{**settings, **more})).folder.folder for more in ({}, {}, changed)]
    assert keys[0] == keys[1] != keys[2]


def test_the_same_call_goes_on_without_a_generator(pipe, tmp_path):
    keys = [pipe.long_video(**call(generator=None, folder=tmp_path)).folder.folder for _ in range(2)]
    assert keys[0] == keys[1]
    assert not torch.equal(made(pipe, generator=None, num_frames=5), made(pipe, generator=None, num_frames=5))


def test_another_lora_does_not_go_on(make_pipe, vae_file, tmp_path):
    pipe = make_pipe(vae=open_vae(vae_file))
    keys = [pipe.long_video(**call(folder=tmp_path)).folder.folder]
    for seed, alpha in ((0, 1.0), (0, 1.4), (1, 1.4)):
        pipe.load_pusa_lora(tiny.write_lora(tmp_path / "lora.safetensors", seed=seed), alpha)
        keys.append(pipe.long_video(**call(folder=tmp_path)).folder.folder)
        pipe.delete_adapters("pusa")
    assert len({*keys}) == 4


# --- memory --------------------------------------------------------------------------------------------------------------


def test_nothing_grows_with_the_video(pipe):
    """At 81, 321 and 1,281 frames: tensors that are held, those that are made on the way, and what the model is given."""
    from tests.long_memory import measured

    video = pipe.long_video(**call(num_frames=1281, height=16, width=16, keyframes=[(picture(1)[0], 0, 0.0)]))
    seen = []
    hook = pipe.transformer.register_forward_pre_hook(lambda model, args: seen.append(tuple(args[0].shape)))
    try:
        held, peaks = measured(iter(video), [20, 80, 320])
    finally:
        hook.remove()
    assert {*seen} == {(1, 16, 5, 2, 2)} and len(seen) > 320
    assert held[0] == held[1] == held[2] > 0 and peaks[0] == peaks[1] == peaks[2] > 0
