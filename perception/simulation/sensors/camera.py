"""A pinhole camera: ray-cast, shaded, blurred by motion, exposed and compressed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from perception.simulation.developing import develop, expose, pixel_ways, smear
from perception.simulation.optics import Shot, plain, through_rain_and_lens
from perception.simulation.raster import Lens
from perception.simulation.rays import Hits
from perception.simulation.rendering import View
from perception.simulation.sensors.base import Surroundings
from perception.simulation.sensors.shutter import grain, instant_of, jpeg, shutter_ways

_NEAREST_M = 0.05
_HOOD_RAD = float(np.radians(55.0))  # the sun farther aside does not shine into the lens


@dataclass(frozen=True, eq=False)
class CameraRecording:
    """A picture and what can be seen in it.

    Attributes:
        t_us: timestamp, the middle of the exposure.
        ego2global: (4, 4) pose of the ego vehicle then.
        image: (H, W, 3) uint8 RGB before compression.
        content: the JPEG file.
        actor: (H, W) int32 actor at the middle of each pixel, -1 for none.
        distance_m: (H, W) float32 along the ray, infinite in the sky.
        semantic: (H, W) uint8 index into `POINT_CATEGORIES`; `noise` in the sky.
        visible_px: (A,) number of pixels that show each actor.
        unoccluded_px: (A,) number of pixels that would show it if nothing stood before it.
    """

    t_us: int
    ego2global: np.ndarray
    image: np.ndarray
    content: bytes
    actor: np.ndarray
    distance_m: np.ndarray
    semantic: np.ndarray
    visible_px: np.ndarray
    unoccluded_px: np.ndarray


@dataclass(frozen=True, eq=False)
class Camera:
    """A mounted pinhole camera.

    Attributes:
        channel: such as `CAM_FRONT`.
        sensor2ego: (4, 4) mounting pose; camera frame x right, y down, z forward.
        intrinsics: (3, 3), pixels; (0, 0) is the middle of the top left pixel.
        image_size_px: height and width.
        delay_us: timestamp less the LiDAR's in the same sample.
        smooth_edges: whether pixels on edges get three rays.
        motion_blur: whether the shutter takes time.
        jpeg_quality: 1..100.
    """

    channel: str
    sensor2ego: np.ndarray
    intrinsics: np.ndarray
    image_size_px: tuple[int, int]
    delay_us: int = 0
    smooth_edges: bool = True
    motion_blur: bool = True
    jpeg_quality: int = 92
    modality: str = "camera"
    suffix: str = ".jpg"

    @cached_property
    def _rays(self) -> np.ndarray:
        """(H * W, 3) float32 unit rays of the pixels' middles, camera frame."""
        height, width = self.image_size_px
        v, u = np.mgrid[:height, :width]
        return self._unproject(np.stack([u, v], axis=-1).reshape(-1, 2).astype(np.float64))

    @cached_property
    def _lens(self) -> Lens:
        (focal_u, _, u), (_, focal_v, v), _ = self.intrinsics.tolist()
        return Lens(focal_u, focal_v, u, v, *self.image_size_px)

    def _unproject(self, pixels: np.ndarray) -> np.ndarray:
        """Unit rays (N, 3) float32, camera frame, of pixels (N, 2); in numpy, since torch would take every core."""
        focal, principal = self.intrinsics[[0, 1], [0, 1]], self.intrinsics[:2, 2]
        rays = np.ones((len(pixels), 3), np.float32)
        rays[:, :2] = (pixels - principal) / focal
        rays *= 1 / np.sqrt(1 + rays[:, :1] ** 2 + rays[:, 1:2] ** 2)
        return rays

    def _project(self, places: np.ndarray) -> np.ndarray:
        """Pixels (N, 2) of places (N, 3) in the camera frame; NaN behind it."""
        ahead = np.where(places[:, 2:] > _NEAREST_M, places[:, 2:], np.nan)  # (N, 1)
        return places[:, :2] / ahead * self.intrinsics[[0, 1], [0, 1]] + self.intrinsics[:2, 2]

    def capture(self, surroundings: Surroundings, t_us: int) -> CameraRecording:
        """Takes a picture.

        Args:
            surroundings: what there is to see.
            t_us: the middle of the exposure.

        Returns:
            The picture, what each pixel shows and how much of each actor.
        """
        height, width = self.image_size_px
        motion, ego2global = surroundings.motion, surroundings.motion.ego2global(t_us)
        camera2global = ego2global @ self.sensor2ego
        rays, actors = surroundings.rays, surroundings.actors(t_us)
        directions = _turned(camera2global, self._rays)
        hits, unoccluded = rays.view(camera2global, self._lens, directions, actors)

        def between(pixels: np.ndarray, offset: tuple[float, float]) -> tuple[np.ndarray, Hits]:
            """Rays through pixels (E,), off their middles, and what they meet."""
            places = np.stack([pixels % width, pixels // width], axis=-1) + offset  # (E, 2)
            aside, lens = _turned(camera2global, self._unproject(places)), self._lens
            lens = lens._replace(principal_u=lens.principal_u - offset[0], principal_v=lens.principal_v - offset[1])
            return aside, rays.view(camera2global, lens, aside, actors, pixels)[0]

        instant = instant_of(surroundings, camera2global[:3, 3], t_us)
        view = View(camera2global[:3, 3], directions, width, 1 / float(self.intrinsics[0, 0]))
        picture = instant.picture(view, hits, between if self.smooth_edges else None)
        if self.motion_blur:
            picture = smear(picture, self._pixel_motion(surroundings, hits, t_us))
        if not plain(surroundings.light, surroundings.weather):
            shot = Shot.of(self.channel, surroundings, self.sensor2ego, t_us, _HOOD_RAD, self._project)
            picture = through_rain_and_lens(picture, instant, view, shot, surroundings.weather)
        noise = grain(surroundings, self.channel, t_us, (height, width))
        image = develop(picture, expose(picture, surroundings.light), noise)
        actor = surroundings.known(hits.actor, t_us)
        num_actors = len(motion.actor_shapes(t_us))
        visible = np.bincount(actor[actor >= 0], minlength=num_actors)  # (A,)
        return CameraRecording(
            t_us=t_us,
            ego2global=ego2global,
            image=image,
            content=jpeg(image, self.jpeg_quality),
            actor=actor.reshape(height, width),
            distance_m=hits.distance_m.reshape(height, width),
            semantic=np.where(hits.found, hits.semantic, 0).reshape(height, width),
            visible_px=visible,
            unoccluded_px=unoccluded[:num_actors],
        )

    def _pixel_motion(self, surroundings: Surroundings, hits: Hits, t_us: int) -> np.ndarray:
        """(H, W, 2) float32: how far each pixel's surface moves in the picture while the shutter is open."""
        ways = shutter_ways(surroundings, self.sensor2ego, t_us)
        owner = surroundings.known(hits.actor, t_us)
        pixels = pixel_ways(self._rays, hits.distance_m, owner, ways, self.intrinsics)  # (H * W, 2)
        return pixels.reshape(*self.image_size_px, 2)


def _turned(camera2global: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """(N, 3) float32 world directions of rays in the camera frame."""
    return rays @ camera2global[:3, :3].T.astype(np.float32)
