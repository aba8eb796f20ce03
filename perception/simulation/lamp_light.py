"""What lamps do at night: how much of their light falls on surfaces, and what of it fog and rain throw to the camera.

Lamps are points. A surface gets candela times cosine over the square of the distance of every lamp that reaches its
place; a grid over the ground says which these are.

Sources: Oren and Nayar 1994, "Generalization of Lambert's reflectance
model", for rough ground. Henyey and Greenstein 1941 for the phase function of drops; Narasimhan and Nayar 2002, "Vision
and the atmosphere", section 3, for airlight along a ray.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numba import njit

from perception.simulation.headlamps import beam_step
from perception.simulation.lamps import BALL, LOW_BEAM, NARROW, TAIL, Beams, Lamps, bright_lamps
from perception.simulation.rays import Hits

_CELL_M, _SIDE = 8.0, 28
_NEAREST_M2 = 0.04
_STEPS, _FIRST_M, _LAST_M = 10, 0.6, 70.0
_FAINT_LUX = 0.1
_EDGE = 0.26  # cosine from straight down where a street lamp's light ends
_FORWARD, _ASYMMETRY = 0.72, 0.80
_RETRO = 14.0
"""How much brighter than paper a sign's sheeting is in the own headlights, seen a few degrees beside them (EN 12899-1
wants 70 cd/lx/m2 within 0.33 degrees of a lamp, which is 300 times paper; a twentieth of it is left there)."""

_ROUGH_A, _ROUGH_B = 0.84, 0.29
"""Oren and Nayar's coefficients for slopes of 0.4 rad: rough ground shines back at lamps beside the camera."""


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

    def without_own(self) -> LampField:
        """The same lamps less those of the own car, which do not shine on it."""
        dark = np.where(self.beams.own, np.float32(0), self.beams.candela)
        return replace(self, beams=self.beams._replace(candela=dark))

    def emission(self, hits: Hits, directions: np.ndarray, usual: np.ndarray) -> np.ndarray:
        """(N,) float32 light that hits give off along their rays; `usual` (M,) is what materials give off."""
        result = usual[hits.material]  # (N,)
        bright = bright_lamps(self.white_lux)
        rows = np.nonzero(bright[hits.material] > 0)[0]  # (K,)
        material, actor = hits.material[rows], hits.actor[rows]
        facing = np.clip(-np.einsum("ij,ij->i", directions[rows], hits.normal[rows]), 0.0, 1.0)
        beam = np.where(NARROW[material], 0.01 + 0.99 * facing**5, 1.0)
        result[rows] = np.where(self.lamps.on(actor, material), bright[material] * beam, 0)
        return result


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


@njit(cache=True, error_model="numpy", inline="always")
def _candela(beams: Beams, n: int, dx: float, dy: float, dz: float, distance: float) -> float:
    """Luminous intensity of a lamp towards a place (dx, dy, dz) from it."""
    if beams.kind[n] == LOW_BEAM:
        ahead = dx * beams.axis[n, 0] + dy * beams.axis[n, 1]
        if ahead < 0.3 * distance:
            return 0.0
        left = dy * beams.axis[n, 0] - dx * beams.axis[n, 1]
        flat = np.sqrt(ahead * ahead + left * left)
        rows, columns = beams.dipped.shape
        row, column = beam_step(dz / flat, rows), beam_step(left * beams.kerb / ahead, columns)
        return beams.candela[n] * beams.dipped[row, column]
    if beams.kind[n] == TAIL:
        return beams.candela[n] * max(-(dx * beams.axis[n, 0] + dy * beams.axis[n, 1]) / distance, 0.0)
    if beams.kind[n] == BALL:
        return beams.candela[n]
    down = -dz / distance
    if down < _EDGE:
        return 0.0
    edge = min((down - _EDGE) / 0.16, 1.0)  # full within 65 degrees
    down = max(down, 0.38)
    return beams.candela[n] * edge * edge / (down * np.sqrt(down))


@njit(cache=True, error_model="numpy", inline="always")
def _thrown_back(place: np.ndarray, normal: np.ndarray, x: float, y: float, cosine: float) -> float:
    """How much more of a lamp's light rough level ground throws to the camera at the origin than paper would.

    The light goes along (x, y, ...), and falls on the ground with a cosine.
    """
    away = np.sqrt(place[0] ** 2 + place[1] ** 2 + place[2] ** 2) + 1e-6
    seen = -(place[0] * normal[0] + place[1] * normal[1] + place[2] * normal[2]) / away
    flat = np.sqrt((place[0] ** 2 + place[1] ** 2) * (x * x + y * y)) + 1e-6
    same_side = max((place[0] * x + place[1] * y) / flat, 0.0)
    larger, smaller = max(seen, cosine), max(min(seen, cosine), 0.05)
    sine_tan = np.sqrt(max(1 - smaller * smaller, 0.0)) * np.sqrt(max(1 - larger * larger, 0.0)) / max(larger, 0.1)
    return _ROUGH_A + _ROUGH_B * same_side * sine_tan


@njit(cache=True, error_model="numpy")
def irradiance(
    places: np.ndarray, normals: np.ndarray, found: np.ndarray, retro: np.ndarray, beams: Beams, cells: Cells
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Computes what lamps throw on surfaces, if nothing stands between.

    Args:
        places: (N, 3) float32 relative to the camera.
        normals: (N, 3) float32 unit.
        found: (N,) bool, whether there is a surface.
        retro: (N,) float32, how well it throws light back to where it comes from, 0..1.
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
            if normals[n, 2] > 0.9 and lux > _FAINT_LUX:
                lux *= _thrown_back(places[n], normals[n], dx / distance, dy / distance, against / distance)
            if beams.own[lamp]:
                lux *= 1.0 + _RETRO * retro[n]
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


@njit(cache=True, error_model="numpy")
def lit_drops(places: np.ndarray, beams: Beams, cells: Cells) -> np.ndarray:
    """Computes how bright lamps make drops of rain.

    Args:
        places: (N, 3) float32 relative to the camera.
        beams: the lamps.
        cells: where they reach.

    Returns:
        (N, 3) float32 candela per square metre of a drop's disc.
    """
    result = np.zeros((len(places), 3), np.float32)
    for n in range(len(places)):
        cell = _cell_of(places[n, 0], places[n, 1])
        if cell < 0:
            continue
        away = np.sqrt(places[n, 0] ** 2 + places[n, 1] ** 2 + places[n, 2] ** 2)
        for k in range(cells.first[cell], cells.first[cell + 1]):
            lamp = cells.items[k]
            dx, dy = places[n, 0] - beams.position[lamp, 0], places[n, 1] - beams.position[lamp, 1]
            dz = places[n, 2] - beams.position[lamp, 2]
            distance = np.sqrt(max(dx * dx + dy * dy + dz * dz, 0.25))
            if distance > beams.reach_m[lamp]:
                continue
            onward = -(dx * places[n, 0] + dy * places[n, 1] + dz * places[n, 2]) / (distance * away)
            lux = _candela(beams, lamp, dx, dy, dz, distance) / distance**2
            for i in range(3):  # a disc throws all it gets into the phase function
                result[n, i] += lux * phase(onward) * beams.colour[lamp, i]
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
    spread = 1 + g * g - 2 * g * onward
    lobe = (1 - g * g) / (spread * np.sqrt(spread))
    return (_FORWARD * lobe + 1 - _FORWARD) / (4 * np.pi)
