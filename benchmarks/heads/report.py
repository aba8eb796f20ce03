"""Tables of the study as Markdown: `python -m benchmarks.heads.report [--json F]`."""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.heads.arms import JOINT, PRIOR, QUERY

RESULTS = Path(__file__).parents[1] / "results" / "heads.json"
FIGURES = (
    "boxes/mAP",
    "boxes/NDS",
    "near_field/iou",
    "map/lidar/mean",
    "map/ego/mean",
    "occupancy/miou_mask_camera",
    "occupancy/miou_mask_lidar",
    "occupancy/miou_no_mask",
    "occupancy/ray_iou",
)
"""What the tables show."""

Rows = Sequence[dict[str, Any]]


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=RESULTS, help="rows of the study")
    found = json.loads(parser.parse_args().json.read_text())
    print(joint_table(found), query_table(found), gradient_table(found), sep="\n\n")


def joint_table(rows: Rows) -> str:
    """All tasks together against each alone, and against what looks at nothing.

    Args:
        rows: of the study.

    Returns:
        A row for each figure: means over the seeds.
    """
    lines = ["| figure | joint | alone | joint - alone | may lose | blind | joint / blind |", "|---" * 7 + "|"]
    for figure in FIGURES:
        joint, alone = values(rows, JOINT, figure), values(rows, figure.split("/")[0], figure)
        blind = max(values(rows, PRIOR, figure), default=None)
        allowed = max(0.05 * statistics.fmean(alone), 0.01) if alone else None
        gain = statistics.fmean(joint) - statistics.fmean(alone) if joint and alone else None
        ratio = statistics.fmean(joint) / blind if joint and blind else None
        cells = [_spread(joint), _spread(alone), _cell(gain, "+.3f"), _cell(allowed, ".3f")]
        lines.append(f"| {figure} | {' | '.join([*cells, _cell(blind, '.3f'), _cell(ratio, '.2f')])} |")
    return "\n".join(lines)


def query_table(rows: Rows) -> str:
    """Boxes by queries against boxes by a dense map.

    Args:
        rows: of the study.

    Returns:
        A row for each figure of boxes: means over the seeds.
    """
    lines = ["| figure | CenterPoint | queries | queries - CenterPoint |", "|---" * 4 + "|"]
    for figure in ("boxes/mAP", "boxes/NDS"):
        dense, queries = values(rows, "boxes", figure), values(rows, QUERY, figure)
        gain = statistics.fmean(queries) - statistics.fmean(dense) if dense and queries else None
        lines.append(f"| {figure} | {_spread(dense)} | {_spread(queries)} | {_cell(gain, '+.3f')} |")
    return "\n".join(lines)


def gradient_table(rows: Rows) -> str:
    """How the tasks pulled at what they share in joint training.

    Args:
        rows: of the study.

    Returns:
        A row for each norm and cosine: means over steps and seeds.
    """
    found = [row["gradients"] for row in rows if row["kind"] == JOINT]
    names = sorted({name for figures in found for name in figures})
    lines = ["| gradient | mean |", "|---|---|"]
    for name in names:
        mean = statistics.fmean(figures[name] for figures in found if name in figures)
        lines.append(f"| {name} | {mean:.3g} |")
    return "\n".join(lines)


def values(rows: Rows, kind: str, figure: str) -> list[float]:
    """A figure of every run of a kind that has it, by seed."""
    return [row["figures"][figure] for row in rows if row["kind"] == kind and figure in row["figures"]]


def _spread(found: Sequence[float]) -> str:
    """Mean, and least to largest."""
    if not found:
        return ""
    mean = f"{statistics.fmean(found):.3f}"
    return mean if len(found) == 1 else f"{mean} ({min(found):.3f} to {max(found):.3f})"


def _cell(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


if __name__ == "__main__":
    main()
