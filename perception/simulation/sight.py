"""What hides what on the ground plan of a town: walls, poles and hedges, and the boxes of actors."""

from __future__ import annotations

import numpy as np

from perception.simulation.mesh import Mesh

HEIGHTS_M = (0.5, 1.2)
"""Whatever the static world cuts at these heights hides what is behind it."""

LOW_M = 1.3
"""Boxes lower than this hide nothing from a sensor on the roof."""

_CELL_M = 0.4
_STEP_M = 0.3


class Sight:
    """Lines of sight in a town.

    Args:
        mesh: the static world.
        size_m: width and height of the town, whose bottom left corner is the origin.
    """

    def __init__(self, mesh: Mesh, size_m: tuple[float, float]) -> None:
        shape = [int(edge / _CELL_M) + 2 for edge in size_m]
        self._closed = np.zeros(shape, dtype=bool)
        corners = mesh.corners.astype(np.float64)  # (T, 3, 3)
        for height in HEIGHTS_M:
            start, end = _sections(corners, height)  # (S, 2) each
            cells = (_along(start, end) / _CELL_M).astype(np.int64)  # (P, 2)
            cells = cells[((cells >= 0) & (cells < shape)).all(axis=1)]
            self._closed[cells[:, 0], cells[:, 1]] = True

    def clear(self, eye: np.ndarray, place: np.ndarray, size_lw: np.ndarray, boxes: np.ndarray) -> bool:
        """Whether nothing stands between an eye and a thing.

        Args:
            eye: (2,) where one looks from.
            place: (2,) middle of the thing.
            size_lw: (2,) its length and width; what is closer to its middle than half its width is not looked at.
            boxes: (N, 5) x, y, length, width, heading of what else stands there and is not low.

        Returns:
            Whether the line between them meets nothing.
        """
        distance = float(np.linalg.norm(place - eye))
        stations = np.arange(1.5, distance - float(size_lw.min()) / 2, _STEP_M)  # (M,)
        points = eye + stations[:, None] * (place - eye) / max(distance, 1e-9)  # (M, 2)
        cells = np.clip((points / _CELL_M).astype(np.int64), 0, np.array(self._closed.shape) - 1)
        if self._closed[cells[:, 0], cells[:, 1]].any():
            return False
        offset = points[:, None] - boxes[:, :2]  # (M, N, 2)
        cos, sin = np.cos(boxes[:, 4]), np.sin(boxes[:, 4])
        along = np.abs(offset[..., 0] * cos + offset[..., 1] * sin) < boxes[:, 2] / 2
        across = np.abs(offset[..., 1] * cos - offset[..., 0] * sin) < boxes[:, 3] / 2
        return not (along & across).any()


def _sections(corners: np.ndarray, height_m: float) -> tuple[np.ndarray, np.ndarray]:
    """Ends (S, 2) of the lines in which triangles (T, 3, 3) meet the plane at a height."""
    above = corners[..., 2] > height_m  # (T, 3)
    cut = corners[above.any(axis=1) & ~above.all(axis=1)]  # (S, 3, 3)
    above = cut[..., 2] > height_m
    lone = np.where(above.sum(axis=1) == 1, above.argmax(axis=1), (~above).argmax(axis=1))  # the corner by itself
    rows = np.arange(len(cut))
    ends = []
    for other in (1, 2):
        a, b = cut[rows, lone], cut[rows, (lone + other) % 3]  # (S, 3)
        share = (height_m - a[:, 2:]) / (b[:, 2:] - a[:, 2:])
        ends.append(a[:, :2] + share * (b[:, :2] - a[:, :2]))
    return ends[0], ends[1]


def _along(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """(P, 2) points at most half a cell apart along lines (S, 2) to (S, 2)."""
    counts = np.ceil(np.linalg.norm(end - start, axis=1) / (_CELL_M / 2)).astype(np.int64) + 1  # (S,)
    line = np.repeat(np.arange(len(counts)), counts)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    share = (within / np.maximum(counts[line] - 1, 1))[:, None]
    return start[line] + share * (end[line] - start[line])
