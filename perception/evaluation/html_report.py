"""All scores of a run on one page: a single HTML file that opens anywhere."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from perception.evaluation.bootstrap import Interval
from perception.evaluation.confusion import SURE, Confusion, confusion
from perception.evaluation.detection_matches import DISTANCES_M
from perception.evaluation.detection_metrics import ERRORS
from perception.evaluation.detection_report import DetectionReport
from perception.evaluation.html import Marks, Markup, chart, element, key, page, styled, table
from perception.evaluation.reliability import reliability
from perception.evaluation.slices import standard_slices
from perception.evaluation.tasks import TaskScores
from perception.formats.classes import DETECTION_CLASSES
from perception.formats.files import atomic_writer
from perception.visualization.colors import class_colors

_RECALLS = np.linspace(0, 1, 101)
_ERROR_NAMES = ("mATE", "mASE", "mAOE", "mAVE", "mAAE")
_TRACKING = ("amota", "amotp", "recall", "motar", "mota", "motp", "mt", "ml", "fp", "fn", "ids", "frag")


@dataclass(frozen=True)
class ReportContents:
    """What a page is made of.

    Attributes:
        title: of the page.
        facts: what was scored on what, by name.
        detection: scores of boxes, if any.
        intervals: of the detection scores, by name as of `bootstrap`; may be empty.
        tasks: scores beside the boxes.
        tracking: the tracking summary, if any, as of `evaluate_tracks`.
        pictures: of the worst samples.
    """

    title: str
    facts: Mapping[str, str]
    detection: DetectionReport | None = None
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    tasks: Mapping[str, TaskScores] = field(default_factory=dict)
    tracking: Mapping[str, Any] | None = None
    pictures: Sequence[Markup] = ()


def write_report(path: str | Path, contents: ReportContents) -> None:
    """Writes the page.

    Args:
        path: the HTML file; it appears when it is whole.
        contents: what to show.

    Raises:
        OSError: the file cannot be written.
    """
    with atomic_writer(path) as file:
        # Names of files need not be Unicode; Python stands in for such bytes what UTF-8 cannot hold.
        file.write(report_page(contents).encode(errors="replace"))


def report_page(contents: ReportContents) -> str:
    """Lays the page out.

    Args:
        contents: what to show.

    Returns:
        The HTML document.
    """
    sections: dict[str, Sequence[str]] = {"": [_facts(contents.facts)]}
    if contents.detection is not None:
        sections |= _detection(contents.detection, contents.intervals)
    if contents.pictures:
        words = (
            f"Samples with the most annotations missed or taken for another class and predictions of {SURE} or more "
            "that hit nothing. White: annotations; coloured: predictions. Forward is up; rings every 10 m."
        )
        pictures = styled("div", "pictures", *contents.pictures)
        sections["Worst samples"] = [styled("p", "faint", words), _colors(), pictures]
    for scores in contents.tasks.values():
        sections[scores.title.capitalize()] = _task(scores)
    if contents.tracking is not None:
        sections["Tracking"] = _tracking(contents.tracking)
    return page(contents.title, sections)


def _facts(facts: Mapping[str, str]) -> Markup:
    rows = [element("p", styled("span", "faint", f"{name}: "), value) for name, value in facts.items()]
    return element("div", *rows)


def _colors() -> Markup:
    """Which class has which colour in pictures."""
    words = []
    for name, color in zip(DETECTION_CLASSES, class_colors(DETECTION_CLASSES).tolist(), strict=True):
        square = element("b", "\u25a0 ", attributes={"style": "color: rgb({}, {}, {})".format(*color)})
        words.append(element("span", square, _words(name)))
    return styled("p", "faint key", *words)


def _detection(report: DetectionReport, intervals: Mapping[str, Interval]) -> dict[str, Sequence[str]]:
    mixed = confusion(report)
    return {
        "Boxes": [_cards(report, intervals), _classes(report, intervals)],
        "Precision over recall": [
            styled("div", "charts", *(_precision(report, name) for name in _with_truth(report))),
            key([f"{distance:g} m" for distance in DISTANCES_M]),
        ],
        "Confusion": [styled("p", "faint", _CONFUSION_WORDS), _confusion(mixed)],
        "Slices": [styled("p", "faint", _SLICE_WORDS), _slices(report)],
        "Reliability": [styled("p", "faint", _RELIABILITY_WORDS), _reliability(report)],
    }


_CONFUSION_WORDS = (
    f"Predictions of {SURE} or more, matched to annotations of any class within 2 m. A row is what was there, a column "
    "what it was taken for; shades are shares of the row."
)
_SLICE_WORDS = (
    "Average precision of a part of the annotations, by class, and its mean over the classes that the part has; a "
    "prediction that hits an annotation outside the part counts neither way."
)
_RELIABILITY_WORDS = (
    "Share of predictions that hit an annotation of their class within 2 m, over their score; on the dashed line a "
    "score means what it says. Larger dots stand for more predictions. ECE: expected calibration error."
)


def _cards(report: DetectionReport, intervals: Mapping[str, Interval]) -> Markup:
    summary = report.summary
    values = [("NDS", summary["nd_score"]), ("mAP", summary["mean_ap"])]
    values += [(name, summary["tp_errors"][error]) for name, error in zip(_ERROR_NAMES, ERRORS, strict=True)]
    cards = [
        styled("div", "card", name, element("b", _number(value)), styled("span", "faint", _interval(intervals, name)))
        for name, value in values
    ]
    return styled("div", "cards", *cards)


def _classes(report: DetectionReport, intervals: Mapping[str, Interval]) -> Markup:
    header = ["class", "AP", "95 %", *(f"AP {distance:g} m" for distance in DISTANCES_M)]
    header += ["ATE m", "ASE", "AOE rad", "AVE m/s", "AAE", "annotated", "predicted"]
    rows, shades = [], np.full((len(DETECTION_CLASSES), len(header) - 1), np.nan)
    for number, name in enumerate(DETECTION_CLASSES):
        match, one = report.matches[name], report.summary["mean_dist_aps"][name]
        by_distance = list(report.summary["label_aps"][name].values())
        errors = [report.summary["label_tp_errors"][name][error] for error in ERRORS]
        counts = [str(len(match.truth)), str(len(match.predictions))]
        words = [_number(one), _interval(intervals, name), *map(_number, [*by_distance, *errors])]
        rows.append([_words(name), *words, *counts])
        shades[number, [0, *range(2, 2 + len(by_distance))]] = 0.5 * np.array([one, *by_distance])
    return table(header, rows, shades)


def _with_truth(report: DetectionReport) -> list[str]:
    return [name for name in DETECTION_CLASSES if len(report.matches[name].truth)]


def _precision(report: DetectionReport, name: str) -> Markup:
    lines = []
    for distance in DISTANCES_M:
        precision = report.curves[name, distance].precision
        reached = max(len(np.trim_zeros(precision, "b")), 1)
        lines.append((_RECALLS[:reached], precision[:reached]))
    title = f"{_words(name)}, AP {_number(report.summary['mean_dist_aps'][name])}"
    return chart(title, ("recall", "precision"), lines)


def _confusion(mixed: Confusion) -> Markup:
    names = [_words(name) for name in DETECTION_CLASSES]
    rows = [[name, *map(str, row)] for name, row in zip([*names, "nothing there"], mixed.counts.tolist(), strict=True)]
    rows[-1][-1] = ""
    shares = mixed.counts / np.maximum(mixed.counts.sum(axis=1, keepdims=True), 1)
    return table(["annotated as", *names, "missed"], rows, 0.75 * shares)


def _slices(report: DetectionReport) -> Markup:
    sliced = {"all": report, **standard_slices(report)}
    rows, shades = [], np.zeros((len(sliced), len(DETECTION_CLASSES) + 2))
    for number, (name, one) in enumerate(sliced.items()):
        counts, precisions = one.num_truth, one.summary["mean_dist_aps"]
        values = [precisions[label] if counts[label] else math.nan for label in DETECTION_CLASSES]
        rows.append([name, str(sum(counts.values())), *map(_number, [one.mean_of_present, *values])])
        shades[number, 1:] = 0.6 * np.array([one.mean_of_present, *values])
    header = ["part", "annotated", "mean", *map(_words, DETECTION_CLASSES)]
    return table(header, rows, shades)


def _reliability(report: DetectionReport) -> Markup:
    charts = []
    for name, one in reliability(report).items():
        if one.counts.sum():
            marks = Marks(one.confidences, one.precisions, one.counts)
            title = f"{_words(name)}, ECE {_number(one.calibration_error)}"
            charts.append(chart(title, ("score", "share that hits"), marks=marks, diagonal=True))
    return styled("div", "charts", *charts)


def _task(scores: TaskScores) -> list[Markup]:
    if scores.problem:
        return [element("p", f"Not scored: {scores.problem}")]
    rows = [[_words(name), _number(it.value), _range(it)] for name, it in scores.figures.items()]
    parts = [element("p", f"Not scored: {name}: {reason}") for name, reason in scores.missing.items()]
    parts.append(table(["figure", "value", "95 %"], rows))
    for title, by_row in scores.tables.items():
        columns = list(next(iter(by_row.values()), {}))
        cells = [[_words(name), *(_number(row[column]) for column in columns)] for name, row in by_row.items()]
        parts += [element("h3", _words(title)), table(["class", *map(_words, columns)], cells)]
    return parts


def _tracking(summary: Mapping[str, Any]) -> list[str]:
    figures = [name for name in _TRACKING if name in summary]
    classes = list(summary["label_metrics"][figures[0]])
    rows = [["all", *(_number(float(summary[name])) for name in figures)]]
    for label in classes:
        values = (float(summary["label_metrics"][name][label]) for name in figures)
        rows.append([_words(label), *map(_number, values)])
    return [table(["class", *(name.upper() for name in figures)], rows)]


def _words(name: str) -> str:
    return name.replace("_", " ")


def _number(value: float) -> str:
    if math.isnan(value):
        return "\u2013"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3f}"


def _interval(intervals: Mapping[str, Interval], name: str) -> str:
    return _range(intervals[name]) if name in intervals else ""


def _range(it: Interval) -> str:
    return f"{_number(it.low)} to {_number(it.high)}" if it.has_range else ""
