"""Drops of rain: how many of which size are in the air.

Source: Marshall and Palmer, The distribution of raindrops with size, Journal of Meteorology 5, 1948.
"""

from __future__ import annotations

import numpy as np

_PER_M4 = 8e6  # drops per cubic metre and metre of diameter, as the diameter goes to nothing


def size_slope_per_m(rain_mm_h: float) -> float:
    """How steeply the number of drops falls with their diameter.

    Args:
        rain_mm_h: how hard it rains; more than 0.

    Returns:
        One over the mean diameter in metres.
    """
    return 4100 * rain_mm_h**-0.21


def drops_per_m3(rain_mm_h: float, least_m: np.ndarray | float) -> np.ndarray:
    """How many drops are in a cubic metre of air.

    Args:
        rain_mm_h: how hard it rains; more than 0.
        least_m: (...) diameter of the smallest that counts.

    Returns:
        (...) their mean number.
    """
    slope = size_slope_per_m(rain_mm_h)
    return _PER_M4 / slope * np.exp(-slope * np.asarray(least_m))
