"""From viewing rays to light: one instant of the world as any camera sees it, whatever its lens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from perception.simulation.edges import borrow, edges
from perception.simulation.light import Light
from perception.simulation.rays import ActorPoses, Hits, RayScene
from perception.simulation.shading import Appearance, mirrored, radiance
from perception.simulation.shadows import lifted, open_sky, sunlit

_MIRROR_GLOSS = 0.3
"""From this gloss on, reflections are traced; below they are guessed."""

_EDGE_OFFSETS_PX = ((-0.35, -0.2), (0.35, 0.2))
"""Where in a pixel on an edge two more rays go, u v (the first goes through the middle)."""

Between = Callable[[np.ndarray, tuple[float, float]], tuple[np.ndarray, Hits]]
"""Gives directions (E, 3) of rays through pixels (E,), an offset u v from their middles, and what they meet."""

_EDGE_STEP = 0.12
"""Edges are smoothed where neighbours differ by this share of their sum."""


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
    """

    rays: RayScene
    actors: ActorPoses
    casters: ActorPoses
    light: Light
    looks: Appearance

    def picture(self, view: View, hits: Hits, between: Between | None = None) -> np.ndarray:
        """Renders a picture.

        Args:
            view: the rays.
            hits: (H * W,) what they meet.
            between: traces more rays; with it pixels on edges get three.

        Returns:
            The light (H, W, 3) float32.
        """
        clear = open_sky(self.rays, hits, view.eye_m, view.directions, view.width_px, self.casters)
        lit = sunlit(self.rays, hits, view.eye_m, view.directions, self.light, self.casters, view.width_px)
        mirrors = self._mirrors(view, hits)
        picture = self._radiance(view, hits, lit, clear, mirrors)  # (H * W, 3)
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
        return picture.reshape(-1, view.width_px, 3)

    def _small(self, view: View, hits: Hits, clear: np.ndarray) -> np.ndarray:
        """(N, 3) light along rays that met what no pixel's middle shows; its reflections are guessed."""
        lit = sunlit(self.rays, hits, view.eye_m, view.directions, self.light, self.casters)
        return self._radiance(view, hits, lit, clear, _guessed(len(clear)))

    def _radiance(
        self, view: View, hits: Hits, lit: np.ndarray, clear: np.ndarray, mirrors: tuple[np.ndarray, np.ndarray]
    ) -> np.ndarray:
        """(N, 3) float32 light along rays that met something known."""
        return radiance(view.directions, hits, lit, clear, mirrors, self.looks, self.light, view.pixel_rad)

    def _mirrors(self, view: View, hits: Hits) -> tuple[np.ndarray, np.ndarray]:
        """The row of each pixel's reflection (N,) int32, -1 for none, and the reflections (K, 3) float32.

        Pixels of one material in a square of four share one; what is mirrored shows no shadows.
        """
        index = np.arange(len(view.directions))
        first = index - index % view.width_px % 2 - index // view.width_px % 2 * view.width_px
        glossy = hits.found & (self.looks.gloss[hits.material] >= _MIRROR_GLOSS)  # (N,)
        shares = glossy & hits.found[first] & (hits.material[first] == hits.material) & (first != index)
        own = np.nonzero(glossy & ~shares)[0]  # (K,)
        rows = np.full(len(index), -1, np.int32)
        rows[own] = np.arange(len(own))
        rows[shares] = rows[first[shares]]
        onward = mirrored(view.directions[own], hits.normal[own])  # (K, 3)
        found = self.rays.cast(lifted(hits, view.eye_m, view.directions, own), onward, self.actors)
        facing = found.normal @ self.light.to_sun > 0  # (K,)
        clear = np.full(len(own), 0.8, np.float32)
        return rows, self._radiance(replace(view, directions=onward), found, facing, clear, _guessed(len(own)))


def _guessed(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Reflections of rays that are not traced."""
    return np.full(count, -1, np.int32), np.zeros((0, 3), np.float32)
