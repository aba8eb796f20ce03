"""Labels of LiDAR points by what each pulse came back from: categories, and instances of what is annotated."""

from __future__ import annotations

import numpy as np

from perception.formats.point_labels import FIRST_STUFF, INSTANCES_PER_CATEGORY
from perception.simulation.sensors.lidar import LidarRecording


class InstanceNumbers:
    """Numbers of a scene's instances, from 1, in the order in which its annotations name them.

    A label can tell 999 apart. In a scene with more, those that are farthest away when they would get a number never
    get one, and their points are labelled as those of things without a box.

    Args:
        num_actors: of the scene.
    """

    def __init__(self, num_actors: int) -> None:
        self._numbers = np.zeros(num_actors, np.int64)
        self._left_out = np.zeros(num_actors, bool)

    def at_keyframe(self, noted: np.ndarray, away_m: np.ndarray) -> np.ndarray:
        """The numbers of all actors once a keyframe is annotated; keyframes must come in their order.

        Args:
            noted: (A,) bool, which actors have an annotation in it.
            away_m: (A,) their distances from the ego vehicle.

        Returns:
            (A,) int64, 0 for those without a number.
        """
        new = np.nonzero(noted & (self._numbers == 0) & ~self._left_out)[0]
        last = int(self._numbers.max(initial=0))
        rising = np.argsort(away_m[new], kind="stable")
        room = INSTANCES_PER_CATEGORY - 1 - last
        self._left_out[new[rising[room:]]] = True
        new = np.sort(new[rising[:room]])
        self._numbers[new] = last + 1 + np.arange(len(new))
        return self._numbers.copy()


def panoptic_labels(sweep: LidarRecording, noted: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """The panoptic label of each point.

    A point belongs to the actor that its ray met, even where noise or the time within the sweep puts it beside the
    actor's box. Points of actors without an annotation are 0, as Panoptic nuScenes leaves things without a box out; so
    are returns off rain and fog, which are noise.

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
