"""What every sampler of ComfyUI does to keyframes: the sampler table of results.md.

- Drift: the largest change, in latent units, of a keyframe at m = 0, and of one that is held at m = 0.3, in 20 steps.
- Error, for samplers that solve the flow's ODE: the distance to a fine solution (heun) of the same model and noise,
  relative to that solution, on a keyframe at m = 0.2 and on the clip's ordinary frames.
- Noise share, for samplers that inject noise: with a network that knows the clip, the spread of the noise which that
  keyframe has whenever the network sees it, over m * sigma, which it should have; then the same on ordinary frames.

Errors and shares are at cfg 1. CFG++ samplers get the positive prompt as the negative one, too, since they guide even at
cfg 1: with two prompts they solve another equation on purpose.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the model is tiny: a second thread costs more than it gives

import bench  # noqa: E402

FRAMES, SIDE, M = 6, 8, 0.2
KEYFRAMES, ORDINARY = slice(0, 1), slice(1, None)
NOISE_SIDE = 48  # more numbers to take a spread of, for a network that costs nothing
STEPS = (5, 10, 20, 40)
STOPS_EARLY = ("dpm_fast", "dpm_adaptive")
HEADER = ["sampler", "kind", "drift at m = 0", "drift of hold"]
HEADER += [f"{what}: error in {' / '.join(map(str, STEPS))} steps, or noise share" for what in ("m = 0.2", "ordinary frames")]


def main() -> None:
    parser = bench.parser(__doc__, threads=1)
    parser.add_argument("--fine", type=int, default=400, help="steps of the fine solution")
    parser.add_argument("--samplers", nargs="*", help="only these")
    options = parser.parse_args()
    bench.use_comfyui(options)
    import comfy.samplers
    import torch

    from pusa_core.evaluations import relative_errors
    from tests import tiny

    with torch.inference_mode(), tempfile.TemporaryDirectory() as folder:
        model = tiny.load_wan(tiny.write_wan(Path(folder) / "wan.safetensors", seed=1))
        text = tiny.conditioning(seed=1), tiny.conditioning(seed=2)
        fine = m_clip(model, text, "heun", options.fine)
        away = relative_errors(m_clip(model, text, "heun", options.fine // 2), fine).item()
        names = options.samplers or comfy.samplers.SAMPLER_NAMES
        rows = [measure(model, text, name, fine) for name in names]
    note = f"Fine solution: heun, {options.fine} steps; heun with half as many is {away:.1e} away from it."
    bench.publish("samplers", f"{bench.table(HEADER, grouped(rows))}\n\n{note}", options.write)


def measure(model, text, name: str, fine) -> list[str]:
    from pusa_core.hosts.comfyui.evaluations import adds_noise

    drift = [f"{d:.0e}" if d else "0" for d in drifts(model, text, name)]
    if "cfg_pp" in name:
        text = text[0], text[0]
    if adds_noise(model, name):
        return [name, "injects noise", *drift, *[f"{share:.2f}" for share in noise_shares(model, text, name)]]
    kind = "ODE, stops one sigma early" if name in STOPS_EARLY else "ODE"
    clips = [m_clip(model, text, name, steps) for steps in STEPS]
    return [name, kind, *drift, *[errors(clips, fine, part) for part in (KEYFRAMES, ORDINARY)]]


def errors(clips: list, fine, part: slice) -> str:
    from pusa_core.evaluations import relative_errors

    return " / ".join(f"{100 * relative_errors(clip[:, :, part], fine[:, :, part]).item():.2g}" for clip in clips) + " %"


def patched(model, keyframes: dict, side: int = SIDE):
    from pusa_core.hosts.comfyui import apply_schedule

    plan = bench.clip_plan(FRAMES, keyframes, side, side)
    return apply_schedule(model, plan), plan


def grid(steps: int):
    from pusa_core.schedule import pusa_sigmas

    return pusa_sigmas(steps)


def m_clip(model, text, sampler: str, steps: int, seed: int = 0):
    model, plan = patched(model, {0: (M, "evolve")})
    return bench.sample(model, plan, text, sampler, grid(steps), seed=seed)


def drifts(model, text, sampler: str) -> tuple[float, float]:
    """Largest change of a keyframe at m = 0 and of a held one, in 20 steps at cfg 2."""
    model, plan = patched(model, {0: (0.0, "evolve"), 3: (0.3, "hold")})
    change = (bench.sample(model, plan, text, sampler, grid(20), cfg=2.0) - plan.clean).abs()
    return change[:, :, 0].max().item(), change[:, :, 3].max().item()


def noise_shares(model, text, sampler: str) -> tuple[float, float]:
    """Noise over sigma, as the network sees it, on average over a run: of the keyframe, and of ordinary frames."""
    import torch
    from comfy.patcher_extension import WrappersMP

    model, plan = patched(model, {0: (M, "evolve")}, NOISE_SIDE)
    clip = model.model.process_latent_in(plan.clean)
    seen = []

    def network(executor, x, timestep, *args, **kwargs):
        """The velocity of a network that knows the clip: the noise in x less the clip."""
        sigma = (timestep / 1000)[:, None, :, None, None]
        noise = (x - (1 - sigma) * clip.to(x)) / sigma
        seen.append(noise.std((0, 1, 3, 4)))
        return noise - clip.to(x)

    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "benchmark", network)
    bench.sample(model, plan, text, sampler, grid(20))
    shares = torch.stack(seen[1:]).mean(0)  # without the start noise, which is right for every sampler
    return shares[KEYFRAMES].mean().item(), shares[ORDINARY].mean().item()


def grouped(rows: list[list[str]]) -> list[list[str]]:
    """Rows with equal figures as one, solvers of the ODE first."""
    same: dict[tuple, list[str]] = {}
    for name, *figures in rows:
        same.setdefault(tuple(figures), []).append(name)
    order = sorted(same.items(), key=lambda item: ("ODE" not in item[0][0], item[0][0]))
    return [[", ".join(names), *figures] for figures, names in order]


if __name__ == "__main__":
    main()
