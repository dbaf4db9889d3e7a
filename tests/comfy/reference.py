"""Pusa's published sampling rule, written out plainly and on its own: nothing of the pack is imported here.

Sources: arXiv 2507.16116 and the authors' inference code, without its accidents (integer timesteps and the like).
"""

import torch


def sigma_grid(steps, shift):
    sigmas = []
    for i in range(steps):
        s = 1 - i / steps
        sigmas.append(shift * s / (1 + (shift - 1) * s))
    return [*sigmas, 0.0]


def sample(model, text, clean, keyframes, noise, *, steps, shift, cfg, low_noise_model=None, boundary=0.875):
    """The final latents as the model sees them.

    model: a ComfyUI MODEL, of which only the bare network is called. clean: (1, C, F, H, W). keyframes: {latent frame:
    (noise multiplier, "evolve" or "hold")}. noise: (B, C, F, H, W).
    """
    multipliers = torch.ones(noise.shape[2])
    for frame, (m, _) in keyframes.items():
        multipliers[frame] = m
    held = [frame for frame, (_, behaviour) in keyframes.items() if behaviour == "hold"]
    m = multipliers[None, None, :, None, None]
    sigmas = sigma_grid(steps, shift)
    x = (1 - m * sigmas[0]) * clean + m * sigmas[0] * noise
    for sigma, sigma_next in zip(sigmas[:-1], sigmas[1:]):
        expert = low_noise_model if low_noise_model is not None and sigma < boundary else model
        timestep = (1000 * sigma * multipliers).expand(x.shape[0], -1)
        v = network(expert, x, timestep, text.positive)
        if cfg != 1:
            v_negative = network(expert, x, timestep, text.negative)
            v = v_negative + cfg * (v - v_negative)
        x = x + v * m * (sigma_next - sigma)
        x[:, :, held] = ((1 - m * sigma_next) * clean + m * sigma_next * noise)[:, :, held]
    return x


def network(model, x, timestep, conditioning):
    context = conditioning[0][0].expand(x.shape[0], -1, -1)
    return model.model.diffusion_model(x, timestep, context, transformer_options={})
