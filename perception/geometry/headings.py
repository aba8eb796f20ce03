"""Headings of directions, the same bits wherever arrays lie in memory."""

import numpy as np


def headings(directions: np.ndarray) -> np.ndarray:
    """Angles of directions about +z, counter-clockwise from +x.

    `np.arctan2` rounds in another way where it suspects that an argument overlaps its result, and it suspects any view
    with gaps that lies right before the result in memory. So it is given copies without gaps.

    Args:
        directions: (..., 2) or more: x, y, and whatever follows.

    Returns:
        (...,) radians in [-pi, pi].
    """
    x, y = (directions[..., axis].copy() for axis in (0, 1))
    angles: np.ndarray = np.arctan2(y, x)
    return angles
