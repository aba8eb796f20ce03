"""Runs a model over a recorded drive: `python tools/run_drive.py CONFIG CHECKPOINT DRIVE --out-dir O`.

Writes `detections.jsonl` (a line per sample, boxes in the ego frame), `results.json` (a nuScenes submission, boxes in
the global frame), `drive.json` (counts and times), what the model says of the near field, the map and occupancy in a
folder each (`near_field/`, `map/`, `occupancy/`, as `tools/test.py` does) and, unless --no-pictures, `pictures/` of all
that. A model that finds no boxes leaves no `results.json`. Needs no annotations; where the set has truths, the pictures
show them too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import Counter
from typing import TYPE_CHECKING

from perception.drives.options import add_run_arguments, run_options

if TYPE_CHECKING:
    from perception.data.loading import SampleLoader
    from perception.drives.reader import NuScenesDrive
    from perception.drives.setup import Run
    from perception.structures import Predictions


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: without the program's name; None takes the process's own.

    Returns:
        Exit status: 0, or 1 with the reason on standard error.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_run_arguments(parser, on_error="skip")
    parser.add_argument("drive", metavar="DRIVE", help="a scene of the set, such as scene-0061")
    parser.add_argument("--min-score", type=float, default=0.3, help="boxes below are not drawn; default %(default)s")
    parser.add_argument("--no-pictures", action="store_true", help="draws nothing")
    try:
        _run(parser.parse_args(arguments))
    except (OSError, ValueError, ImportError) as error:
        print(f"run_drive: {error}", file=sys.stderr)
        return 1
    return 0


def _run(parsed: argparse.Namespace) -> None:
    from tqdm import tqdm

    from perception.drives.reader import NuScenesDrive
    from perception.drives.runner import run_drive
    from perception.drives.setup import nothing_found, prepare_run
    from perception.drives.writers import (
        DriveWriter,
        JsonLinesWriter,
        PictureWriter,
        SubmissionWriter,
        TaskWriter,
    )
    from perception.formats.files import atomic_writer

    options = run_options(parsed)
    run = prepare_run(options)
    drive = NuScenesDrive(run.loader, parsed.drive)
    writers: list[DriveWriter] = [
        JsonLinesWriter(options.out_dir / "detections.jsonl", run.class_names),
        TaskWriter(options.out_dir),
    ]
    nothing = nothing_found(run.predictor.detector)
    if nothing.detections is not None:
        writers.append(SubmissionWriter(options.out_dir / "results.json", run.class_names, run.meta))
    loaders = [run.loader]
    if not parsed.no_pictures:
        loaders.append(_truths(run, drive, nothing))
        folder = options.out_dir / "pictures"
        writers.append(PictureWriter(folder, run.class_names, parsed.min_score, truths=loaders[-1]))
    report = run_drive(tqdm(drive, desc=parsed.drive, unit="sample"), run.predictor, writers, nothing)
    skipped = sum((loader.skipped for loader in loaders), Counter())
    summary = {
        "scene": parsed.drive,
        "num_samples": report.num_samples,
        "num_boxes": report.num_boxes,
        "blind_samples": report.blind,
        "skipped": dict(skipped),
        "predict_ms_p50": statistics.median(report.predict_s) * 1e3 if report.predict_s else None,
    }
    with atomic_writer(options.out_dir / "drive.json") as file:
        file.write(json.dumps(summary, indent=2).encode())
    print(f"{options.out_dir}: {report.num_boxes} boxes in {report.num_samples} samples of {parsed.drive}")
    if report.blind:
        print(f"{len(report.blind)} more without data of any sensor, named in drive.json")
    for kind, count in skipped.items():
        print(f"skipped {count} times: {kind}")


def _truths(run: Run, drive: NuScenesDrive, nothing: Predictions) -> SampleLoader:
    """Loads what is known of a drive for the pictures, of the tasks that the model knows; the model never sees it."""
    from perception.data.loading import SampleLoader
    from perception.drives.truths import truths_of
    from perception.visualization.task_tiles import TASKS

    tasks = [name for name in TASKS if getattr(nothing, name) is not None]
    classes = nothing.map.class_names if nothing.map is not None else ()
    return SampleLoader(
        index=run.loader.index,
        dataroot=run.dataroot,
        class_names=run.class_names,
        truths=truths_of(run.loader.index, run.dataroot, drive.positions, tasks, classes),
        on_error=run.on_error,
    )


if __name__ == "__main__":
    sys.exit(main())
