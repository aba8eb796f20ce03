"""What traffic is made of: an actor with its track, at fixed times around a scene."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cached_property

import numpy as np

from perception.geometry.headings import headings
from perception.simulation.actors.catalogue import ActorShape
from perception.simulation.traffic_paths import Path

TRACK_STEP_S = 0.05
MARGIN_S = 1.0
"""Tracks begin this long before a scene and end this long after it: sweeps and exposures reach beyond it."""

WARM_UP_S = 9.0
"""Traffic runs this long before the first track begins, so that queues and gaps have formed."""


class Behaviour(Enum):
    """What an actor does, as far as its attribute depends on it."""

    DRIVEN = "driven"
    PARKED = "parked"
    ON_FOOT = "on foot"
    SEATED = "seated"
    RIDDEN = "ridden"
    LEFT = "left"
    THING = "thing"


@dataclass(frozen=True, eq=False)
class ActorTrack:
    """An actor on its way.

    Attributes:
        shape: what it looks like.
        behaviour: what it does.
        poses: (K, 4) x, y, z of its underside's middle and yaw, unwrapped, at `track_times`; (1, 4) if it never moves.
        priority: which of two colliding actors stays; the higher one.
    """

    shape: ActorShape
    behaviour: Behaviour
    poses: np.ndarray
    priority: int

    @cached_property
    def room(self) -> tuple[float, float, float]:
        """x, y and radius of a circle around all that it covers on its way."""
        low, high = self.poses[:, :2].min(axis=0), self.poses[:, :2].max(axis=0)
        x, y = ((low + high) / 2).tolist()
        return x, y, float(np.hypot(*(high - low)) + np.hypot(*self.shape.size_lwh_m[:2])) / 2


def track_times(duration_s: float) -> np.ndarray:
    """(K,) seconds since the start of a scene at which tracks are stored."""
    return np.arange(round((duration_s + 2 * MARGIN_S) / TRACK_STEP_S) + 1) * TRACK_STEP_S - MARGIN_S


def standing(x: float, y: float, z: float, yaw_rad: float) -> np.ndarray:
    """The poses (1, 4) of an actor that never moves."""
    return np.array([[x, y, z, yaw_rad]])


def axle_poses(path: Path, front_m: np.ndarray, length_m: float) -> np.ndarray:
    """Poses of a vehicle both of whose axles follow a path.

    Args:
        path: where it drives.
        front_m: (K,) stations of its front.
        length_m: of the vehicle; its axles lie 0.29 of it before and behind its middle.

    Returns:
        (K, 4) x, y, z and yaw, unwrapped.
    """
    middle = front_m - length_m / 2
    rear, front = path.positions(middle - 0.29 * length_m), path.positions(middle + 0.29 * length_m)  # (K, 2)
    along = front - rear
    yaw = np.unwrap(headings(along))
    return np.column_stack(((rear + front) / 2, np.zeros(len(yaw)), yaw))
