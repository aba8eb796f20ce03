"""Scores a nuScenes detection submission without a model: `python tools/evaluate.py RESULTS --dataroot D --split S`.

Prints mAP, NDS, the average precision of every class and the slices; with --out-dir writes `metrics_summary.json` and
`metrics_details.json` as the devkit does. With --against, says how much better this submission is than another one.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perception.data.index import Index
    from perception.evaluation.bootstrap import Interval
    from perception.evaluation.detection_report import DetectionReport


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: without the program's name; None takes the process's own.

    Returns:
        Exit status: 0, or 1 with the reason on standard error.
    """
    try:
        _run(_parser().parse_args(arguments))
    except (OSError, ValueError, ImportError) as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="the submission, a JSON file")
    parser.add_argument("--dataroot", type=Path, required=True, help="folder of a set in nuScenes' format")
    parser.add_argument("--version", required=True, help="of the set, as v1.0-trainval")
    parser.add_argument("--split", required=True, help="official, or of the set's splits.json")
    parser.add_argument("--index", type=Path, help="made by create_data.py; without it a temporary one is made")
    parser.add_argument("--out-dir", type=Path, help="receives metrics_summary.json and metrics_details.json")
    parser.add_argument("--official", action="store_true", help="let the nuScenes devkit compute the figures")
    parser.add_argument("--against", type=Path, help="another submission on the same split, the one to be beaten")
    parser.add_argument("--draws", type=int, default=1000, help="of the scenes, for the 95 %% intervals; 0 for none")
    return parser


def _run(options: argparse.Namespace) -> None:
    if options.official:
        if options.against:
            raise ValueError("--against is not for --official, which has no intervals")
        _run_official(options)
        return
    with tempfile.TemporaryDirectory() as temporary:
        index = _index(options, Path(temporary))
        _report(options, index)


def _run_official(options: argparse.Namespace) -> None:
    from perception.evaluation.official import evaluate_official

    with tempfile.TemporaryDirectory() as temporary:
        out_dir = options.out_dir or Path(temporary)
        summary = evaluate_official(options.dataroot, options.version, options.split, options.results, out_dir)
    print(f"NDS {summary['nd_score']:.4f}, mAP {summary['mean_ap']:.4f}")
    for name, value in summary["mean_dist_aps"].items():
        print(f"  AP {name:<22}{value:.4f}")


def _index(options: argparse.Namespace, temporary: Path) -> Index:
    from perception.data.index import Index
    from perception.data.index_build import build_index

    if options.index:
        return Index.open(options.index)
    build_index(options.dataroot, options.version, temporary / "index")
    return Index.open(temporary / "index")


def _report(options: argparse.Namespace, index: Index) -> None:
    from perception.evaluation.bootstrap import bootstrap, paired_bootstrap
    from perception.evaluation.detection_report import evaluate_submission, write_metrics
    from perception.evaluation.slices import standard_slices

    report = evaluate_submission(options.results, index, options.split)
    if options.out_dir:
        write_metrics(report, options.out_dir)
    intervals = bootstrap(report, options.draws) if options.draws else {}
    _print_scores(report, intervals)
    print("slices:")
    for name, one in standard_slices(report).items():
        boxes = sum(len(match.truth) for match in one.matches.values())
        print(f"  {name:<16}mAP {one.summary['mean_ap']:.4f}, {boxes} boxes")
    if options.against:
        other = evaluate_submission(options.against, index, options.split)
        print(f"better than {options.against}, scene by scene:")
        for name, gain in paired_bootstrap(other, report, max(options.draws, 1)).items():
            _print_gain(name, gain)
        print("  mAP of slices:")
        for (name, one), before in zip(standard_slices(report).items(), standard_slices(other).values(), strict=True):
            _print_gain(name, paired_bootstrap(before, one, max(options.draws, 1))["mAP"])


def _print_gain(name: str, gain: Interval) -> None:
    print(f"  {name:<22}{gain.value:+.4f} ({gain.low:+.4f} to {gain.high:+.4f})")


def _print_scores(report: DetectionReport, intervals: dict[str, Interval]) -> None:
    values = {"NDS": report.summary["nd_score"], "mAP": report.summary["mean_ap"]} | report.summary["mean_dist_aps"]
    for name, value in values.items():
        interval = f"  ({intervals[name].low:.4f} to {intervals[name].high:.4f})" if name in intervals else ""
        print(f"{name if name in ('NDS', 'mAP') else '  AP ' + name:<27}{value:.4f}{interval}")
    for name, value in report.summary["tp_errors"].items():
        print(f"  {name:<25}{value:.4f}")


if __name__ == "__main__":
    sys.exit(main())
