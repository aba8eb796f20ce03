"""The lamps of a scene: street lamps, and the head and tail lamps of the own car and of all that is driven.

Where they are is read from the meshes, by the materials of what shines: a street lamp is a connected piece of "lamp" in
the static world, a vehicle's lamps are what of it is "headlamp" and "tail_lamp". A scene at night, in rain or in fog
gets them as `Surroundings.lamps = lamps_of(world)`; where that is None, nothing of this costs anything.

Sources: UN Regulation 149 (2021), class C passing beams (cut-off, kink, candelas); EN 13201-2, class M4 of streets
(about 15 lx below a lamp).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from perception.simulation.ego import EGO_SIZE_LWH_M, FRONT_TO_REAR_AXLE_M
from perception.simulation.headlamps import beam_table
from perception.simulation.materials import MATERIALS, material_index
from perception.simulation.mesh import Mesh
from perception.simulation.traffic_actors import Behaviour

if TYPE_CHECKING:
    from perception.simulation.world import Actor, World

POOL, BALL, LOW_BEAM, TAIL = 0, 1, 2, 3
"""Kinds of lamps: one that shines down in a wide cone, one that shines all round, a headlamp, and a tail lamp."""

_LED, _SODIUM, _HEADLAMP, _TAIL_LAMP = (1.10, 0.98, 0.80), (1.55, 0.93, 0.33), (1.0, 1.0, 1.04), (3.0, 0.1, 0.06)
_POOL_LUX, _BALL_CD, _TAIL_CD = 16.0, 320.0, 6.0
_STREET_REACH_M, _BEAM_REACH_M, _TAIL_REACH_M = 26.0, 64.0, 5.0
_THIN_M = 0.2  # a ball is higher than the glass of a lamp that shines down
_NEAR_M = 110.0
_OWN_TAIL_X_M = FRONT_TO_REAR_AXLE_M - EGO_SIZE_LWH_M[0]

_BRIGHT_CD_M2 = {"lamp": 15_000.0, "headlamp": 30_000.0, "tail_lamp": 350.0, "brake_lamp": 900.0}
_MOST = {"lamp": 40.0, "headlamp": 90.0, "tail_lamp": 2.2, "brake_lamp": 4.0}
"""How bright lamps look, and as which light they count at most: brighter is white in any picture."""

_VEHICLES_OWN = ("headlamp", "tail_lamp", "brake_lamp")


class Beams(NamedTuple):
    """Lamps near a camera, which all places here are relative to; axes are those of the world.

    Attributes:
        position: (L, 3) float32, metres.
        axis: (L, 3) float32 unit vector, the way that a vehicle with lamps looks; unused of others.
        kind: (L,) int8, `POOL`, `BALL`, `LOW_BEAM` or `TAIL`.
        candela: (L,) float32: of a headlamp the factor on its pattern, of a `POOL` straight down, of a `BALL` anywhere.
        colour: (L, 3) float32, of luminance 1.
        reach_m: (L,) float32, where it ends.
        own: (L,) bool, whether it is the own car's, which throws no shadow that its cameras see.
        kerb: -1.0 where traffic keeps to the right, 1.0 where it keeps to the left: the side, leftward positive, to
            which the cut-off of headlamps rises.
        dipped: candela of a headlamp, see `headlamps.beam_table`.
    """

    position: np.ndarray
    axis: np.ndarray
    kind: np.ndarray
    candela: np.ndarray
    colour: np.ndarray
    reach_m: np.ndarray
    own: np.ndarray
    kerb: float
    dipped: np.ndarray


@dataclass(frozen=True, eq=False)
class Mounted:
    """Lamps of one kind that ride on something.

    Attributes:
        position_m: (N, 3) places in its frame.
        actor: (N,) on which actor, -1 for the own car.
        count: (N,) how many lamps each stands for: 2 for a pair in its middle.
    """

    position_m: np.ndarray
    actor: np.ndarray
    count: np.ndarray


@dataclass(frozen=True, eq=False)
class Lamps:
    """The lamps of a scene.

    Attributes:
        street_m: (S, 3) float64 places of the street lamps, world.
        street_kind: (S,) int8, `POOL` or `BALL`.
        street_colour: (3,) of all of them.
        heads: headlamps: pairs of cars, each in its middle; single ones of cycles and of the own car.
        tails: tail lamps likewise.
        shining: (A + 1,) bool: whose lamps are on; the last row is for vehicles' lamps that are no actor's.
        kerb: as in `Beams`.
    """

    street_m: np.ndarray
    street_kind: np.ndarray
    street_colour: np.ndarray
    heads: Mounted
    tails: Mounted
    shining: np.ndarray
    kerb: float

    def beams(self, ego2global: np.ndarray, actor2global: np.ndarray, eye_m: np.ndarray) -> Beams:
        """The lamps near a camera.

        Args:
            ego2global: (4, 4) pose of the own car.
            actor2global: (A, 4, 4) poses of the actors.
            eye_m: (3,) the camera, world.

        Returns:
            Lamps within about a hundred metres, the streets' first.
        """
        poses = np.concatenate([actor2global, ego2global[None]])  # (A + 1, 4, 4)
        height = np.maximum(self.street_m[:, 2], 2.0)
        street = np.where(self.street_kind == POOL, _POOL_LUX * height**2, _BALL_CD)
        groups = [
            (
                self.street_m,
                np.zeros_like(self.street_m),
                self.street_kind,
                street,
                self.street_colour,
                _STREET_REACH_M,
            ),
            self._ridden(self.heads, poses, LOW_BEAM, _HEADLAMP, _BEAM_REACH_M),
            self._ridden(self.tails, poses, TAIL, _TAIL_LAMP, _TAIL_REACH_M),
        ]
        own = np.concatenate([np.zeros(len(self.street_m), bool), self.heads.actor < 0, self.tails.actor < 0])
        position = np.concatenate([group[0] for group in groups]) - eye_m
        near = np.nonzero((position[:, :2] ** 2).sum(axis=1) < _NEAR_M**2)[0]
        whole = [np.broadcast_to(g[4], g[0].shape) for g in groups], [np.full(len(g[0]), g[5]) for g in groups]
        columns = [np.concatenate([group[i] for group in groups]) for i in (1, 2, 3)]
        axis, kind, candela, colour, reach = *columns, *(np.concatenate(values) for values in whole)
        return Beams(
            position[near].astype(np.float32),
            axis[near].astype(np.float32),
            kind[near].astype(np.int8),
            candela[near].astype(np.float32),
            colour[near].astype(np.float32),
            reach[near].astype(np.float32),
            own[near],
            self.kerb,
            beam_table(),
        )

    def _ridden(
        self, lamps: Mounted, poses: np.ndarray, kind: int, colour: Sequence[float], reach_m: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, float]:
        """Places, axes, kinds, candelas, colour and reach of lamps on vehicles."""
        pose = poses[lamps.actor]  # (N, 4, 4); -1 is the own car's
        place = np.einsum("nij,nj->ni", pose[:, :3, :3], lamps.position_m) + pose[:, :3, 3]
        power = lamps.count * (1.0 if kind == LOW_BEAM else _TAIL_CD)
        return place, pose[:, :3, 0], np.full(len(place), kind), power, np.array(colour), reach_m

    def on(self, actor: np.ndarray, material: np.ndarray) -> np.ndarray:
        """Which lamps shine.

        Args:
            actor: (N,) what each is on; those of the town always shine, those of parked cars never.
            material: (N,) index of its material.

        Returns:
            (N,) bool.
        """
        rider = np.where(actor < len(self.shining) - 1, actor, -1)
        return ~_ON_VEHICLES[material] | self.shining[rider]


_ON_VEHICLES = np.array([material.name in _VEHICLES_OWN for material in MATERIALS])
NARROW = np.array([material.name == "headlamp" for material in MATERIALS])
"""(M,) bool: lamps that shine ahead and little aside."""


def bright_lamps(white_lux: float) -> np.ndarray:
    """How bright lamps look.

    Args:
        white_lux: how much light falls on white paper that is 1.

    Returns:
        (M,) float32 light of each material straight ahead, 0 for those that are no lamps.
    """
    table = np.zeros(len(MATERIALS), np.float32)
    for name, candelas in _BRIGHT_CD_M2.items():
        table[material_index(name)] = min(np.pi * candelas / white_lux, _MOST[name])
    return table


def lamps_of(world: World) -> Lamps:
    """The lamps of a scene.

    Args:
        world: the scene.

    Returns:
        Its street lamps, and the lamps of the own car and of the actors that somebody drives.
    """
    street_m, kind = street_lamps(world.town.mesh)
    lit = np.array([_driven(actor) for actor in world.actors] + [False])
    sodium = np.random.default_rng([world.town.seed, 34]).uniform() < 0.35
    nose, tail, side = FRONT_TO_REAR_AXLE_M - 0.03, _OWN_TAIL_X_M, 0.5 * EGO_SIZE_LWH_M[1] - 0.25
    own = {
        "headlamp": [(nose, sign * side, 0.68) for sign in (-1, 1)],
        "tail_lamp": [(tail, sign * side, 0.85) for sign in (-1, 1)],
    }
    mounted = {}
    for name, places in own.items():
        found = [(_middle(actor.shape.meshes[0], name), actor.id) for actor in world.actors if lit[actor.id]]
        rows = [(place, row) for place, row in found if place is not None]
        pairs = [1 if world.actors[row].behaviour is Behaviour.RIDDEN else 2 for _, row in rows]
        positions = np.array([*places, *(place for place, _ in rows)])
        mounted[name] = Mounted(positions, np.array([-1, -1, *(row for _, row in rows)]), np.array([1, 1, *pairs]))
    return Lamps(
        street_m=street_m,
        street_kind=kind,
        street_colour=np.array(_SODIUM if sodium else _LED),
        heads=mounted["headlamp"],
        tails=mounted["tail_lamp"],
        shining=lit,
        kerb=-1.0 if world.town.drives_on_the_right else 1.0,
    )


def _driven(actor: Actor) -> bool:
    return actor.behaviour in (Behaviour.DRIVEN, Behaviour.RIDDEN)


def _middle(mesh: Mesh, material: str) -> np.ndarray | None:
    """(3,) the middle of what of a mesh is of a material, a little off it; None where nothing is."""
    corners = mesh.corners[mesh.materials == material_index(material)]  # (T, 3, 3)
    if not len(corners):
        return None
    middle = corners.reshape(-1, 3).astype(np.float64).mean(axis=0)
    return middle + np.array([0.1 * np.sign(middle[0]), 0.0, 0.0])


def street_lamps(mesh: Mesh) -> tuple[np.ndarray, np.ndarray]:
    """Finds the street lamps of a town.

    Args:
        mesh: the static world.

    Returns:
        (S, 3) float64 their places, a little below the glass or in the middle of the ball; (S,) int8 their kinds.
    """
    rows = mesh.triangles[mesh.materials == material_index("lamp")].astype(np.int64)  # (T, 3)
    if not len(rows):
        return np.zeros((0, 3)), np.zeros(0, np.int8)
    used, corner = np.unique(rows, return_inverse=True)
    corner = corner.reshape(-1, 3)
    where = mesh.vertices[used].astype(np.float64)  # (V, 3)
    _, spot = np.unique(np.round(where, 3), axis=0, return_inverse=True)  # faces need not share their corners
    corner = spot.reshape(-1)[corner]
    count = corner.max() + 1
    ends = np.concatenate([corner[:, [0, 1]], corner[:, [1, 2]]])
    links = coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(count, count))
    num_pieces, piece = connected_components(links, directed=False)
    low, high = np.full((num_pieces, 3), np.inf), np.full((num_pieces, 3), -np.inf)
    owner = piece[spot.reshape(-1)]  # (V,)
    np.minimum.at(low, owner, where)
    np.maximum.at(high, owner, where)
    ball = high[:, 2] - low[:, 2] > _THIN_M
    place = (low + high) / 2
    place[~ball, 2] = low[~ball, 2] - 0.03
    return place, np.where(ball, BALL, POOL).astype(np.int8)
