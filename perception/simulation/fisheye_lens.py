"""A fisheye lens by Kannala and Brandt: rays of pixels, and how far things move in its picture.

A ray at the angle theta from the axis lies theta (1 + k1 theta^2 + k2 theta^4 + k3 theta^6 + k4 theta^8) focal lengths
from the principal point, also beside and behind the lens, as far as `theta_max_rad`. OpenCV's own functions mirror
what lies beyond 90 degrees, so none of them is used.

Source: Kannala and Brandt 2006, "A generic camera model and calibration method for conventional, wide-angle, and
fish-eye lenses", section 2, with the four coefficients of OpenCV.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numba import njit

_TABLE = 20_000
_MOST_PX = 40.0


@dataclass(frozen=True, eq=False)
class FisheyeLens:
    """A lens and the picture behind it.

    Attributes:
        intrinsics: (3, 3), pixels; (0, 0) is the middle of the top left pixel.
        distortion: (4,) k1 k2 k3 k4.
        theta_max_rad: angle from the axis at which the picture ends.
        image_size_px: height and width.

    Raises:
        ValueError: the radius does not grow all the way to the largest angle.
    """

    intrinsics: np.ndarray
    distortion: np.ndarray
    theta_max_rad: float
    image_size_px: tuple[int, int]

    def __post_init__(self) -> None:
        angle, radius = self._table
        if not (0 < self.theta_max_rad < np.pi and (np.diff(radius) > 0).all()):
            turn = float(np.degrees(angle[np.argmax(np.diff(radius) <= 0)]))
            raise ValueError(
                f"FisheyeLens: theta_max_rad must be below pi and where the radius turns back ({turn:.1f} deg), "
                f"got {self.theta_max_rad}"
            )

    @cached_property
    def _table(self) -> tuple[np.ndarray, np.ndarray]:
        """Angles and their radii in focal lengths, (T,) each."""
        angle = np.linspace(0, self.theta_max_rad, _TABLE)
        return angle, angle * _scale(angle**2, self.distortion)

    def unproject(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The ray of each pixel.

        Args:
            pixels: (N, 2) u v.

        Returns:
            (N, 3) float32 unit rays, camera frame, at the largest angle for what lies beyond it; and (N,) float64 how
            many radians each pixel lies within the largest angle, negative outside the picture's circle.
        """
        plane = (pixels - self.intrinsics[:2, 2]) / self.intrinsics[[0, 1], [0, 1]]  # (N, 2)
        radius = np.hypot(plane[:, 0], plane[:, 1])  # (N,)
        angle, radii = self._table
        theta = np.interp(radius, radii, angle)
        slope = (angle[-1] - angle[-2]) / (radii[-1] - radii[-2])
        within = np.where(radius <= radii[-1], self.theta_max_rad - theta, (radii[-1] - radius) * slope)
        sideways = np.sin(theta) / np.maximum(radius, 1e-12)
        return np.column_stack((plane * sideways[:, None], np.cos(theta))).astype(np.float32), within

    def project(self, places: np.ndarray) -> np.ndarray:
        """Pixels (N, 2) of places (N, 3) in the camera frame; NaN beyond the largest angle."""
        side = np.hypot(places[:, 0], places[:, 1])  # (N,)
        theta = np.arctan2(side, np.ascontiguousarray(places[:, 2]))  # without gaps, as in `headings`
        radius = np.interp(theta, *self._table)
        radius[theta > self.theta_max_rad] = np.nan
        plane = places[:, :2] * (radius / np.maximum(side, 1e-9))[:, None]  # (N, 2)
        return plane * self.intrinsics[[0, 1], [0, 1]] + self.intrinsics[:2, 2]

    @cached_property
    def rays(self) -> tuple[np.ndarray, np.ndarray]:
        """`unproject` of all H * W pixels, row by row."""
        height, width = self.image_size_px
        v, u = np.mgrid[:height, :width]
        return self.unproject(np.stack([u, v], axis=-1).reshape(-1, 2).astype(np.float64))

    def ways(self, distance_m: np.ndarray, owner: np.ndarray, ways: np.ndarray) -> np.ndarray:
        """How far what each pixel shows moves in the picture while the shutter is open.

        Args:
            distance_m: (H * W,) float32 along the pixels' rays; the sky, infinitely far away, is taken to stand still.
            owner: (H * W,) what each point lies on: a row of `ways`, -1 for the last one.
            ways: (A + 1, 2, 4, 4) from the camera frame in the middle of the exposure to that at its beginning and end.

        Returns:
            (H * W, 2) float32 pixels, u v, at most 40 either way.
        """
        return _ways(self.rays[0], distance_m, owner, ways, self.intrinsics, self.distortion)


@njit(cache=True, error_model="numpy", inline="always")
def _scale(square: float | np.ndarray, k: np.ndarray) -> float | np.ndarray:
    """Radius over angle at an angle of this square."""
    return 1 + square * (k[0] + square * (k[1] + square * (k[2] + square * k[3])))


@njit(cache=True, error_model="numpy")
def _ways(
    rays: np.ndarray,
    distance_m: np.ndarray,
    owner: np.ndarray,
    ways: np.ndarray,
    intrinsics: np.ndarray,
    distortion: np.ndarray,
) -> np.ndarray:
    result = np.zeros((len(rays), 2), np.float32)
    place, pixel = np.empty(3), np.empty((2, 2))
    for n in range(len(rays)):
        if not distance_m[n] < np.inf:
            continue
        way = ways[owner[n]]
        for moment in range(2):
            for i in range(3):
                place[i] = way[moment, i, 3]
                for j in range(3):
                    place[i] += way[moment, i, j] * distance_m[n] * rays[n, j]
            side = np.sqrt(place[0] ** 2 + place[1] ** 2)
            theta = np.arctan2(side, place[2])
            scale = theta * _scale(theta * theta, distortion) / max(side, 1e-9)
            for i in range(2):
                pixel[moment, i] = intrinsics[i, i] * place[i] * scale
        for i in range(2):
            result[n, i] = min(max(pixel[1, i] - pixel[0, i], -_MOST_PX), _MOST_PX)
    return result
