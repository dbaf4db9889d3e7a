"""Asynchronous diffusion forcing written out plainly and on its own: nothing of the pack is imported here.

Source: SkyReels-V2 (arXiv 2504.13074) and its inference code, without its accidents (integer timesteps), with Euler's step.
"""

import torch


def sigma_grid(steps, shift):
    values = [shift * (1 - i / steps) / (1 + (shift - 1) * (1 - i / steps)) for i in range(steps)]
    return [*values, 0.0]


def rows(frames, steps, ar_step, block, prefix):
    """For each evaluation, how many steps every frame has taken after it; row by row, as their loop counts."""
    blocks = frames // block
    done = [steps + 1 if b < prefix // block else 0 for b in range(blocks)]
    table = []
    while min(done) < steps:
        new = []
        for b in range(blocks):
            is_free = b == 0 or done[b - 1] >= steps
            count = done[b] + 1 if is_free else new[b - 1] - ar_step
            new.append(min(max(count, 0), steps + 1))
        table.append([min(count, steps) for count in new for _ in range(block)])
        done = new
    return table


def sample(velocity, clean, noise, *, steps, shift, ar_step, block=1, prefix=0, size=None):
    """The final latents, (B, C, F, H, W).

    velocity: function of (x (B, C, W, H, W), sigmas (B, W)) of the frames that are shown. clean: its first `prefix` frames
    are given. size: how many frames are shown, the latest; None shows all.
    """
    frames, grid = noise.shape[2], sigma_grid(steps, shift)
    x = torch.cat([clean[:, :, :prefix].expand(len(noise), -1, -1, -1, -1), noise[:, :, prefix:]], 2)
    before = [steps if f < prefix else 0 for f in range(frames)]
    end = frames if size is None else size
    for after in rows(frames, steps, ar_step, block, prefix):
        after = [max(a, b) for a, b in zip(after, before)]
        while end < frames and after[end] > before[end]:
            end += block
        start = 0 if size is None else max(end - size, 0)
        sigmas = torch.tensor([grid[count] for count in before[start:end]]).expand(len(x), -1)
        v = velocity(x[:, :, start:end], sigmas)
        for i, f in enumerate(range(start, end)):
            x[:, :, f] = x[:, :, f] + v[:, :, i] * (grid[after[f]] - grid[before[f]])
        before = after
    return x
