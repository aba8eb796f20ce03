"""Every kind of actor: its nuScenes category, how large it is, and the mesh that fills its box."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from perception.formats.classes import POINT_CATEGORIES
from perception.simulation.actors.cars import CAR_STYLES, build_car, draw_paint
from perception.simulation.actors.cycles import build_bicycle, build_motorcycle
from perception.simulation.actors.heavy import (
    BUS_STYLES,
    TRAILER_STYLES,
    TRUCK_STYLES,
    build_bus,
    build_trailer,
    build_truck,
)
from perception.simulation.actors.machines import MACHINE_STYLES, build_machine
from perception.simulation.actors.objects import (
    BARRIER_STYLES,
    CONE_STYLES,
    build_barrier,
    build_bin,
    build_cone,
    build_debris,
    build_rack,
)
from perception.simulation.actors.people import SITTING, STANDING, Outfit, Pose, build_person, draw_outfit, walking
from perception.simulation.actors.rare import (
    build_dog,
    build_emergency,
    build_scooter_rider,
    build_stroller,
    build_wheelchair,
    officer_outfit,
)
from perception.simulation.actors.solids import Assembly
from perception.simulation.materials import material_index
from perception.simulation.mesh import Mesh


@dataclass(frozen=True, eq=False)
class ActorShape:
    """What an actor looks like.

    Attributes:
        kind: key of `KINDS` that it was built from.
        category: nuScenes category.
        size_lwh_m: (3,) float64 length, width and height of the box, whole millimetres.
        meshes: poses of the actor in the box frame (origin at the box's centre, x forward, z up), each of which
            fills the box; a walking person has one for either foot in front.
    """

    kind: str
    category: str
    size_lwh_m: np.ndarray
    meshes: tuple[Mesh, ...]


@dataclass(frozen=True)
class Sizes:
    """Mean, standard deviation and bounds (in deviations) of length, width and height."""

    mean_m: tuple[float, float, float]
    deviation_m: tuple[float, float, float]
    bound: float = 1.8

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """A size (3,) in whole millimetres; length, width and height are drawn apart."""
        offset = np.clip(rng.standard_normal(3), -self.bound, self.bound)
        return np.round(np.array(self.mean_m) + offset * np.array(self.deviation_m), 3)


CAR_SIZES = {
    "saloon": Sizes((4.70, 1.93, 1.52), (0.18, 0.06, 0.05)),
    "hatchback": Sizes((4.05, 1.89, 1.57), (0.18, 0.06, 0.05)),
    "estate": Sizes((4.70, 1.94, 1.57), (0.14, 0.05, 0.05)),
    "suv": Sizes((4.65, 2.01, 1.84), (0.22, 0.07, 0.08)),
    "van": Sizes((5.05, 2.10, 2.12), (0.28, 0.07, 0.14)),
    "pickup": Sizes((5.50, 2.09, 1.90), (0.22, 0.07, 0.06)),
}
CAR_SHARES = {"saloon": 0.32, "hatchback": 0.16, "estate": 0.08, "suv": 0.28, "van": 0.09, "pickup": 0.07}
"""How often each body style of a car is seen."""

SIZES = {
    "truck": Sizes((6.93, 2.51, 2.95), (1.1, 0.12, 0.26), 1.6),
    "bus": Sizes((11.2, 2.94, 3.47), (0.7, 0.07, 0.14)),
    "trailer": Sizes((12.3, 2.90, 3.87), (0.9, 0.10, 0.16)),
    "drawbar_trailer": Sizes((9.2, 2.60, 3.60), (0.7, 0.08, 0.2)),
    "excavator": Sizes((6.6, 2.74, 3.20), (0.5, 0.12, 0.16)),
    "loader": Sizes((6.6, 2.76, 3.25), (0.4, 0.12, 0.14)),
    "roller": Sizes((4.9, 2.10, 3.05), (0.3, 0.10, 0.10)),
    "cone": Sizes((0.38, 0.38, 0.90), (0.05, 0.05, 0.12)),
    "drum": Sizes((0.56, 0.56, 1.08), (0.04, 0.04, 0.07)),
    "post": Sizes((0.38, 0.38, 1.15), (0.04, 0.04, 0.08)),
    "barrier": Sizes((0.50, 2.35, 0.98), (0.10, 0.35, 0.08)),
    "bin": Sizes((0.72, 0.60, 1.08), (0.06, 0.05, 0.06)),
    "debris": Sizes((1.4, 1.3, 0.50), (0.3, 0.3, 0.12)),
}


def build_shape(kind: str, rng: np.random.Generator) -> ActorShape:
    """An actor of a kind, drawn at random.

    Args:
        kind: a key of `KINDS`.
        rng: source of its style, size, colours and posture.

    Returns:
        Its shape; every mesh reaches every side of the box within float32 rounding.

    Raises:
        ValueError: there is no such kind.
    """
    if kind not in KINDS:
        raise ValueError(f"build_shape: kind must be one of {', '.join(KINDS)}, got {kind!r}")
    category, builder = KINDS[kind]
    return builder(kind, category, rng)


def fitted(kind: str, category: str, assembly: Assembly, size_lwh_m: np.ndarray | None = None) -> ActorShape:
    """The shape of an assembly, stretched onto a box.

    Args:
        kind: what to call it.
        category: nuScenes category, which the points on it carry too.
        assembly: the actor in any position, x forward.
        size_lwh_m: (3,) size of the box; None takes the assembly's own, rounded to millimetres.

    Returns:
        The shape with one mesh, centred.
    """
    vertices, triangles, names = assembly.arrays()
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    size = np.round(high - low, 3) if size_lwh_m is None else np.asarray(size_lwh_m, dtype=np.float64)
    centred = (vertices - (low + high) / 2) * (size / (high - low))
    index = {name: material_index(name) for name in set(names)}
    materials = np.array([index[name] for name in names], dtype=np.int16)
    semantics = np.full(len(triangles), POINT_CATEGORIES.index(category), dtype=np.uint8)
    mesh = Mesh(centred.astype(np.float32), triangles.astype(np.int32), materials, semantics)
    return ActorShape(kind, category, size, (mesh,))


def _car(kind: str, category: str, rng: np.random.Generator) -> ActorShape:
    style = str(rng.choice(list(CAR_SHARES), p=list(CAR_SHARES.values()))) if kind == "car" else kind
    size = CAR_SIZES[style].draw(rng)
    return fitted(kind, category, build_car(style, size, draw_paint(rng), rng), size)


def _styled(
    styles: tuple[str, ...], build: Callable[[str, np.ndarray, np.random.Generator], Assembly]
) -> Callable[[str, str, np.random.Generator], ActorShape]:
    """A builder that draws one of several styles; sizes go by the kind."""

    def shape(kind: str, category: str, rng: np.random.Generator) -> ActorShape:
        """A shape drawn at random."""
        size = SIZES[kind].draw(rng)
        return fitted(kind, category, build(str(rng.choice(styles)), size, rng), size)

    return shape


def _machine(kind: str, category: str, rng: np.random.Generator) -> ActorShape:
    style = str(rng.choice(MACHINE_STYLES)) if kind == "machine" else kind
    size = SIZES[style].draw(rng)
    return fitted(kind, category, build_machine(style, size, rng), size)


def _cone(kind: str, category: str, rng: np.random.Generator) -> ActorShape:
    style = str(rng.choice(CONE_STYLES))
    size = SIZES[style].draw(rng)
    size[1] = size[0]
    return fitted(kind, category, build_cone(style, size), size)


def _sized(
    build: Callable[[np.ndarray, np.random.Generator], Assembly],
) -> Callable[[str, str, np.random.Generator], ActorShape]:
    """A builder of a thing of one style."""

    def shape(kind: str, category: str, rng: np.random.Generator) -> ActorShape:
        """A shape drawn at random."""
        size = SIZES[kind].draw(rng)
        return fitted(kind, category, build(size, rng), size)

    return shape


def _emergency(kind: str, category: str, rng: np.random.Generator) -> ActorShape:
    size = CAR_SIZES["van" if kind == "ambulance" else "saloon"].draw(rng)
    assembly = build_emergency(kind, size, rng)
    return fitted(kind, category, assembly, size + np.array([0.0, 0.0, 0.12]))


def _worker(rng: np.random.Generator) -> Outfit:
    return draw_outfit(rng, worker=True)


def _rack(kind: str, category: str, rng: np.random.Generator) -> ActorShape:
    return fitted(kind, category, build_rack(float(rng.uniform(2.2, 4.6)), rng))


def _cycle(
    build: Callable[[np.random.Generator], Assembly],
) -> Callable[[str, str, np.random.Generator], ActorShape]:
    """A builder of a cycle at its natural size, times a small spread."""

    def shape(kind: str, category: str, rng: np.random.Generator) -> ActorShape:
        """A shape drawn at random."""
        natural = fitted(kind, category, assembly := build(rng)).size_lwh_m
        return fitted(kind, category, assembly, np.round(natural * rng.uniform(0.97, 1.04, 3), 3))

    return shape


def _person(
    pose: Pose | None, height: tuple[float, float], dress: Callable[[np.random.Generator], Outfit] = draw_outfit
) -> Callable[[str, str, np.random.Generator], ActorShape]:
    """A builder of people of a mean height and deviation; without a pose they walk and have two meshes."""

    def shape(kind: str, category: str, rng: np.random.Generator) -> ActorShape:
        """A shape drawn at random."""
        tall = height[0] + height[1] * float(np.clip(rng.standard_normal(), -1.8, 1.8))
        step = pose or walking(float(rng.uniform(0.28, 0.40)))
        girth = float(rng.uniform(0.95, 1.2))
        one = fitted(kind, category, build_person(tall, step, dress(rng), girth))
        return one if pose else ActorShape(kind, category, one.size_lwh_m, (one.meshes[0], _other_foot(one.meshes[0])))

    return shape


def _other_foot(mesh: Mesh) -> Mesh:
    """A walking person half a cycle later: mirrored in y."""
    return Mesh(
        mesh.vertices * np.array([1, -1, 1], dtype=np.float32),
        mesh.triangles[:, ::-1].copy(),
        mesh.materials,
        mesh.semantics,
    )


Builder = Callable[[str, str, np.random.Generator], ActorShape]

KINDS: dict[str, tuple[str, Builder]] = {
    "car": ("vehicle.car", _car),
    **{style: ("vehicle.car", _car) for style in CAR_STYLES},
    "truck": ("vehicle.truck", _styled(TRUCK_STYLES, build_truck)),
    "bus": ("vehicle.bus.rigid", _styled(BUS_STYLES, build_bus)),
    "trailer": ("vehicle.trailer", _styled(TRAILER_STYLES, build_trailer)),
    "drawbar_trailer": ("vehicle.trailer", _styled(TRAILER_STYLES, build_trailer)),
    "machine": ("vehicle.construction", _machine),
    **{style: ("vehicle.construction", _machine) for style in MACHINE_STYLES},
    "cyclist": ("vehicle.bicycle", _cycle(lambda rng: build_bicycle(True, rng))),
    "bicycle": ("vehicle.bicycle", _cycle(lambda rng: build_bicycle(False, rng))),
    "motorcyclist": ("vehicle.motorcycle", _cycle(lambda rng: build_motorcycle(True, bool(rng.random() < 0.4), rng))),
    "motorcycle": ("vehicle.motorcycle", _cycle(lambda rng: build_motorcycle(False, bool(rng.random() < 0.4), rng))),
    "adult_walking": ("human.pedestrian.adult", _person(None, (1.74, 0.08))),
    "adult_standing": ("human.pedestrian.adult", _person(STANDING, (1.74, 0.08))),
    "adult_sitting": ("human.pedestrian.adult", _person(SITTING, (1.74, 0.08))),
    "child_walking": ("human.pedestrian.child", _person(None, (1.28, 0.12))),
    "worker_walking": ("human.pedestrian.construction_worker", _person(None, (1.77, 0.07), _worker)),
    "officer_standing": ("human.pedestrian.police_officer", _person(STANDING, (1.78, 0.07), officer_outfit)),
    "scooter_rider": ("human.pedestrian.personal_mobility", _cycle(build_scooter_rider)),
    "wheelchair": ("human.pedestrian.wheelchair", _cycle(build_wheelchair)),
    "stroller": ("human.pedestrian.stroller", _cycle(build_stroller)),
    "dog": ("animal", _cycle(build_dog)),
    "police_car": ("vehicle.emergency.police", _emergency),
    "ambulance": ("vehicle.emergency.ambulance", _emergency),
    "worker_standing": ("human.pedestrian.construction_worker", _person(STANDING, (1.77, 0.07), _worker)),
    "cone": ("movable_object.trafficcone", _cone),
    "barrier": ("movable_object.barrier", _styled(BARRIER_STYLES, build_barrier)),
    "rack": ("static_object.bicycle_rack", _rack),
    "bin": ("movable_object.pushable_pullable", _sized(build_bin)),
    "debris": ("movable_object.debris", _sized(build_debris)),
}
"""Category and builder of every kind of actor."""
