"""Tables and comparisons of the study, as Markdown: `python -m benchmarks.fusion.report [--json F] [--work W]`.

Tables are made of the recorded rows. What is compared scene by scene needs the result files, which lie in `--work`.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.fusion.arms import ALL, BASELINE, MAIN, SPECIALISTS, SUBSETS, Arm, scored_arms
from benchmarks.fusion.scoring import RESULTS, SPLIT
from perception.data.index import Index
from perception.evaluation.bootstrap import paired_bootstrap
from perception.evaluation.detection_report import DetectionReport, evaluate_submission

_SEEDS = range(3)
_FIGURES = {"mAP": ".3f", "NDS": ".3f", "near_iou": ".3f", "latency_ms": ".0f"}
_NEAR = tuple(subset for subset in SUBSETS if {"F", "U"} & set(subset))  # the others see nothing near
_ANY_SUBSET = Arm(MAIN, warm=True)
_MARKS: dict[str, Callable[[Arm], bool]] = {
    ", never without a sensor": lambda arm: arm.sensors is not None,
    ", end to end": lambda arm: arm.end_to_end,
    ", trained before": lambda arm: arm.warm,
}
Rows = Sequence[dict[str, Any]]


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=RESULTS, help="rows of the study")
    parser.add_argument("--work", type=Path, help="folder of the study, for what is compared scene by scene")
    options = parser.parse_args()
    rows = json.loads(options.json.read_text())
    parts = [table(rows, figure, form) for figure, form in _FIGURES.items()]
    parts += [specialists(rows), without_a_sensor(rows)]
    parts += [smaller_subsets(options.work), against_baseline(options.work)] if options.work else []
    print("\n\n".join(part for part in parts if part))


def table(rows: Rows, figure: str, form: str) -> str:
    """One figure of every run that is scored on all subsets.

    Args:
        rows: of the study.
        figure: name in the rows.
        form: of the numbers.

    Returns:
        A row for each run, a column for each subset that has the figure, and the mean; empty before any run has all.
    """
    subsets = _NEAR if figure == "near_iou" else SUBSETS
    lines = [f"| {figure} | {' | '.join(subsets)} | mean | parameters |", "|---" * (len(subsets) + 3) + "|"]
    for arm in scored_arms():
        found = [row_of(rows, arm, subset) for subset in subsets]
        values = [row[figure] for row in found if row and row.get(figure) is not None]
        if len(values) < len(subsets):
            continue
        title = arm.fuser + "".join(words for words, holds in _MARKS.items() if holds(arm))
        parameters = next(row["parameters"] for row in found if row)
        cells = [format(value, form) for value in (*values, statistics.fmean(values))]
        lines.append(f"| {title} | {' | '.join(cells)} | {parameters:,} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def row_of(rows: Rows, arm: Arm, subset: str) -> dict[str, Any] | None:
    """The scores of a run on a subset; None where there are none yet."""
    wanted = {**asdict(arm), "subset": subset}
    return next((row for row in rows if all(row.get(name) == it for name, it in wanted.items())), None)


def specialists(rows: Rows) -> str:
    """What one set of weights for every subset loses against a model of one subset."""
    lines = []
    for subset in SPECIALISTS:
        pairs = [
            [row_of(rows, Arm(MAIN, trained_on, seed, warm=True), subset) for trained_on in (None, subset)]
            for seed in _SEEDS
        ]
        known = [(any_subset["mAP"], own["mAP"]) for any_subset, own in pairs if any_subset and own]
        if known:
            mine, theirs = (statistics.fmean(column) for column in zip(*known, strict=True))
            loss = f"{mine - theirs:+.4f}, {100 * (mine / theirs - 1):+.1f} %"
            lines.append(f"- {subset}: any subset {mine:.4f}, specialist {theirs:.4f} ({loss}; {len(known)} seeds)")
    return "\n".join(lines)


def without_a_sensor(rows: Rows) -> str:
    """What is kept without cameras, and without LiDAR."""
    whole, blind, dark = (row_of(rows, _ANY_SUBSET, subset) for subset in (ALL, "L+R", "C+R"))
    lines = []
    if whole and blind:
        lines.append(f"- without cameras (L+R): {blind['mAP'] / whole['mAP']:.1%} of all sensors' mAP")
    if whole and dark:
        lines.append(f"- without LiDAR (C+R): {dark['mAP'] / whole['mAP']:.1%} of all sensors' mAP")
    return "\n".join(lines)


def smaller_subsets(work: Path) -> str:
    """By how much all sensors are better than fewer, scene by scene."""
    lines = [f"{MAIN}, mAP with all sensors less that with a subset:"]
    for subset in SUBSETS[:-1]:
        gain = _gain(work, _ANY_SUBSET, subset, _ANY_SUBSET, ALL)
        lines.append(f"- {subset}: {gain}")
    return "\n".join(lines)


def against_baseline(work: Path) -> str:
    """How the main fuser compares with the baseline, subset by subset."""
    lines = [f"mAP of {MAIN} less that of {BASELINE}:"]
    for subset in SUBSETS:
        gain = _gain(work, Arm(BASELINE), subset, Arm(MAIN), subset)
        lines.append(f"- {subset}: {gain}")
    return "\n".join(lines)


def _gain(work: Path, first: Arm, first_subset: str, second: Arm, second_subset: str) -> str:
    reports = [_report(work, arm.name, subset) for arm, subset in ((first, first_subset), (second, second_subset))]
    before, after = reports
    if before is None or after is None:
        return "not scored yet"
    gain = paired_bootstrap(before, after, 300)["mAP"]
    return f"{gain.value:+.4f} ({gain.low:+.4f} to {gain.high:+.4f})"


@cache
def _report(work: Path, run: str, subset: str) -> DetectionReport | None:
    results = work / "runs" / run / subset / "results.json"
    return evaluate_submission(results, Index.open(work / "index"), SPLIT) if results.exists() else None


if __name__ == "__main__":
    main()
