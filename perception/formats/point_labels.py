"""Labels per LiDAR point: nuScenes-lidarseg (`.bin`, a category each) and Panoptic nuScenes (`.npz`, an instance too).

Sources: Caesar et al., "nuScenes: A Multimodal Dataset for Autonomous Driving", CVPR 2020; Fong et al., "Panoptic
nuScenes: A Large-Scale Benchmark for LiDAR Panoptic Segmentation and Tracking", RA-L 2022, section III.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from perception.formats.classes import POINT_CATEGORIES
from perception.formats.npz import npz_bytes, read_npz

FIRST_STUFF = POINT_CATEGORIES.index("flat.driveable_surface")
"""Categories 1 to one less than this are things, which have instances; 0 is noise."""

INSTANCES_PER_CATEGORY = 1000
_MAX_POINTS = 1 << 22


def lidarseg_bytes(categories: np.ndarray) -> bytes:
    """The content of a lidarseg file.

    Args:
        categories: (P,) uint8 index into `POINT_CATEGORIES`, in the order of the LiDAR file.

    Returns:
        The file.

    Raises:
        ValueError: it is no such array.
    """
    if categories.ndim != 1 or categories.dtype != np.uint8:
        raise ValueError(f"lidarseg_bytes: categories must be (P,) uint8, got {categories.shape} {categories.dtype}")
    if len(categories) and categories.max() >= len(POINT_CATEGORIES):
        raise ValueError(f"lidarseg_bytes: categories must be in 0..31, got {categories.max()}")
    return categories.tobytes()


def read_lidarseg(path: str | Path, *, num_points: int) -> np.ndarray:
    """The category of each point of a sweep.

    Args:
        path: the file.
        num_points: of the LiDAR file that it belongs to.

    Returns:
        (P,) uint8 index into `POINT_CATEGORIES`.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: it has another number of points, or a label is no category.
    """
    content = Path(path).read_bytes()
    if len(content) != num_points:
        raise ValueError(f"read_lidarseg: {path}: must have {num_points} labels, got {len(content)}")
    categories = np.frombuffer(content, np.uint8).copy()
    if len(categories) and categories.max() >= len(POINT_CATEGORIES):
        raise ValueError(f"read_lidarseg: {path}: labels must be in 0..31, got {categories.max()}")
    return categories


def panoptic_bytes(labels: np.ndarray) -> bytes:
    """The content of a panoptic file.

    Args:
        labels: (P,) uint16, 1000 * category + instance, in the order of the LiDAR file.

    Returns:
        The file.

    Raises:
        ValueError: it is no such array.
    """
    if labels.ndim != 1 or labels.dtype != np.uint16:
        raise ValueError(f"panoptic_bytes: labels must be (P,) uint16, got {labels.shape} {labels.dtype}")
    wrong = _wrong(labels)
    if wrong is not None:
        raise ValueError(f"panoptic_bytes: labels {wrong}")
    return npz_bytes({"data": labels})


def read_panoptic(path: str | Path, *, num_points: int) -> np.ndarray:
    """The category and instance of each point of a sweep.

    Args:
        path: the file.
        num_points: of the LiDAR file that it belongs to.

    Returns:
        (P,) uint16, 1000 * category + instance; 0 for noise and for things without a box.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: the file is damaged, has another number of points, or a label is not allowed.
    """
    labels = read_npz("read_panoptic", Path(path), {"data": None}, np.uint16, 2 * _MAX_POINTS)["data"]
    if len(labels) != num_points:
        raise ValueError(f"read_panoptic: {path}: must have {num_points} labels, got {len(labels)}")
    wrong = _wrong(labels)
    if wrong is not None:
        raise ValueError(f"read_panoptic: {path}: labels {wrong}")
    return labels


def _wrong(labels: np.ndarray) -> str | None:
    """What is wrong with panoptic labels (P,)."""
    category, instance = np.divmod(labels, INSTANCES_PER_CATEGORY)
    if len(labels) and category.max() >= len(POINT_CATEGORIES):
        return f"must have categories in 0..31, got {category.max()}"
    thing = (category > 0) & (category < FIRST_STUFF)
    bad = thing != (instance > 0)  # (P,)
    return f"must have an instance where and only where a thing is, got {labels[bad][0]}" if bad.any() else None
