"""Evaluates a model on a split: `python tools/test.py CONFIG CHECKPOINT --split S --out-dir O`.

Writes `results.json` (a nuScenes submission), and where the set has annotations `metrics_summary.json` (the devkit's
metrics) and `hits.json` (which boxes were found at a score of 0.3). Of a model with a near-field head it writes the
folder `near_field`, and where the set has that truth `near_field.json`.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from perception.drives.options import add_run_arguments, run_options

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from torch import Tensor

    from perception.drives.setup import Run
    from perception.structures import Predictions, Sample

NEAR_FIELD = "near_field"
"""Folder of near-field predictions."""


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: without the program's name; None takes the process's own.

    Returns:
        Exit status: 0, or 1 with the reason on standard error.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_run_arguments(parser, on_error="raise")
    parser.add_argument(
        "--split", help="official, or of the set's splits.json; default mini_val of a mini version, else val"
    )
    parser.add_argument("--batch-size", type=int, default=1, help="samples that are run together")
    try:
        _run(parser.parse_args(arguments))
    except (OSError, ValueError, ImportError) as error:
        print(f"test: {error}", file=sys.stderr)
        return 1
    return 0


def _run(parsed: argparse.Namespace) -> None:
    from perception.drives.setup import prepare_run
    from perception.evaluation.detection import write_predictions

    options = run_options(parsed)
    if parsed.batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, got {parsed.batch_size}")
    run = prepare_run(options)
    split = parsed.split or ("mini_val" if run.version.endswith("mini") else "val")
    positions = run.loader.index.samples_of(split).tolist()
    results = options.out_dir / "results.json"
    found = _predict(run, positions, parsed.batch_size)
    num_boxes = write_predictions(results, _kept(found, run, options.out_dir / NEAR_FIELD), run.class_names, run.meta)
    print(f"{results}: {num_boxes} boxes in {len(positions)} samples")
    for kind, count in run.loader.skipped.items():
        print(f"skipped {count} times: {kind}")
    if run.loader.index.has_annotations:
        _score(run, split, options.out_dir)
        if (options.out_dir / NEAR_FIELD).is_dir():
            _score_near_field(run, split, options.out_dir)


def _predict(run: Run, positions: Sequence[int], batch_size: int) -> Iterator[tuple[Predictions, Sample]]:
    from tqdm import tqdm

    from perception.drives.runner import is_blind
    from perception.drives.writers import no_detections
    from perception.structures import Predictions

    num_blind = 0
    for start in tqdm(range(0, len(positions), batch_size), desc="predict", unit="batch"):
        samples = [run.loader.load(position) for position in positions[start : start + batch_size]]
        seen = [sample for sample in samples if not is_blind(sample)]
        found = {it.token: it for it in run.predictor.predict(seen)} if seen else {}
        num_blind += len(samples) - len(seen)
        for sample in samples:
            nothing = Predictions(token=sample.token, detections=no_detections())
            yield found.get(sample.token, nothing), sample
    if num_blind:
        print(f"{num_blind} samples have none of the sensors: they count as samples in which nothing was found")


def _kept(found: Iterable[tuple[Predictions, Sample]], run: Run, folder: Path) -> Iterator[tuple[Predictions, Tensor]]:
    """Predictions with poses; on the way the near fields of a model that has them are written."""
    from dataclasses import replace

    from perception.evaluation.near_field_report import no_near_field, write_near_field_predictions

    has_near_field = any(head.predicts == "near_field" for head in run.predictor.detector.heads.values())
    for predictions, sample in found:
        if has_near_field:
            near = predictions if predictions.near_field else replace(predictions, near_field=no_near_field())
            write_near_field_predictions(folder, [(near, sample.scene)])
        yield predictions, sample.ego2global


def _score(run: Run, split: str, out_dir: Path) -> None:
    from perception.evaluation.detection import score_submission
    from perception.evaluation.matching import MatchCounts
    from perception.evaluation.official import evaluate_official
    from perception.formats.files import atomic_writer

    results = out_dir / "results.json"
    total = sum(score_submission(results, run.loader.index).values(), MatchCounts())
    counts = {"num_truth": total.num_truth, "num_detections": total.num_detections, "num_matched": total.num_matched}
    with atomic_writer(out_dir / "hits.json") as file:
        file.write(json.dumps(counts).encode())
    print(f"score >= 0.3 within 2 m, boxes with 5 points: recall {total.recall:.3f}, precision {total.precision:.3f}")
    summary = evaluate_official(run.dataroot, run.version, split, results, out_dir)
    print(f"NDS {summary['nd_score']:.4f}, mAP {summary['mean_ap']:.4f}")
    for name, value in summary["mean_dist_aps"].items():
        print(f"  AP {name:<22}{value:.4f}")


def _score_near_field(run: Run, split: str, out_dir: Path) -> None:
    from dataclasses import asdict

    from perception.evaluation.near_field_report import TRUTH_FOLDER, evaluate_near_field, near_field_bootstrap
    from perception.formats.files import atomic_writer

    if not (run.dataroot / TRUTH_FOLDER).is_dir():
        print(f"{run.dataroot / TRUTH_FOLDER} is missing: obstacles near the vehicle are not scored")
        return
    intervals = near_field_bootstrap(evaluate_near_field(out_dir / NEAR_FIELD, run.dataroot, run.loader.index, split))
    with atomic_writer(out_dir / "near_field.json") as file:
        file.write(json.dumps({name: asdict(it) for name, it in intervals.items()}, indent=2).encode())
    for name, it in intervals.items():
        print(f"  near field {name:<20}{it.value:.4f} [{it.low:.4f}, {it.high:.4f}]")


if __name__ == "__main__":
    sys.exit(main())
