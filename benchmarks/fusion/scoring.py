"""Scores of a run on subsets of the sensors: official boxes, near field, time and size."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.fusion.arms import Arm, branches_of, scored_arms
from benchmarks.fusion.latency import times
from benchmarks.fusion.study import VERSION, Study, run_from_features
from perception.data.collate import collate
from perception.evaluation.bootstrap import bootstrap
from perception.evaluation.detection import write_predictions
from perception.evaluation.detection_report import evaluate_submission
from perception.evaluation.near_field_report import (
    evaluate_near_field,
    near_field_bootstrap,
    write_near_field_predictions,
)
from perception.evaluation.official import evaluate_official
from perception.formats.files import atomic_writer
from perception.formats.submission import SubmissionMeta
from perception.models.detector import Detector
from perception.runtime.checkpoint import load_weights
from perception.structures import Predictions, Sample
from perception.training.feature_cache import FeatureCache

RESULTS = Path(__file__).parents[1] / "results" / "fusion.json"
KEY = ("fuser", "sensors", "seed", "end_to_end", "warm", "subset")
"""What tells rows apart."""

SPLIT = "val"
_BATCH = 4


def score(arm: Arm, study: Study, cache: FeatureCache, samples: list[Sample], weights: Path | None = None) -> None:
    """Scores a trained run on each of its subsets; what is scored already is left alone.

    Args:
        arm: which run.
        study: where everything lies.
        cache: the branches' maps.
        samples: annotations of the validation samples.
        weights: of all but the branches; None takes those in the run's folder.
    """
    run = study.work / "runs" / arm.name
    wanted = [subset for subset in arm.scored_on if not (run / subset / "scores.json").exists()]
    if not wanted:
        return
    detector = study.detector(arm.fuser).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    load_weights(detector, weights or run / "weights.safetensors")
    trained = {} if weights else json.loads((run / "run.json").read_text())
    for subset in wanted:
        folder = run / subset
        folder.mkdir(parents=True, exist_ok=True)
        found = predicted(detector, cache, samples, subset)
        meta = SubmissionMeta(
            use_camera=bool({"C", "F"} & set(subset)), use_lidar="L" in subset, use_radar="R" in subset
        )
        write_predictions(folder / "results.json", _kept(found, folder), detector.class_names, meta)
        report = evaluate_submission(folder / "results.json", study.index, SPLIT)
        summary = evaluate_official(study.dataroot, VERSION, SPLIT, folder / "results.json", folder)
        near = near_field_bootstrap(evaluate_near_field(folder, study.dataroot, study.index, SPLIT))
        row: dict[str, Any] = {
            **asdict(arm),
            "subset": subset,
            "branches": study.source,
            **{name: trained.get(name) for name in ("recipe", "train_s")},
            "mAP": summary["mean_ap"],
            "NDS": summary["nd_score"],
            "near_iou": near["iou"].value,
            "near_distance_error_m": near["distance_error_m"].value,
            "parameters": sum(parameter.numel() for parameter in detector.fuser.parameters()),
            "intervals": {name: asdict(it) for name, it in {**bootstrap(report), **near}.items()},
        }
        with atomic_writer(folder / "scores.json") as file:
            file.write(json.dumps(row, indent=2).encode())
        print(f"{arm.name} on {subset}: mAP {row['mAP']:.4f}, NDS {row['NDS']:.4f}, near IoU {row['near_iou']:.3f}")


def rows(work: Path) -> list[dict[str, Any]]:
    """The scores so far.

    Args:
        work: folder of the study.

    Returns:
        A row for each run and subset that is scored, with the fuser's time where it was taken.
    """
    latency = times(work)
    paths = [work / "runs" / arm.name / subset / "scores.json" for arm in scored_arms() for subset in arm.scored_on]
    found = [json.loads(path.read_text()) for path in paths if path.exists()]
    return [row | {"latency_ms": latency.get(row["fuser"], {}).get(row["subset"])} for row in found]


def publish(folder: Path, rows_of: Callable[[], list[dict[str, Any]]], results: Path, key: Sequence[str]) -> None:
    """Adds all scores so far to those of other machines; one process at a time, so that none leaves out another's.

    A row takes the place of one with the same key; what it does not know, as a time that was not taken, stays. Rows of
    runs on other branches than the new ones' are dropped, as they cannot be compared; models that were trained as a
    whole, and rows without branches, stay.

    Args:
        folder: that the processes share.
        rows_of: gives the scores.
        results: JSON file.
        key: names of the values that tell rows apart.
    """
    with (folder / "results.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found, kept = rows_of(), json.loads(results.read_text()) if results.exists() else []
        branches = {row.get("branches") for row in found if not row.get("end_to_end")}
        merged: dict[tuple[Any, ...], dict[str, Any]] = {}
        plain = json.loads(json.dumps([*kept, *found]), parse_constant=lambda name: None)  # JSON knows no NaN
        for row in plain:
            if row.get("end_to_end") or not branches or row.get("branches") in {None, *branches}:
                place = tuple(row.get(name) for name in key)
                merged[place] = {**merged.get(place, {}), **{name: it for name, it in row.items() if it is not None}}
        with atomic_writer(results) as file:
            file.write((json.dumps(list(merged.values()), indent=1) + "\n").encode())


@torch.no_grad()
def predicted(
    detector: Detector, cache: FeatureCache, samples: list[Sample], subset: str
) -> Iterator[tuple[Predictions, Sample]]:
    """Predicts from kept maps.

    Args:
        detector: in evaluation mode.
        cache: the branches' maps.
        samples: which; their annotations are not read.
        subset: of the sensors, such as "C+L".

    Yields:
        Every sample's predictions and the sample.
    """
    for start in tqdm(range(0, len(samples), _BATCH), desc=subset, unit="batch"):
        chosen = samples[start : start + _BATCH]
        batch = collate(chosen)
        features = cache.read(cache.rows(batch.tokens), [branches_of(subset)] * len(chosen))
        with torch.autocast("cpu", torch.bfloat16):
            output = run_from_features(detector, features)
        yield from zip(detector.predict(output, batch), chosen, strict=True)


def _kept(found: Iterator[tuple[Predictions, Sample]], folder: Path) -> Iterator[tuple[Predictions, Tensor]]:
    for predictions, sample in found:
        write_near_field_predictions(folder, [(predictions, sample.scene)])
        yield predictions, sample.ego2global
