"""What training takes on a card, computed without one: the trainer's own lines run over tensors without storage.

Weights, LoRA, gradients and the optimiser's states are counted by their tensors, the rest by the highest peak of a forward
and a backward, or of a step of the optimiser. Attention counts as a fused kernel without workspace, the optimiser as on a
card.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as distributed
from accelerate import Accelerator
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.testing._internal.distributed.fake_pg import FakeStore

from pusa_core.frames import latent_length
from pusa_core.hosts.diffusers import WanTransformer3DModel
from pusa_core.hosts.diffusers.files import FP32_MODULES
from pusa_core.training import draw_sigmas
from pusa_core.wan import PATCH, PREFIX, wan_config

from .lora import train_lora
from .optimiser import make_optimizer
from .peak_memory import PeakMemory
from .savings import frozen_layers, save_memory
from .settings import MemorySettings, Settings, check_size
from .sharing import Groups, split_by_tokens
from .train import PRECISION, batch_loss

TEXT_LENGTH = 512
CONFIGS: dict[str, dict[str, Any]] = {
    "1.3B": {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30},
    "5B": {"num_attention_heads": 24, "ffn_dim": 14336, "num_layers": 30, "in_channels": 48, "out_channels": 48},
    "14B": {"num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40},
}
DEPTHS = 2, 3  # blocks that are counted; each further one takes as much again, but the first less


GIB = 2**30
RESERVE = 1.0  # GiB that the driver and fragments of memory take
CARDS = 24, 48, 80  # GiB
OFFLOADED: dict[str, Any] = {"offload_activations": True}
TOGETHER: dict[str, Any] = {"context_parallel": 4}
ROWS: tuple[tuple[str, int, dict[str, Any]], ...] = (  # what is told of it, cards that divide the weights, settings
    ("as it is", 1, {}),
    ("`--offload-activations`", 1, OFFLOADED),
    ("the same, `--optimizer adamw8bit`", 1, {**OFFLOADED, "optimizer": "adamw8bit"}),
    ("the same, `--fp8`", 1, {**OFFLOADED, "optimizer": "adamw8bit", "fp8": True}),
    ("the same, `--offload-weights`", 1, {**OFFLOADED, "optimizer": "adamw8bit", "fp8": True, "offload_weights": True}),
    ("8 cards, FSDP2 or ZeRO-3", 8, {}),
    ("the same, `--offload-activations`", 8, OFFLOADED),
    ("8 cards, FSDP2, `--offload-activations --fp8`", 8, {**OFFLOADED, "fp8": True}),
    ("4 cards, `--context-parallel 4`", 1, TOGETHER),
    ("8 cards, FSDP2, `--context-parallel 4`", 8, TOGETHER),
)
COLUMNS = ("1.3B", 128), ("14B", 128), ("14B", 512)


@dataclass(frozen=True)
class Memory:
    """Bytes on a card, and on the CPU.

    Attributes:
        weights: frozen ones, or all of a full fine-tune.
        lora: trained beside frozen ones.
        gradients, optimizer, average: of what is trained.
        activations: the most that a forward and a backward take beside these.
        step: the most that a step of the optimiser takes beside these.
        host: on the CPU: offloaded weights and activations.
        block: all weights of one block.
        outside: those of no block.
    """

    weights: float
    lora: float
    gradients: float
    optimizer: float
    average: float
    activations: float
    step: float
    host: float
    block: float
    outside: float

    @property
    def total(self) -> float:
        """On a card."""
        lasting = self.weights + self.lora + self.gradients + self.optimizer + self.average
        return lasting + max(self.activations, self.step)

    def with_blocks(self, deeper: Memory, more: float) -> Memory:
        """With as much more as a deeper model takes, `more` times."""
        return Memory(**{key: value + more * (vars(deeper)[key] - value) for key, value in vars(self).items()})

    def divided(self, cards: int) -> Memory:
        """A card's part where all that lasts is divided; whole are there the block that computes, the next, and what is of no
        block."""
        if cards == 1:
            return self
        lasting = {key: vars(self)[key] / cards for key in ("weights", "lora", "gradients", "optimizer", "average")}
        activations = self.activations + 2 * self.block + self.outside
        return Memory(**{**vars(self), **lasting, "activations": activations, "step": self.step / cards})


def model_config(model: str) -> dict[str, Any]:
    """Diffusers' config of a size of Wan or of a checkpoint.

    Raises:
        ValueError: it is neither.
    """
    if model in CONFIGS:
        return CONFIGS[model]
    try:
        with safe_open(model, framework="numpy") as file:
            shapes = {PREFIX.sub("", key): tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
            return wan_config(model, shapes, file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"{model} was given for a model, which is neither {', '.join(CONFIGS)} nor a safetensors file: give one of these."
        ) from error


def training_memory(settings: Settings, config: dict[str, Any], size: tuple[int, int, int], card: bool = True) -> Memory:
    """What a training of a Wan takes.

    Args:
        config: Diffusers' of the model.
        size: frames, height and width of the clips in pixels.
        card: whether the optimiser computes as on a card, with all weights at once, or as on a CPU.
    """
    layers = config["num_layers"]
    low, high = DEPTHS
    shallow = _count(settings, {**config, "num_layers": min(low, layers)}, size, card)
    if layers <= low:
        return shallow
    return shallow.with_blocks(_count(settings, {**config, "num_layers": high}, size, card), (layers - low) / (high - low))


def _count(settings: Settings, config: dict[str, Any], size: tuple[int, int, int], card: bool) -> Memory:
    accelerator = Accelerator(cpu=True, mixed_precision=PRECISION[settings.dtype])
    _fill_caches(settings)
    groups = Groups(1, 0, settings.context_parallel)
    with _without_storage() as hosted, _processes(groups.size), PeakMemory() as memory:
        wan = open_empty(config, torch.float32 if settings.full else getattr(torch, settings.dtype))
        trained = list(wan.parameters()) if settings.full else train_lora(wan, settings)
        save_memory(wan, settings, accelerator.device)
        sample = empty_sample(config, size)
        with unset_fake_temporarily():  # who is where is a tensor, which is read
            split_by_tokens(wan, groups, [tuple(sample[0].shape)])
        optimizer = make_optimizer(trained, settings)
        if card and "foreach" in optimizer.defaults:
            optimizer.param_groups[0]["foreach"] = True
        model = accelerator.prepare_model(wan, device_placement=False)
        for weight in trained:
            weight.grad = torch.zeros_like(weight)
        before = memory.live
        optimizer.step()
        states, memory.peak = memory.live - before, memory.live
        lasting = memory.live
        batch_loss(model, [sample] * settings.micro_batch, settings, accelerator).backward()
        activations, memory.peak = memory.peak - lasting, memory.live
        optimizer.step()
        own = 0 if settings.full else _bytes(trained)
        swapped = _bytes(_swapped(wan.blocks)) if settings.offload_weights else 0
        return Memory(
            weights=_bytes(wan.parameters()) - own - swapped + (_bytes(_swapped(wan.blocks[:1])) if swapped else 0),
            lora=own,
            gradients=_bytes(trained),
            optimizer=states,
            average=_bytes(trained) if settings.ema is not None else 0,
            activations=activations,
            step=memory.peak - lasting,
            host=sum(hosted) + swapped,
            block=_bytes(wan.blocks[0].parameters()),
            outside=_bytes(wan.parameters()) - _bytes(wan.blocks.parameters()),
        )


def _fill_caches(settings: Settings) -> None:
    """Has the sigma grid and torchao's maps made of real tensors, for they are kept."""
    draw_sigmas(1, torch.Generator(), shift=settings.shift)
    weight = torch.nn.Parameter(torch.zeros(64, 64))
    weight.grad = torch.zeros_like(weight)
    with patch.object(torch, "compile", _as_it_is):
        make_optimizer([weight], settings).step()


@contextmanager
def _without_storage() -> Iterator[list[int]]:
    """Within it tensors have no storage; the bytes that `save_on_cpu` takes on the CPU are listed."""
    hosted: list[int] = []

    def pack(tensor: Tensor) -> tuple[Any, ...]:
        hosted.append(tensor.nbytes)
        return tensor.shape, tensor.dtype

    def saved(pin_memory: bool) -> Any:
        return torch.autograd.graph.saved_tensors_hooks(pack, lambda packed: torch.empty(packed[0], dtype=packed[1]))

    def swap(old: Tensor, new: Tensor) -> None:  # what torch does with modules of such tensors, which refuse it
        old.data = new.data

    with ExitStack() as stack:
        stack.enter_context(patch.object(torch.autograd.graph, "save_on_cpu", saved))
        stack.enter_context(patch.object(torch.utils, "swap_tensors", swap))
        stack.enter_context(patch.object(torch, "compile", _as_it_is))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        yield hosted


@contextmanager
def _processes(count: int) -> Iterator[None]:
    """Within it there are as many processes with cards, by torch's own pretence of them, of which this is the first."""
    if count == 1:
        yield
        return
    distributed.init_process_group("fake", rank=0, world_size=count, store=FakeStore())
    try:
        with patch.object(torch.accelerator, "device_count", lambda: count):
            yield
    finally:
        distributed.destroy_process_group()


def _as_it_is(function: Callable, **options: Any) -> Callable:
    """In place of `torch.compile`, which cannot compile for tensors without storage."""
    return function


def open_empty(config: dict[str, Any], dtype: torch.dtype) -> Any:
    """The model in the dtypes that `open_wan` opens it in."""
    wan = WanTransformer3DModel(**config)
    for name, weight in wan.named_parameters():
        weight.data = weight.data.to(torch.float32 if FP32_MODULES.search(name) else dtype)
    return wan


def _scale(config: dict[str, Any]) -> int:
    """Pixels of a latent's side."""
    return 16 if config.get("in_channels", 16) == 48 else 8


def empty_sample(config: dict[str, Any], size: tuple[int, int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    length, height, width = size
    channels, scale = config.get("in_channels", 16), _scale(config)
    clean = torch.zeros(channels, latent_length(length), height // scale, width // scale)
    return clean, torch.zeros_like(clean), torch.zeros(clean.shape[1]), torch.zeros(TEXT_LENGTH, config.get("text_dim", 4096))


def _bytes(tensors: Any) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def _swapped(blocks: Any) -> list[Tensor]:
    return [weight for layer in frozen_layers(blocks) for weight in layer.parameters()]


# --- the command ---------------------------------------------------------------------------------------------------------


def report_memory(settings: MemorySettings) -> str:
    """`python -m trainer memory`: a line for each part, or the table.

    Raises:
        ValueError: no such model, or a size or length that the model cannot have.
    """
    size = settings.length, settings.height, settings.width
    configs = [CONFIGS[model] for model, _ in COLUMNS] if settings.table else [model_config(settings.model)]
    for config in configs:
        check_size(settings.width, settings.height, _scale(config) * PATCH)
    if settings.table:
        return _table(settings, size)
    memory = training_memory(settings.training(), configs[0], size).divided(settings.shards)
    parts = {
        "weights": memory.weights, "LoRA": memory.lora, "gradients": memory.gradients, "optimiser": memory.optimizer,
        "average": memory.average, "activations": memory.activations, "a step of the optimiser": memory.step,
    }  # fmt: skip
    lines = [f"{name:24}{value / GIB:8.2f} GiB" for name, value in parts.items() if value]
    lines += [f"{'at most at once':24}{memory.total / GIB:8.2f} GiB, {_card(memory)}"]
    return "\n".join([*lines, f"{'on the CPU':24}{memory.host / GIB:8.2f} GiB"] if memory.host else lines)


def _card(memory: Memory) -> str:
    """The smallest card that this fits."""
    card = next((card for card in CARDS if memory.total / GIB + RESERVE <= card), None)
    return f"fits {card} GB" if card else "no single card"


def _table(settings: MemorySettings, size: tuple[int, int, int]) -> str:
    header = ["settings", *(f"{model}, rank {rank}" for model, rank in COLUMNS)]
    lines = [header, ["---"] * len(header)]
    for name, cards, savings in ROWS:
        counted = [_counted(settings, model, rank, savings, size).divided(cards) for model, rank in COLUMNS]
        lines.append([name, *map(_cell, counted)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _counted(settings: MemorySettings, model: str, rank: int, savings: dict[str, Any], size: tuple[int, int, int]) -> Memory:
    return training_memory(replace(settings, rank=rank, **savings).training(), model_config(model), size)


def _cell(memory: Memory) -> str:
    return f"{memory.total / GIB:.1f} GiB, {_card(memory)}"
