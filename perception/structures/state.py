"""What a detector remembers from one moment of a drive to the next: passed in and out, never hidden in a module."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from perception.structures.tensors import map_tensors


class PartState(ABC):
    """What one part remembers of B drives; a dataclass."""

    @abstractmethod
    def reset(self, samples: Tensor) -> Self:
        """Forgets some of the drives.

        Args:
            samples: (B,) bool, those to forget.

        Returns:
            The state without them; the others are unchanged.
        """


@dataclass(frozen=True, kw_only=True)
class DetectorState:
    """What all parts remember of B drives that run side by side.

    Args:
        parts: name of the part -> its state; a part that remembers nothing is not in the mapping.
    """

    parts: Mapping[str, PartState] = field(default_factory=dict)

    def reset(self, samples: Tensor) -> "DetectorState":
        """Forgets some of the drives.

        Args:
            samples: (B,) bool, those to forget.

        Returns:
            The state without them; the others are unchanged.
        """
        return DetectorState(parts={name: part.reset(samples) for name, part in self.parts.items()})

    def to(self, device: torch.device | str) -> "DetectorState":
        """Moves the state to another device.

        Args:
            device: where the next batch will be.

        Returns:
            The same state there.
        """
        return map_tensors(self, lambda tensor: tensor.to(device))
