"""The tables of benchmarks/quality.py, from figures made up here."""

import importlib

import pytest
import torch

from environment.comfyui import PACK


@pytest.fixture(scope="module")
def benchmark(comfyui):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(PACK / "benchmarks")
        yield importlib.import_module("quality")


def figures(benchmark, errors):
    return benchmark.Figures(errors, torch.ones_like(errors), torch.full_like(errors, 3.0))


def rows(table):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("| ")]


@pytest.fixture
def results(benchmark):
    """One task: m takes .5 px from Pusa's errors, alpha adds .25; the other LoRA is 1 px worse, and 2 more with alpha."""
    clips = 10 * torch.rand(64, generator=torch.Generator().manual_seed(0))
    wobble = 0.01 * torch.randn(8, 64, generator=torch.Generator().manual_seed(1))
    found = {}
    for number, setting in enumerate(benchmark.SQUARE):
        m, alpha = setting.recommended_m, setting.recommended_alpha
        own = clips - 0.5 * m + 0.25 * alpha + wobble[number]
        found[benchmark.PUSA, setting] = figures(benchmark, own)
        found[benchmark.FIRST_FRAME, setting] = figures(benchmark, own + 1 + 2 * alpha + wobble[number + 4])
    return {"extension": found}


def numbers(cell):
    return [float(part) for part in cell.replace("[", "").replace("]", "").replace(",", "").split()]


def test_tables_tell_the_number_of_clips(benchmark, results):
    assert benchmark.task_tables(results)[0].startswith("Extension, 64 clips.")


def test_every_setting_has_its_column_and_interval(benchmark, results):
    header, _, *table = rows(benchmark.settings_table(results, "px", lambda f: str(benchmark.mean_interval(f.motion_errors))))
    assert header[2:] == ["m = 0, alpha 1", "m = 0, alpha 1.4", "recommended m, alpha 1", "recommended m, alpha 1.4"]
    cells = {row[1]: row[2:] for row in table}
    assert cells["base, ComfyUI's noise mask"] == ["-"] * 4  # of which nothing was measured
    mean, low, high = numbers(cells[benchmark.PUSA][0])
    assert low < mean < high


def test_the_lead_is_a_paired_difference(benchmark, results):
    _, _, [task, *cells] = rows(benchmark.lead_table(results))
    assert task == "extension"
    means, lows, highs = zip(*map(numbers, cells))
    assert means == pytest.approx((1, 3, 1, 3, 1.25), abs=0.02)
    assert max(high - low for low, high in zip(lows, highs)) < 0.05  # clips differ by far more


def test_m_and_alpha_are_told_apart(benchmark, results):
    _, _, *table = rows(benchmark.effects_table(results))
    means = {row[1]: [numbers(cell)[0] for cell in row[2:]] for row in table}
    assert means[benchmark.PUSA] == pytest.approx([-0.5, -0.5, 0.25, 0.25], abs=0.02)
    assert means[benchmark.FIRST_FRAME] == pytest.approx([-0.5, -0.5, 2.25, 2.25], abs=0.02)


def test_settings_that_change_nothing_are_not_sampled(benchmark):
    bare, mask = benchmark.METHODS["base, frames pinned, no LoRA"], benchmark.METHODS["base, ComfyUI's noise mask"]
    assert [setting.applies_to(bare) for setting in benchmark.SQUARE] == [True, False, True, False]
    assert [setting.applies_to(mask) for setting in benchmark.SQUARE] == [True, False, False, False]
    assert all(setting.applies_to(benchmark.METHODS[benchmark.PUSA]) for setting in benchmark.SQUARE)


def test_long_clips_go_through_the_vae_in_parts_that_join(benchmark):
    """A VAE that keeps the last picture of every latent frame: none may be lost or come twice."""
    long_video, lengths = importlib.import_module("long_video"), []

    class Demo:
        def encode(self, pictures):
            lengths.append(len(pictures))
            return pictures[None, ::4].movedim(-1, 1)

        def decode(self, latents):
            return latents

    clips = torch.rand(2, 49, 2, 2, 3)
    assert torch.equal(long_video.through_vae(Demo(), clips), clips[:, ::4].movedim(-1, 1))
    assert lengths == [long_video.LENGTH] * 6
