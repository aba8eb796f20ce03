"""What lamps do at night: how much of their light falls on surfaces, and what of it fog and rain throw to the camera.

Lamps are points. A surface gets candela times cosine over the square of the distance of every lamp that reaches its
place; a grid over the ground says which these are.

Sources: UN Regulation 149 (2021), class C passing beam: the cut-off lies 0.57 degrees down, rises by 15 degrees towards
the kerb, and little more than 300 cd goes above it. Henyey and Greenstein 1941 for the phase function of drops;
Narasimhan and Nayar 2002, "Vision and the atmosphere", section 3, for airlight along a ray.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import njit

from perception.simulation.lamps import BALL, LOW_BEAM, Beams, Lamps
from perception.simulation.rays import Hits

_CELL_M, _SIDE = 8.0, 28
_NEAREST_M2 = 0.04
_STEPS, _FIRST_M, _LAST_M = 14, 0.6, 70.0
_FORWARD, _ASYMMETRY = 0.72, 0.80


class Cells(NamedTuple):
    """Which lamps reach each cell of the ground around the camera: `items[first[c] : first[c + 1]]`."""

    first: np.ndarray
    items: np.ndarray


class LampLight(NamedTuple):
    """What lamps do to N hits; both empty where they do nothing.

    Attributes:
        irradiance: (N, 3) float32, or (0, 3), of which 1 makes white paper 1.
        emission: (N,) float32, or (0,), light given off in place of what the material says.
    """

    irradiance: np.ndarray
    emission: np.ndarray


NO_LAMPS = LampLight(np.zeros((0, 3), np.float32), np.zeros(0, np.float32))


@dataclass(frozen=True, eq=False)
class LampField:
    """The lamps around a camera at one time.

    Attributes:
        lamps: of the scene.
        beams: those near the camera, relative to it.
        cells: where they reach.
        white_lux: how much light falls on white paper that is 1.
        dark: whether they light anything; by day they are only seen.
    """

    lamps: Lamps
    beams: Beams
    cells: Cells
    white_lux: float
    dark: bool

    @classmethod
    def around(cls, lamps: Lamps, beams: Beams, white_lux: float, dark: bool) -> LampField:
        """The field of lamps whose places are relative to a camera."""
        return cls(lamps, beams, _cells(beams), white_lux, dark)

    def emission(self, hits: Hits, directions: np.ndarray, usual: np.ndarray) -> np.ndarray:
        """(N,) float32 light that hits give off along their rays; `usual` (M,) is what materials give off."""
        straight = self.lamps.emission(hits.actor, hits.material, usual[hits.material], self.white_lux)
        facing = np.clip(-np.einsum("ij,ij->i", directions, hits.normal), 0.0, 1.0)  # (N,)
        beam = self.lamps.narrow(hits.material)
        return np.where(beam, straight * (0.01 + 0.99 * facing**5), straight).astype(np.float32)


@njit(cache=True, error_model="numpy")
def _cells(beams: Beams) -> Cells:
    count = np.zeros(_SIDE * _SIDE + 1, np.int64)
    items = np.zeros(0, np.int32)
    for filling in (False, True):
        if filling:
            first = np.cumsum(count)
            items = np.empty(first[-1], np.int32)
            count[1:] = first[:-1]
        for n in range(len(beams.kind)):
            radius, ahead = beams.reach_m[n], 0.0
            if beams.kind[n] == LOW_BEAM:
                ahead = 0.5 * radius
                radius = ahead + 2.0
            x = (beams.position[n, 0] + ahead * beams.axis[n, 0]) / _CELL_M + _SIDE / 2
            y = (beams.position[n, 1] + ahead * beams.axis[n, 1]) / _CELL_M + _SIDE / 2
            r = radius / _CELL_M
            for i in range(max(int(x - r), 0), min(int(x + r) + 1, _SIDE)):
                for j in range(max(int(y - r), 0), min(int(y + r) + 1, _SIDE)):
                    dx, dy = min(max(x, i), i + 1) - x, min(max(y, j), j + 1) - y
                    if dx * dx + dy * dy < r * r:
                        cell = i * _SIDE + j + 1
                        if filling:
                            items[count[cell]] = n
                        count[cell] += 1
    return Cells(first, items)


@njit(cache=True, error_model="numpy", inline="always")
def _cell_of(x: float, y: float) -> int:
    """The cell of a place, -1 outside the grid."""
    i, j = int(np.floor(x / _CELL_M + _SIDE / 2)), int(np.floor(y / _CELL_M + _SIDE / 2))
    return i * _SIDE + j if 0 <= i < _SIDE and 0 <= j < _SIDE else -1


@njit(cache=True, error_model="numpy")
def low_beam_cd(left_deg: float, up_deg: float, kerb: float) -> float:
    """Luminous intensity of one headlamp with its beam dipped.

    Args:
        left_deg: direction, to the left of straight ahead.
        up_deg: direction, above the horizon.
        kerb: -1.0 where traffic keeps to the right, 1.0 where it keeps to the left.

    Returns:
        Candela.
    """
    aside = left_deg * kerb
    cut = -0.57 + (min(0.268 * aside, 1.5) if aside > 0 else 0.0)
    below = 1.0 / (1.0 + np.exp((up_deg - cut) / 0.10))
    spot = 15000.0 * np.exp(-(((aside - 1.5) / 7.0) ** 2) - ((up_deg - cut + 0.6) / 1.6) ** 2)
    wide = 7000.0 * np.exp(-((left_deg / 20.0) ** 2) - ((up_deg + 2.5) / 4.0) ** 2)
    road = 1100.0 * np.exp(-((left_deg / 34.0) ** 2) - ((up_deg + 8.0) / 9.0) ** 2)
    stray = 260.0 * np.exp(-((left_deg / 28.0) ** 2) - (up_deg / 12.0) ** 2)
    return below * (spot + wide + road) + stray


@njit(cache=True, error_model="numpy")
def _candela(beams: Beams, n: int, dx: float, dy: float, dz: float, distance: float) -> float:
    """Luminous intensity of a lamp towards a place (dx, dy, dz) from it."""
    if beams.kind[n] == LOW_BEAM:
        ahead = dx * beams.axis[n, 0] + dy * beams.axis[n, 1]
        if ahead < 0.2 * distance:
            return 0.0
        left = dy * beams.axis[n, 0] - dx * beams.axis[n, 1]
        flat = np.sqrt(ahead * ahead + left * left)
        return beams.candela[n] * low_beam_cd(
            np.degrees(np.arctan2(left, ahead)), np.degrees(np.arctan2(dz, flat)), beams.kerb
        )
    if beams.kind[n] == BALL:
        return beams.candela[n]
    down = -dz / distance
    edge = min(max((down - 0.26) / 0.16, 0.0), 1.0)  # dark from 75 degrees on, full within 65
    return beams.candela[n] * edge * edge / max(down, 0.38) ** 1.6


@njit(cache=True, error_model="numpy")
def irradiance(
    places: np.ndarray, normals: np.ndarray, found: np.ndarray, beams: Beams, cells: Cells
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Computes what lamps throw on surfaces, if nothing stands between.

    Args:
        places: (N, 3) float32 relative to the camera.
        normals: (N, 3) float32 unit.
        found: (N,) bool, whether there is a surface.
        beams: the lamps.
        cells: where they reach.

    Returns:
        (N, 3) float32 lux, without those of the strongest lamp that can throw a shadow; (N, 3) float32 those; and (N,)
        int32 which lamp that is, -1 for none.
    """
    count = len(places)
    rest, best = np.zeros((count, 3), np.float32), np.zeros((count, 3), np.float32)
    strongest = np.full(count, -1, np.int32)
    for n in range(count):
        cell = _cell_of(places[n, 0], places[n, 1]) if found[n] else -1
        if cell < 0:
            continue
        most = 0.0
        for k in range(cells.first[cell], cells.first[cell + 1]):
            lamp = cells.items[k]
            dx, dy = places[n, 0] - beams.position[lamp, 0], places[n, 1] - beams.position[lamp, 1]
            dz = places[n, 2] - beams.position[lamp, 2]
            square = dx * dx + dy * dy + dz * dz
            against = -(dx * normals[n, 0] + dy * normals[n, 1] + dz * normals[n, 2])
            if against <= 0 or square > beams.reach_m[lamp] ** 2:
                continue
            distance = np.sqrt(max(square, _NEAREST_M2))
            lux = _candela(beams, lamp, dx, dy, dz, distance) * against / distance**3
            lux *= 1.0 - (square / beams.reach_m[lamp] ** 2) ** 2  # no edge where it ends
            if lux > most and not beams.own[lamp]:
                most = lux
                strongest[n] = lamp
                for i in range(3):
                    rest[n, i] += best[n, i]
                    best[n, i] = lux * beams.colour[lamp, i]
            else:
                for i in range(3):
                    rest[n, i] += lux * beams.colour[lamp, i]
    return rest, best, strongest


@njit(cache=True, error_model="numpy")
def scattered(
    directions: np.ndarray, distance_m: np.ndarray, beams: Beams, cells: Cells, extinction_per_m: float
) -> np.ndarray:
    """Computes the light of lamps that drops in the air throw along rays to the camera, scattered once.

    Args:
        directions: (K, 3) float32 unit vectors.
        distance_m: (K,) float32 where the rays end; may be infinite.
        beams: the lamps.
        cells: where they reach.
        extinction_per_m: of the air.

    Returns:
        (K, 3) float32 candela per square metre.
    """
    result = np.zeros((len(directions), 3), np.float32)
    for k in range(len(directions)):
        end = min(distance_m[k], np.float32(_LAST_M))
        if end <= _FIRST_M:
            continue
        growth = (end / _FIRST_M) ** (1.0 / _STEPS)
        near = _FIRST_M
        for _ in range(_STEPS):
            step, here = near * (growth - 1), near * np.sqrt(growth)
            near *= growth
            x, y, z = here * directions[k, 0], here * directions[k, 1], here * directions[k, 2]
            cell = _cell_of(x, y)
            if cell < 0:
                break
            for m in range(cells.first[cell], cells.first[cell + 1]):
                lamp = cells.items[m]
                dx, dy, dz = x - beams.position[lamp, 0], y - beams.position[lamp, 1], z - beams.position[lamp, 2]
                distance = np.sqrt(max(dx * dx + dy * dy + dz * dz, 0.25))
                candela = _candela(beams, lamp, dx, dy, dz, distance)
                if candela <= 0 or distance > beams.reach_m[lamp]:
                    continue
                onward = -(dx * directions[k, 0] + dy * directions[k, 1] + dz * directions[k, 2]) / distance
                value = candela / distance**2 * phase(onward) * np.exp(-extinction_per_m * (here + distance))
                value *= extinction_per_m * step * (1.0 - (distance / beams.reach_m[lamp]) ** 4)
                for i in range(3):
                    result[k, i] += value * beams.colour[lamp, i]
    return result


@njit(cache=True, error_model="numpy", inline="always")
def phase(onward: float) -> float:
    """Share of light that drops scatter by an angle, per steradian.

    Args:
        onward: cosine of the angle; 1 is straight on.

    Returns:
        A lobe forward and an even rest, 1 over the whole sphere.
    """
    g = _ASYMMETRY
    lobe = (1 - g * g) / (1 + g * g - 2 * g * onward) ** 1.5
    return (_FORWARD * lobe + 1 - _FORWARD) / (4 * np.pi)
