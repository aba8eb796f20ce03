"""Losses and gradients that are not finite: which, on which samples, and the state that led to them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from perception.formats.files import atomic_writer
from perception.training.checkpoints import VerifiedCheckpoints


def not_finite(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Finds scalars that are NaN or infinite, waiting for the device once.

    Args:
        values: scalars by name.

    Returns:
        Those that are not finite.
    """
    found = torch.stack([value.detach().float() for value in values.values()])  # N x () -> (N,)
    broken = ~found.isfinite()
    if not bool(broken.any()):
        return {}
    pairs = zip(values, found.tolist(), broken.tolist(), strict=True)
    return {name: value for name, value, bad in pairs if bad}


def gradients_not_finite(parameters: Iterable[tuple[str, Tensor]]) -> list[str]:
    """Finds parameters whose gradient has a number that is not finite.

    Args:
        parameters: by name.

    Returns:
        Names.
    """
    return [name for name, value in parameters if value.grad is not None and not bool(value.grad.isfinite().all())]


def write_dump(folder: Path, report: Mapping[str, Any], tokens: Sequence[str], state: dict[str, Any]) -> Path:
    """Writes what is needed to look into a run that diverged.

    Args:
        folder: is made.
        report: plain values, such as step and losses.
        tokens: of the samples.
        state: of model and optimizer.

    Returns:
        `folder`, with `report.json` and `state.ckpt`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**report, "samples": list(tokens)}, indent=2)
    with atomic_writer(folder / "report.json") as file:
        file.write(f"{text}\n".encode())
    VerifiedCheckpoints().save_checkpoint(state, folder / "state.ckpt")
    return folder
