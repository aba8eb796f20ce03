"""The names of nuScenes: categories, detection classes, attributes, and how they belong together."""

from __future__ import annotations

import numpy as np

DETECTION_CLASSES = (
    "car",
    "truck",
    "bus",
    "trailer",
    "construction_vehicle",
    "pedestrian",
    "motorcycle",
    "bicycle",
    "traffic_cone",
    "barrier",
)
"""The ten detection classes in the devkit's order; a label is an index into this tuple, -1 for none."""

CATEGORY_TO_CLASS = {
    "movable_object.barrier": "barrier",
    "vehicle.bicycle": "bicycle",
    "vehicle.bus.bendy": "bus",
    "vehicle.bus.rigid": "bus",
    "vehicle.car": "car",
    "vehicle.construction": "construction_vehicle",
    "vehicle.motorcycle": "motorcycle",
    "human.pedestrian.adult": "pedestrian",
    "human.pedestrian.child": "pedestrian",
    "human.pedestrian.construction_worker": "pedestrian",
    "human.pedestrian.police_officer": "pedestrian",
    "movable_object.trafficcone": "traffic_cone",
    "vehicle.trailer": "trailer",
    "vehicle.truck": "truck",
}
"""The 14 categories that count for detection; every other category has no class."""

CLASS_RANGE_M = dict(zip(DETECTION_CLASSES, (50, 50, 50, 50, 50, 40, 40, 40, 30, 30), strict=True))
"""Distance from the ego vehicle up to which a class is evaluated (configuration `detection_cvpr_2019`)."""

ATTRIBUTES = (
    "pedestrian.moving",
    "pedestrian.sitting_lying_down",
    "pedestrian.standing",
    "cycle.with_rider",
    "cycle.without_rider",
    "vehicle.moving",
    "vehicle.parked",
    "vehicle.stopped",
)

ATTRIBUTE_NUMBERS = {"": -1} | {name: number for number, name in enumerate(ATTRIBUTES)}
"""Index into `ATTRIBUTES` by name, -1 for no attribute."""

POINT_CATEGORIES = (
    "noise",
    "animal",
    "human.pedestrian.adult",
    "human.pedestrian.child",
    "human.pedestrian.construction_worker",
    "human.pedestrian.personal_mobility",
    "human.pedestrian.police_officer",
    "human.pedestrian.stroller",
    "human.pedestrian.wheelchair",
    "movable_object.barrier",
    "movable_object.debris",
    "movable_object.pushable_pullable",
    "movable_object.trafficcone",
    "static_object.bicycle_rack",
    "vehicle.bicycle",
    "vehicle.bus.bendy",
    "vehicle.bus.rigid",
    "vehicle.car",
    "vehicle.construction",
    "vehicle.emergency.ambulance",
    "vehicle.emergency.police",
    "vehicle.motorcycle",
    "vehicle.trailer",
    "vehicle.truck",
    "flat.driveable_surface",
    "flat.other",
    "flat.sidewalk",
    "flat.terrain",
    "static.manmade",
    "static.other",
    "static.vegetation",
    "vehicle.ego",
)
"""The 32 categories of point labels (lidarseg, panoptic) in index order; 1..23 are the boxes' categories."""

MOVING_SPEED_M_S = 0.2
"""Speed above which a box counts as moving when its attribute is guessed."""

_VEHICLE = ("vehicle.moving", "vehicle.parked")
_CYCLE = ("cycle.with_rider", "cycle.without_rider")
_MOVING_AND_STILL = {
    "car": _VEHICLE,
    "truck": _VEHICLE,
    "bus": ("vehicle.moving", "vehicle.stopped"),
    "trailer": _VEHICLE,
    "construction_vehicle": _VEHICLE,
    "pedestrian": ("pedestrian.moving", "pedestrian.standing"),
    "motorcycle": _CYCLE,
    "bicycle": _CYCLE,
    "traffic_cone": ("", ""),
    "barrier": ("", ""),
}


def category_label(category: str) -> int:
    """The label of a category.

    Args:
        category: a category name such as `vehicle.car`.

    Returns:
        Index into `DETECTION_CLASSES`, or -1 for a category that detection ignores.
    """
    name = CATEGORY_TO_CLASS.get(category)
    return -1 if name is None else DETECTION_CLASSES.index(name)


def default_attributes(labels: np.ndarray, velocity: np.ndarray) -> list[str]:
    """The most likely attribute of each box, guessed from its class and speed.

    Args:
        labels: (M,) indices into `DETECTION_CLASSES`.
        velocity: (M, 2) over ground in m/s; NaN (unknown) counts as standing still.

    Returns:
        M attribute names; '' for cones and barriers, which have none.

    Raises:
        ValueError: a label is no class index, or the shapes do not fit.
    """
    labels = np.asarray(labels)
    velocity = np.asarray(velocity, dtype=np.float64)
    if labels.ndim != 1 or velocity.shape != (len(labels), 2):
        raise ValueError(
            f"default_attributes: labels and velocity must be (M,) and (M, 2), got {labels.shape} and {velocity.shape}"
        )
    if len(labels) and not (labels.min() >= 0 and labels.max() < len(DETECTION_CLASSES)):
        raise ValueError(
            f"default_attributes: labels must be in 0..{len(DETECTION_CLASSES) - 1}, got {labels.min()}..{labels.max()}"
        )
    moving = np.hypot(velocity[:, 0], velocity[:, 1]) > MOVING_SPEED_M_S  # (M,)
    pairs = [_MOVING_AND_STILL[name] for name in DETECTION_CLASSES]
    return [pairs[label][0 if is_moving else 1] for label, is_moving in zip(labels, moving, strict=True)]
