"""How many radar returns lie in each box."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from perception.ops.points_in_boxes import count_points_in_boxes


def count_radar_returns(
    returns: Sequence[np.ndarray], sensor2global: Sequence[np.ndarray], boxes: np.ndarray
) -> np.ndarray:
    """Counts the returns of a keyframe's scans in each box, as `num_radar_pts` does: of all radars, unfiltered.

    Args:
        returns: a scan (P, 3 + C) x y z ... of each radar, sensor frame; columns after z are not read.
        sensor2global: (4, 4) pose of each radar at its own time.
        boxes: (A, 7) float64 of the keyframe's annotations, global frame.

    Returns:
        (A,) int64.

    Raises:
        ValueError: there are not as many poses as scans.
    """
    if len(returns) != len(sensor2global):
        raise ValueError(f"count_radar_returns: sensor2global must have {len(returns)} poses, got {len(sensor2global)}")
    points = [
        scan[:, :3].astype(np.float64) @ pose[:3, :3].T + pose[:3, 3]
        for scan, pose in zip(returns, sensor2global, strict=True)
    ]
    everything = np.concatenate([np.zeros((0, 3)), *points])
    return count_points_in_boxes(torch.from_numpy(everything), torch.from_numpy(boxes)).numpy()
