"""Scores predictions without a model: `python tools/evaluate.py RESULTS --dataroot D --version V --split S`.

Prints mAP, NDS, the average precision of every class, how far scores are off and the slices; with --out-dir writes
`metrics_summary.json` and `metrics_details.json` as the devkit does, and `report.html`. With --against, says how much
better this submission is than another one. Near fields, maps, occupancy and tracks are scored beside it where they are
named, and written to `near_field.json` and so on; one that cannot be scored, as its truth is missing or a file is
damaged, says why and the others go on.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perception.drives.options import check_out_dir, given_index

if TYPE_CHECKING:
    from perception.data.index import Index
    from perception.evaluation.bootstrap import Interval
    from perception.evaluation.detection_report import DetectionReport


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: without the program's name; None takes the process's own.

    Returns:
        Exit status: 0, also where the truth of a folder is missing, which is said; or 1 with the reason on standard
        error. What can be scored is scored and written all the same.
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
    parser.add_argument("--out-dir", type=Path, help="receives metrics_summary.json, metrics_details.json, report.html")
    parser.add_argument("--official", action="store_true", help="let the nuScenes devkit compute the figures")
    parser.add_argument("--against", type=Path, help="another submission on the same split, the one to be beaten")
    parser.add_argument("--draws", type=int, default=1000, help="of the scenes, for the 95 %% intervals; 0 for none")
    parser.add_argument("--near-field", type=Path, metavar="FOLDER", help="of near-field predictions")
    parser.add_argument("--map", type=Path, metavar="FOLDER", help="of predicted maps")
    parser.add_argument("--occupancy", type=Path, metavar="FOLDER", help="of predicted occupancy")
    parser.add_argument("--tracks", type=Path, metavar="FILE", help="a tracking submission, scored by the devkit")
    return parser


def _run(options: argparse.Namespace) -> None:
    if options.draws < 0:
        raise ValueError(f"--draws must be at least 0, got {options.draws}")
    if options.out_dir:
        check_out_dir(options.out_dir, options.dataroot, options.version)
    folders = {name: getattr(options, name) for name in ("near_field", "map", "occupancy") if getattr(options, name)}
    if options.official:
        given = [f"--{name.replace('_', '-')}" for name in ("against", *folders, "tracks") if getattr(options, name)]
        if given:
            raise ValueError(f"{', '.join(given)} is not for --official, which scores boxes alone and has no intervals")
        _run_official(options)
        return
    if missing := [str(folder) for folder in folders.values() if not folder.is_dir()]:
        raise ValueError(f"there is no such folder of predictions: {', '.join(missing)}")
    with tempfile.TemporaryDirectory() as temporary:
        index = given_index(options, Path(temporary))
        _report(options, index, folders)


def _run_official(options: argparse.Namespace) -> None:
    from perception.evaluation.official import evaluate_official

    with tempfile.TemporaryDirectory() as temporary:
        out_dir = options.out_dir or Path(temporary)
        summary = evaluate_official(options.dataroot, options.version, options.split, options.results, out_dir)
    print(f"NDS {summary['nd_score']:.4f}, mAP {summary['mean_ap']:.4f}")
    for name, value in summary["mean_dist_aps"].items():
        print(f"  AP {name:<22}{value:.4f}")


def _report(options: argparse.Namespace, index: Index, folders: dict[str, Path]) -> None:
    from perception.evaluation.detection_report import write_metrics
    from perception.evaluation.tasks import TaskScores, score_tasks, write_scores

    problems = []
    scores: dict[str, Any] = {}
    if index.has_annotations:
        scores = _boxes(options, index)
        if options.against:
            try:
                _compare(options, index, scores["detection"])
            except (OSError, ValueError) as error:
                problems.append(str(error))
    else:
        problems.append("the set has no annotations, boxes are not scored")
        print(problems[0])
    tasks = score_tasks(folders, options.dataroot, index, options.split, options.draws)
    for one in tasks.values():
        print("\n".join(one.lines()))
    if options.tracks:
        try:
            scores["tracking"] = _tracking(options, index)
        except (OSError, ValueError, ImportError) as error:
            tasks["tracking"] = TaskScores("tracking", problem=str(error), damaged=True)
            print("\n".join(tasks["tracking"].lines()))
    if options.out_dir:
        options.out_dir.mkdir(parents=True, exist_ok=True)
        if "detection" in scores:
            write_metrics(scores["detection"], options.out_dir)
        write_scores(options.out_dir, tasks)
        _write_page(options, index, scores | {"tasks": tasks})
    problems += [line for one in tasks.values() if one.damaged for line in one.problem_lines()]
    if problems:
        raise ValueError("; ".join(problems))


def _boxes(options: argparse.Namespace, index: Index) -> dict[str, Any]:
    """Scores the boxes and prints what they reach; the report and its intervals."""
    from perception.evaluation.bootstrap import bootstrap
    from perception.evaluation.detection_report import evaluate_submission
    from perception.evaluation.reliability import reliability
    from perception.evaluation.slices import standard_slices

    report = evaluate_submission(options.results, index, options.split)
    intervals = bootstrap(report, options.draws) if options.draws else {}
    _print_scores(report, intervals)
    print("expected calibration error:")
    for name, one in reliability(report).items():
        print(f"  {name:<25}{one.calibration_error:.4f}")
    print("slices, mean AP over the classes that each has:")
    for name, part in standard_slices(report).items():
        print(f"  {name:<16}{part.mean_of_present:.4f}, {sum(part.num_truth.values())} boxes")
    return {"detection": report, "intervals": intervals}


def _compare(options: argparse.Namespace, index: Index, report: DetectionReport) -> None:
    from perception.evaluation.bootstrap import PRESENT, paired_bootstrap
    from perception.evaluation.detection_report import evaluate_submission
    from perception.evaluation.slices import standard_slices

    other = evaluate_submission(options.against, index, options.split)
    print(f"better than {options.against}, scene by scene:")
    for name, gain in paired_bootstrap(other, report, max(options.draws, 1)).items():
        _print_gain(name, gain)
    print("  slices, mean AP over the classes that each has:")
    for (name, one), before in zip(standard_slices(report).items(), standard_slices(other).values(), strict=True):
        _print_gain(name, paired_bootstrap(before, one, max(options.draws, 1))[PRESENT])


def _tracking(options: argparse.Namespace, index: Index) -> dict[str, Any]:
    from perception.evaluation.detection_report import DETAILS_NAME
    from perception.evaluation.official import SUMMARY_NAME
    from perception.evaluation.tracking import evaluate_tracks

    with tempfile.TemporaryDirectory() as temporary:
        out_dir = options.out_dir / "tracking" if options.out_dir else Path(temporary)
        for name in (SUMMARY_NAME, DETAILS_NAME):
            (out_dir / name).unlink(missing_ok=True)  # of an earlier file: if this one fails, there are no figures
        summary = evaluate_tracks(options.tracks, index, options.split, options.dataroot, out_dir)
    print(f"AMOTA {summary['amota']:.4f}, AMOTP {summary['amotp']:.4f}")
    return summary


def _write_page(options: argparse.Namespace, index: Index, scores: dict[str, Any]) -> None:
    from perception.evaluation.confusion import confusion
    from perception.evaluation.html_report import ReportContents, write_report
    from perception.evaluation.html_worst import worst_pictures

    positions = index.samples_of(options.split)
    facts = {
        "results": str(options.results),
        "set": f"{options.dataroot} {options.version}",
        "split": f"{options.split}, {len(set(index.scenes_of(positions).tolist()))} scenes, {len(positions)} samples",
    }
    if report := scores.get("detection"):
        faults = confusion(report).faults
        scores["pictures"] = worst_pictures(report, faults, index, options.split, options.dataroot)
    else:
        facts["boxes"] = "not scored, the set has no annotations"
    contents = ReportContents(f"Evaluation of {options.results.name}", facts, **scores)
    write_report(options.out_dir / "report.html", contents)
    print(f"wrote {options.out_dir / 'report.html'}")


def _print_gain(name: str, gain: Interval) -> None:
    words = f"({gain.low:+.4f} to {gain.high:+.4f})" if gain.has_range else "(no range: too few scenes have it)"
    print(f"  {name:<23}{gain.value:+.4f} {words}")


def _print_scores(report: DetectionReport, intervals: dict[str, Interval]) -> None:
    values = {"NDS": report.summary["nd_score"], "mAP": report.summary["mean_ap"]} | report.summary["mean_dist_aps"]
    for name, value in values.items():
        known = name in intervals and intervals[name].has_range
        interval = f"  ({intervals[name].low:.4f} to {intervals[name].high:.4f})" if known else ""
        print(f"{name if name in ('NDS', 'mAP') else '  AP ' + name:<27}{value:.4f}{interval}")
    for name, value in report.summary["tp_errors"].items():
        print(f"  {name:<25}{value:.4f}")


if __name__ == "__main__":
    sys.exit(main())
