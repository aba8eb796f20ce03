"""Predicted maps of a split: written, read again, scored scene by scene, with intervals.

Three protocols, each as far as its classes are predicted: "lidar", the official one of BEVFusion, in the LiDAR's frame;
"ego", the same classes in the ego frame; "vehicle", that of Lift-Splat, in the ego frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from perception.data.index import Index
from perception.evaluation.bootstrap import Interval, draw_scenes, intervals_of
from perception.evaluation.map import MapRule, best_overlaps
from perception.evaluation.map_truths import PROTOCOLS, MapTruths, look_up
from perception.formats.files import atomic_writer
from perception.formats.map_predictions import PredictedMap, map_path, map_prediction_bytes, read_map_prediction
from perception.geometry.grid import Grid
from perception.structures import MapPrediction, Predictions


@dataclass(frozen=True, eq=False)
class MapReport:
    """What predicted maps reach on a split.

    Attributes:
        scenes: names of the S scenes of the split, ascending.
        rules: by protocol.
        counts: by protocol (S, K, T, 3) int64 hits, false and missed cells by scene, class and threshold.
        missing: by further protocol that the predictions have classes of, what of its truth is missing or damaged.
        damaged: whether some of it is there, and damaged.
    """

    scenes: tuple[str, ...]
    rules: Mapping[str, MapRule]
    counts: Mapping[str, np.ndarray]
    missing: Mapping[str, str] = field(default_factory=dict)
    damaged: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Of the scores: "<protocol>/<class>", and "<protocol>/mean" where there are several classes.

        The mean of some of a protocol's classes is not the protocol's: it is "<protocol>/mean of <number>".
        """
        return tuple(
            f"{protocol}/{name}" for protocol, rule in self.rules.items() for name in _scores_of(protocol, rule)
        )

    @property
    def figures(self) -> dict[str, float]:
        """Largest overlap over the thresholds, by name in `names`."""
        values = _scores(self, np.ones((1, len(self.scenes)), dtype=np.int64))[0]
        return dict(zip(self.names, values.tolist(), strict=True))


def write_map_predictions(folder: str | Path, predictions: Iterable[tuple[Predictions, str]]) -> int:
    """Writes a file per sample as the predictions come.

    Args:
        folder: made where it is missing; a file of an earlier run is replaced.
        predictions: predictions of a sample and the name of its scene.

    Returns:
        How many files were written.

    Raises:
        ValueError: a sample has no predicted map, or values that are not allowed; a name would lead out of the folder.
    """
    written = 0
    for found, scene in predictions:
        if found.map is None:
            raise ValueError(f"write_map_predictions: predictions must have a map, got none for {found.token}")
        path = map_path(folder, scene, found.token)
        probabilities = found.map.probabilities.detach().cpu().numpy()
        content = map_prediction_bytes(probabilities, found.map.class_names, found.map.grid)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_writer(path) as file:
            file.write(content)
        written += 1
    return written


def no_map(class_names: Sequence[str], grid: Grid) -> MapPrediction:
    """Gives what is predicted of a sample in which no sensor saw anything.

    Args:
        class_names: K names of the layers.
        grid: of the head.

    Returns:
        Cells of which nothing is predicted.
    """
    probabilities = torch.full((len(class_names), *grid.shape[1:]), torch.nan)  # (K, Y, X)
    return MapPrediction(probabilities=probabilities, class_names=tuple(class_names), grid=grid)


def evaluate_map(folder: str | Path, dataroot: str | Path, index: Index, split: str) -> MapReport:
    """Scores the predictions of a split.

    Args:
        folder: of `write_map_predictions`; it may hold more samples.
        dataroot: of a set with vector maps; for vehicles its annotations serve.
        index: of the set.
        split: an official one, of which scenes may be missing, or one of the set's own.

    Returns:
        The counts by scene.

    Raises:
        FileNotFoundError: a sample has no prediction, or the truth of every protocol is missing.
        ValueError: a prediction is damaged or has other classes than the first, no protocol's truth is there and whole,
            or the split is unknown.
    """
    return score_maps(lambda scene, token: read_map_prediction(map_path(folder, scene, token)), dataroot, index, split)


def score_maps(
    found_of: Callable[[str, str], PredictedMap], dataroot: str | Path, index: Index, split: str
) -> MapReport:
    """Scores predictions that come from anywhere.

    Args:
        found_of: gives the prediction for a scene's name and a sample's token.
        dataroot: of a set with vector maps; for vehicles its annotations serve.
        index: of the set.
        split: an official one, of which scenes may be missing, or one of the set's own.

    Returns:
        The counts by scene, of the classes that all predictions have. A protocol of which truth is missing (a map; for
        vehicles the annotations) is left out and named, and the others are scored.

    Raises:
        FileNotFoundError: the truth of every protocol is missing.
        ValueError: a prediction is damaged or has other classes than the first, no protocol's truth is there and whole,
            or the split is unknown.
    """
    truths = MapTruths(dataroot, index)
    positions = index.samples_of(split)
    class_names: tuple[str, ...] = ()
    rules: dict[str, MapRule] = {}
    missing: dict[str, str] = {}
    damaged = False
    by_scene: dict[str, dict[str, np.ndarray]] = {}
    scenes_of = [index.scenes[number] for number in index.scenes_of(positions).tolist()]
    for position, scene, token in zip(positions.tolist(), scenes_of, index.tokens_of(positions), strict=True):
        found = found_of(scene, token)
        if not class_names:
            class_names, rules = found.class_names, _rules_for(found.class_names)
        if set(found.class_names) != set(class_names):
            raise ValueError(
                f"score_maps: {scene}/{token} must have the classes of the first prediction, {', '.join(class_names)}, "
                f"got {', '.join(found.class_names)}"
            )
        sums = by_scene.setdefault(scene, {})
        for protocol, rule in tuple(rules.items()):
            try:
                truth = truths.of(position, protocol, rule.class_names)
            except (FileNotFoundError, ValueError) as error:
                missing[protocol] = str(error)
                damaged |= isinstance(error, ValueError)
                del rules[protocol]
                continue
            probabilities = look_up(found, rule.class_names, truth.points_m, f"{scene}/{token}")
            sums[protocol] = sums.get(protocol, 0) + rule.count(probabilities, truth.cells)
    if not rules:
        raise (ValueError if damaged else FileNotFoundError)("; ".join(dict.fromkeys(missing.values())))
    scenes = tuple(sorted(by_scene))
    counts = {protocol: np.stack([by_scene[scene][protocol] for scene in scenes]) for protocol in rules}
    return MapReport(scenes=scenes, rules=rules, counts=counts, missing=missing, damaged=damaged)


def map_bootstrap(report: MapReport, draws: int = 1000, seed: int = 0) -> dict[str, Interval]:
    """Intervals of the scores: scenes drawn with replacement, percentile method.

    Args:
        report: of some predictions.
        draws: how often scenes are drawn.
        seed: of the draws.

    Returns:
        By name in `MapReport.names`.

    Raises:
        ValueError: there are no draws.
    """
    return intervals_of(_scores(report, draw_scenes(len(report.scenes), draws, seed)), report.names)


def paired_map_bootstrap(first: MapReport, second: MapReport, draws: int = 1000, seed: int = 0) -> dict[str, Interval]:
    """Intervals of how much larger the second's scores are, both on the same drawn scenes.

    Args:
        first: of some predictions.
        second: of others, on the same split.
        draws: how often scenes are drawn.
        seed: of the draws.

    Returns:
        Second minus first, by name in `MapReport.names`; a difference is significant at 5 % where 0 is not in the
        interval.

    Raises:
        ValueError: the reports are of different scenes or classes, or there are no draws.
    """
    if first.scenes != second.scenes or first.names != second.names:
        raise ValueError(
            "paired_map_bootstrap: both reports must be of the same scenes and classes, "
            f"got {', '.join(first.scenes + first.names)} and {', '.join(second.scenes + second.names)}"
        )
    repeats = draw_scenes(len(first.scenes), draws, seed)
    return intervals_of(_scores(second, repeats) - _scores(first, repeats), first.names)


def _rules_for(class_names: Sequence[str]) -> dict[str, MapRule]:
    """The protocols of which classes are predicted."""
    rules = {}
    for protocol, rule in PROTOCOLS.items():
        wanted = tuple(name for name in rule.class_names if name in class_names)
        if wanted:
            rules[protocol] = MapRule(wanted, rule.thresholds, rule.strict)
    if not rules:
        known = sorted({name for rule in PROTOCOLS.values() for name in rule.class_names})
        raise ValueError(f"score_maps: a prediction must hold some of {', '.join(known)}, got {', '.join(class_names)}")
    return rules


def _scores_of(protocol: str, rule: MapRule) -> tuple[str, ...]:
    number = len(rule.class_names)
    mean = "mean" if number == len(PROTOCOLS[protocol].class_names) else f"mean of {number}"
    return (mean, *rule.class_names) if number > 1 else rule.class_names


def _scores(report: MapReport, repeats: np.ndarray) -> np.ndarray:
    """(D, N) scores where each scene counts so often (D, S)."""
    columns = []
    for protocol, rule in report.rules.items():
        counts = report.counts[protocol]  # (S, K, T, 3)
        sums = (repeats @ counts.reshape(len(counts), -1)).reshape(len(repeats), *counts.shape[1:])  # (D, K, T, 3)
        best = best_overlaps(sums)  # (D, K)
        if len(rule.class_names) > 1:
            columns.append(best.mean(-1, keepdims=True))
        columns.append(best)
    return np.concatenate(columns, axis=1)
