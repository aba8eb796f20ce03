"""The own car: its roof and bonnet, as far as the LiDAR above sees them, and what throws its shadow."""

from __future__ import annotations

import numpy as np

from perception.simulation.ego import EGO_SIZE_LWH_M, FRONT_TO_REAR_AXLE_M
from perception.simulation.mesh import Mesh, cuboid, loft, merge, paint

_SECTIONS = (
    # x, half width and height of the roof's middle, half width and height of its shoulders
    (-0.20, 0.50, 1.40, 0.56, 1.26),
    (-0.06, 0.56, 1.455, 0.62, 1.30),
    (0.50, 0.62, 1.455, 0.67, 1.30),
    (1.10, 0.63, 1.45, 0.68, 1.30),
    (1.62, 0.62, 1.44, 0.67, 1.28),
    (2.45, 0.34, 1.165, 0.36, 1.05),
)
_CARRIER = ((1.44, (0.84, 1.66), 0.52), (1.60, (1.02, 1.42), 0.32))
"""Height, range along x and half width of the sensor carrier's foot and top."""


def ego_body() -> Mesh:
    """The own car from above, with the carrier of the sensors on its roof.

    Returns:
        A mesh in the ego frame.
    """
    body, carrier = paint("car_white", "vehicle.ego"), paint("steel", "vehicle.ego")
    rings = [
        [(x, sign * wide, height) for sign, wide, height in _outline(top, z_top, low, z_low)]
        for x, top, z_top, low, z_low in _SECTIONS
    ]
    plates = [[(x[0], -y, z), (x[1], -y, z), (x[1], y, z), (x[0], y, z)] for z, x, y in _CARRIER]
    parts = [loft(np.array(rings), body, capped=False), loft(np.array(plates), carrier)]
    parts.append(cuboid((0.05, 0.06, 0.12), carrier, (1.35, -0.01, 1.61)))
    parts += [cuboid((0.06, 0.06, 0.10), carrier, (1.42, y, 1.53)) for y in (-0.36, 0.36)]
    return merge(parts)


def ego_shadow() -> Mesh:
    """What of the own car keeps light off the street; no sensor sees it.

    Returns:
        A mesh in the ego frame.
    """
    body = paint("car_white", "vehicle.ego")
    rear_m, (length, width, _) = FRONT_TO_REAR_AXLE_M - EGO_SIZE_LWH_M[0], EGO_SIZE_LWH_M
    hull = cuboid((length, width, 0.72), body, (rear_m + length / 2, 0.0, 0.54))
    places = [(x, sign * (width / 2 - 0.11), 0.14) for x in (0.0, 2.58) for sign in (-1, 1)]
    return merge([ego_body(), hull, *(cuboid((0.55, 0.2, 0.26), body, place) for place in places)])


def _outline(top: float, z_top: float, low: float, z_low: float) -> list[tuple[int, float, float]]:
    """Sign and size of y, and z, along one section from the right sill over the roof to the left sill."""
    right = [(-1, low, z_low - 0.4), (-1, low, z_low), (-1, top, z_top)]
    return right + [(1, wide, height) for _, wide, height in reversed(right)]
