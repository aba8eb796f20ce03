"""The dipped beam of a headlamp: how strong it is in every direction.

Source: UN Regulation 149 (2021), class C passing beam: the cut-off lies 0.57 degrees down and rises by 15 degrees
towards the kerb; little more than 300 cd goes above it.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numba import njit

_ROWS, _COLUMNS = 601, 201
_STEEPEST = 2.0


def low_beam_cd(left_deg: np.ndarray, up_deg: np.ndarray, kerb: float) -> np.ndarray:
    """Luminous intensity of one headlamp with its beam dipped.

    Args:
        left_deg: (...,) direction, to the left of straight ahead.
        up_deg: (...,) direction, above the horizon.
        kerb: -1.0 where traffic keeps to the right, 1.0 where it keeps to the left.

    Returns:
        (...,) candela.
    """
    aside = np.asarray(left_deg) * kerb
    cut = -0.57 + np.clip(0.268 * aside, 0.0, 1.5)
    below = 1.0 / (1.0 + np.exp(np.clip((up_deg - cut) / 0.10, -50, 50)))
    spot = 15000.0 * np.exp(-(((aside - 1.5) / 7.0) ** 2) - ((up_deg - cut + 0.6) / 1.6) ** 2)
    wide = 7000.0 * np.exp(-((aside / 20.0) ** 2) - ((up_deg + 2.5) / 4.0) ** 2)
    road = 1100.0 * np.exp(-((aside / 34.0) ** 2) - ((up_deg + 8.0) / 9.0) ** 2)
    stray = 260.0 * np.exp(-((aside / 28.0) ** 2) - (np.asarray(up_deg) / 12.0) ** 2)
    return below * (spot + wide + road) + stray


@cache
def beam_table() -> np.ndarray:
    """(601, 201) float32 candela by tangents up and towards the kerb, see `beam_step`."""
    up, aside = (_STEEPEST * x * np.abs(x) for x in (np.linspace(-1, 1, _ROWS), np.linspace(-1, 1, _COLUMNS)))
    degrees = np.degrees(np.arctan(up))[:, None], np.degrees(np.arctan(aside))[None, :]
    return low_beam_cd(degrees[1], degrees[0], 1.0).astype(np.float32)


@njit(cache=True, error_model="numpy", inline="always")
def beam_step(tangent: float, count: int) -> int:
    """Row or column, of so many, of a tangent in the table of the beam: its root goes in even steps."""
    root = np.sqrt(min(abs(tangent), _STEEPEST) / _STEEPEST)
    return int(0.5 + 0.5 * (count - 1) * (1.0 + root if tangent > 0 else 1.0 - root))
