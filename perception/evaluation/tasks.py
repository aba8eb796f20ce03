"""The tasks that are predicted in folders of files beside the boxes: written, scored, with intervals."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from perception.data.index import Index
from perception.evaluation.bootstrap import Interval
from perception.evaluation.map import overlaps
from perception.evaluation.map_report import MapReport, evaluate_map, map_bootstrap, write_map_predictions
from perception.evaluation.near_field_report import (
    evaluate_near_field,
    near_field_bootstrap,
    write_near_field_predictions,
)
from perception.evaluation.occupancy_report import (
    OccupancyReport,
    evaluate_occupancy,
    occupancy_bootstrap,
    write_occupancy_predictions,
)
from perception.formats.files import atomic_writer
from perception.structures import Predictions

Writer = Callable[[Path, Iterable[tuple[Predictions, str]]], int]
Tables = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Figures by title of the table, row and column."""


def _map_tables(report: MapReport) -> Tables:
    """Overlap by protocol, class and threshold."""
    found = {}
    for protocol, rule in report.rules.items():
        columns = [f"{threshold:.2f}" for threshold in rule.thresholds]
        rows = zip(rule.class_names, overlaps(report.counts[protocol].sum(0)).tolist(), strict=True)
        found[f"overlap by threshold, {protocol}"] = {
            name: dict(zip(columns, values, strict=True)) for name, values in rows
        }
    return found


def _occupancy_tables(report: OccupancyReport) -> Tables:
    return {"by class": report.total.by_class()}


def _no_tables(report: object) -> Tables:
    return {}


@dataclass(frozen=True)
class Task:
    """How one task's predictions are kept and scored.

    Attributes:
        title: for people.
        write: puts predictions into a folder.
        evaluate: folder, dataroot, index and split to a report.
        intervals: report and number of draws to figures.
        tables: report to figures by class.
        missing: report to what could not be scored for want of its truth: why, by name of the part.
        damaged: report to whether some of that truth is there, and damaged.
    """

    title: str
    write: Writer
    evaluate: Callable[[Path, Path, Index, str], Any]
    intervals: Callable[[Any, int], dict[str, Interval]]
    tables: Callable[[Any], Tables] = _no_tables
    missing: Callable[[Any], Mapping[str, str]] = lambda report: {}
    damaged: Callable[[Any], bool] = lambda report: False


TASKS: Mapping[str, Task] = {
    "near_field": Task("near field", write_near_field_predictions, evaluate_near_field, near_field_bootstrap),
    "map": Task(
        "map",
        write_map_predictions,
        evaluate_map,
        map_bootstrap,
        _map_tables,
        missing=lambda report: report.missing,
        damaged=lambda report: report.damaged,
    ),
    "occupancy": Task(
        "occupancy", write_occupancy_predictions, evaluate_occupancy, occupancy_bootstrap, _occupancy_tables
    ),
}
"""By what a head says that it predicts, which is the name of the folder of its predictions too."""


@dataclass(frozen=True)
class TaskScores:
    """What came out of one task.

    Attributes:
        title: of the task.
        figures: with their intervals, by name; empty where it could not be scored.
        problem: why it could not be scored, else ''.
        damaged: whether there is another problem than missing truth.
        tables: further figures, by class.
        missing: parts that could not be scored for want of their truth: why, by name.
    """

    title: str
    figures: Mapping[str, Interval] = field(default_factory=dict)
    problem: str = ""
    damaged: bool = False
    tables: Tables = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)

    def problem_lines(self) -> list[str]:
        """What is not scored, in words.

        Returns:
            A line for the task or for each of its parts, saying why.
        """
        parts = {f"{self.title} {part}": reason for part, reason in self.missing.items()}
        problems = {self.title: self.problem} if self.problem else parts
        return [f"{name} is not scored: {reason}" for name, reason in problems.items()]

    def lines(self) -> list[str]:
        """The scores in words.

        Returns:
            A line for each figure, and for what is not scored.
        """
        width = max(map(len, self.figures), default=0)
        return self.problem_lines() + [
            f"  {self.title} {name:<{width}} {it.value:.4f}"
            + (f"  ({it.low:.4f} to {it.high:.4f})" if it.has_range else "")
            for name, it in self.figures.items()
        ]


def score_tasks(
    folders: Mapping[str, Path], dataroot: Path, index: Index, split: str, draws: int = 1000
) -> dict[str, TaskScores]:
    """Scores folders of predictions; a task of which a file is missing or damaged says which, and the others go on.

    Args:
        folders: by name in `TASKS`.
        dataroot: of the set, with the truth.
        index: of the set.
        split: an official one, of which scenes may be missing, or one of the set's own.
        draws: of the scenes, for the intervals; 0 gives figures whose intervals are NaN.

    Returns:
        By name.

    Raises:
        ValueError: the split is unknown.
    """
    index.samples_of(split)
    found = {}
    for name, folder in folders.items():
        task = TASKS[name]
        try:
            report = task.evaluate(folder, dataroot, index, split)
        except FileNotFoundError as error:
            is_prediction = error.filename is not None and _is_below(error.filename, folder, dataroot)
            problem = f"there is no prediction {error.filename}" if is_prediction else str(error)
            found[name] = TaskScores(task.title, problem=problem, damaged=is_prediction)
            continue
        except (OSError, ValueError) as error:
            found[name] = TaskScores(task.title, problem=str(error), damaged=True)
            continue
        nothing = {key: Interval(value, float("nan"), float("nan")) for key, value in report.figures.items()}
        figures = task.intervals(report, draws) if draws else nothing
        found[name] = TaskScores(
            task.title,
            figures,
            damaged=task.damaged(report),
            tables=task.tables(report),
            missing=task.missing(report),
        )
    return found


def _is_below(path: str, folder: Path, dataroot: Path) -> bool:
    """Whether a file is of the folder's; the truth is not, where the dataroot lies in the folder itself."""
    is_truth = dataroot.is_relative_to(folder) and Path(path).is_relative_to(dataroot)
    return Path(path).is_relative_to(folder) and not is_truth


def write_scores(out_dir: str | Path, scores: Mapping[str, TaskScores]) -> None:
    """Writes `<name>.json` of every task that was scored, and takes an older one of every other task away.

    Each holds `figures`, by name `value`, `low` and `high`, and `tables`, by title, row and column; NaN is bare, as in
    the devkit's files.

    Args:
        out_dir: an existing folder.
        scores: by name, as of `score_tasks`.

    Raises:
        OSError: a file cannot be written.
    """
    for name, one in scores.items():
        path = Path(out_dir) / f"{name}.json"
        if one.problem:
            path.unlink(missing_ok=True)
            continue
        content = {"figures": {key: asdict(it) for key, it in one.figures.items()}, "tables": one.tables}
        with atomic_writer(path) as file:
            file.write(json.dumps(content, indent=2).encode())
