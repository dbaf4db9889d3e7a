"""Who computes what: processes take samples of their own, or in groups one together by Diffusers' context parallelism.

There each process has a part of a clip's tokens, and all heads meet by turns (Ulysses, arXiv 2309.14509): the model's weights
and its output are whole on all.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from accelerate import PartialState
from diffusers import ContextParallelConfig
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from pusa_core import devices
from pusa_core.hosts.diffusers import WanTransformer3DModel
from pusa_core.wan import PATCH

from .settings import Settings


@dataclass(frozen=True)
class Groups:
    """The processes in groups, each of which computes a sample together.

    Attributes:
        count: of groups.
        index: this process's group.
        size: processes of each.
    """

    count: int
    index: int
    size: int

    @property
    def processes(self) -> int:
        return self.count * self.size


def group_processes(state: Any, settings: Settings) -> Groups:
    """The groups of a run's processes.

    Args:
        state: Accelerate's, which knows the processes.

    Raises:
        ValueError: they cannot be grouped, or the batch cannot be shared by the groups.
    """
    size, processes = settings.context_parallel, state.num_processes
    if processes % size:
        raise ValueError(
            f"--context-parallel {size} was given with {processes} processes, which it does not divide: launch a multiple "
            f"of {size} with --num_processes."
        )
    groups = Groups(processes // size, state.process_index // size, size)
    if settings.batch % (groups.count * settings.micro_batch):
        of = f" in groups of {size}" if size > 1 else ""
        raise ValueError(
            f"A batch of {settings.batch} clips cannot be shared by {processes} processes{of} in micro-batches of "
            f"{settings.micro_batch}: make --batch a multiple of {groups.count * settings.micro_batch}."
        )
    return groups


def split_by_tokens(wan: WanTransformer3DModel, groups: Groups, shapes: Iterable[tuple[int, ...]]) -> None:
    """Has each group compute a clip together.

    Args:
        shapes: (C, F, H, W) of the latents that there will be.

    Raises:
        ValueError: the model's heads or a latent's tokens cannot be divided, or there are no cards.
    """
    if groups.size == 1:
        return
    given = f"--context-parallel {groups.size} was given, but"
    heads = wan.config.num_attention_heads
    if heads % groups.size:
        raise ValueError(f"{given} the model's {heads} heads cannot be divided by that: take a divisor of {heads}.")
    for _, frames, height, width in shapes:
        tokens = frames * (height // PATCH) * (width // PATCH)
        if tokens % groups.size:
            raise ValueError(
                f"{given} a clip of {frames} latent frames of {width}x{height} has {tokens} tokens, which cannot be divided "
                "by that: take another number, or cache clips of another size."
            )
    if not devices.device_count():
        raise ValueError(f"{given} there are no cards here, which Diffusers needs for it: leave it out.")
    kind = PartialState().device.type
    mesh = init_device_mesh(kind, (groups.count, 1, groups.size), mesh_dim_names=("data", "ring", "ulysses"))
    wan.enable_parallelism(config=ContextParallelConfig(ulysses_degree=groups.size, mesh=mesh))


def send_only_trained(wan: WanTransformer3DModel) -> None:
    """Keeps data parallel processes from sending each other the frozen weights, which all have read from the same file: that
    takes long, and CPUs cannot send fp8."""
    frozen = [name for name, weight in wan.named_parameters() if not weight.requires_grad]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(wan, frozen)
