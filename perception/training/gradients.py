"""How strongly, and how much in agreement, the tasks pull at what they share."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from perception.models.detector import Detector

FUSED = "fused"
"""The place where all tasks and all sensors meet: what the fuser gives."""

_SCALE = 2.0**12
"""What losses are multiplied with meanwhile, exactly: half precision has nothing between 0 and 6e-8."""

Places = dict[str, list[Tensor]]
"""Place -> its maps of one forward pass."""


@dataclass(frozen=True, kw_only=True)
class GradientMonitor:
    """Measures the gradient of each task's loss at the fuser's output and at the maps of each branch.

    A task is a head, or an auxiliary loss. It costs one more backward pass through heads, neck and fuser for each task,
    and changes nothing: neither gradients nor random numbers of the run.

    Args:
        every_n_steps: how often.

    Raises:
        ValueError: `every_n_steps` is below 1.

    Source:
        Norms and cosines of task gradients at the last shared features, as Chen et al. 2018, "GradNorm", and Yu et al.
        2020, "Gradient Surgery for Multi-Task Learning", read them.
    """

    every_n_steps: int = 50

    def __post_init__(self) -> None:
        if self.every_n_steps < 1:
            raise ValueError(f"GradientMonitor: every_n_steps must be at least 1, got {self.every_n_steps}")

    def due(self, step: int) -> bool:
        """Whether to measure at a step, counted from 0."""
        return step % self.every_n_steps == 0


@contextmanager
def watched(detector: Detector) -> Iterator[Places]:
    """Notes the maps of one forward pass.

    Args:
        detector: runs inside the block.

    Yields:
        Filled when the detector has run: the maps of `FUSED` and of each branch.
    """
    places: Places = {}
    parts = {FUSED: detector.fuser, **detector.branches}
    hooks = [part.register_forward_hook(partial(_note, places, name)) for name, part in parts.items()]
    try:
        yield places
    finally:
        for hook in hooks:
            hook.remove()


def _note(places: Places, name: str, part: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
    places[name] = [level.features for level in output.bev.values()]


def gradient_figures(losses: Mapping[str, Tensor], places: Mapping[str, Sequence[Tensor]]) -> dict[str, Tensor]:
    """Norms and cosines of the tasks' gradients.

    Args:
        losses: scalars named "<task>/<loss>" or "<task>", whose graph is kept.
        places: place -> maps that the losses were computed from; a place without gradient, as that of a sensor that no
            sample has or of a frozen branch, is left out.

    Returns:
        "gradient_norm/<place>/<task>", and where two tasks reach a place "gradient_cosine/<place>/<task>,<task>".
    """
    tasks: dict[str, Tensor] = {}
    for name, loss in losses.items():
        task = name.split("/")[0]
        tasks[task] = tasks[task] + loss if task in tasks else loss
    maps = [(place, tensor) for place, tensors in places.items() for tensor in tensors if tensor.requires_grad]
    found = {task: _gradients(loss, maps) for task, loss in tasks.items() if maps and loss.requires_grad}
    figures = {
        f"gradient_norm/{place}/{task}": gradient.norm() / _SCALE
        for task, gradients in found.items()
        for place, gradient in gradients.items()
    }
    for (first, mine), (second, its) in itertools.combinations(found.items(), 2):
        for place in mine.keys() & its.keys():
            cosine = nn.functional.cosine_similarity(mine[place], its[place], dim=0)
            figures[f"gradient_cosine/{place}/{first},{second}"] = cosine
    return dict(sorted(figures.items()))


def _gradients(loss: Tensor, maps: Sequence[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Place -> the gradient at all its maps in one row, times `_SCALE`; without places that the loss does not reach."""
    gradients = torch.autograd.grad(_SCALE * loss, [tensor for _, tensor in maps], retain_graph=True, allow_unused=True)
    reached = {place for (place, _), gradient in zip(maps, gradients, strict=True) if gradient is not None}
    rows: dict[str, list[Tensor]] = {place: [] for place in sorted(reached)}
    for (place, tensor), gradient in zip(maps, gradients, strict=True):
        if place in rows:
            rows[place].append((torch.zeros_like(tensor) if gradient is None else gradient).flatten().float())
    return {place: torch.cat(row) for place, row in rows.items()}
