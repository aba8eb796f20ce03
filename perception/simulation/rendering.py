"""From viewing rays to light: one instant of the world as any camera sees it, whatever its lens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from perception.simulation.light import Light
from perception.simulation.rays import ActorPoses, Hits, RayScene
from perception.simulation.shading import Appearance, mirrored, radiance
from perception.simulation.shadows import edges, lifted, open_sky, sunlit

_MIRROR_GLOSS = 0.3
"""From this gloss on, reflections are traced; below they are guessed."""

_EDGE_OFFSETS_PX = np.array([[-0.35, -0.2], [0.35, 0.2]])
"""Where in a pixel on an edge two more rays go (the first goes through the middle)."""

_EDGE_STEP = 0.12
"""Edges are smoothed where neighbours differ by this share of their sum."""


@dataclass(frozen=True, eq=False)
class _View:
    """Rays through a picture: position of the camera, directions (N, 3), width, angle of a pixel."""

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
        light: sun and sky.
        looks: the table of materials.
    """

    rays: RayScene
    actors: ActorPoses
    light: Light
    looks: Appearance

    def picture(
        self,
        eye_m: np.ndarray,
        directions: np.ndarray,
        width_px: int,
        pixel_rad: float,
        between: Callable[[np.ndarray], np.ndarray] | None,
    ) -> tuple[Hits, np.ndarray]:
        """Renders a picture.

        Args:
            eye_m: (3,) position of the camera, world.
            directions: (H * W, 3) float32 unit vectors through the pixels' middles, row by row, world axes.
            width_px: W.
            pixel_rad: angle that one pixel covers.
            between: gives directions (E, 3) for places (E, 2) u v anywhere in the picture; pixels on edges then get
                three rays.

        Returns:
            What the middle of each pixel shows, and the light (H, W, 3) float32.
        """
        hits = self.rays.cast(eye_m, directions, self.actors)
        view = _View(eye_m, directions, width_px, pixel_rad)
        clear = open_sky(self.rays, hits, eye_m, directions, width_px, self.actors)
        mirrors = self._mirrors(view, hits)
        picture = self._light(view, hits, clear, mirrors)  # (H * W, 3)
        if between is not None:
            edge = np.nonzero(edges(hits, picture, width_px, _EDGE_STEP))[0]  # (E,)
            middles = np.stack([edge % width_px, edge // width_px], axis=-1)  # (E, 2)
            more = between((middles + _EDGE_OFFSETS_PX[:, None]).reshape(-1, 2))  # (2 * E, 3)
            repeats = np.tile(edge, len(_EDGE_OFFSETS_PX))
            found = self.rays.cast(eye_m, more, self.actors)
            extra = self._light(
                replace(view, directions=more), found, clear[repeats], (mirrors[0][repeats], mirrors[1])
            )
            picture[edge] += extra.reshape(len(_EDGE_OFFSETS_PX), -1, 3).sum(axis=0)
            picture[edge] /= 1 + len(_EDGE_OFFSETS_PX)
        return hits, picture.reshape(-1, width_px, 3)

    def _light(self, view: _View, hits: Hits, clear: np.ndarray, mirrors: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """(N, 3) float32 light along rays that hit something known."""
        lit = sunlit(self.rays, hits, view.eye_m, view.directions, self.light, self.actors)
        return radiance(view.directions, hits, lit, clear, mirrors, self.looks, self.light, view.pixel_rad)

    def _mirrors(self, view: _View, hits: Hits) -> tuple[np.ndarray, np.ndarray]:
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
        guessed = (np.full(len(own), -1, np.int32), np.zeros((0, 3), np.float32))
        clear = np.full(len(own), 0.8, np.float32)
        return rows, radiance(onward, found, facing, clear, guessed, self.looks, self.light, view.pixel_rad)
