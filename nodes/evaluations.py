"""The node that finds a sampler and a grid for fewer model evaluations."""

from __future__ import annotations

import logging
import time

import comfy.utils
from comfy.samplers import sampler_object
from comfy_api.latest import io, ui

from ..pusa_core.evaluations import Settings, Way, parse_budgets, parse_ways, report
from ..pusa_core.evaluations_figure import draw_comparison
from ..pusa_core.hosts.comfyui import PUSA_SCHEDULER, SAMPLERS
from ..pusa_core.hosts.comfyui.evaluations import Comparer
from ..pusa_core.messages import say
from ..pusa_core.wan import EXPERT_BOUNDARY
from .rolling import send_progress, spoken_time
from .sampling import MAX_SEED, model_inputs, optional_inputs
from .types import CATEGORY, check_wires, experts, search_aliases

FINE_SHIFT = 5.0


class PusaCompareSamplers(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PusaCompareSamplers",
            display_name="Pusa Compare Samplers",
            category=CATEGORY,
            **search_aliases("fewer steps", "sampler benchmark", "scheduler comparison", "faster sampling", "xy plot"),
            description="Finds a sampler and sigmas for fewer model evaluations, on your own model, prompt and pictures: "
            "each run is compared with one fine run, by kind of frame. It measures agreement with the fine run, not beauty, "
            "and says how many evaluations it takes when it begins; what it finds holds for this model and prompt.",
            inputs=[
                *model_inputs(),
                io.Int.Input(
                    "seed", default=0, min=0, max=MAX_SEED, control_after_generate=True, tooltip="Seed of the noise."
                ),
                io.Float.Input("cfg", default=3.0, min=0.0, max=100.0, step=0.1, tooltip="Guidance of all runs."),
                io.String.Input(
                    "samplers",
                    default="euler, dpmpp_2m, heun",
                    tooltip="Samplers of the Pusa KSampler, with commas. Those that add noise cannot be compared with a fine "
                    "run, since each number of steps makes another video.",
                ),
                io.String.Input("schedulers", default="pusa, beta", tooltip="Schedulers of the Pusa KSampler, with commas."),
                io.String.Input("shifts", default="5", tooltip="Flow shifts, with commas: 3, 5, 8."),
                io.String.Input(
                    "evaluations",
                    default="4, 6, 8, 10",
                    tooltip="How often a run may ask the model, with commas. A step of euler asks once, one of heun twice.",
                ),
                io.Int.Input(
                    "at_most",
                    default=10,
                    min=1,
                    max=200,
                    tooltip="The best run within so many evaluations is handed on.",
                ),
                io.Combo.Input(
                    "fine_sampler", options=SAMPLERS, default="dpmpp_2m", tooltip="Of the fine run. Recommended: dpmpp_2m."
                ),
                io.Int.Input(
                    "fine_evaluations",
                    default=50,
                    min=2,
                    max=1000,
                    tooltip="Of the fine run; a run with half as many shows how far it can be trusted. Recommended: 50.",
                ),
                io.Int.Input(
                    "noises",
                    default=1,
                    min=1,
                    max=32,
                    tooltip="Repeats all with so many seeds, from seed on. Several, or a batch of videos, give 95 % "
                    "intervals.",
                ),
                *optional_inputs(),
            ],
            outputs=[
                io.Sigmas.Output(display_name="sigmas", tooltip="Of the best run, for the Pusa KSampler or SamplerCustom."),
                io.Sampler.Output(display_name="sampler", tooltip="Of the best run, for the same."),
                io.Image.Output(display_name="picture", tooltip="All runs: darker is further from the fine run."),
                io.String.Output(display_name="report", tooltip="All runs as a table, and the best in a sentence."),
                io.Latent.Output(display_name="fine", tooltip="The fine run's video, to look at."),
                io.Latent.Output(display_name="best", tooltip="The best run's video."),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls, model, positive, negative, latent, seed, cfg, samplers, schedulers, shifts, evaluations, at_most, fine_sampler,
        fine_evaluations, noises, schedule=None, low_noise_model=None, boundary=EXPERT_BOUNDARY,
    ) -> io.NodeOutput:  # fmt: skip
        check_wires(model=model, latent=latent, schedule=schedule, low_noise_model=low_noise_model)
        fine = Way(fine_sampler, PUSA_SCHEDULER, FINE_SHIFT)
        ways, budgets = parse_ways(samplers, schedulers, shifts), parse_budgets(evaluations)
        settings = Settings(ways, budgets, at_most, fine, fine_evaluations)
        models = experts(model, low_noise_model)
        progress = _Progress(cls)
        comparer = Comparer(models, (positive, negative), latent, settings, cfg, boundary, schedule, progress.evaluated)
        progress.begin(comparer.trials.evaluations * noises + at_most, comparer.trials.fine.evaluations)
        comparison = comparer.run([(seed + i) % 2**64 for i in range(noises)])
        best, picture = comparison.best(at_most), draw_comparison(comparison)
        made, text = comparer.made(best, seed), report(comparison, at_most)
        progress.end(text.splitlines()[0])
        outputs = best.sigmas, sampler_object(best.way.sampler), picture, text, comparer.fine, made
        return io.NodeOutput(*outputs, ui=ui.PreviewImage(picture, cls=cls))


class _Progress:
    """Evaluations done and time left, on the node and, when it begins, in the log."""

    def __init__(self, node: type[io.ComfyNode]):
        self.node, self.done, self.total = node, 0, 0
        self.start = time.monotonic()
        self.bar = comfy.utils.ProgressBar(1)

    def begin(self, total: int, fine: int) -> None:
        self.total = total
        text = say("{total} model evaluations, {fine} of them for the fine run", total=total, fine=fine)
        logging.info("Pusa Compare Samplers: %s", text)
        send_progress(self.node, text)

    def evaluated(self) -> None:
        self.bar.update_absolute(self.done, self.total)
        if self.done > 0:
            left = (time.monotonic() - self.start) / self.done * (self.total - self.done)
            text = say("{done} of {total} model evaluations; about {time} left", done=self.done, total=self.total,
                       time=spoken_time(left))  # fmt: skip
            send_progress(self.node, text)
        self.done += 1

    def end(self, text: str) -> None:
        self.bar.update_absolute(self.total, self.total)
        send_progress(self.node, text)


NODES = [PusaCompareSamplers]
