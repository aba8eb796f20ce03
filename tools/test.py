"""Evaluates a model on a split: `python tools/test.py CONFIG CHECKPOINT --split S --out-dir O`.

Writes `report.html`, all scores on one page. Of a model that finds boxes, `results.json` (a nuScenes submission), and
where the set has annotations `metrics_summary.json` (the devkit's metrics) and `hits.json` (which boxes were found at a
score of 0.3). What a model says of the near field, the map or occupancy goes to the folder `near_field`, `map` or
`occupancy`, and its scores to `near_field.json` and so on, where the set has that truth; damage in one of them leaves
the others scored.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from perception.drives.options import add_run_arguments, run_options

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from torch import Tensor

    from perception.drives.options import RunOptions
    from perception.drives.setup import Run
    from perception.evaluation.detection_report import DetectionReport
    from perception.evaluation.tasks import TaskScores
    from perception.structures import Predictions, Sample


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: without the program's name; None takes the process's own.

    Returns:
        Exit status: 0, or 1 with the reason on standard error; a truth that the set does not have is no reason.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_run_arguments(parser, on_error="raise")
    parser.add_argument(
        "--split", help="official, or of the set's splits.json; default mini_val of a mini version, else val"
    )
    parser.add_argument("--batch-size", type=int, default=1, help="samples that are run together")
    parser.add_argument("--draws", type=int, default=1000, help="of the scenes, for the 95 %% intervals; 0 for none")
    try:
        _run(parser.parse_args(arguments))
    except (OSError, ValueError, ImportError) as error:
        print(f"test: {error}", file=sys.stderr)
        return 1
    return 0


def _run(parsed: argparse.Namespace) -> None:
    from perception.drives.setup import nothing_found, prepare_run
    from perception.evaluation.detection import write_predictions

    options = run_options(parsed)
    if parsed.batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, got {parsed.batch_size}")
    if parsed.draws < 0:
        raise ValueError(f"--draws must be at least 0, got {parsed.draws}")
    run = prepare_run(options)
    split = parsed.split or ("mini_val" if run.version.endswith("mini") else "val")
    positions = run.loader.index.samples_of(split).tolist()
    nothing = nothing_found(run.predictor.detector)
    found = _kept(_predict(run, nothing, positions, parsed.batch_size), options.out_dir)
    if nothing.detections is None:
        print(f"{options.out_dir}: {sum(1 for _ in found)} samples, the model has no head of boxes")
    else:
        results = options.out_dir / "results.json"
        num_boxes = write_predictions(results, found, run.class_names, run.meta)
        print(f"{results}: {num_boxes} boxes in {len(positions)} samples")
    for kind, count in run.loader.skipped.items():
        print(f"skipped {count} times: {kind}")
    report = None if nothing.detections is None else _score(run, split, options.out_dir)
    tasks = _score_tasks(run, nothing, split, options.out_dir, parsed.draws)
    _write_page(run, split, options, {"detection": report, "tasks": tasks}, parsed.draws)
    if problems := [line for scores in tasks.values() if scores.damaged for line in scores.problem_lines()]:
        raise ValueError("; ".join(problems))


def _predict(
    run: Run, nothing: Predictions, positions: Sequence[int], batch_size: int
) -> Iterator[tuple[Predictions, Sample]]:
    from tqdm import tqdm

    from perception.drives.runner import is_blind

    num_blind = 0
    for start in tqdm(range(0, len(positions), batch_size), desc="predict", unit="batch"):
        samples = [run.loader.load(position) for position in positions[start : start + batch_size]]
        seen = [sample for sample in samples if not is_blind(sample)]
        found = {it.token: it for it in run.predictor.predict(seen)} if seen else {}
        num_blind += len(samples) - len(seen)
        for sample in samples:
            yield found.get(sample.token, replace(nothing, token=sample.token)), sample
    if num_blind:
        print(f"{num_blind} samples have none of the sensors: they count as samples in which nothing was found")


def _kept(found: Iterable[tuple[Predictions, Sample]], out_dir: Path) -> Iterator[tuple[Predictions, Tensor]]:
    """Predictions with poses; on the way what other heads say is written."""
    from perception.drives.writers import TaskWriter

    writer = TaskWriter(out_dir)
    for predictions, sample in found:
        writer.write(sample, predictions)
        yield predictions, sample.ego2global


def _score(run: Run, split: str, out_dir: Path) -> DetectionReport | None:
    """The scores of the boxes; None where there is nothing to compare them with."""
    from perception.evaluation.detection import score_submission
    from perception.evaluation.detection_report import evaluate_submission, write_metrics
    from perception.evaluation.matching import MatchCounts
    from perception.evaluation.official import NothingToScoreError, evaluate_official
    from perception.formats.files import atomic_writer

    if not run.loader.index.has_annotations:
        print("the set has no annotations, boxes are not scored")
        return None
    results = out_dir / "results.json"
    total = sum(score_submission(results, run.loader.index).values(), MatchCounts())
    counts = {"num_truth": total.num_truth, "num_detections": total.num_detections, "num_matched": total.num_matched}
    with atomic_writer(out_dir / "hits.json") as file:
        file.write(json.dumps(counts).encode())
    print(f"score >= 0.3 within 2 m, boxes with 5 points: recall {total.recall:.3f}, precision {total.precision:.3f}")
    report = evaluate_submission(results, run.loader.index, split)
    try:
        summary = evaluate_official(run.dataroot, run.version, split, results, out_dir)
    except NothingToScoreError as error:
        write_metrics(report, out_dir)
        summary = report.summary
        print(f"{error}; the figures are this program's own")
    print(f"NDS {summary['nd_score']:.4f}, mAP {summary['mean_ap']:.4f}")
    for name, value in summary["mean_dist_aps"].items():
        print(f"  AP {name:<22}{value:.4f}")
    return report


def _score_tasks(run: Run, nothing: Predictions, split: str, out_dir: Path, draws: int) -> dict[str, TaskScores]:
    from perception.evaluation.tasks import TASKS, score_tasks, write_scores

    folders = {name: out_dir / name for name in TASKS if getattr(nothing, name) is not None}
    tasks = score_tasks(folders, run.dataroot, run.loader.index, split, draws)
    for scores in tasks.values():
        print("\n".join(scores.lines()))
    write_scores(out_dir, tasks)
    return tasks


def _write_page(run: Run, split: str, options: RunOptions, scores: dict[str, Any], draws: int) -> None:
    from perception.evaluation.bootstrap import bootstrap
    from perception.evaluation.confusion import confusion
    from perception.evaluation.html_report import ReportContents, write_report
    from perception.evaluation.html_worst import worst_pictures

    index, report = run.loader.index, scores["detection"]
    positions = index.samples_of(split)
    facts = {
        "model": f"{options.config}, {options.checkpoint}",
        "set": f"{run.dataroot} {run.version}",
        "split": f"{split}, {len(set(index.scenes_of(positions).tolist()))} scenes, {len(positions)} samples",
    }
    if report is not None:
        scores["intervals"] = bootstrap(report, draws) if draws else {}
        scores["pictures"] = worst_pictures(report, confusion(report).faults, index, split, run.dataroot)
    elif not index.has_annotations:
        facts["boxes"] = "not scored, the set has no annotations"
    write_report(options.out_dir / "report.html", ReportContents(f"Test of {options.config}", facts, **scores))
    print(f"wrote {options.out_dir / 'report.html'}")


if __name__ == "__main__":
    sys.exit(main())
