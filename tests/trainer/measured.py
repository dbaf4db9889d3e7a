"""What a training really takes, by PyTorch's own profiler of allocations.

Started by a launcher it measures the first of several processes: settings and the model's config are given as JSON.
"""

import json
import os
import sys
from itertools import accumulate
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedType, PartialState
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.profiler import ProfilerActivity, profile, record_function

from trainer.lora import train_lora
from trainer.memory import empty_sample, open_empty
from trainer.optimiser import make_optimizer
from trainer.savings import save_memory
from trainer.settings import Settings
from trainer.sharing import group_processes, split_by_tokens
from trainer.train import PRECISION, batch_loss

SIZE = 17, 96, 96


def measured(settings, config):
    """The most bytes that the second of two real steps takes."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        accelerator = Accelerator(cpu=True, mixed_precision=PRECISION[settings.dtype])
        if accelerator.is_fsdp2:
            accelerator.state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy()
        wan = open_empty(config, torch.float32 if settings.full else getattr(torch, settings.dtype))
        optimizer = make_optimizer(list(wan.parameters()) if settings.full else train_lora(wan, settings), settings)
        save_memory(wan, settings, accelerator.device)
        sample = empty_sample(config, SIZE)
        split_by_tokens(wan, group_processes(accelerator.state, settings), [tuple(sample[0].shape)])
        model, optimizer = accelerator.prepare(wan, optimizer)
        for step in range(2):
            with record_function(f"step {step}"):
                accelerator.backward(batch_loss(model, [sample], settings, accelerator))
                optimizer.step()
    events = sorted(profiler.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    names = [event.name() for event in events]
    live = list(accumulate(event.nbytes() if event.name() == "[memory]" else 0 for event in events))
    return max(live[names.index("step 1") :])


if __name__ == "__main__":
    torch.accelerator.device_count = lambda: 1
    PartialState(cpu=True)
    if "ACCELERATE_USE_FSDP" in os.environ:
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    options, config = map(json.loads, sys.argv[1:])
    taken = measured(Settings(Path(), Path(), Path(), **options), config)
    if PartialState().is_main_process:
        print(taken)
    PartialState().destroy_process_group()
