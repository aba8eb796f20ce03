"""From viewing rays to light: one instant of the world as any camera sees it, whatever its lens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np

from perception.simulation.edges import borrow, edges
from perception.simulation.lamp_light import NO_LAMPS, LampField, LampLight, irradiance, scattered
from perception.simulation.lamps import LOW_BEAM
from perception.simulation.light import Light
from perception.simulation.rays import ActorPoses, Hits, RayScene
from perception.simulation.shading import Appearance, mirrored, radiance
from perception.simulation.shadows import lamplit, lifted, open_sky, sunlit
from perception.simulation.wetness import FLAT

_MIRROR_GLOSS = 0.3
"""From this gloss on, reflections are traced; below they are guessed."""

_SLOPES_RAD = 0.035
"""Wet rough ground smears what it mirrors by about this angle, upward and down."""

_LEAST = 1e-3

_EDGE_OFFSETS_PX = ((-0.35, -0.2), (0.35, 0.2))
"""Where in a pixel on an edge two more rays go, u v (the first goes through the middle)."""

Between = Callable[[np.ndarray, tuple[float, float]], tuple[np.ndarray, Hits]]
"""Gives directions (E, 3) of rays through pixels (E,), an offset u v from their middles, and what they meet."""

_EDGE_STEP = 0.12
"""Edges are smoothed where neighbours differ by this share of their sum."""

_FAINT = 0.02
"""A lamp whose light is a smaller share of white throws no shadow."""

_OPEN_AT_NIGHT = 0.75
_LAMP_M = 0.5
_THICK_PER_M = 0.004
"""In air that takes more light than this, what it scatters of lamps is seen."""

_COARSE_PX = 6
"""It is worked out for one pixel in so many along rows and columns."""


@dataclass(frozen=True, eq=False)
class View:
    """Rays through a picture.

    Attributes:
        eye_m: (3,) position of the camera, world.
        directions: (H * W, 3) float32 unit vectors through the pixels' middles, row by row, world axes.
        width_px: W.
        pixel_rad: angle that one pixel covers.
    """

    eye_m: np.ndarray
    directions: np.ndarray
    width_px: int
    pixel_rad: float


@dataclass(frozen=True, eq=False)
class Instant:
    """The world at one time.

    Attributes:
        rays: its surfaces.
        actors: where what moves is.
        casters: what of it throws shadows, and what throws some and is not seen.
        light: sun and sky.
        looks: the table of materials.
        lamps: those around the camera; none that does anything where None.
    """

    rays: RayScene
    actors: ActorPoses
    casters: ActorPoses
    light: Light
    looks: Appearance
    lamps: LampField | None = None

    def picture(self, view: View, hits: Hits, between: Between | None = None) -> np.ndarray:
        """Renders a picture.

        Args:
            view: the rays.
            hits: (H * W,) what they meet.
            between: traces more rays; with it pixels on edges get three.

        Returns:
            The light (H, W, 3) float32.
        """
        clear = self._open_sky(view, hits)
        lit = self.sunlit(hits, view.eye_m, view.directions, view.width_px)
        lamps = self.lamp_light(hits, view.eye_m, view.eye_m, view.directions, view.width_px)
        mirrors = self._mirrors(view, hits)
        picture = self._radiance(view, hits, lit, clear, mirrors, lamps)  # (H * W, 3)
        if between is not None:
            edge = np.nonzero(edges(hits, picture, view.width_px, _EDGE_STEP))[0]  # (E,)
            total = picture[edge]  # (E, 3)
            for offset in _EDGE_OFFSETS_PX:
                directions, found = between(edge, offset)
                light = np.empty((len(edge), 3), np.float32)
                left = borrow(found, edge, hits, picture, view.width_px, light)  # (K,)
                light[left] = self._small(replace(view, directions=directions[left]), found.at(left), clear[edge[left]])
                total += light
            picture[edge] = total / (1 + len(_EDGE_OFFSETS_PX))
        if self.lamps is not None and self.lamps.dark and self.light.haze_per_m > _THICK_PER_M:
            picture += self._in_the_air(view, hits)
        return picture.reshape(-1, view.width_px, 3)

    def _open_sky(self, view: View, hits: Hits) -> np.ndarray:
        """(H * W,) float32: how much of the sky is open, see `shadows.open_sky`; at night nobody could tell."""
        if self.light.dark:
            return np.full(len(view.directions), _OPEN_AT_NIGHT, np.float32)
        return open_sky(self.rays, hits, view.eye_m, view.directions, view.width_px, self.casters)

    def sunlit(self, hits: Hits, origin_m: np.ndarray, directions: np.ndarray, width_px: int = 0) -> np.ndarray:
        """(N,) bool: which hits the sun reaches, see `shadows.sunlit`; none at night."""
        if self.light.dark:
            return np.zeros(len(directions), bool)
        return sunlit(self.rays, hits, origin_m, directions, self.light, self.casters, width_px)

    def lamp_light(
        self, hits: Hits, eye_m: np.ndarray, origins: np.ndarray, directions: np.ndarray, width_px: int | None = None
    ) -> LampLight:
        """What lamps do to hits.

        Args:
            hits: (N,) what was hit.
            eye_m: (3,) the camera, world.
            origins: (3,) or (N, 3) where the rays came from, world.
            directions: (N, 3) where they went.
            width_px: the strongest lamp of each hit throws a shadow, see `shadows.lamplit`; it throws none where None.

        Returns:
            The light.
        """
        field = self.lamps
        if field is None:
            return NO_LAMPS
        emission = field.emission(hits, directions, self.looks.emission * np.float32(self.light.lamps))
        if not field.dark:
            return NO_LAMPS._replace(emission=emission)
        found = hits.found
        reach = np.where(found, hits.distance_m, 0)[:, None]
        places = (origins - eye_m).astype(np.float32) + directions * reach  # (N, 3)
        retro = self.looks.lidar_gloss[hits.material]  # (N,) what throws laser light back does so with any
        total, best, strongest = irradiance(places, hits.normal, found, retro, field.beams, field.cells)
        if width_px is not None and len(field.beams.kind):
            luminance = best @ np.array([0.21, 0.72, 0.07], np.float32)  # (N,)
            to_lamp = field.beams.position[strongest] - places  # (N, 3)
            to_lamp[luminance < _FAINT * field.white_lux] = np.nan
            asked = ~np.isnan(to_lamp[:, 0])
            lit = lamplit(self.rays, hits, eye_m, directions, to_lamp, self.casters, width_px)
            best[asked & ~lit] = 0
        return LampLight((total + best) / np.float32(field.white_lux), emission)

    def _small(self, view: View, hits: Hits, clear: np.ndarray) -> np.ndarray:
        """(N, 3) light along rays that met what no pixel's middle shows; its reflections are guessed."""
        lit = self.sunlit(hits, view.eye_m, view.directions)
        lamps = self.lamp_light(hits, view.eye_m, view.eye_m, view.directions, 0)
        return self._radiance(view, hits, lit, clear, _guessed(len(clear)), lamps)

    def _radiance(
        self,
        view: View,
        hits: Hits,
        lit: np.ndarray,
        clear: np.ndarray,
        mirrors: tuple[np.ndarray, np.ndarray],
        lamps: LampLight,
    ) -> np.ndarray:
        """(N, 3) float32 light along rays that met something known."""
        return radiance(view.directions, hits, lit, clear, mirrors, self.looks, self.light, view.pixel_rad, lamps)

    def _in_the_air(self, view: View, hits: Hits) -> np.ndarray:
        """(H * W, 3) float32 light of lamps that fog throws to the camera before what is seen through it.

        Cars whose headlamps the camera does not see light none of it.
        """
        assert self.lamps is not None, "only lamps are seen in the air"
        shape = (-1, view.width_px)
        middles = slice(_COARSE_PX // 2, None, _COARSE_PX)  # about where `cv2.resize` takes coarse pixels to lie
        every = np.arange(len(view.directions)).reshape(shape)[middles, middles]  # (H / 6, W / 6)
        rows, field = every.ravel(), self.lamps
        hidden = (field.beams.kind == LOW_BEAM) & ~field.beams.own  # (L,)
        asked = np.nonzero(hidden)[0]
        away = np.linalg.norm(field.beams.position[asked], axis=1)
        towards = field.beams.position[asked] / np.maximum(away, np.float32(1e-3))[:, None]
        hidden[asked] = self.rays.occluded(view.eye_m, towards, np.maximum(away - _LAMP_M, 0), self.actors)
        beams = field.beams._replace(candela=np.where(hidden, np.float32(0), field.beams.candela))
        seen = scattered(view.directions[rows], hits.distance_m[rows], beams, field.cells, self.light.haze_per_m)
        light = (seen * np.float32(np.pi / field.white_lux)).reshape(*every.shape, 3)
        height = len(view.directions) // view.width_px
        return cv2.resize(light, (view.width_px, height), interpolation=cv2.INTER_LINEAR).reshape(-1, 3)

    def _mirrors(self, view: View, hits: Hits) -> tuple[np.ndarray, np.ndarray]:
        """The row of each pixel's reflection (N,) int32, -1 for none, and the reflections (K, 3) float32.

        Pixels of one material in a square of four share one; what is mirrored shows no shadows. Of wet rough ground,
        whose reflections are blurred, one square in four is traced.
        """
        index = np.arange(len(view.directions))
        row, column = index // view.width_px, index % view.width_px
        first = index - column % 2 - row % 2 * view.width_px
        glossy = hits.found & (self.looks.gloss[hits.material] >= _MIRROR_GLOSS)  # (N,)
        shares = glossy & hits.found[first] & (hits.material[first] == hits.material) & (first != index)
        own = np.nonzero(glossy & ~shares)[0]  # (K,)
        rough = FLAT[hits.material[own]] & (hits.actor[own] < 0)  # (K,)
        traced = ~rough | ((row[own] % 4 < 2) & (column[own] % 4 < 2))
        seen = np.zeros((len(own), 3), np.float32)
        seen[traced] = self._mirrored(view, hits, own[traced])
        known = np.ones(len(own), bool)
        if rough.any():
            places = np.stack([row[own], column[own]])  # (2, K)
            seen[rough], known[rough] = _drawn_out(seen, places, rough & traced, rough, view.pixel_rad)
        rows = np.full(len(index), -1, np.int32)
        rows[own] = np.where(known, np.arange(len(own)), -1)
        rows[shares] = rows[first[shares]]
        return rows, seen

    def _mirrored(self, view: View, hits: Hits, pixels: np.ndarray) -> np.ndarray:
        """(K, 3) light that pixels (K,) show in a mirror."""
        onward = mirrored(view.directions[pixels], hits.normal[pixels])  # (K, 3)
        origins = lifted(hits, view.eye_m, view.directions, pixels)  # (K, 3)
        found = self.rays.cast(origins, onward, self.actors)
        lamps = self.lamp_light(found, view.eye_m, origins, onward)
        facing = found.normal @ self.light.to_sun > 0  # (K,)
        clear = np.full(len(pixels), 0.8, np.float32)
        return self._radiance(replace(view, directions=onward), found, facing, clear, _guessed(len(pixels)), lamps)


def _drawn_out(
    light: np.ndarray, places: np.ndarray, given: np.ndarray, wanted: np.ndarray, pixel_rad: float
) -> tuple[np.ndarray, np.ndarray]:
    """Reflections in wet rough ground, smeared upward and down over what lies around them.

    Args:
        light: (K, 3) float32 in a mirror.
        places: (2, K) rows and columns in the picture.
        given: (K,) bool, where the light is known.
        wanted: (K,) bool, where it is asked for, R times.
        pixel_rad: angle that one pixel covers.

    Returns:
        (R, 3) float32, and (R,) bool whether any known light is near.
    """
    row, column = places // 2
    total = np.zeros((row.max() + 1, column.max() + 1, 4), np.float32)
    total[row[given], column[given], :3] = light[given]
    total[row[given], column[given], 3] = 1
    tall = 2 * int(_SLOPES_RAD / (2 * pixel_rad)) + 1
    once = cv2.blur(total, (3, max(tall, 3)), borderType=cv2.BORDER_CONSTANT)
    twice = cv2.blur(once, (3, max(tall, 3)), borderType=cv2.BORDER_CONSTANT)
    around = twice[row[wanted], column[wanted]]  # (R, 4)
    return around[:, :3] / np.maximum(around[:, 3:], _LEAST), around[:, 3] > _LEAST


def _guessed(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Reflections of rays that are not traced."""
    return np.full(count, -1, np.int32), np.zeros((0, 3), np.float32)
