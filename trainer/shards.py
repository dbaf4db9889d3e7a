"""Weights that FSDP2 or ZeRO-3 has divided over processes; all of these call what is here. Others are as they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor


def whole(tensor: Tensor) -> Tensor:
    """The tensor that processes have their parts of."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def divided_as(tensor: Tensor, weight: Tensor) -> Tensor:
    """A whole tensor, divided as a weight of its shape is."""
    if not isinstance(weight, DTensor):
        return tensor
    return distribute_tensor(tensor.to(weight.device), weight.device_mesh, weight.placements)


@contextmanager
def gathered(weights: Iterable[nn.Parameter]) -> Iterator[None]:
    """Within it weights that ZeRO-3 has divided are whole."""
    divided = [weight for weight in weights if hasattr(weight, "ds_id")]
    if not divided:
        yield
        return
    from deepspeed.runtime.zero import GatheredParameters

    with GatheredParameters(divided):
        yield
