"""Four fisheye cameras around the car, 190 degrees wide: rays through every pixel, the own car at the rim.

Rays are cast one by one, not drawn triangle by triangle as for pinholes: five faces of a cube that see 190 degrees hold
more pixels than the picture, and would have to be resampled. The own car stands still before the lens, so that what it
hides is found once and cast no more. The picture ends at `THETA_MAX_RAD`, and is black beyond; horizons and edges of
houses are straight only through its middle.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, cached_property

import numpy as np

from perception.formats.classes import POINT_CATEGORIES
from perception.simulation.actors.cars import build_car
from perception.simulation.actors.catalogue import fitted
from perception.simulation.developing import develop, expose, smear
from perception.simulation.ego import EGO_CENTRE_M, EGO_SIZE_LWH_M
from perception.simulation.fisheye_lens import FisheyeLens
from perception.simulation.mesh import Mesh, placed
from perception.simulation.optics import Shot, plain, through_rain_and_lens
from perception.simulation.rays import STATIC, Hits, RayScene
from perception.simulation.rendering import Instant, View
from perception.simulation.sensors.base import Surroundings
from perception.simulation.sensors.shutter import grain, instant_of, jpeg, shutter_ways
from perception.simulation.shading import mirrored, radiance
from perception.simulation.shadows import lifted, sunlit

THETA_MAX_RAD = float(np.radians(95.0))
DISTORTION = (0.0141, 0.0484, -0.0187, 0.0025)
"""k1 to k4 of a usual surround lens."""

_FOCAL_PX, _FULL_WIDTH_PX = 333.2, 1280
_RIM_RAD = 0.02  # over which the picture fades at its circle
_SUB_PX = (-1 / 3, 0.0, 1 / 3)
_EGO = POINT_CATEGORIES.index("vehicle.ego")
_MIRRORS_M = 0.16  # by which a car is wider over its mirrors

_OPTICAL2BODY = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])

_MOUNTS = {
    # x, y, z in the ego frame; yaw to the left and pitch down in degrees
    "FISHEYE_FRONT": ((3.47, 0.0, 0.62), 0.0, 22.0),
    "FISHEYE_REAR": ((-0.70, 0.0, 0.92), 180.0, 28.0),
    "FISHEYE_LEFT": ((2.26, 0.93, 1.00), 92.0, 38.0),
    "FISHEYE_RIGHT": ((2.26, -0.93, 1.00), -92.0, 38.0),
}


@dataclass(frozen=True, eq=False)
class FisheyeRecording:
    """A picture and what can be seen in it.

    Attributes:
        t_us: timestamp, the middle of the exposure.
        ego2global: (4, 4) pose of the ego vehicle then.
        image: (H, W, 3) uint8 RGB before compression.
        content: the JPEG file.
        valid: (H, W) bool, whether a pixel lies within the picture's circle; all else means nothing outside.
        actor: (H, W) int32 actor at the middle of each pixel, -1 for none.
        distance_m: (H, W) float32 along the ray, infinite in the sky.
        semantic: (H, W) uint8 index into `POINT_CATEGORIES`; `noise` in the sky and outside.
    """

    t_us: int
    ego2global: np.ndarray
    image: np.ndarray
    content: bytes
    valid: np.ndarray
    actor: np.ndarray
    distance_m: np.ndarray
    semantic: np.ndarray


@dataclass(frozen=True, eq=False)
class _OwnCar:
    """What of the own car a camera sees: in pixels (K,) by this share (K,), with hits and rays in the ego's axes."""

    pixels: np.ndarray
    share: np.ndarray
    hits: Hits
    rays: np.ndarray


@dataclass(frozen=True, eq=False)
class Fisheye:
    """A mounted fisheye camera.

    Attributes:
        channel: such as `FISHEYE_LEFT`.
        sensor2ego: (4, 4) mounting pose; camera frame x right, y down, z forward.
        lens: of the picture.
        delay_us: timestamp less the LiDAR's in the same sample.
        smooth_edges: whether pixels on edges get three rays.
        motion_blur: whether the shutter takes time.
        jpeg_quality: 1..100.
    """

    channel: str
    sensor2ego: np.ndarray
    lens: FisheyeLens
    delay_us: int = 0
    smooth_edges: bool = True
    motion_blur: bool = True
    jpeg_quality: int = 92
    modality: str = "fisheye"
    suffix: str = ".jpg"

    @property
    def image_size_px(self) -> tuple[int, int]:
        """Height and width of the picture."""
        return self.lens.image_size_px

    @cached_property
    def _inside(self) -> np.ndarray:
        """(H * W,) bool: pixels within the picture's circle."""
        return self.lens.rays[1] > 0

    @cached_property
    def _own_car(self) -> _OwnCar:
        rays, width = self._ego_rays(np.arange(len(self._inside)), (0.0, 0.0)), self.image_size_px[1]
        scene, eye = RayScene(_own_car()), self.sensor2ego[:3, 3]
        whole = scene.cast(eye, rays)
        found = (whole.found & self._inside).reshape(-1, width)
        edge = np.zeros_like(found)
        for axis in (0, 1):
            change = np.diff(found, axis=axis)
            edge |= np.pad(change, [(0, 1) if i == axis else (0, 0) for i in (0, 1)])
            edge |= np.pad(change, [(1, 0) if i == axis else (0, 0) for i in (0, 1)])
        share, rim = found.ravel().astype(np.float32), np.nonzero(edge.ravel())[0]
        offsets = [(u, v) for u in _SUB_PX for v in _SUB_PX]
        share[rim] = np.mean([scene.cast(eye, self._ego_rays(rim, it)).found for it in offsets], axis=0)
        pixels = np.nonzero(found.ravel() & (share > 0))[0]  # where the middle misses it, nothing is known of it
        return _OwnCar(pixels, share[pixels], whole.at(pixels), rays[pixels])

    @cached_property
    def _outward(self) -> np.ndarray:
        """(K,) pixels in which something but the own car can be seen, tile by tile: rays cast together lie together."""
        hidden = np.zeros(len(self._inside), bool)
        hidden[self._own_car.pixels] = self._own_car.share >= 1
        pixels = np.nonzero(self._inside & ~hidden)[0]
        row, column = pixels // self.image_size_px[1], pixels % self.image_size_px[1]
        return pixels[np.lexsort((column, row, column // 8, row // 4, column // 64, row // 32))]

    def _ego_rays(self, pixels: np.ndarray, offset: tuple[float, float]) -> np.ndarray:
        """Rays (N, 3) float32 through pixels (N,), off their middles, in the ego's axes."""
        width = self.image_size_px[1]
        rays, _ = self.lens.unproject(np.stack([pixels % width, pixels // width], axis=-1) + offset)
        return rays @ self.sensor2ego[:3, :3].T.astype(np.float32)

    def capture(self, surroundings: Surroundings, t_us: int) -> FisheyeRecording:
        """Takes a picture.

        Args:
            surroundings: what there is to see.
            t_us: the middle of the exposure.

        Returns:
            The picture, and what each pixel shows.
        """
        size, light = self.image_size_px, surroundings.light
        ego2global = surroundings.motion.ego2global(t_us)
        picture, hits, instant, view = self._picture(surroundings, ego2global, t_us)
        if self.motion_blur:
            picture = smear(picture, self._pixel_motion(surroundings, hits, t_us).reshape(*size, 2))
        if not plain(light, surroundings.weather):
            shot = Shot.of(self.channel, surroundings, self.sensor2ego, t_us, THETA_MAX_RAD, self.lens.project)
            picture = through_rain_and_lens(picture, instant, view, shot, surroundings.weather, self._inside)
        rim = np.clip(self.lens.rays[1] / _RIM_RAD, 0, 1).astype(np.float32).reshape(*size, 1)
        noise = grain(surroundings, self.channel, t_us, size)
        exposure = expose(picture.reshape(1, -1, 3)[:, self._inside], light)
        valid = self._inside.reshape(size)
        image = np.where(valid[..., None], develop(picture * rim, exposure, noise), 0).astype(np.uint8)
        actor = np.where(self._inside, surroundings.known(hits.actor, t_us), STATIC).astype(np.int32)
        return FisheyeRecording(
            t_us=t_us,
            ego2global=ego2global,
            image=image,
            content=jpeg(image, self.jpeg_quality),
            valid=valid,
            actor=actor.reshape(size),
            distance_m=hits.distance_m.reshape(size),
            semantic=np.where(hits.found, hits.semantic, 0).astype(np.uint8).reshape(size),
        )

    def _picture(
        self, surroundings: Surroundings, ego2global: np.ndarray, t_us: int
    ) -> tuple[np.ndarray, Hits, Instant, View]:
        """The light (H, W, 3), what the pixels' middles show, the own car included (as `STATIC`), and what was seen."""
        scene, actors, own = surroundings.rays, surroundings.actors(t_us), self._own_car
        eye = (ego2global @ self.sensor2ego)[:3, 3]
        turn = (ego2global[:3, :3] @ self.sensor2ego[:3, :3]).T.astype(np.float32)
        directions = self.lens.rays[0] @ turn
        hits = _among(scene.cast(eye, directions[self._outward], actors), self._outward, len(directions))

        def between(pixels: np.ndarray, offset: tuple[float, float]) -> tuple[np.ndarray, Hits]:
            """Rays through pixels (E,), off their middles, and what they meet."""
            aside = self._ego_rays(pixels, offset) @ ego2global[:3, :3].T.astype(np.float32)
            return aside, scene.cast(eye, aside, actors)

        pixel_rad = 1 / float(self.lens.intrinsics[0, 0])
        instant = instant_of(surroundings, eye, t_us)
        view = View(eye, directions, self.image_size_px[1], pixel_rad)
        picture = instant.picture(view, hits, between if self.smooth_edges else None)
        seen = own.hits._replace(normal=own.hits.normal @ ego2global[:3, :3].T.astype(np.float32))
        light = _own_light(instant, eye, own.rays @ ego2global[:3, :3].T.astype(np.float32), seen, pixel_rad)
        flat, share = picture.reshape(-1, 3), own.share[:, None]
        flat[own.pixels] = share * light + (1 - share) * flat[own.pixels]
        for target, value in zip(hits, seen, strict=True):
            target[own.pixels] = value
        return picture, hits, instant, view

    def _pixel_motion(self, surroundings: Surroundings, hits: Hits, t_us: int) -> np.ndarray:
        """(H * W, 2) float32: how far each pixel's surface moves in the picture while the shutter is open."""
        ways = shutter_ways(surroundings, self.sensor2ego, t_us)
        owner = surroundings.known(hits.actor, t_us)
        pixels = self.lens.ways(hits.distance_m, owner, ways)  # (H * W, 2)
        pixels[self._own_car.pixels] = 0
        return pixels


def _own_light(instant: Instant, eye_m: np.ndarray, directions: np.ndarray, hits: Hits, pixel_rad: float) -> np.ndarray:
    """(K, 3) light along rays that met the own car; all its reflections are traced.

    It throws no shadow on itself, as the hull that throws its shadow on the street is coarser than what is seen. What
    of it faces down has the street before it, not the sky.
    """
    light, looks, rows = instant.light, instant.looks, np.arange(len(directions), dtype=np.int32)
    lit = np.zeros(len(rows), bool)
    if not light.dark:
        lit = sunlit(instant.rays, hits, eye_m, directions, light, instant.actors)
    onward = mirrored(directions, hits.normal)  # (K, 3)
    origins = lifted(hits, eye_m, directions, rows)
    found = instant.rays.cast(origins, onward, instant.actors)
    clear = np.full(len(rows), 0.8, np.float32)
    guessed = np.full(len(rows), -1, np.int32), np.zeros((0, 3), np.float32)
    facing = found.normal @ light.to_sun > 0  # (K,)
    lamps = instant.lamp_light(found, eye_m, origins, onward)
    reflections = radiance(onward, found, facing, clear, guessed, looks, light, pixel_rad, lamps)  # (K, 3)
    open_share = 0.5 + 0.5 * hits.normal[:, 2]
    if instant.lamps is not None:
        instant = replace(instant, lamps=instant.lamps.without_own())
    lamps = instant.lamp_light(hits, eye_m, eye_m, directions)
    if light.dark:
        hits = hits._replace(actor=np.zeros_like(hits.actor))  # as of a vehicle: no house whose windows are lit
    return radiance(directions, hits, lit, open_share, (rows, reflections), looks, light, pixel_rad, lamps)


def _among(hits: Hits, rows: np.ndarray, count: int) -> Hits:
    """Hits of some rays (K,) among all (N,), whose others meet nothing."""
    whole = Hits(*(np.zeros((count, *values.shape[1:]), values.dtype) for values in hits))
    whole.distance_m[:] = np.inf
    whole.actor[:] = STATIC
    for target, values in zip(whole, hits, strict=True):
        target[rows] = values
    return whole


@cache
def _own_car() -> Mesh:
    """The own car as its own cameras see it, in the ego frame."""
    size = np.array(EGO_SIZE_LWH_M) + np.array([0, _MIRRORS_M, 0])
    car = build_car("hatchback", size, "car_white", np.random.default_rng(0))
    mesh = fitted("car", "vehicle.ego", car, size).meshes[0]
    return placed(mesh, (EGO_CENTRE_M, 0.0, EGO_SIZE_LWH_M[2] / 2))


def fisheye_cameras(image_size_px: tuple[int, int] = (320, 480)) -> tuple[Fisheye, ...]:
    """The four fisheye cameras: front, rear, and one under each mirror.

    Args:
        image_size_px: height and width; the circle of the picture is as wide as it.

    Returns:
        The cameras, which fire together with the end of the LiDAR's sweep.

    Raises:
        ValueError: a side is not positive.
    """
    if min(image_size_px) < 1:
        raise ValueError(f"fisheye_cameras: image_size_px must be positive, got {image_size_px}")
    height, width = image_size_px
    focal = _FOCAL_PX * width / _FULL_WIDTH_PX
    intrinsics = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
    lens = FisheyeLens(intrinsics, np.array(DISTORTION), THETA_MAX_RAD, (height, width))
    return tuple(Fisheye(channel=name, sensor2ego=_pose(*mount), lens=lens) for name, mount in _MOUNTS.items())


def _pose(position_m: tuple[float, float, float], yaw_deg: float, pitch_deg: float) -> np.ndarray:
    (cy, sy), (cp, sp) = ((np.cos(angle), np.sin(angle)) for angle in np.radians((yaw_deg, pitch_deg)))
    yaw = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    pose = np.eye(4)
    pose[:3, :3] = yaw @ np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]]) @ _OPTICAL2BODY
    pose[:3, 3] = position_m
    return pose
