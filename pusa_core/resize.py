"""Pictures of any size, fitted to the clip's."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

RESIZE = ("crop", "letterbox", "stretch")


def fit_images(pictures: Tensor, width: int, height: int, method: str) -> Tensor:
    """Pictures of another size, resampled (bicubic, antialiased).

    Args:
        pictures: (N, H, W, C) in [0, 1]; of C = 4 the alpha channel is dropped, C = 1 is grey.
        method: "crop" fills the frame and cuts what is over, "letterbox" fits in and adds black, "stretch" distorts.

    Returns:
        (N, height, width, 3); the very same values where the size is right already.

    Raises:
        ValueError: a pixel is not a finite number.
    """
    if not torch.isfinite(pictures).all():
        raise ValueError("A picture has pixels that are not numbers (NaN or infinite): check the node that it comes from.")
    pictures = pictures[..., :3] if pictures.shape[3] >= 3 else pictures[..., :1].expand(-1, -1, -1, 3)
    if pictures.shape[1:3] == (height, width):
        return pictures
    planes = pictures.movedim(-1, 1)  # (N, 3, H, W)
    if method == "stretch":
        planes = _resample(planes, width, height)
    else:
        factors = width / planes.shape[3], height / planes.shape[2]
        factor = max(factors) if method == "crop" else min(factors)
        planes = _resample(planes, max(1, round(planes.shape[3] * factor)), max(1, round(planes.shape[2] * factor)))
        left, top = (width - planes.shape[3]) // 2, (height - planes.shape[2]) // 2
        # a negative padding cuts
        planes = pad(planes, (left, width - planes.shape[3] - left, top, height - planes.shape[2] - top))
    return planes.movedim(1, -1)


def _resample(planes: Tensor, width: int, height: int) -> Tensor:
    return interpolate(planes.float(), (height, width), mode="bicubic", antialias=True).clamp(0, 1)
