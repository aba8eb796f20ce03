"""Which lamps of the traffic lights shine: discs that are shown like actors but are none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from perception.simulation.mesh import Mesh
from perception.simulation.town.furniture import lit_lamp
from perception.simulation.town.town import SignalHead

COLOURS = ("red", "amber", "green")


def lamp_meshes() -> tuple[Mesh, ...]:
    """The lit lamps, in the order of `COLOURS`; they belong among the shapes of the ray scene."""
    return tuple(lit_lamp(colour) for colour in COLOURS)


@dataclass(frozen=True, eq=False)
class SignalLamps:
    """The traffic lights of a town over time.

    Attributes:
        heads: faces of the traffic lights.
        colours: gives the colour of every stop line at a time in microseconds; "" for none.
        first_shape: index of the first of `lamp_meshes` among the shapes of the ray scene.
    """

    heads: Sequence[SignalHead]
    colours: Callable[[int], Sequence[str]]
    first_shape: int

    def shining(self, t_us: int) -> tuple[np.ndarray, np.ndarray]:
        """The lamps that shine.

        Args:
            t_us: time, microseconds.

        Returns:
            Their shapes (L,) int32 and poses `lamp2global` (L, 4, 4) float64.
        """
        by_stop_line = self.colours(t_us)
        lit = [head for head in self.heads if by_stop_line[head.stop_line] in COLOURS]
        shapes = [self.first_shape + COLOURS.index(by_stop_line[head.stop_line]) for head in lit]
        yaw = np.array([head.yaw_rad for head in lit])
        poses = np.tile(np.eye(4), (len(lit), 1, 1))  # (L, 4, 4)
        poses[:, 0, 0], poses[:, 0, 1] = np.cos(yaw), -np.sin(yaw)
        poses[:, 1, 0], poses[:, 1, 1] = np.sin(yaw), np.cos(yaw)
        poses[:, :3, 3] = np.array([head.position_m for head in lit]).reshape(-1, 3)
        return np.array(shapes, np.int32), poses
