"""Nodes that put a Pusa LoRA on a model."""

from __future__ import annotations

import folder_paths
from comfy_api.latest import io

from ..pusa_core.hosts.comfyui import load_pusa_lora
from ..pusa_core.hosts.comfyui.lora_warnings import warn_same_lora
from ..pusa_core.messages import say
from .types import CATEGORY, check_wires, search_aliases


def _lora_input(name: str, where: str) -> io.Combo.Input:
    return io.Combo.Input(
        name,
        options=folder_paths.get_filename_list("loras"),
        tooltip=f"Pusa LoRA file {where}, from ComfyUI's models/loras folder (.safetensors, .pt, or a PEFT folder's "
        "adapter_model.safetensors).",
    )


def _alpha_input(name: str, default: float, span: str) -> io.Float.Input:
    return io.Float.Input(
        name,
        default=default,
        min=0.0,
        max=5.0,
        step=0.05,
        tooltip=f"LoRA strength, 0 to 5. Recommended: {default} ({span}); too low loses coherence, too high is stiff.",
    )


def _load(model, lora_name: str, alpha: float, expert: str | None = None):
    check_wires(model=model)
    return load_pusa_lora(model, folder_paths.get_full_path_or_raise("loras", lora_name), alpha, expert)


class PusaLoraLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PusaLoraLoader",
            display_name="Pusa LoRA Loader",
            category=CATEGORY,
            description="Puts a Pusa LoRA on a Wan text-to-video model, so that it copes with frames at different noise "
            "levels. Reads every published spelling of the file and says how many modules it matched. Stacks with "
            "other LoRAs (Lightning) in any order.",
            **search_aliases("wan lora", "load lora"),
            inputs=[
                io.Model.Input("model", tooltip="A Wan2.1 or Wan2.2 text-to-video model (T2V)."),
                _lora_input("lora_name", "for this model"),
                _alpha_input("alpha", 1.4, "1.3 to 1.5"),
            ],
            outputs=[
                io.Model.Output(display_name="model"),
                io.String.Output(display_name="report", tooltip="What was matched: modules, ranks, dtype, size."),
            ],
        )

    @classmethod
    def execute(cls, model, lora_name: str, alpha: float) -> io.NodeOutput:
        patched, report = _load(model, lora_name, alpha)
        return io.NodeOutput(patched, str(report))


class PusaLoraLoaderHighLow(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PusaLoraLoaderHighLow",
            display_name="Pusa LoRA Loader (Wan2.2 high/low)",
            category=CATEGORY,
            description="Puts Pusa's two LoRAs on Wan2.2-T2V-A14B's two experts, the high-noise and the low-noise model.",
            **search_aliases("wan 2.2 lora", "load lora", "two experts"),
            inputs=[
                io.Model.Input("high_noise_model", tooltip="Wan2.2 T2V high-noise model."),
                io.Model.Input("low_noise_model", tooltip="Wan2.2 T2V low-noise model."),
                _lora_input("high_noise_lora", "for the high-noise model"),
                _lora_input("low_noise_lora", "for the low-noise model"),
                _alpha_input("high_noise_alpha", 1.5, "1.4 to 1.6"),
                _alpha_input("low_noise_alpha", 1.4, "1.3 to 1.5"),
            ],
            outputs=[
                io.Model.Output(display_name="high_noise_model"),
                io.Model.Output(display_name="low_noise_model"),
                io.String.Output(display_name="report", tooltip="What was matched: modules, ranks, dtype, size."),
            ],
        )

    @classmethod
    def execute(
        cls,
        high_noise_model,
        low_noise_model,
        high_noise_lora: str,
        low_noise_lora: str,
        high_noise_alpha: float,
        low_noise_alpha: float,
    ) -> io.NodeOutput:
        high, high_report = _load(high_noise_model, high_noise_lora, high_noise_alpha, "high")
        low, low_report = _load(low_noise_model, low_noise_lora, low_noise_alpha, "low")
        report = say("high noise: {high}\n\nlow noise: {low}", high=high_report, low=low_report)
        return io.NodeOutput(high, low, "\n\n".join([report, *warn_same_lora(high, low)]))


NODES = [PusaLoraLoader, PusaLoraLoaderHighLow]
