"""The schedule's picture shows the schedule, in colours that everybody can tell apart."""

import numpy as np
import pytest
from PIL import Image

from pusa_core import messages
from pusa_core.figures import LABEL, MARGIN, WIDTH, Run, _Chart, draw_schedule, fold, main, sigma_colours
from pusa_core.schedule import ORDINARY, FrameMap, FrameSchedule, pusa_sigmas

LINE = FrameMap.line
SIGMAS = pusa_sigmas(4).tolist()
LATE = FrameMap(((0.0, 0.0), (0.5, 0.0), (1.0, 1.0)))  # bends: clean from the middle on


def cell(picture, schedule, sigmas, latent, row):
    """The colour at the edge of a cell, as uint8."""
    chart = _Chart.of(schedule, sigmas)
    number = next(i for i, run in enumerate(chart.runs) if run.first <= latent <= run.last)
    x, y = chart.edges[number], chart.top + row * chart.height + 1
    return (picture[0, y, x] * 255).round().byte().tolist()


@pytest.mark.parametrize("frame", [LINE(0), LINE(0.3), LINE(0.3, "hold"), LATE, ORDINARY])
def test_a_cell_has_the_colour_of_its_frames_sigma(frame):
    schedule, sigmas = FrameSchedule.build(5, {2: frame}), pusa_sigmas(10).tolist()
    picture = draw_schedule(schedule, sigmas)
    for row, sigma in enumerate(sigmas):
        assert cell(picture, schedule, sigmas, 2, row) == sigma_colours([frame.sigma(sigma)])[0].tolist()
        assert cell(picture, schedule, sigmas, 0, row) == sigma_colours([sigma])[0].tolist()


def lightness(colours):
    """CIE L* of sRGB colours."""
    linear = np.where(colours <= 10.3, colours / 3294.6, ((colours / 255 + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    return 116 * np.cbrt(luminance) - 16


# What people without one kind of cones see, in linear RGB. Source: Machado, Oliveira and Fernandes 2009.
BLINDNESS = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "nobody": np.eye(3),
}


@pytest.mark.parametrize("kind", BLINDNESS)
def test_noise_is_darker_in_even_steps_for_everybody(kind):
    colours = sigma_colours(np.linspace(0, 1, 21)).astype(float)
    seen = np.clip((colours / 255) ** 2.2 @ np.transpose(BLINDNESS[kind]), 0, 1) ** (1 / 2.2) * 255
    steps = -np.diff(lightness(seen))
    assert steps.min() > 2  # a difference that is seen
    assert steps.max() < 2 * steps.min()


# --- folding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("latents", [21, 81, 401])
def test_frames_that_do_the_same_are_one_column(latents):
    middle = latents // 2
    runs = fold(FrameSchedule.build(latents, {0: LINE(0.2), middle: LINE(0.3), latents - 1: LINE(0.5)}))
    assert [run.latents for run in runs] == [
        "0",
        f"1-{middle - 1}",
        f"{middle}",
        f"{middle + 1}-{latents - 2}",
        f"{latents - 1}",
    ]
    assert [run.role for run in runs] == ["noise 0.2", "ordinary", "noise 0.3", "ordinary", "noise 0.5"]
    assert runs[1].frames == f"frames 1-{4 * (middle - 1)}"


def test_folded_pictures_do_not_grow_with_the_clip():
    sizes = {
        tuple(draw_schedule(FrameSchedule.build(n, {0: LINE(0.2), n - 1: LINE(0.5)}), pusa_sigmas(10).tolist()).shape)
        for n in (21, 81, 401)
    }
    assert len(sizes) == 1


def test_folding_keeps_every_frame():
    maps = {i: LINE(i % 3 / 10) for i in range(30) if i % 5}
    schedule = FrameSchedule.build(40, maps)
    runs = fold(schedule)
    frames = [run.frame for run in runs for _ in range(run.first, run.last + 1)]
    assert tuple(frames) == schedule.frames
    assert all(a.frame != b.frame and b.first == a.last + 1 for a, b in zip(runs, runs[1:]))


@pytest.mark.parametrize(
    "frame, role",
    [(LINE(0), "clean"), (LINE(0.25, "hold"), "noise 0.25, held"), (LATE, "noise 1, bent"), (ORDINARY, "ordinary")],
)
def test_a_column_says_what_its_frames_do(frame, role):
    assert Run(1, 2, frame).role == role


# --- all schedules ---------------------------------------------------------------------------------------------------

SCHEDULES = {
    "ordinary": lambda i, n: None,
    "every tenth": lambda i, n: LINE(i % 7 / 10) if i % 10 == 0 else None,
    "ramp": lambda i, n: LINE(i / n, "hold" if i % 2 else "evolve"),
    "rolling": lambda i, n: FrameMap(((0.0, 0.0), (0.4 * (i + 1) / n, 0.0), (1.0, 1.0))),
}


@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize("latents", [1, 2, 21, 81, 401, 5000])
@pytest.mark.parametrize("steps", [1, 10, 500])
def test_every_schedule_can_be_drawn(kind, latents, steps):
    maps = {i: SCHEDULES[kind](i, latents) for i in range(latents)}
    schedule = FrameSchedule.build(latents, {i: frame for i, frame in maps.items() if frame})
    picture = draw_schedule(schedule, pusa_sigmas(steps).tolist())
    assert picture.shape[0] == 1 and picture.shape[2:] == (WIDTH, 3)
    assert picture.shape[1] <= 600
    assert picture.min() >= 0 and picture.max() <= 1
    paper = picture[0, 0, 0]
    assert (picture[0, :, :8] == paper).all() and (picture[0, :, -4:] == paper).all()  # no text runs over the edge


def test_no_given_frame_vanishes_between_others():
    """Of 401 frames with other neighbours each, a column is one pixel wide, or two."""
    schedule = FrameSchedule.build(1001, {i: LINE(0) for i in range(0, 1001, 2)})
    sigmas = pusa_sigmas(10).tolist()
    picture, chart = draw_schedule(schedule, sigmas), _Chart.of(schedule, sigmas)
    row = (picture[0, chart.top + 1, LABEL : WIDTH - MARGIN - 1] * 255).round()
    clean = (row == 255).any(dim=1)
    assert clean.float().mean() > 0.5


def test_notes_that_the_font_cannot_write_are_left_out():
    schedule = FrameSchedule.build(2)
    without = draw_schedule(schedule, SIGMAS)
    assert draw_schedule(schedule, SIGMAS, ["Keyframe 1", "\u5173\u952e\u5e27 2"]).equal(without)
    assert draw_schedule(schedule, SIGMAS, ["Keyframe 1"]).shape != without.shape


def test_a_picture_is_in_english_whatever_the_language(monkeypatch):
    english = draw_schedule(FrameSchedule.build(2), SIGMAS)
    monkeypatch.setattr(messages, "_catalogue", lambda name: {} if name == "en" else {"{count} frames": "{count} \u5e27"})
    monkeypatch.setattr(messages, "find_language", lambda tag: "zh")
    assert messages.say("{count} frames", count=5) == "5 \u5e27"
    assert draw_schedule(FrameSchedule.build(2), SIGMAS).equal(english)


def test_notes_are_wrapped_below():
    schedule, sigmas = FrameSchedule.build(5, {0: LINE(0)}), pusa_sigmas(4).tolist()
    plain, noted = draw_schedule(schedule, sigmas), draw_schedule(schedule, sigmas, ["a note " * 60])
    assert noted.shape[1] > plain.shape[1] + 60
    assert (noted[0, plain.shape[1] :, -8:] == noted[0, 0, 0]).all()
    assert (noted[:, : plain.shape[1] - 8] == plain[:, :-8]).all()


def test_the_same_schedule_gives_the_same_picture_as_the_readme_has(tmp_path, monkeypatch):
    from pathlib import Path

    kept = Path(__file__).resolve().parents[2] / "web" / "pictures" / "schedule.png"
    monkeypatch.setattr("sys.argv", ["figures", str(tmp_path / "drawn.png")])
    main()
    drawn, readme = (np.asarray(Image.open(path), dtype=int) for path in (tmp_path / "drawn.png", kept))
    assert drawn.shape == readme.shape
    assert (abs(drawn - readme) > 8).mean() < 0.02  # fonts are drawn a little otherwise by other versions
