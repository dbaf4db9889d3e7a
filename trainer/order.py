"""Which clip comes when: it follows from a sample's number alone, and a step's whole batch is of one shape."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch


def clip_index(number: int, groups: Sequence[Sequence[int]], batch: int, seed: int) -> int:
    """Which clip is the `number`-th to be trained on.

    Args:
        groups: the clips of each shape.
        batch: samples for each step, which are all of one group.
    """
    step, place = divmod(number, batch)
    group, turn = step_group(step, tuple(map(len, groups)), seed)
    return groups[group][sample_index(turn * batch + place, len(groups[group]), seed)]


def step_group(step: int, sizes: tuple[int, ...], seed: int) -> tuple[int, int]:
    """(the group that a step draws from, how many steps have before): in a cycle of as many steps as there are clips each
    group has as many as it has clips, so every clip comes as often as any other."""
    cycle, place = divmod(step, sum(sizes))
    group, turn = _cycle(sizes, seed, cycle)[place]
    return group, cycle * sizes[group] + turn


@lru_cache(maxsize=2)
def _cycle(sizes: tuple[int, ...], seed: int, cycle: int) -> list[tuple[int, int]]:
    """(group, its steps before in this cycle) of each of a cycle's steps, in an order of its own."""
    groups = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    turns = [0] * len(sizes)
    steps = []
    for group in groups[_permutation(len(groups), seed, cycle)].tolist():
        steps.append((group, turns[group]))
        turns[group] += 1
    return steps


def sample_index(number: int, clips: int, seed: int) -> int:
    """Which of a group's clips is the `number`-th: every clip once, in a new order, before any comes again."""
    epoch, place = divmod(number, clips)
    return int(_permutation(clips, seed, epoch)[place])


@lru_cache(maxsize=16)
def _permutation(count: int, seed: int, epoch: int) -> torch.Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
