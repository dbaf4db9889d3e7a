"""Frame-aware flow matching against its definition."""

import math

import pytest
import torch

from pusa_core.training import GRID, RULES, add_noise, clip_losses, draw_sigmas, timestep_weights


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def grid(shift=5.0):
    return torch.tensor([shift * s / (1 + (shift - 1) * s) for s in (1 - i / GRID for i in range(GRID))])


def test_frames_draw_their_sigmas_independently():
    drawn = torch.stack([draw_sigmas(4, g) for g in [generator()] for _ in range(4000)])
    correlation = torch.corrcoef(drawn.T) - torch.eye(4)
    assert correlation.abs().max() < 0.06


def test_sigmas_are_uniform_over_the_shifted_grid():
    g = generator()
    drawn = torch.cat([draw_sigmas(50, g) for _ in range(400)])
    assert torch.isin((drawn * 1e6).round(), (grid() * 1e6).round()).all()
    for quantile in (0.1, 0.25, 0.5, 0.75, 0.9):
        expected = 5 * quantile / (1 + 4 * quantile)
        assert abs(drawn.quantile(quantile) - expected) < 0.02


def test_first_frame_rule():
    sigmas = draw_sigmas(5, generator(), "first_frame")
    assert sigmas[0] == 0 and len(set(sigmas[1:].tolist())) == 1 and sigmas[1] > 0


def test_shared_rule():
    assert len(set(draw_sigmas(5, generator(), "shared").tolist())) == 1


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match=", ".join(RULES)):
        draw_sigmas(5, generator(), "random")


def test_noise_is_added_frame_by_frame():
    clean, noise = torch.randn(2, 3, 2, 1, 1), torch.randn(2, 3, 2, 1, 1)
    x = add_noise(clean, noise, torch.tensor([[0.0, 1.0], [0.25, 0.5]]))
    assert x[0, :, 0].equal(clean[0, :, 0]) and x[0, :, 1].equal(noise[0, :, 1])
    torch.testing.assert_close(x[1, :, 0], 0.75 * clean[1, :, 0] + 0.25 * noise[1, :, 0])


def test_weights_have_mean_one_and_lie_on_the_bell():
    weights = timestep_weights(grid())
    assert abs(weights.mean() - 1) < 1e-5 and weights.min() == 0
    bell = [math.exp(-2 * ((1000 * s - 500) / 1000) ** 2) for s in grid().tolist()]
    expected = torch.tensor(bell) - min(bell)
    torch.testing.assert_close(weights, expected / expected.mean(), rtol=1e-4, atol=1e-5)


def test_a_perfect_velocity_has_no_loss_and_a_wrong_one_its_squared_error_times_the_mean_weight():
    clean, noise = torch.randn(2, 3, 4, 2, 2), torch.randn(2, 3, 4, 2, 2)
    sigmas = torch.stack([draw_sigmas(4, generator(i)) for i in range(2)])
    assert clip_losses(noise - clean, clean, noise, sigmas).equal(torch.zeros(2))
    losses = clip_losses(noise - clean + 0.5, clean, noise, sigmas)
    torch.testing.assert_close(losses, 0.25 * timestep_weights(sigmas).mean(1))
