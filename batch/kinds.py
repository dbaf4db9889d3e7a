"""What kinds of jobs there are beside clips whose frames go together: long videos, and diffusion forcing."""

from __future__ import annotations

from pusa_core.staircase import Staircase

from .jobs import Job


def staircase_of(job: Job) -> Staircase | None:
    """When the frames of a job's video take their steps; None where all go together.

    Raises:
        ValueError: a setting is out of range.
    """
    if job.kind == "long":
        return Staircase.rolling(job.moving_frames, job.steps, job.shift)
    if job.kind == "forcing":
        noise, causal = job.addnoise_condition / 1000, job.causal_attention
        return Staircase(job.steps, job.shift, job.ar_step, job.causal_block_size, history_noise=noise, causal=causal)
    return None
