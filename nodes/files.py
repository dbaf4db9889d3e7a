"""Nodes that make new files: a LoRA in fewer ranks, a checkpoint with LoRAs merged into it."""

from __future__ import annotations

import logging
from pathlib import Path

import comfy.model_management
import comfy.utils
import folder_paths
from comfy_api.latest import io, ui

from ..pusa_core.bake import FORMS, LoraFile, bake
from ..pusa_core.lora import read_lora
from ..pusa_core.lora_compress import Limit, compress_lora
from ..pusa_core.messages import describe, fault
from .types import CATEGORY, search_aliases

NO_LORA = "none"
SUFFIX = ".safetensors"


def target(kind: str, name: str) -> Path:
    """Where a new file goes: into the first of ComfyUI's folders of a kind, but not into its models/unet, the folder that
    models/diffusion_models has replaced and comes after.

    Raises:
        ValueError: the name is empty, or leads out of that folder.
    """
    replaced = Path(folder_paths.models_dir, "unet").resolve()
    folders = [Path(folder).resolve() for folder in folder_paths.get_folder_paths(kind)]
    folder = min(folders, key=lambda folder: folder == replaced)
    try:
        path = (folder / f"{name.strip().removesuffix(SUFFIX)}{SUFFIX}").resolve()
    except (OSError, ValueError):  # a name with a zero byte
        path = folder
    if folder not in path.parents or path.name == SUFFIX:
        raise fault("{name} is no name of a file in {folder}: give a plain one.", name=describe(name), folder=folder)
    return path


def device() -> str:
    """Where products are computed: the GPU if it is one that knows fp8 and decompositions."""
    return "cuda" if comfy.model_management.get_torch_device().type == "cuda" else "cpu"


class Progress:
    """ComfyUI's bar, and its Cancel button."""

    def __init__(self) -> None:
        self.bar: comfy.utils.ProgressBar | None = None

    def __call__(self, done: int, total: int) -> None:
        self.bar = self.bar or comfy.utils.ProgressBar(total)
        self.bar.update_absolute(done, total)
        comfy.model_management.throw_exception_if_processing_interrupted()


def lora_options() -> list[str]:
    return folder_paths.get_filename_list("loras")


def lora_path(name: str) -> Path:
    return Path(folder_paths.get_full_path_or_raise("loras", name))


class PusaCompressLora(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PusaCompressLora",
            display_name="Pusa Compress LoRA",
            category=CATEGORY,
            description="Writes a Pusa LoRA in fewer ranks, so that it takes less disk and memory, and reports the error of "
            "every module. The new file is in models/loras, loads with any LoRA loader, and means the same at the same "
            "strength.",
            is_output_node=True,
            **search_aliases("resize lora", "lora rank", "shrink lora", "svd"),
            inputs=[
                io.Combo.Input(
                    "lora_name", options=lora_options(), tooltip="Pusa LoRA file, from ComfyUI's models/loras folder."
                ),
                io.Int.Input(
                    "rank",
                    default=128,
                    min=0,
                    max=4096,
                    tooltip="The highest rank that a module may have; 0 for no limit. The published LoRA has 512: its file "
                    "and memory shrink in proportion.",
                ),
                io.Float.Input(
                    "energy",
                    default=1.0,
                    min=0.01,
                    max=1.0,
                    step=0.001,
                    tooltip="Share of each module's squared singular values that is kept: each gets the lowest rank that "
                    "does, up to the limit above. 0.99 is a relative error of 0.1; 1 leaves the choice to rank.",
                ),
                io.String.Input("name", default="pusa_compressed", tooltip="The new file's name, in models/loras."),
            ],
            outputs=[
                io.String.Output(display_name="report", tooltip="Size, ranks and errors, in short."),
                io.String.Output(
                    display_name="modules", tooltip="Name, rank and relative error of every module, a line each."
                ),
            ],
        )

    @classmethod
    def execute(cls, lora_name: str, rank: int, energy: float, name: str) -> io.NodeOutput:
        limit, output = Limit(rank, energy), target("loras", name)
        report = compress_lora(read_lora(lora_path(lora_name)), output, limit, device(), Progress())
        return io.NodeOutput(str(report), report.table(), ui=ui.PreviewText(str(report)))


def _lora_inputs() -> list[io.Input]:
    def pair(number: str, default: float, optional: bool, what: str) -> list[io.Input]:
        options = [NO_LORA, *lora_options()] if optional else lora_options()
        strength = f"Its strength. {what}"
        return [
            io.Combo.Input(f"lora{number}", options=options, optional=optional, tooltip=f"LoRA file to merge. {what}"),
            io.Float.Input(
                f"alpha{number}", default=default, min=-10.0, max=10.0, step=0.05, optional=optional, tooltip=strength
            ),
        ]

    return [
        *pair("", 1.4, False, "Pusa's: recommended 1.4, for Wan2.2 high 1.5 and low 1.4."),
        *pair("_2", 1.0, True, "A second one, as Lightning: recommended 1."),
        *pair("_3", 1.0, True, "A third one."),
    ]


class PusaBakeLoras(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PusaBakeLoras",
            display_name="Pusa Bake LoRAs",
            category=CATEGORY,
            description="Merges Pusa's LoRA, and others such as Lightning, into a Wan checkpoint and writes a new one into "
            "models/diffusion_models. It needs no LoRA loader any more: nothing is patched at every step where weights are "
            "offloaded. Tensor by tensor, in a few GB of memory; the file says what is in it.",
            is_output_node=True,
            **search_aliases("merge lora", "bake lora", "save model", "fp8 scaled", "lightning"),
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=folder_paths.get_filename_list("diffusion_models"),
                    tooltip="A Wan2.1 or Wan2.2 text-to-video model (T2V) in bf16, fp16, fp32, fp8 or fp8 scaled, from "
                    "ComfyUI's models/diffusion_models folder; no GGUF.",
                ),
                *_lora_inputs(),
                io.Combo.Input(
                    "form",
                    options=list(FORMS),
                    default="fp8_scaled",
                    optional=True,
                    tooltip="bf16: 2 bytes for each weight, 28.6 GB for a 14B model. fp8_scaled: 1 byte for those of the "
                    "blocks, with a scale for each matrix; inputs stay in full precision.",
                ),
                io.String.Input("name", default="wan_pusa", optional=True, tooltip="The new file's name."),
            ],
            outputs=[io.String.Output(display_name="report", tooltip="What is in the new file, and what is odd about it.")],
        )

    @classmethod
    def execute(
        cls,
        model_name: str,
        lora: str,
        alpha: float,
        lora_2: str = NO_LORA,
        alpha_2: float = 1.0,
        lora_3: str = NO_LORA,
        alpha_3: float = 1.0,
        form: str = "fp8_scaled",
        name: str = "wan_pusa",
    ) -> io.NodeOutput:
        base = Path(folder_paths.get_full_path_or_raise("diffusion_models", model_name))
        given = [(lora, alpha), (lora_2, alpha_2), (lora_3, alpha_3)]
        loras = [LoraFile(lora_path(file), strength) for file, strength in given if file != NO_LORA]
        report = bake(base, loras, target("diffusion_models", name), form, device(), Progress())
        for warning in report.warnings:
            logging.warning(warning)
        return io.NodeOutput(str(report), ui=ui.PreviewText(str(report)))


NODES = [PusaCompressLora, PusaBakeLoras]
