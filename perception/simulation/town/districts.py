"""Where the towns of one location lie on its map: nuScenes tools know one map per location, which holds several."""

from __future__ import annotations

from itertools import product

DISTRICT_M = 740.0
"""Side of the square that a district keeps for its town; the spacing of roads allows none that is larger."""

# Sizes that `NuScenesMapExplorer.get_map_mask` has for the whole of each map: width and height in metres.
_CANVAS_M = {
    "boston-seaport": (2979.5, 2118.1),
    "singapore-onenorth": (1585.6, 2025.0),
    "singapore-hollandvillage": (2808.3, 2922.9),
    "singapore-queenstown": (3228.6, 3687.1),
}

LOCATIONS = tuple(_CANVAS_M)
"""The map names that nuScenes tools accept; in Boston traffic keeps to the right, in Singapore to the left."""


def num_districts(location: str) -> int:
    """How many towns the map of a location has room for.

    Args:
        location: one of `LOCATIONS`.

    Returns:
        The number of districts.

    Raises:
        ValueError: no such location.
    """
    return len(_corners(location))


def district_origin(location: str, district: int) -> tuple[float, float]:
    """Where a district lies, whatever others there are; the first ones make the smallest map.

    Args:
        location: one of `LOCATIONS`.
        district: its number, from 0.

    Returns:
        The bottom left corner on the map, in metres.

    Raises:
        ValueError: no such location, or no such district of it.
    """
    corners = _corners(location)
    if not 0 <= district < len(corners):
        raise ValueError(
            f"district_origin: district of {location} must be in 0..{len(corners) - 1}, which its map has room for, "
            f"got {district}"
        )
    column, row = corners[district]
    return column * DISTRICT_M, row * DISTRICT_M


def _corners(location: str) -> list[tuple[int, int]]:
    """Column and row of each district, from the bottom left corner of the map outwards."""
    if location not in _CANVAS_M:
        raise ValueError(f"district_origin: location must be one of {LOCATIONS}, got {location!r}")
    columns, rows = (int(edge // DISTRICT_M) for edge in _CANVAS_M[location])
    return sorted(product(range(columns), range(rows)), key=lambda corner: (max(corner), corner))
