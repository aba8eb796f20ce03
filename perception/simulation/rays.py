"""Rays against the simulated world: what stands still in one Open3D scene, what moves in another.

The shapes of the actors stand side by side in a gallery that is built once. A ray is moved into the frame of each actor
whose box it meets and cast there, so that nothing is rebuilt from one instant to the next and every ray may have a time
of its own, as a LiDAR's columns do. All scenes are recentred, so that float32 resolves 0.03 mm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from perception.simulation import raster, ray_kernels
from perception.simulation.materials import MATERIALS
from perception.simulation.mesh import Mesh, merge

if TYPE_CHECKING:
    import open3d

STATIC = -1
"""Value of `Hits.actor` for what stands still, and where nothing was hit."""

_SLOT_GAP_M = 1.0
_MAX_CROWNS = 3
_LEAF_M = 0.01
_POROUS = np.array([material.name.startswith(("leaves", "needles")) for material in MATERIALS])
"""Per material: crowns of trees, which rays pass through in places; shadow rays take them as solid."""


@dataclass(frozen=True, eq=False)
class ActorPoses:
    """Where actors are during a short span of time; between its ends they move evenly.

    Attributes:
        shapes: (A,) int32, which shape of the scene each actor has.
        start: (A, 4, 4) float64 `actor2world` at the start of the span.
        end: (A, 4, 4) float64 at its end; the same for one instant.
    """

    shapes: np.ndarray
    start: np.ndarray
    end: np.ndarray

    @classmethod
    def still(cls, shapes: np.ndarray, actor2world: np.ndarray) -> ActorPoses:
        """Poses that do not change: shapes (A,) and `actor2world` (A, 4, 4)."""
        return cls(shapes, actor2world, actor2world)

    @classmethod
    def none(cls) -> ActorPoses:
        """No actors at all."""
        return cls.still(np.zeros(0, np.int32), np.zeros((0, 4, 4)))

    def __len__(self) -> int:
        return len(self.shapes)


class Hits(NamedTuple):
    """The first surface along each ray; where there is none, the distance is infinite and all else means nothing.

    Attributes:
        distance_m: (N,) float32.
        actor: (N,) int32, row of the `ActorPoses`, or `STATIC`.
        material: (N,) int16, index into `materials.MATERIALS`.
        semantic: (N,) uint8, index into `POINT_CATEGORIES`.
        position: (N, 3) float32, in the frame of the mesh that was hit: the actor's, or the world less
            `RayScene.origin_m`.
        normal: (N, 3) float32, unit, world axes, facing the ray.
        mesh_normal: (N, 3) float32, the same in the axes of the mesh that was hit.
    """

    distance_m: np.ndarray
    actor: np.ndarray
    material: np.ndarray
    semantic: np.ndarray
    position: np.ndarray
    normal: np.ndarray
    mesh_normal: np.ndarray

    @property
    def found(self) -> np.ndarray:
        """(N,) bool: whether anything was hit."""
        return self.distance_m < np.inf

    def at(self, rows: np.ndarray) -> Hits:
        """Some of the hits (K,)."""
        return Hits(*(values[rows] for values in self))


class RayScene:
    """Surfaces that rays can be cast against.

    Args:
        static: what never moves, world coordinates.
        shapes: meshes of the actors, each in its own frame; an actor is one of them at a pose.
        num_threads: threads that one call may use; 0 for all.

    Attributes:
        origin_m: (3,) the scene frame's origin in the world; rays go in with world coordinates all the same.
    """

    def __init__(self, static: Mesh, shapes: Sequence[Mesh] = (), num_threads: int = 1) -> None:
        self.num_threads = num_threads
        self.origin_m = np.round(_bounds(static)[0])
        self._static = _ray_scene(static.vertices.astype(np.float64) - self.origin_m, static.triangles)
        bounds = np.array([_bounds(shape) for shape in shapes]).reshape(-1, 2, 3)  # (S, 2, 3)
        self._shapes = ray_kernels.Shapes(
            centers=np.ascontiguousarray(bounds[:, 0]),
            halves=np.ascontiguousarray(bounds[:, 1]),
            slots=_slots(bounds),
            ends=np.cumsum([0, *(shape.num_triangles for shape in shapes)]),
            reach_m=np.linalg.norm(bounds, axis=2).sum(axis=1) + 0.01,
        )
        hung = [
            replace(shape, vertices=shape.vertices + slot)
            for shape, slot in zip(shapes, self._shapes.slots, strict=True)
        ]
        gallery = merge(hung)
        self._gallery = _ray_scene(gallery.vertices, gallery.triangles)
        self._static_corners = (static.corners - self.origin_m).astype(np.float32)  # (T, 3, 3)
        self._blocks = raster.block_spheres(self._static_corners)
        self._shape_corners = np.concatenate([np.zeros((0, 3, 3), np.float32), *(shape.corners for shape in shapes)])
        meshes = [static, *shapes]
        self._surfaces = ray_kernels.Surfaces(
            np.concatenate([mesh.materials for mesh in meshes]),
            np.concatenate([mesh.semantics for mesh in meshes]),
            np.concatenate([_normals(mesh) for mesh in meshes]),
        )
        self._num_static = static.num_triangles

    def cast(
        self,
        origins: np.ndarray,
        directions: np.ndarray,
        actors: ActorPoses | None = None,
        fractions: np.ndarray | None = None,
    ) -> Hits:
        """Finds the first surface along each ray.

        Args:
            origins: (N, 3) or (3,), world coordinates, metres.
            directions: (N, 3) unit vectors, world axes.
            actors: what moves; nothing where None.
            fractions: (N,) time of each ray between the start (0) and the end (1) of the actors' span; 0 where None.

        Returns:
            N hits.

        Raises:
            ValueError: the shapes do not fit.
        """
        rays, times = self._rays("cast", origins, directions), _times("cast", fractions, len(directions))
        return self._cast(rays, times, actors or ActorPoses.none(), _MAX_CROWNS)

    def _cast(self, rays: np.ndarray, times: np.ndarray, actors: ActorPoses, crowns: int) -> Hits:
        """The hits of rays (N, 6) in the scene frame, which may pass between leaves `crowns` times."""
        answer = self._static.cast_rays(_tensor(rays), nthreads=self.num_threads)
        nearest = ray_kernels.Nearest(
            answer["t_hit"].numpy().copy(),  # (N,)
            answer["primitive_ids"].numpy().astype(np.int64),  # (N,)
            np.full(len(rays), STATIC, np.int32),
            self._num_static,
        )
        motion = self._motion(actors)
        met, hit_m, hit_triangle = self._cast_actors(rays, nearest.distance_m, times, actors, motion)
        ray_kernels.keep_nearest(met, hit_m, hit_triangle, actors.shapes, self._shapes.ends, nearest)
        return self._described(rays, times, actors, motion, nearest, crowns)

    def _described(
        self,
        rays: np.ndarray,
        times: np.ndarray,
        actors: ActorPoses,
        motion: ray_kernels.Motion,
        nearest: ray_kernels.Nearest,
        crowns: int,
    ) -> Hits:
        """The hits with what is known of their surfaces; rays that pass between leaves go on `crowns` times."""
        described = ray_kernels.describe(rays, times, nearest, motion, self._surfaces)
        hits = Hits(nearest.distance_m, nearest.actor, *described)
        if crowns:
            passing = ray_kernels.through_crowns(
                rays, hits.distance_m, hits.material, hits.position, hits.normal, _POROUS
            )
            if len(passing):
                self._pass_on(rays[passing], times[passing], actors, crowns - 1, hits, passing)
        return hits

    def _pass_on(
        self, rays: np.ndarray, times: np.ndarray, actors: ActorPoses, crowns: int, hits: Hits, rows: np.ndarray
    ) -> None:
        """Replaces the hits of some rows by what their rays meet behind."""
        gone = hits.distance_m[rows] + np.float32(_LEAF_M)
        rays[:, :3] += rays[:, 3:] * gone[:, None]
        behind = self._cast(rays, times, actors, crowns)
        for target, value in zip(hits, behind._replace(distance_m=behind.distance_m + gone), strict=True):
            target[rows] = value

    def occluded(
        self, origins: np.ndarray, directions: np.ndarray, limits_m: np.ndarray, actors: ActorPoses | None = None
    ) -> np.ndarray:
        """Says which rays meet a surface before they end.

        Args:
            origins: (N, 3) or (3,), world coordinates, metres.
            directions: (N, 3) unit vectors, world axes.
            limits_m: (N,) float32 length of each ray; may be infinite.
            actors: what moves, at the start of its span; nothing where None.

        Returns:
            (N,) bool.

        Raises:
            ValueError: the shapes do not fit.
        """
        rays, times = self._rays("occluded", origins, directions), _times("occluded", None, len(directions))
        # Open3D takes one length for all rays, so the direction carries it; an endless ray is 10 km long.
        lengths = np.minimum(limits_m, 1e4).astype(np.float32)  # (N,)
        scaled = rays.copy()
        scaled[:, 3:] *= lengths[:, None]
        blocked = self._static.test_occlusions(_tensor(scaled), tfar=1.0, nthreads=self.num_threads).numpy()  # (N,)
        if actors is None or not len(actors):
            return blocked
        open_limits = np.where(blocked, np.float32(-1.0), lengths)
        met, hit_m, hit_triangle = self._cast_actors(rays, open_limits, times, actors, self._motion(actors))
        ray_kernels.mark_occluded(met, hit_m, hit_triangle, actors.shapes, self._shapes.ends, lengths, blocked)
        return blocked

    def view(
        self,
        camera2world: np.ndarray,
        lens: raster.Lens,
        directions: np.ndarray,
        actors: ActorPoses,
        pixels: np.ndarray | None = None,
    ) -> tuple[Hits, np.ndarray]:
        """Finds what a pinhole camera sees: the same as `cast` along the rays through its pixels' middles, but faster.

        Args:
            camera2world: (4, 4) pose; x right, y down, z forward.
            lens: of the picture, H rows of W pixels.
            directions: (N, 3) unit vectors through the middles of `pixels`, world axes.
            actors: what moves, at the start of its span.
            pixels: (N,) which pixels are wanted, counted row by row; all H * W where None.

        Returns:
            N hits, and (A,) int64 in how many pixels each actor would be seen if nothing else were there.

        Raises:
            ValueError: the shapes do not fit.
        """
        rays = self._rays("view", camera2world[:3, 3], directions)
        count = lens.height * lens.width if pixels is None else len(pixels)
        if len(rays) != count:
            raise ValueError(f"view: directions must be ({count}, 3), got {directions.shape}")
        rotation = np.ascontiguousarray(camera2world[:3, :3].T)
        position = -rotation @ (camera2world[:3, 3] - self.origin_m)
        seen, motion = raster.Seen.nothing(lens.height, lens.width, len(actors)), self._motion(actors)
        raster.draw_static(self._static_corners, self._blocks, rotation, position, lens, seen)
        raster.draw_actors(
            self._shape_corners, self._shapes, actors.shapes, motion, self._num_static, rotation, position, lens, seen
        )
        found = (values.ravel() if pixels is None else values.ravel()[pixels] for values in seen[:3])  # (N,) each
        inverse_m, triangle, actor = found
        forward = rays[:, 3:] @ rotation[2].astype(np.float32)  # (N,)
        with np.errstate(divide="ignore"):
            distance = 1 / (inverse_m * forward)
        nearest = ray_kernels.Nearest(distance, triangle, actor, self._num_static)
        times = np.zeros(len(rays), np.float32)
        return self._described(rays, times, actors, motion, nearest, _MAX_CROWNS), seen.covered

    def _rays(self, function: str, origins: np.ndarray, directions: np.ndarray) -> np.ndarray:
        if directions.ndim != 2 or directions.shape[1] != 3:
            raise ValueError(f"{function}: directions must be (N, 3), got {directions.shape}")
        if origins.shape not in ((3,), directions.shape):
            raise ValueError(f"{function}: origins must be (3,) or {directions.shape}, got {origins.shape}")
        rays = np.empty((len(directions), 6), np.float32)
        np.subtract(origins, self.origin_m, out=rays[:, :3], casting="unsafe")
        rays[:, 3:] = directions
        return rays

    def _motion(self, actors: ActorPoses) -> ray_kernels.Motion:
        arrays = [np.ascontiguousarray(poses[:, :3, :3], np.float64) for poses in (actors.start, actors.end)]
        arrays += [np.ascontiguousarray(poses[:, :3, 3] - self.origin_m) for poses in (actors.start, actors.end)]
        return ray_kernels.Motion(*arrays)

    def _cast_actors(
        self,
        rays: np.ndarray,
        limits_m: np.ndarray,
        times: np.ndarray,
        actors: ActorPoses,
        motion: ray_kernels.Motion,
    ) -> tuple[ray_kernels.Meetings, np.ndarray, np.ndarray]:
        """Rays that meet actors' boxes, and the distance and gallery triangle that each then finds."""
        met = ray_kernels.meetings(rays, limits_m, times, motion, actors.shapes, self._shapes)
        return met, *self._cast_gallery(met)

    def _cast_gallery(self, met: ray_kernels.Meetings) -> tuple[np.ndarray, np.ndarray]:
        if not len(met.ray):
            return np.zeros(0, np.float32), np.zeros(0, np.uint32)
        answer = self._gallery.cast_rays(_tensor(met.local), nthreads=self.num_threads)
        return answer["t_hit"].numpy(), answer["primitive_ids"].numpy()


def _tensor(rays: np.ndarray) -> open3d.core.Tensor:
    import open3d

    return open3d.core.Tensor.from_numpy(np.ascontiguousarray(rays))


def _ray_scene(vertices: np.ndarray, triangles: np.ndarray) -> open3d.t.geometry.RaycastingScene:
    import open3d  # takes a second, which those who only ask for calibrations save

    scene = open3d.t.geometry.RaycastingScene(nthreads=1)
    if len(triangles):
        scene.add_triangles(_tensor(vertices.astype(np.float32)), _tensor(triangles.astype(np.uint32)))
    return scene


def _times(function: str, fractions: np.ndarray | None, count: int) -> np.ndarray:
    if fractions is None:
        return np.zeros(count, np.float32)
    if fractions.shape != (count,):
        raise ValueError(f"{function}: fractions must be ({count},), got {fractions.shape}")
    return fractions.astype(np.float32)


def _bounds(mesh: Mesh) -> np.ndarray:
    """(2, 3): centre and half extents of the box around a mesh."""
    if not len(mesh.vertices):
        return np.zeros((2, 3))
    low, high = mesh.vertices.min(axis=0).astype(np.float64), mesh.vertices.max(axis=0).astype(np.float64)
    return np.stack([(low + high) / 2, (high - low) / 2])


def _slots(bounds: np.ndarray) -> np.ndarray:
    """(S, 3): a place in the gallery for each shape, on a lattice around the origin wide enough for the largest."""
    side = int(np.ceil(np.cbrt(max(len(bounds), 1))))
    lattice = np.stack(np.unravel_index(np.arange(len(bounds)), (side, side, side)), axis=-1)  # (S, 3)
    if not len(bounds):
        return np.zeros((0, 3))
    pitch = 2 * (np.abs(bounds[:, 0]) + bounds[:, 1]).max(axis=0) + _SLOT_GAP_M  # (3,)
    return (lattice - (side - 1) / 2) * pitch


def _normals(mesh: Mesh) -> np.ndarray:
    """(T, 3) float32 unit normals."""
    corners = mesh.corners.astype(np.float64)  # (T, 3, 3)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])  # (T, 3)
    return (normals / np.linalg.norm(normals, axis=1, keepdims=True)).astype(np.float32)
