"""Fewer model evaluations: how far samplers and grids are from a fine run, by kind of frame.

On the demo model, at a keyframe that stays and a noisy one; or, with --prompt, on a model of your own: an API prompt with a
Pusa KSampler (in ComfyUI: Export (API)), which a running ComfyUI with this pack samples on its own card.

    python benchmarks/evaluations.py --write
    python benchmarks/evaluations.py --prompt my_prompt.json --server 127.0.0.1:8188

It is agreement with the fine run in latents, and holds for the model, the prompt and the noise that were measured alone.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import bench

SCENES = 9500  # beyond those that other benchmarks look at
M = (0.0, 0.3)  # noise of the first picture and of the last
CFG, SHIFT = 3.0, 5.0
SHARED = ("model", "positive", "negative", "latent", "seed", "cfg", "schedule", "low_noise_model", "boundary")


def main() -> None:
    options = arguments()
    if options.prompt is None:
        return on_demo_model(options)
    prompt = comparing(read_prompt(options.prompt), options)
    print(asked(f"http://{options.server}", prompt))


def arguments() -> argparse.Namespace:
    parser = bench.parser(__doc__, threads=1)
    parser.add_argument("--samplers", default="euler, heun, dpmpp_2m, res_multistep, uni_pc")
    parser.add_argument("--schedulers", default="pusa, beta, simple")
    parser.add_argument("--shifts", default="5")
    parser.add_argument("--evaluations", default="4, 6, 8, 10")
    parser.add_argument("--fine-sampler", default="dpmpp_2m")
    parser.add_argument("--fine-evaluations", type=int, default=50)
    parser.add_argument("--noises", type=int, default=1)
    parser.add_argument("--clips", type=int, default=8, help="of the demo model")
    parser.add_argument("--prompt", type=Path, help="an API prompt with a Pusa KSampler, to compare with its inputs")
    parser.add_argument("--server", default="127.0.0.1:8188", help="where it is sampled")
    return parser.parse_args()


# --- the demo model --------------------------------------------------------------------------------------------------


def on_demo_model(options: argparse.Namespace) -> None:
    bench.use_comfyui(options)
    import comfy.utils
    import torch

    from pusa_core.evaluations import PAINTED, percent, table

    comfy.utils.PROGRESS_BAR_ENABLED = False
    with torch.inference_mode():
        comparer, seeds = demo_comparer(options), range(options.noises)
        print(f"{options.noises * comparer.trials.evaluations} evaluations of {options.clips} clips", file=sys.stderr)
        found = comparer.run(seeds)
    header, *rows = table(found)
    fine, half = found.trials.fine, found.trials.half
    about = (
        f"Percent of the latents of a fine run ({fine.way}, {fine.evaluations} evaluations); {options.clips} clips, noise "
        f"{M[0]:g} and {M[1]:g} at the ends, cfg {CFG:g}. The same with {half.evaluations} evaluations is "
        f"{percent(found.doubt[PAINTED])} % away from it."
    )
    bench.publish("evaluations", f"{about}\n\n{bench.table(header, rows)}", options.write)


def demo_comparer(options: argparse.Namespace) -> Any:
    import torch

    from demo_model import LORA
    from demo_model.studio import SampleSettings, Studio
    from demo_model.text import encode
    from demo_model.world import LENGTH, SIZE, TEST_SEEDS, scene
    from pusa_core.evaluations import Settings, Way, parse_budgets, parse_ways
    from pusa_core.hosts.comfyui.evaluations import Comparer

    studio, scenes = Studio(), [scene(TEST_SEEDS + SCENES + i, i % 4 == 0, "moves") for i in range(options.clips)]
    plan = studio.plan(scenes, SampleSettings("start-end", m=M))
    latent = studio.host.plan_latent(studio.vae, plan, SIZE, SIZE, LENGTH, len(scenes))
    text = torch.cat([encode(s.caption) for s in scenes])
    budgets, fine = parse_budgets(options.evaluations), Way(options.fine_sampler, studio.host.PUSA_SCHEDULER, SHIFT)
    ways = parse_ways(options.samplers, options.schedulers, options.shifts)
    settings = Settings(ways, budgets, budgets[-1], fine, options.fine_evaluations)
    prompts = [[text, {}]], [[torch.zeros_like(text), {}]]
    return Comparer([studio.model(LORA, 1.0)], prompts, latent, settings, CFG, 0.0)


# --- a model of one's own --------------------------------------------------------------------------------------------


def read_prompt(path: Path) -> dict[str, Any]:
    """A prompt as ComfyUI exports it, nodes by their numbers."""
    try:
        prompt = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        sys.exit(f"{path} cannot be read ({error}): give a prompt that ComfyUI exported by Export (API).")
    if not isinstance(prompt, dict) or not all(isinstance(node, dict) and "class_type" in node for node in prompt.values()):
        sys.exit(f"{path} is no API prompt, but perhaps a workflow: open it in ComfyUI and take Export (API).")
    return prompt


def comparing(prompt: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """A prompt that compares with the inputs of a prompt's Pusa KSampler, and does nothing else."""
    from pusa_core.evaluations import parse_budgets

    found = [node["inputs"] for node in prompt.values() if node["class_type"] == "PusaKSampler"]
    if len(found) != 1:
        sys.exit(f"The prompt has {len(found)} Pusa KSamplers; it must have one, whose model, prompts and latent are taken.")
    try:
        budgets = parse_budgets(options.evaluations)
    except ValueError as error:
        sys.exit(f"--evaluations: {error}")
    inputs = {name: value for name, value in found[0].items() if name in SHARED} | {
        "samplers": options.samplers, "schedulers": options.schedulers, "shifts": options.shifts,
        "evaluations": options.evaluations, "at_most": max(budgets), "fine_sampler": options.fine_sampler,
        "fine_evaluations": options.fine_evaluations, "noises": options.noises,
    }  # fmt: skip
    added = {
        "pusa_compare": {"class_type": "PusaCompareSamplers", "inputs": inputs},
        "pusa_report": {"class_type": "PreviewAny", "inputs": {"source": ["pusa_compare", 3]}},
    }
    return needed(prompt | added, "pusa_report")


def needed(prompt: dict[str, Any], node: str) -> dict[str, Any]:
    """The part of a prompt that a node depends on."""
    links = [value for value in prompt[node]["inputs"].values() if isinstance(value, list) and value[0] in prompt]
    parts = [needed(prompt, source) for source, _ in links]
    return {key: value for part in parts for key, value in part.items()} | {node: prompt[node]}


def asked(server: str, prompt: dict[str, Any]) -> str:
    """The report of a prompt that a ComfyUI runs; waits for it."""
    try:
        request = urllib.request.Request(f"{server}/prompt", json.dumps({"prompt": prompt}).encode())
        number = json.load(urllib.request.urlopen(request))["prompt_id"]
        while not (history := json.load(urllib.request.urlopen(f"{server}/history/{number}"))):
            time.sleep(1)
    except urllib.error.HTTPError as error:
        sys.exit(f"ComfyUI refused the prompt: {error.read().decode()}")
    except OSError as error:
        sys.exit(f"No ComfyUI answers at {server} ({error}): start it, or name its address with --server.")
    outputs, status = history[number]["outputs"], history[number]["status"]
    if "pusa_report" not in outputs:
        faults = [about["exception_message"] for kind, about in status["messages"] if kind == "execution_error"]
        sys.exit(f"ComfyUI did not finish: {' '.join(faults) or status['status_str']}")
    return outputs["pusa_report"]["text"][0]


if __name__ == "__main__":
    main()
