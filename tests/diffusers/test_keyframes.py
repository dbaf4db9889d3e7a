"""Keyframes as users of Diffusers have them, for one prompt and for each of several."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pusa_core.hosts.diffusers import open_vae
from pusa_core.keyframes import clip_keyframe, still_keyframe
from pusa_core.plan import Plan
from pusa_core.strength import Strength
from tests.diffusers.small import FRAMES, LENGTH, SIDE, clean_latents, make_call, make_plan

SIZE = 8 * SIDE
PIXELS = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
FLOATS = PIXELS.astype(np.float32) / 255
PICTURE = torch.from_numpy(FLOATS)  # (H, W, 3)
FORMS = {
    "PIL": Image.fromarray(PIXELS),
    "PIL with alpha": Image.fromarray(np.dstack([PIXELS, np.zeros_like(PIXELS[..., :1])])),
    "uint8 array": PIXELS,
    "float array": FLOATS,
    "double array": PIXELS / 255,
    "mirrored view": np.ascontiguousarray(FLOATS[:, ::-1])[:, ::-1],
    "tensor": PICTURE,
    "tensor, channels first": PICTURE.movedim(-1, 0),
    "uint8 tensor": torch.from_numpy(PIXELS),
    "batch of one": PICTURE[None],
    "batch of one, channels first": PICTURE[None].movedim(-1, 1),
    "list of one": [Image.fromarray(PIXELS)],
}
CLIP = torch.rand(5, SIZE, SIZE, 3, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def pipe(make_pipe, vae_file):
    return make_pipe(vae=open_vae(vae_file))


def planned(pipe, *keyframes):
    return pipe.plan(keyframes, SIZE, SIZE, LENGTH)


def assert_same(plan, expected):
    assert plan.schedules == expected.schedules
    torch.testing.assert_close(plan.clean, expected.clean, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_a_picture_in_any_form_is_the_same_keyframe(pipe, form):
    expected = planned(pipe, still_keyframe(PICTURE[None], 8, "pixel", 0.3))
    assert_same(planned(pipe, (FORMS[form], 8, 0.3)), expected)


@pytest.mark.parametrize(
    "short, index, noise",
    [
        (PIXELS, 0, 0.2), ((PIXELS,), 0, 0.2), ((PIXELS, 8), 8, 0.2), ((PIXELS, -1), -1, 0.5),
        ((PIXELS, LENGTH - 1), -1, 0.5), ((PIXELS, -1, 0.1), -1, 0.1),
        ((PIXELS, None, 0), 0, 0.0), ((PIXELS, np.int64(4), np.float32(0.5)), 4, 0.5),
    ],
)  # fmt: skip
def test_what_is_left_out(pipe, short, index, noise):
    assert_same(planned(pipe, short), planned(pipe, still_keyframe(PICTURE[None], index, "pixel", noise)))


@pytest.mark.parametrize("one", [PIXELS, FORMS["PIL"], PICTURE, (PIXELS, 8), (FORMS["PIL"], -1, 0.3)])
def test_one_needs_no_list(pipe, one):
    assert_same(pipe.plan(one, SIZE, SIZE, LENGTH), planned(pipe, one))


def test_none_are_no_keyframes(pipe):
    assert pipe.plan(None, SIZE, SIZE, LENGTH).is_ordinary


@pytest.mark.parametrize(
    "form", [CLIP, CLIP.movedim(-1, 1), CLIP.numpy(), list(CLIP)], ids=["tensor", "first", "array", "list"]
)
def test_frames_are_a_clip(pipe, form):
    assert_same(planned(pipe, (form, 0, 0.1)), planned(pipe, clip_keyframe(CLIP, 0, "pixel", 0.1)))
    assert_same(planned(pipe, (form, 5, 0.1)), planned(pipe, clip_keyframe(CLIP, 5, "pixel", 0.1)))


def test_pictures_of_another_size_are_cropped(pipe):
    wide = Image.fromarray(PIXELS).resize((2 * SIZE, SIZE))
    assert planned(pipe, wide).clean.shape == (1, 16, FRAMES, SIDE, SIDE)


@pytest.mark.parametrize(
    "given, said",
    [
        ("frame.png", "Keyframe 1: str is no image: give a PIL image"),
        (("frame.png", 0, 0.2), "Keyframe 1: str is no image"),
        ((PIXELS, 0.5), "Keyframe 1: give .image, frame, noise.: a whole number"),
        ((PIXELS, True), "Keyframe 1: give .image, frame, noise."),
        ((PIXELS, 0, "much"), "Keyframe 1: give .image, frame, noise."),
        ((PIXELS, 0, 0.2, 4), "Keyframe 1: give .image, frame, noise."),
        ((PIXELS, 0, 1.5), "Keyframe 1: .*1.5"),
        ((), "Keyframe 1: tuple is no image"),
        ([], "Keyframe 1: list is no image"),
        (PIXELS[..., 0], r"an image of shape \(64, 64\) was given"),
        (PIXELS[..., :2], r"an image of shape \(64, 64, 2\) was given"),
        (PIXELS[:0], r"an image of shape \(0, 64, 3\) was given"),
        (FLOATS * 2 - 1, "values from -.* to .*: give floats from 0 to 1"),
        (np.full_like(FLOATS, np.nan), "values from nan"),
        (PIXELS.astype(np.int32), "an image of torch.int32 was given"),
        ([PIXELS, PIXELS[:32]], "different sizes"),
    ],
)
def test_what_is_no_keyframe_is_told(pipe, given, said):
    with pytest.raises(ValueError, match=said):
        planned(pipe, given)


@pytest.mark.parametrize("given", [Path("frame.png"), 3, iter([PIXELS])])
def test_one_that_is_no_keyframe_is_told(pipe, given):
    with pytest.raises(ValueError, match=f"Keyframe 1: {type(given).__name__} is no image: give a PIL image"):
        pipe.plan(given, SIZE, SIZE, LENGTH)


def test_a_clip_that_the_model_has_no_places_for(pipe):
    with pytest.raises(ValueError, match="A clip of 4097 frames is longer than the model's 4093: make a long video"):
        pipe(**{**make_call(), "num_frames": 4097})


def test_a_picture_of_16_bits_keeps_its_brightness(pipe):
    grey = PIXELS[..., 0]
    deep = planned(pipe, Image.fromarray(grey.astype(np.uint16) * 257))
    assert_same(deep, planned(pipe, np.stack([grey] * 3, axis=-1)))


def test_without_a_vae_only_plans_are_taken(make_pipe, inference_mode):
    with pytest.raises(ValueError, match="has no VAE to encode keyframes with: give a Plan"):
        make_pipe()(**make_call(keyframes=[PIXELS]))


# --- for every prompt ----------------------------------------------------------------------------------------------------


def one_of(call, number):
    per_clip = ("prompt_embeds", "negative_prompt_embeds", "latents")
    return {key: value[number : number + 1] if key in per_clip else value for key, value in call.items()}


def test_every_prompt_has_its_own_keyframes(pipe, inference_mode):
    keyframes = [[PIXELS, (FLOATS[::-1].copy(), -1)], [], [(CLIP, 4, 0.0)]]
    call = make_call(clips=3)
    made = pipe(**call, keyframes=keyframes).frames
    for number, own in enumerate(keyframes):
        alone = pipe(**one_of(call, number), keyframes=own).frames
        torch.testing.assert_close(made[number : number + 1], alone, rtol=1e-4, atol=1e-4)


def test_all_videos_of_a_prompt_have_its_keyframes(make_pipe, inference_mode):
    class Speaks(type(make_pipe())):
        def encode_prompt(self, prompt, negative_prompt=None, num_videos_per_prompt=1, **_):
            call = make_call(clips=len(prompt))
            both = (call["prompt_embeds"], call["negative_prompt_embeds"])
            return tuple(text.repeat_interleave(num_videos_per_prompt, 0) for text in both)

    pipe, clean = make_pipe(Speaks), [clean_latents(seed=seed) for seed in (1, 2)]
    keyframes = [make_plan(clean=clean[0]), make_plan(clean=clean[1])]
    call = {**make_call(clips=4), "prompt_embeds": None, "negative_prompt_embeds": None, "prompt": ["a", "b"]}
    made = pipe(**call, keyframes=keyframes, num_videos_per_prompt=2).frames
    for number in range(4):
        assert made[number, :, 0].equal(clean[number // 2][0, :, 0])
    assert not made[0].equal(made[1])


def test_keyframes_for_another_number_of_prompts_are_refused(pipe, inference_mode):
    with pytest.raises(ValueError, match="There are 2 prompts, but keyframes for 3: give a list for each prompt"):
        pipe(**make_call(clips=2), keyframes=[[PIXELS], [], []])
    two = Plan(make_plan().schedules * 2, clean_latents(2))
    with pytest.raises(ValueError, match="The plan is for 2 clips, but 3 are made"):
        pipe(**make_call(clips=3), keyframes=two)


def test_latents_of_another_shape_are_refused(make_pipe, inference_mode):
    call = make_call(latents=torch.zeros(1, 16, FRAMES + 1, SIDE, SIDE))
    with pytest.raises(ValueError, match=r"latents are of shape \(16, 7, 8, 8\), but the plan's clip is \(16, 6, 8, 8\)"):
        make_pipe()(**call, keyframes=make_plan())


# --- strength by frame ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [CLIP, CLIP.numpy(), list(CLIP)], ids=["tensor", "array", "list"])
def test_a_clip_is_the_start_of_every_frame(pipe, form):
    noise = "0: 0.1, 1: 1, -1: 0.5"
    expected = Strength(noise, length=LENGTH, retime="stretch").keyframe(CLIP)
    assert_same(planned(pipe, (form, Strength(noise, retime="stretch"))), planned(pipe, expected))
    assert_same(pipe.plan((form, Strength("0.5")), SIZE, SIZE, LENGTH), planned(pipe, Strength("0.5").keyframe(CLIP)))


def test_frames_that_are_kept_come_back(pipe, inference_mode):
    clip = torch.rand(LENGTH, SIZE, SIZE, 3, generator=torch.Generator().manual_seed(2))
    plan = planned(pipe, (clip, Strength("0: 0.2, 8: 0.2, 9: 1, 16: 1, 17: 0.7")))
    made, clean = pipe(**make_call(keyframes=plan)).frames, pipe._normalised(plan.clean)
    assert [frame.multiplier for frame in plan.schedule.frames] == [0.2, 0.2, 0.2, 1, 1, 0.7]
    torch.testing.assert_close(made[:, :, :3], clean[:, :, :3], rtol=1e-4, atol=1e-4)
    assert (made[:, :, 3:] - clean[:, :, 3:]).abs().mean(dim=(0, 1, 3, 4)).min() > 0.01


def test_a_curve_that_does_not_fit_is_told(pipe):
    with pytest.raises(ValueError, match="Keyframe 1: Frame 9 of the noise curve lies outside its 5 frames"):
        planned(pipe, (CLIP, Strength("9: 0")))
