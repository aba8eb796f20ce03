"""What is known of a map without looking: how often each cell around the vehicle belongs to each class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from perception.data.index import Index
from perception.data.map_truth import MapSource
from perception.formats.map_predictions import PredictedMap
from perception.formats.nuscenes_map_raster import MAP_CLASSES
from perception.geometry.grid import Grid

PRIOR_GRID = Grid.square(52.0, 0.5)
"""Reaches beyond the cells of every protocol."""


def map_prior(
    dataroot: str | Path,
    index: Index,
    split: str,
    class_names: Sequence[str] = MAP_CLASSES,
    step: int = 1,
) -> PredictedMap:
    """Makes the best predictor that reads no sensor: one map for all samples.

    The frequency of a class in a cell of the training set says how likely it is there, but no single threshold on it
    suits rare and frequent classes alike. So each class's frequencies are stretched until 0.5 lies where the overlap
    with the training set is largest.

    Args:
        dataroot: of the training set, with vector maps; for vehicles its annotations serve.
        index: of it.
        split: of it.
        class_names: K classes, `vehicle` may be among them.
        step: only every so many samples are taken.

    Returns:
        The prediction for every sample, in float64.

    Raises:
        FileNotFoundError: a map is missing.
        ValueError: a file is damaged, the split or a class is unknown, or `step` is below 1.
    """
    if step < 1:
        raise ValueError(f"map_prior: step must be at least 1, got {step}")
    source = MapSource(index, dataroot)
    positions = index.samples_of(split)[::step].tolist()
    sums = np.zeros((len(class_names), *PRIOR_GRID.shape[1:]), dtype=np.int64)
    for position in positions:
        sums += source.around_ego(position, class_names, PRIOR_GRID)
    probabilities = np.stack([stretched(one / len(positions)) for one in sums])
    return PredictedMap(probabilities=probabilities, class_names=tuple(class_names), grid=PRIOR_GRID)


def stretched(frequencies: np.ndarray) -> np.ndarray:
    """Moves the best threshold of one class to 0.5, keeping the order of the cells.

    Args:
        frequencies: any shape, in [0, 1]; all from equally many samples.

    Returns:
        The same shape, in [0, 1]; cells that are at least as frequent as the best threshold get 0.5 and more.
    """
    falling = np.sort(frequencies, axis=None)[::-1]
    hits = falling.cumsum()
    # Of every sample these cells are predicted; the rest of the class is missed.
    union = np.arange(1, len(falling) + 1) + hits[-1] - hits
    best = falling[np.argmax(hits / union)]
    if best == 0:  # nobody has the class
        return np.zeros_like(frequencies)
    below = 0.5 * frequencies / best
    above = 1.0 - 0.5 * (1.0 - frequencies) / (1.0 - best) if best < 1 else np.ones_like(frequencies)
    return np.where(frequencies < best, below, above)
