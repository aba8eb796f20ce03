"""Labels of LiDAR points by what each ray met: categories, and instances of what is annotated."""

from __future__ import annotations

import numpy as np

from perception.formats.point_labels import FIRST_STUFF, INSTANCES_PER_CATEGORY
from perception.simulation.sensors.lidar import LidarRecording


class InstanceNumbers:
    """Numbers of a scene's instances, from 1, in the order in which its annotations name them.

    Args:
        num_actors: of the scene.
    """

    def __init__(self, num_actors: int) -> None:
        self._numbers = np.zeros(num_actors, np.int64)

    def at_keyframe(self, noted: np.ndarray) -> np.ndarray:
        """The numbers of all actors once a keyframe is annotated; keyframes must come in their order.

        Args:
            noted: (A,) bool, which actors have an annotation in it.

        Returns:
            (A,) int64, 0 for those that never had one.

        Raises:
            ValueError: there are more than the 999 that a label can tell apart.
        """
        new = np.nonzero(noted & (self._numbers == 0))[0]
        last = int(self._numbers.max(initial=0)) + len(new)
        if last >= INSTANCES_PER_CATEGORY:
            raise ValueError(f"InstanceNumbers: a scene must have at most 999 annotated instances, got {last}")
        self._numbers[new] = np.arange(last - len(new), last) + 1
        return self._numbers.copy()


def panoptic_labels(sweep: LidarRecording, noted: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """The panoptic label of each point.

    A point belongs to the actor that its ray met, even where noise or the time within the sweep puts it beside the
    actor's box. Points of actors without an annotation are 0, as Panoptic nuScenes leaves things without a box out.

    Args:
        sweep: the points of a keyframe.
        noted: (A,) bool, which actors have an annotation in it.
        numbers: (A,) from `InstanceNumbers`.

    Returns:
        (P,) uint16, 1000 * category + instance.
    """
    category = sweep.semantic.astype(np.int64)  # (P,)
    thing = (category > 0) & (category < FIRST_STUFF)
    known = np.append(np.where(noted, numbers, 0), 0)  # the last for points of no actor, whose number is -1
    instance = np.where(thing, known[sweep.actor], 0)
    return np.where(thing & (instance == 0), 0, INSTANCES_PER_CATEGORY * category + instance).astype(np.uint16)
