"""The cast of a scene: every detection class is near enough and in sight at some keyframe, whatever was drawn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from perception.formats.classes import CATEGORY_TO_CLASS
from perception.geometry.headings import headings
from perception.simulation.actors.catalogue import ActorShape, build_shape
from perception.simulation.ego import EGO_SIZE_LWH_M, ego_rectangles
from perception.simulation.sight import LOW_M, Sight
from perception.simulation.town.town import KERB_HEIGHT_M, Town
from perception.simulation.traffic_actors import MARGIN_S, TRACK_STEP_S, ActorTrack, Behaviour, standing
from perception.simulation.traffic_overlap import rectangles_overlap

_KEYFRAME_S = 0.5
_NEAREST_M = 5.0
_SAFETY_M = 0.3
_CHECK_EVERY = 2
_TRIALS = 60
_ACROSS_M = 5.0
"""Places that the ego comes nearer to are liked less: what is high there fills half the sweep."""

# Class, what is put there if it is missing, what it does, and how near it must be to be sure of LiDAR points.
_ROLES = (
    ("bus", "bus", Behaviour.PARKED, 32.0),
    ("trailer", "drawbar_trailer", Behaviour.PARKED, 32.0),
    ("truck", "truck", Behaviour.PARKED, 32.0),
    ("construction_vehicle", "machine", Behaviour.PARKED, 32.0),
    ("car", "car", Behaviour.PARKED, 32.0),
    ("motorcycle", "motorcycle", Behaviour.LEFT, 22.0),
    ("bicycle", "bicycle", Behaviour.LEFT, 18.0),
    ("pedestrian", "adult_standing", Behaviour.ON_FOOT, 22.0),
    ("barrier", "barrier", Behaviour.THING, 20.0),
    ("traffic_cone", "cone", Behaviour.THING, 15.0),
)
_LONG = ("bus", "trailer", "truck", "construction_vehicle")
_ON_WALKWAYS = ("motorcycle", "bicycle", "pedestrian", "barrier", "traffic_cone")


def complete_cast(
    town: Town,
    ego: np.ndarray,
    tracks: list[ActorTrack],
    rng: np.random.Generator,
    tight: frozenset[int] = frozenset(),
) -> list[ActorTrack]:
    """Adds what is missing of the ten detection classes where it will be seen.

    Args:
        town: where the scene plays.
        ego: (K, 4) poses of the ego at `track_times`.
        tracks: actors that do not collide.
        rng: source of what is added, and where.
        tight: indices of places to park that vehicles longer than they are put into only if all else fails.

    Returns:
        The tracks with the missing classes added, less those that drive, walk or stand where they were put.
    """
    stage = _Stage(town, ego, tracks)
    missing = [role for role in _ROLES if not stage.finds(role[0], role[3])]
    for name, kind, behaviour, sure_m in missing:
        spots = stage.spots(name in _ON_WALKWAYS, sure_m, rng, tight if name in _LONG else frozenset())
        stage.cast(build_shape(kind, rng), behaviour, spots, sure_m)
    return stage.tracks


@dataclass(frozen=True)
class _Spot:
    """A place to stand: pose, and how little it is liked."""

    pose: tuple[float, float, float, float]
    cost: float


class _Stage:
    """A scene's ego, actors and lines of sight, and the actors that stand for their classes."""

    def __init__(self, town: Town, ego: np.ndarray, tracks: list[ActorTrack]) -> None:
        self.tracks = list(tracks)
        self._town, self._ego = town, ego
        self._sight = Sight(town.mesh, town.size_m)
        last_s = (len(ego) - 1) * TRACK_STEP_S - 2 * MARGIN_S
        times = np.arange(_KEYFRAME_S, max(last_s, _KEYFRAME_S) + 1e-9, _KEYFRAME_S)
        self._keyframes = np.rint((times + MARGIN_S) / TRACK_STEP_S).astype(int)  # (F,)
        self._needed = min(2, len(self._keyframes))
        self._stars: list[tuple[ActorTrack, float]] = []

    def finds(self, name: str, sure_m: float) -> bool:
        """Whether an actor of a class is seen from near at enough keyframes; the nearest such will be kept."""
        found = [track for track in self.tracks if CATEGORY_TO_CLASS.get(track.shape.category) == name]
        apart = [self._apart(track).min() for track in found]
        for i in np.argsort(apart, kind="stable")[:12]:
            if self._seen(found[i], sure_m, self.tracks):
                self._stars.append((found[i], sure_m))
                return True
        return False

    def _apart(self, track: ActorTrack) -> np.ndarray:
        """(F,) distances from the ego at the keyframes."""
        poses = self._at(track, self._keyframes)
        return np.linalg.norm(poses[:, :2] - self._ego[self._keyframes, :2], axis=1)

    def _at(self, track: ActorTrack, steps: np.ndarray) -> np.ndarray:
        """(F, 4) poses of a track at stored times."""
        return track.poses[steps] if len(track.poses) > 1 else np.repeat(track.poses, len(steps), axis=0)

    def _seen(self, track: ActorTrack, sure_m: float, others: list[ActorTrack]) -> bool:
        """Whether an actor is near and nothing hides it at enough keyframes."""
        apart, size, count = self._apart(track), np.asarray(track.shape.size_lwh_m), 0
        low_m = min(LOW_M, size[2] / 2)  # a cone is hidden by a barrier, a bus is not
        hiding = [other for other in others if other is not track and other.shape.size_lwh_m[2] > low_m]
        for f in np.flatnonzero((apart < sure_m) & (apart > _NEAREST_M + size[0] / 2)):
            step = self._keyframes[f : f + 1]
            eye, place = self._ego[step[0], :2], self._at(track, step)[0, :2]
            boxes = _rectangles(hiding, step[0])
            boxes = boxes[np.linalg.norm(boxes[:, :2] - (eye + place) / 2, axis=1) < apart[f] / 2 + 10]
            count += self._sight.clear(eye, place, size[:2], boxes)
            if count >= self._needed:
                return True
        return False

    def spots(
        self, on_walkways: bool, reach_m: float, rng: np.random.Generator, tight: frozenset[int]
    ) -> Iterator[_Spot]:
        """Places beside or on the road that the ego comes near, the liked ones first."""
        town, spots = self._town, []
        for ring in town.walkways if on_walkways else ():
            ahead = np.roll(ring, -1, axis=0) - ring
            spots += [
                _Spot((x, y, KERB_HEIGHT_M, yaw), 0.0)
                for (x, y), yaw in zip(ring.tolist(), headings(ahead).tolist(), strict=True)
            ]
        spots += [
            _Spot((slot.x, slot.y, 0.0, slot.yaw_rad), 6.0 if i in tight else 1.0)
            for i, slot in enumerate(town.parking_slots)
        ]
        for lane in town.lanes:
            if lane.junction is not None:
                continue
            ahead = np.gradient(lane.centerline, axis=0)
            yaws = headings(ahead).tolist()
            spots += [_Spot((x, y, 0.0, yaw), 3.0) for (x, y), yaw in zip(lane.centerline.tolist(), yaws, strict=True)]
        places = np.array([spot.pose[:2] for spot in spots])
        driven = self._ego[self._keyframes, :2]
        apart = np.linalg.norm(places[:, None] - driven, axis=-1).min(axis=1)
        order = np.array([spot.cost for spot in spots]) + rng.uniform(0, 0.9, len(spots)) + (apart < _ACROSS_M)
        near = np.flatnonzero(apart < reach_m - 4.0)
        return (spots[i] for i in near[np.argsort(order[near], kind="stable")])

    def cast(self, shape: ActorShape, behaviour: Behaviour, spots: Iterator[_Spot], sure_m: float) -> None:
        """Puts an actor where it is seen and hides, touches and removes nobody that is needed, and few others."""
        best: tuple[ActorTrack, list[ActorTrack]] | None = None
        trials = 0
        for spot in spots:
            x, y, z, yaw = spot.pose
            turned = yaw + np.pi / 2 if shape.kind == "barrier" else yaw
            track = ActorTrack(shape, behaviour, standing(x, y, z, turned), priority=60)
            in_way = self._in_way(track)
            if in_way is None or any(star is other for star, _ in self._stars for other in in_way):
                continue
            left = [other for other in self.tracks if not any(other is gone for gone in in_way)]
            if best is not None and len(left) <= len(best[1]):
                continue
            trials += 1
            with_it = [*left, track]
            if all(self._seen(star, near_m, with_it) for star, near_m in [(track, sure_m), *self._stars]):
                best = (track, left)
            if best is not None and (len(best[1]) >= len(self.tracks) - 1 or trials > _TRIALS):
                break
        if best is not None:
            self._stars.append((best[0], sure_m))
            self.tracks = [*best[1], best[0]]

    def _in_way(self, track: ActorTrack) -> list[ActorTrack] | None:
        """Actors that a standing one would touch at any time; None if it would touch the ego."""
        size = np.asarray(track.shape.size_lwh_m[:2], dtype=np.float64)
        box = np.concatenate((track.poses[0, :2], size + 2 * _SAFETY_M, track.poses[0, 3:]))
        ego = ego_rectangles(self._ego[::_CHECK_EVERY])
        if _touches(box, ego, np.asarray(EGO_SIZE_LWH_M[:2])):
            return None
        rooms = np.array([other.room for other in self.tracks]).reshape(-1, 3)
        apart = np.hypot(rooms[:, 0] - box[0], rooms[:, 1] - box[1])  # (A,)
        near = [self.tracks[i] for i in np.flatnonzero(apart < rooms[:, 2] + np.hypot(*box[2:4]) / 2)]
        return [
            other
            for other in near
            if _touches(box, other.poses[::_CHECK_EVERY, [0, 1, 3]], np.asarray(other.shape.size_lwh_m[:2]))
        ]


def _touches(box: np.ndarray, poses: np.ndarray, size_lw: np.ndarray) -> bool:
    """Whether a box (5,) meets another of a size at any of its poses (K, 3)."""
    reach = (np.hypot(*box[2:4]) + np.hypot(*size_lw)) / 2
    near = poses[np.linalg.norm(poses[:, :2] - box[:2], axis=1) < reach]
    if not len(near):
        return False
    others = np.column_stack((near[:, :2], np.tile(size_lw, (len(near), 1)), near[:, 2]))
    return bool(rectangles_overlap(np.tile(box, (len(near), 1)), others).any())


def _rectangles(tracks: list[ActorTrack], step: int) -> np.ndarray:
    """(N, 5) boxes on the ground at a stored time."""
    poses = np.array([track.poses[step if len(track.poses) > 1 else 0] for track in tracks]).reshape(-1, 4)
    sizes = np.array([track.shape.size_lwh_m[:2] for track in tracks]).reshape(-1, 2)
    return np.column_stack((poses[:, :2], sizes, poses[:, 3]))
