"""Diffusion forcing checkpoints of Diffusers as the Wans that they are."""

from __future__ import annotations

import inspect

from accelerate import init_empty_weights
from diffusers import SkyReelsV2Transformer3DModel, WanTransformer3DModel

from ...forcing import PARTS, TARGET, frame_rate_offset
from ...wan import diffusers_key

FPS = 24.0  # SkyReels-V2's
THEIR_PARTS = {"fps_projection.0": "fps_projection.net.0.proj", "fps_projection.2": "fps_projection.net.2"}


def as_wan(skyreels: SkyReelsV2Transformer3DModel, fps: float = FPS) -> WanTransformer3DModel:
    """A SkyReels-V2 transformer as a Wan with the same weights; what the 1.3B adds for its frame rate is folded in."""
    known = inspect.signature(WanTransformer3DModel.__init__).parameters
    with init_empty_weights(include_buffers=False):
        wan = WanTransformer3DModel(**{name: value for name, value in skyreels.config.items() if name in known})
    state = skyreels.state_dict()
    weights = {name: tensor for name, tensor in state.items() if not name.startswith("fps_")}
    if len(weights) < len(state):
        offset = frame_rate_offset({name: state[_their_name(name)] for name in PARTS}, fps)
        bias = diffusers_key(TARGET)
        weights[bias] = (weights[bias].float() + offset).to(weights[bias].dtype)
    wan.load_state_dict(weights, assign=True)
    return wan.to(skyreels.device)


def _their_name(name: str) -> str:
    module, _, kind = name.rpartition(".")
    return f"{THEIR_PARTS.get(module, module)}.{kind}"
