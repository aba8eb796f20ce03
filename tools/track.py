"""Tracks the detections of a nuScenes submission: `python tools/track.py RESULTS --dataroot D --split S --out-dir O`.

Writes OUT_DIR/tracks.json, a nuScenes tracking submission; with --evaluate, prints AMOTA, AMOTP and more by nuScenes'
devkit and writes `metrics_summary.json` and `metrics_details.json` beside it. Cones, barriers, construction vehicles
are not tracked.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perception.drives.options import check_out_dir, given_index

if TYPE_CHECKING:
    from perception.tracking.greedy import GreedyTracker
    from perception.tracking.kalman import KalmanTracker

_FIGURES = ("amota", "amotp", "recall", "mota", "ids", "frag")


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
        print(f"track: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="the detections, a submission as tools/test.py writes it")
    parser.add_argument("--dataroot", type=Path, required=True, help="folder of a set in nuScenes' format")
    parser.add_argument("--version", required=True, help="of the set, as v1.0-trainval")
    parser.add_argument("--split", required=True, help="official, or of the set's splits.json")
    parser.add_argument("--index", type=Path, help="made by create_data.py; without it a temporary one is made")
    parser.add_argument("--tracker", choices=("greedy", "kalman"), default="kalman", help="(%(default)s)")
    parser.add_argument("--association", choices=("greedy", "hungarian"), help="of the Kalman tracker (greedy)")
    parser.add_argument("--min-score", type=float, default=0.0, help="detections below it are left out (%(default)s)")
    parser.add_argument("--out-dir", type=Path, required=True, help="made where it is missing")
    parser.add_argument(
        "--evaluate", action="store_true", help="needs motmetrics and the nuScenes devkit; takes minutes"
    )
    return parser


def _run(options: argparse.Namespace) -> None:
    from perception.evaluation.split_results import read_detections, score_faults, tell_of_other_samples
    from perception.evaluation.tracking import evaluate_tracks, meta_of, moments_of
    from perception.formats.result_files import raise_faults
    from perception.formats.tracking_submission import write_tracks
    from perception.tracking.tracker import track_moments

    tracker = _tracker(options)
    check_out_dir(options.out_dir, options.dataroot, options.version)
    with tempfile.TemporaryDirectory() as temporary:
        index = given_index(options, Path(temporary))
        submission = read_detections(options.results, index, options.split)
        raise_faults(options.results, score_faults(submission), "read_detections")
        tell_of_other_samples(options.results, submission, "not tracked")
        options.out_dir.mkdir(parents=True, exist_ok=True)
        path = options.out_dir / "tracks.json"
        num_boxes = write_tracks(path, track_moments(moments_of(submission, index), tracker), meta_of(submission))
        print(f"wrote {path}: {num_boxes} boxes in {len(submission.sample_tokens)} samples")
        if options.evaluate:
            _print(evaluate_tracks(path, index, options.split, options.dataroot, options.out_dir))


def _tracker(options: argparse.Namespace) -> GreedyTracker | KalmanTracker:
    from perception.tracking.association import assign_greedy, assign_hungarian
    from perception.tracking.greedy import GreedyTracker
    from perception.tracking.kalman import KalmanTracker
    from perception.tracking.tracker import Lifecycle

    lifecycle = Lifecycle(min_score=options.min_score)
    if options.tracker == "kalman":
        assign = assign_hungarian if options.association == "hungarian" else assign_greedy
        return KalmanTracker(lifecycle=lifecycle, assign=assign)
    if options.association:
        raise ValueError("--association is for --tracker kalman")
    return GreedyTracker(lifecycle=lifecycle)


def _print(summary: dict[str, Any]) -> None:
    print(f"{'':<12}" + "".join(f"{name:>9}" for name in _FIGURES))
    rows = {"all": {name: summary[name] for name in _FIGURES}}
    for label in summary["label_metrics"]["amota"]:
        rows[label] = {name: summary["label_metrics"][name][label] for name in _FIGURES}
    for name, figures in rows.items():
        print(f"{name:<12}" + "".join(f"{value:>9.0f}" if key in ("ids", "frag") else f"{value:>9.4f}"
                                      for key, value in figures.items()))  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
