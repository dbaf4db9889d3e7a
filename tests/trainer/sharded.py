"""Trains with FSDP2 on CPUs, for which Accelerate does not offer it: told that they are cards, it does all the rest.

Started by `accelerate launch`, with the settings of one run after another as JSON; each goes on from the one before.
"""

import json
import sys
from pathlib import Path

from accelerate import DistributedType, PartialState

from trainer import preview
from trainer.settings import Settings
from trainer.train import PATIENCE, train

PartialState(cpu=True, timeout=PATIENCE)
PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
preview._decoder = lambda vae, channels: lambda latent: latent[:3].permute(1, 2, 3, 0).sigmoid()  # needs no ComfyUI
PATHS = "model", "cache", "output", "held_out_cache", "vae"
for given in json.loads(sys.argv[1]):
    run = {key: tuple(value) if type(value) is list else value for key, value in given.items()}
    train(Settings(**{**run, **{key: Path(run[key]) for key in PATHS}}))
PartialState().destroy_process_group()
