"""What a training really takes.

It is started in a process of its own, where nothing was made before, or by a launcher in several, of which the first is
measured. Options and the model's config of each training are given as JSON, and so are the bytes.
"""

import gc
import json
import os
import sys
from itertools import accumulate
from pathlib import Path
from weakref import WeakSet

import torch
from accelerate import Accelerator, DistributedType, PartialState
from accelerate.state import AcceleratorState
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import DTensor
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trainer.lora import train_lora
from trainer.memory import empty_sample, open_empty
from trainer.optimiser import make_optimizer
from trainer.savings import save_memory
from trainer.settings import Settings
from trainer.sharing import group_processes, split_by_tokens
from trainer.train import PRECISION, batch_loss

SIZE = 17, 96, 96


def steps(settings, config):
    """A real training's: each makes a step."""
    AcceleratorState._reset_state()
    accelerator = Accelerator(cpu=True, mixed_precision=PRECISION[settings.dtype])
    if accelerator.is_fsdp2:
        accelerator.state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy()
    wan = open_empty(config, torch.float32 if settings.full else getattr(torch, settings.dtype))
    optimizer = make_optimizer(list(wan.parameters()) if settings.full else train_lora(wan, settings), settings)
    save_memory(wan, settings, accelerator.device)
    sample = empty_sample(config, SIZE)
    split_by_tokens(wan, group_processes(accelerator.state, settings), [tuple(sample[0].shape)])
    model, optimizer = accelerator.prepare(wan, optimizer)
    while True:
        accelerator.backward(batch_loss(model, [sample], settings, accelerator))
        optimizer.step()
        yield


def profiled(training):
    """The most bytes that the second step takes, by PyTorch's profiler of this thread's allocations."""
    gc.collect()  # what was made in the training before would be counted where it is freed
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        next(training)
        with record_function("second step"):
            next(training)
    events = sorted(profiler.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    names = [event.name() for event in events]
    live = list(accumulate(event.nbytes() if event.name() == "[memory]" else 0 for event in events))
    return max(live[names.index("second step") :])


class Storages(TorchDispatchMode):
    """The most bytes of all storages at once; those of divided weights are emptied and filled, not made anew."""

    def __init__(self):
        super().__init__()
        self.storages = WeakSet()
        self.most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **kwargs or {})
        tensors = [leaf for leaf in tree_leaves(output) if isinstance(leaf, torch.Tensor) and not isinstance(leaf, DTensor)]
        self.storages.update(tensor.untyped_storage() for tensor in tensors)
        self.most = max(self.most, sum(storage.nbytes() for storage in self.storages))
        return output


def counted(training):
    """The same by the storages that are there: threads that send them free some, which the profiler does not see."""
    with Storages() as storages:
        next(training)
        storages.most = 0
        next(training)
    return storages.most


if __name__ == "__main__":
    torch.accelerator.device_count = lambda: 1
    PartialState(cpu=True)
    if "ACCELERATE_USE_FSDP" in os.environ:
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    torch.compile = lambda function, **_: function  # torchao compiles its step, which takes long for tiny models
    measured = profiled if PartialState().num_processes == 1 else counted
    trainings = [(Settings(Path(), Path(), Path(), **options), config) for options, config in json.loads(sys.argv[1])]
    taken = [measured(steps(*training)) for training in trainings]
    if PartialState().is_main_process:
        print(json.dumps(taken))
    PartialState().destroy_process_group()
