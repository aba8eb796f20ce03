"""Which truths a set holds of the drives that are run or drawn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from perception.data.index import Index
from perception.data.map_truth import MAP_TRUTH_CLASSES, VEHICLE_CLASS, MapSource
from perception.data.truths import MapLoading, TruthLoading
from perception.formats.nuscenes_map_raster import MAP_CLASSES
from perception.formats.occupancy_predictions import TRUTH_FOLDER
from perception.visualization.task_tiles import TASKS


def truths_of(
    index: Index,
    dataroot: Path,
    positions: Sequence[int],
    tasks: Iterable[str] = TASKS,
    map_classes: Sequence[str] = MAP_CLASSES,
) -> TruthLoading:
    """Says what to load, so that a set without a truth is no problem to be told.

    Args:
        index: of the set.
        dataroot: of the set.
        positions: the samples, one at least.
        tasks: of `TASKS`, those that are wanted.
        map_classes: what a map should show; classes of which no truth is ever known are left out.

    Returns:
        Boxes where the set has annotations, and of the tasks what the scene of any of the samples has.
    """
    wanted = set(tasks)
    places = np.asarray(positions, dtype=np.int64)
    first_of = dict(zip(index.scenes_of(places).tolist(), places.tolist(), strict=True))  # one sample of each scene
    classes = tuple(name for name in MAP_TRUTH_CLASSES if name in map_classes)
    if not index.has_annotations:
        classes = tuple(name for name in classes if name != VEHICLE_CLASS)
    source = MapSource(index, dataroot)
    drawn = classes == (VEHICLE_CLASS,)  # of boxes, without a map
    has_map = drawn or any((dataroot / source.path_of(position)).is_file() for position in first_of.values())
    scenes = [index.scenes[number] for number in first_of]
    return TruthLoading(
        boxes=index.has_annotations,
        near_field="near_field" in wanted and any((dataroot / "near_field" / scene).is_dir() for scene in scenes),
        map=MapLoading(class_names=classes) if "map" in wanted and classes and has_map else None,
        occupancy="occupancy" in wanted and any((dataroot / TRUTH_FOLDER / scene).is_dir() for scene in scenes),
    )
