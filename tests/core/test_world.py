"""The demo model's world: clips, captions, truth, and the measures that read clips."""

import pytest
import torch

from demo_model.measure import follows, look_for, motion_error, shape_of, velocity
from demo_model.text import TEXT_DIM, TOKENS, encode
from demo_model.world import (
    DIRECTIONS,
    HELD_OUT,
    LENGTH,
    PAIRS,
    SHAPES,
    SIZE,
    SPEEDS,
    WORDS,
    Actor,
    Backdrop,
    Scene,
    draw,
    scene,
    scene_of,
)

GREY = Backdrop("plain", ((0.3, 0.3, 0.3), (0.4, 0.4, 0.4)))
SEEDS = range(30)


def test_a_seed_always_gives_the_same_clip():
    assert scene(5) == scene(5) != scene(6)
    assert draw([scene(5)]).equal(draw([scene(5)]))


def test_clips_are_pictures():
    clips = draw([scene(seed) for seed in SEEDS])
    assert clips.shape == (len(SEEDS), LENGTH, SIZE, SIZE, 3)
    assert clips.min() >= 0 and clips.max() <= 1


def test_training_never_sees_the_held_out_pairs():
    seen = {(actor.colour, actor.shape) for seed in range(2000) for actor in scene(seed).actors}
    assert seen == set(PAIRS) - HELD_OUT
    assert all((s.actors[0].colour, s.actors[0].shape) in HELD_OUT for s in (scene(i, held_out=True) for i in range(100)))


def test_objects_are_where_their_track_says():
    for seed in SEEDS:
        one = scene(seed)
        if len(one.actors) == 1:
            centre = look_for(draw([one])[0], one.actors[0].colour).centre
            assert (centre - one.tracks()[0, :, :2]).norm(dim=1).max() < 1.0


def test_objects_stay_in_the_picture():
    """No object loses more than a sliver at the picture's edge."""
    for seed in SEEDS:
        one = scene(seed)
        if len(one.actors) == 1:
            actor = one.actors[0]
            area = look_for(draw([one])[0], actor.colour).area
            radius = one.tracks()[0, :, 2]
            share = area / radius.square()  # of one shape, the same in every frame that shows it whole
            assert share.min() > 0.8 * share.max(), one.caption


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("speed", SPEEDS)
def test_moves_have_the_velocity_of_their_caption(direction, speed):
    actor = Actor(
        "red", "circle", "moves", direction, speed, (32 - 15 * DIRECTIONS[direction][0], 32 - 15 * DIRECTIONS[direction][1])
    )
    measured = velocity(look_for(draw([Scene((actor,), GREY)])[0], "red"))
    torch.testing.assert_close(measured, SPEEDS[speed] * torch.tensor(DIRECTIONS[direction]), atol=0.05, rtol=0.02)


def test_bounces_turn_around():
    for seed in range(10):
        one = scene(seed, motion="bounces")
        path = one.tracks()[0, :, :2]
        axis = 0 if DIRECTIONS[one.actors[0].direction][0] else 1
        steps = path[1:, axis] - path[:-1, axis]
        assert (steps[:2].sign() == sum(DIRECTIONS[one.actors[0].direction])).all()
        assert (steps[-2:].sign() == -sum(DIRECTIONS[one.actors[0].direction])).all()


def test_two_objects_meet():
    for seed in range(20):
        first, second = scene(seed, motion="crosses").tracks()
        gap = (first - second)[:, :2].norm(dim=1)
        assert gap.min() < gap[0] - 5 and gap.min() < gap[-1] - 5


def test_the_first_actor_lies_in_front():
    front, back = (Actor(colour, "circle", "spins", start=(32, 32)) for colour in ("red", "blue"))
    clip = draw([Scene((front, back), GREY)])[0]
    assert look_for(clip, "red").area.min() > 100 and look_for(clip, "blue").area.max() == 0


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_are_told_apart(shape):
    for colour in ("red", "cyan"):
        clip = draw([Scene((Actor(colour, shape, "spins"),), GREY)])[0]
        assert shape_of(look_for(clip, colour).masks[0]) == shape
        assert shape_of(look_for(clip, colour).masks[6], turns=8) == shape


def test_true_clips_follow_their_captions():
    for seed in SEEDS:
        for held_out in (False, True):
            one = scene(seed, held_out)
            clip = draw([one])[0]
            assert all(verdict.all for verdict in follows(clip, one)), one.caption
            assert motion_error(clip, one, slice(0, LENGTH)) < 5  # where one hides the other, less is seen of it


def test_wrong_clips_do_not():
    red = Scene((Actor("red", "bar", "moves", "right", "quickly", (14, 32)),), GREY)
    clip = draw([red])[0]
    for change, wrong in (
        ("colour", Actor("blue", "bar", "moves", "right", "quickly", (14, 32))),
        ("shape", Actor("red", "triangle", "moves", "right", "quickly", (14, 32))),
        ("direction", Actor("red", "bar", "moves", "left", "quickly", (14, 32))),
        ("direction", Actor("red", "bar", "moves", "up", "quickly", (14, 32))),
        ("direction", Actor("red", "bar", "grows")),
    ):
        assert not getattr(follows(clip, Scene((wrong,), GREY))[0], change), wrong.caption
    assert not any(verdict.colour for verdict in follows(draw([scene(3, motion="crosses")])[0], red))


def test_what_is_not_seen_is_far_away():
    red = Scene((Actor("red", "bar", "moves", "right", "quickly", (14, 32)),), GREY)
    assert motion_error(torch.zeros(LENGTH, SIZE, SIZE, 3), red, slice(0, LENGTH)) == SIZE


# --- captions ------------------------------------------------------------------------------------------------------------


def test_a_caption_gives_back_its_scene():
    for seed in SEEDS:
        one = scene(seed)
        again = scene_of(one.caption, seed=1)
        assert again.caption == one.caption or len(one.actors) == 2
        assert [(a.colour, a.shape, a.motion, a.direction) for a in again.actors] == [
            (a.colour, a.shape, a.motion, a.direction) for a in one.actors
        ]


def test_what_a_caption_leaves_open_follows_from_the_seed():
    assert scene_of("a red circle", 3) == scene_of("a red circle", 3)
    assert len({scene_of("a circle", seed).actors[0].colour for seed in range(30)}) > 3


def test_every_word_has_its_own_embedding():
    tokens = torch.stack([encode(word)[0, 0] for word in WORDS])
    assert tokens.shape == (len(WORDS), TEXT_DIM)
    assert torch.linalg.matrix_rank(tokens[:, : len(WORDS) + 2]) == len(WORDS)


def test_the_second_object_has_other_embeddings():
    first, second = encode("a red circle")[0], encode("a blue bar and a red circle")[0]
    assert first.shape == (TOKENS, TEXT_DIM)
    assert not first[0].equal(second[2]) and (first[0] * second[2]).sum() > 0
    assert encode("A RED, circle!").equal(encode("red circle"))


def test_an_empty_caption_is_all_zeros():
    assert not encode("").any()


@pytest.mark.parametrize("parse", [encode, lambda text: scene_of(text, 0)])
def test_unknown_words_are_named(parse):
    with pytest.raises(ValueError, match=r'the word "cirle"; did you mean circle\? It knows colours \(red'):
        parse("a red cirle moves left")
    with pytest.raises(ValueError, match="at most"):
        parse("a red circle and a blue bar and a green cross")
