"""Lane courses as nuScenes writes them: paths of two arcs of one radius with a straight piece between."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from perception.simulation.town import curves

Pose = tuple[float, float, float]
_TURN = 2 * np.pi


def _canonical(start: Pose, end: Pose, radius_m: float) -> tuple[float, float, float]:
    """Distance in radii, and both headings against the line from start to end."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    chord = float(np.arctan2(dy, dx))
    return float(np.hypot(dx, dy)) / radius_m, (start[2] - chord) % _TURN, (end[2] - chord) % _TURN


def _candidates(d: float, a: float, b: float) -> dict[str, tuple[float, float, float]]:
    """First angle, straight length in radii and last angle of each shape that reaches the goal."""
    sa, sb, ca, cb, cab = np.sin(a), np.sin(b), np.cos(a), np.cos(b), np.cos(a - b)
    found = {}
    if (square := 2 + d * d - 2 * cab + 2 * d * (sa - sb)) >= 0:
        turn = np.arctan2(cb - ca, d + sa - sb)
        found["LSL"] = ((turn - a) % _TURN, np.sqrt(square), (b - turn) % _TURN)
    if (square := 2 + d * d - 2 * cab + 2 * d * (sb - sa)) >= 0:
        turn = np.arctan2(ca - cb, d - sa + sb)
        found["RSR"] = ((a - turn) % _TURN, np.sqrt(square), (turn - b) % _TURN)
    if (square := d * d - 2 + 2 * cab + 2 * d * (sa + sb)) >= 0:
        p = np.sqrt(square)
        turn = np.arctan2(-ca - cb, d + sa + sb) - np.arctan2(-2.0, p)
        found["LSR"] = ((turn - a) % _TURN, p, (turn - b) % _TURN)
    if (square := d * d - 2 + 2 * cab - 2 * d * (sa + sb)) >= 0:
        p = np.sqrt(square)
        turn = np.arctan2(ca + cb, d - sa - sb) - np.arctan2(2.0, p)
        found["RSL"] = ((a - turn) % _TURN, p, (b - turn) % _TURN)
    return {shape: (_small(first), float(straight), _small(last)) for shape, (first, straight, last) in found.items()}


def _small(angle_rad: float) -> float:
    """The angle, without the full circle that a rounding error below zero makes."""
    return 0.0 if _TURN - angle_rad < 1e-6 else float(angle_rad)


def arcline(start: Pose, end: Pose) -> dict[str, Any]:
    """The path of two arcs and a straight piece between two poses, with the largest radius that makes no detour.

    Args:
        start: x, y and heading.
        end: x, y and heading, some metres ahead.

    Returns:
        A record of `arcline_path_3`.

    Source:
        Shkel and Lumelsky, Classification of the Dubins set, 2001, section 3.
    """
    gap = float(np.hypot(end[0] - start[0], end[1] - start[1]))
    chord = np.arctan2(end[1] - start[1], end[0] - start[0])
    bend = 2 * max(abs((pose[2] - chord + np.pi) % _TURN - np.pi) for pose in (start, end))
    widest = min(gap / max(bend, 1e-3), 500.0)
    best: dict[str, Any] = {}
    for radius in [widest * factor for factor in (0.97, 0.8, 0.6, 0.4, 0.25, 0.12)]:
        for shape, (first, straight, last) in _candidates(*_canonical(start, end, radius)).items():
            pieces = [first * radius, straight * radius, last * radius]
            if not best or sum(pieces) < sum(best["segment_length"]) - 1e-6:
                best = {"shape": shape, "radius": radius, "segment_length": pieces}
        if best and sum(best["segment_length"]) < gap * (1.02 + 0.06 * bend**2):
            break
    return {"start_pose": list(start), "end_pose": list(end), **best}


def arcline_path(centerline: np.ndarray, piece_m: float) -> list[dict[str, Any]]:
    """A lane's course as consecutive arclines.

    Args:
        centerline: (N, 2) the lane's middle.
        piece_m: greatest length of a piece.

    Returns:
        Records of `arcline_path_3`.
    """
    total = curves.length(centerline)
    knots = np.linspace(0.0, total, max(int(np.ceil(total / piece_m)), 1) + 1)
    poses = [curves.pose_at(centerline, float(station)) for station in knots]
    return [arcline(start, end) for start, end in pairwise(poses)]
