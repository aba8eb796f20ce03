"""Detection metrics from a result file: ours against the nuScenes devkit, each in a fresh process, on a made-up set.

Both sides read their annotations: the devkit loads its tables, ours opens an index or, in a row of its own, makes it
from the tables first. Ours runs once before it is measured, so that compiled code is on disk and, for both, the file in
memory. All ways take turns; the median of each counts.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.small_set import add_set_arguments, small_set

if TYPE_CHECKING:
    from perception.data.index import Index

ROOT = Path(__file__).parents[1]
SPLIT = "train"
"""The made-up scenes bear the first names of this split; what the set lacks of it does not count."""

WAYS = ("devkit", "ours", "ours_and_index")

SHARES = (0.6, 0.2, 0.2)
"""Of predictions: near an annotation of their class, near one of another, anywhere."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this benchmark's options.

    Args:
        parser: the parser to add to.
    """
    add_set_arguments(parser)
    parser.add_argument("--samples", type=int, default=6019, help="of the made-up set; 6,019 is nuScenes val")
    parser.add_argument("--boxes", type=int, default=200, help="predictions per sample, up to 500")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of each way in turn; medians are given")
    parser.add_argument("--work-dir", type=Path, help="where the files lie for a while; the system's folder else")


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Makes set and predictions, and scores them both ways.

    Args:
        options: see `add_arguments`.

    Returns:
        One row per way of ours: seconds by the clock and of the processor, peak memory, the ratio by the clock and
        the largest difference of any figure.

    Raises:
        subprocess.CalledProcessError: a step failed.
    """
    from benchmarks.blow_up_nuscenes import Size, blow_up
    from perception.data.index import Index
    from perception.data.index_build import build_index

    work = Path(tempfile.mkdtemp(prefix="perception-benchmark-", dir=options.work_dir))
    try:
        scenes = max(1, round(options.samples / 40.13))
        size = Size(scenes, options.samples, options.samples * 13, round(options.samples * 31.2))  # as in val
        blow_up(small_set(options, work / "small") / options.version, work / "set", size)
        build_index(work / "set", "v1.0-trainval", work / "index")
        index = Index.open(work / "index")
        write_predictions(work / "results.json", index, options.boxes)
        _measure("ours", work)
        turns = [{way: _measure(way, work) for way in WAYS} for _ in range(options.repeats)]
        medians = {way: _medians([turn[way] for turn in turns]) for way in WAYS}
        return [
            _row(name, medians[way], medians["devkit"], options, work)
            for way, name in (("ours", "from the index"), ("ours_and_index", "index made first"))
        ]
    finally:
        shutil.rmtree(work)


def write_predictions(path: Path, index: Index, per_sample: int, seed: int = 0) -> None:
    """Writes a submission of plausible and implausible boxes.

    Args:
        path: the JSON file.
        index: of the set.
        per_sample: boxes in each sample.
        seed: of what is drawn.
    """
    from perception.formats.submission import SampleDetections, SubmissionMeta, write_submission

    rng = np.random.default_rng(seed)

    def _of_sample(position: int) -> tuple[str, SampleDetections]:
        record = index.record(position)
        assert record.annotations is not None
        rows = rng.integers(len(record.annotations.labels), size=per_sample)
        boxes = record.annotations.boxes_global[rows]
        kind = rng.choice(3, size=per_sample, p=SHARES)
        boxes[:, :2] += rng.normal(size=(per_sample, 2)) * np.array([0.7, 0.7, 20.0])[kind][:, None]
        boxes[:, 3:6] *= rng.uniform(0.8, 1.2, (per_sample, 3))
        boxes[:, 6:] += rng.normal(size=(per_sample, 3)) * 0.2
        labels = np.maximum(record.annotations.labels[rows], 0)
        labels = np.where(kind == 1, rng.integers(10, size=per_sample), labels)
        return record.token, SampleDetections(boxes, rng.random(per_sample).round(4), labels)

    meta = SubmissionMeta(use_camera=False, use_lidar=True, use_radar=False)
    write_submission(path, (_of_sample(position) for position in range(len(index))), meta)


def _row(
    name: str, ours: dict[str, float], theirs: dict[str, float], options: argparse.Namespace, work: Path
) -> dict[str, Any]:
    files = ("metrics_summary.json", "metrics_details.json")
    pairs = [[json.loads((work / side / file).read_text()) for side in ("ours", "devkit")] for file in files]
    return {
        "case": f"{options.samples} x {options.boxes}, {name}",
        "ours_s": ours["seconds"],
        "devkit_s": theirs["seconds"],
        "ratio": theirs["seconds"] / ours["seconds"],
        "max_abs_diff": max(_worst(one, other) for one, other in pairs),
        "ours_rss_mb": ours["rss_mb"],
        "devkit_rss_mb": theirs["rss_mb"],
        "ours_cpu_s": ours["cpu_s"],
        "devkit_cpu_s": theirs["cpu_s"],
    }


def _medians(measured: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(run[name] for run in measured) for name in measured[0]}


def _worst(ours: Any, theirs: Any) -> float:
    """Largest difference of two JSON contents, time apart; infinite where one is a number and the other is not."""
    if isinstance(ours, dict):
        return max([_worst(ours[key], theirs[key]) for key in theirs if key not in ("eval_time", "meta")], default=0.0)
    if isinstance(ours, list):
        return max([_worst(*pair) for pair in zip(ours, theirs, strict=True)], default=0.0)
    if isinstance(ours, str):
        return 0.0 if ours == theirs else float("inf")
    return 0.0 if ours != ours and theirs != theirs else float(np.nan_to_num(abs(ours - theirs), nan=np.inf))


def _measure(way: str, work: Path) -> dict[str, float]:
    """Runs one way in a fresh interpreter, imports included."""
    command = [sys.executable, "-m", "benchmarks.evaluation", way, str(work)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    start = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    seconds = time.perf_counter() - start
    rss_mb, cpu_s = map(float, done.stdout.splitlines()[-1].split())
    return {"seconds": seconds, "rss_mb": rss_mb, "cpu_s": cpu_s}


def _devkit(work: Path) -> None:
    from perception.evaluation.official import evaluate_official

    evaluate_official(work / "set", "v1.0-trainval", SPLIT, work / "results.json", work / "devkit")


def _ours(work: Path) -> None:
    from perception.data.index import Index
    from perception.evaluation.detection_report import evaluate_submission, write_metrics

    write_metrics(evaluate_submission(work / "results.json", Index.open(work / "index"), SPLIT), work / "ours")


def _ours_and_index(work: Path) -> None:
    from perception.data.index_build import build_index

    shutil.rmtree(work / "index")
    build_index(work / "set", "v1.0-trainval", work / "index")
    _ours(work)


if __name__ == "__main__":
    {"devkit": _devkit, "ours": _ours, "ours_and_index": _ours_and_index}[sys.argv[1]](Path(sys.argv[2]))
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(used.ru_maxrss * 1024 / 1e6, used.ru_utime + used.ru_stime)
