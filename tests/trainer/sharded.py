"""Trains with FSDP2 or context parallelism on CPUs, for which Accelerate and Diffusers do not offer them: told that they are
cards, these do all the rest.

Started by a launcher, with the settings of one run after another as JSON; each goes on from the one before.
"""

import json
import os
import sys
from pathlib import Path

import torch
from accelerate import DistributedType, PartialState
from accelerate.state import AcceleratorState

from trainer import preview
from trainer.settings import Settings
from trainer.train import PATIENCE, train

PATHS = "model", "cache", "output", "held_out_cache", "vae"
torch.accelerator.device_count = lambda: 1
torch.compile = lambda function, **_: function  # of torchao's step, which takes long
preview._decoder = lambda vae, channels: lambda latent: latent[:3].permute(1, 2, 3, 0).sigmoid()  # needs no ComfyUI
PartialState(cpu=True, timeout=PATIENCE)
for given in json.loads(sys.argv[1]):
    AcceleratorState._reset_state()  # of whose precision there is one
    if "ACCELERATE_USE_FSDP" in os.environ:
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    run = {key: tuple(value) if type(value) is list else value for key, value in given.items()}
    train(Settings(**{**run, **{key: Path(run[key]) for key in PATHS}}))
PartialState().destroy_process_group()
