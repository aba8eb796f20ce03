"""Scores of runs and of predictors that look at nothing, by the same evaluators."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmarks.fusion.arms import ALL
from benchmarks.fusion.scoring import SPLIT, predicted
from benchmarks.fusion.study import VERSION, Study
from benchmarks.heads.arms import PRIOR, Arm
from benchmarks.heads.training import Plan, gradient_means
from perception.evaluation.bootstrap import Interval, bootstrap
from perception.evaluation.detection import write_predictions
from perception.evaluation.detection_report import evaluate_submission
from perception.evaluation.map_prior import map_prior
from perception.evaluation.map_report import map_bootstrap, score_maps
from perception.evaluation.occupancy import MASKS
from perception.evaluation.occupancy_prior import occupancy_prior
from perception.evaluation.occupancy_report import evaluate_occupancy_prior, occupancy_bootstrap
from perception.evaluation.official import evaluate_official
from perception.evaluation.tasks import TASKS as WRITTEN
from perception.formats.files import atomic_writer
from perception.formats.submission import SubmissionMeta
from perception.models.detector import Detector
from perception.runtime.checkpoint import load_weights
from perception.structures import Predictions, Sample
from perception.training.feature_cache import FeatureCache

_META = SubmissionMeta(use_camera=True, use_lidar=True, use_radar=True)
Figures = dict[str, Interval]


def score(arm: Arm, plan: Plan, cache: FeatureCache, samples: list[Sample]) -> None:
    """Scores a trained run with all sensors.

    Args:
        arm: which run.
        plan: how it was trained.
        cache: the branches' maps.
        samples: of the validation split.
    """
    run, study = plan.run(arm), plan.study
    detector = plan.detector(arm).eval()
    load_weights(detector, run.weights)
    _write(arm, detector, predicted(detector, cache, samples, ALL), run.folder)
    figures: Figures = {}
    for task in arm.tasks:
        found = _of_boxes(study, run.folder) if task == "boxes" else _of_folder(study, run.folder / task, task)
        figures |= {f"{task}/{name}": it for name, it in found.items()}
    heads = {task: sum(value.numel() for value in detector.heads[task].parameters()) for task in arm.tasks}
    note = json.loads((run.folder / "run.json").read_text())
    row = {**asdict(arm), **note, "branches": study.source, "parameters": heads, "gradients": gradient_means(run)}
    _keep(run.folder, row, figures)


def score_priors(study: Study, folder: Path) -> None:
    """Scores what the training set says of each place without a look.

    Of occupancy there is such a predictor for every mask that voxels can be counted with; the best one of each figure
    is to be beaten.

    Args:
        study: where the set lies.
        folder: receives a folder for each predictor.
    """
    for task in ("map", *(f"occupancy-{mask}" for mask in MASKS)):
        place = folder / f"{PRIOR}-{task}"
        if (place / "scores.json").exists():
            continue
        place.mkdir(parents=True, exist_ok=True)
        name, _, mask = task.partition("-")
        found = _blind_occupancy(study, mask) if mask else _blind_map(study)
        row = {"kind": PRIOR, "seed": 0, "mask": mask or None}
        _keep(place, row, {f"{name}/{key}": it for key, it in found.items()})


def rows(folder: Path) -> list[dict[str, Any]]:
    """The scores so far.

    Args:
        folder: of the runs.

    Returns:
        A row for each run and predictor, in the order of their names.
    """
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*/scores.json"))]


def _write(arm: Arm, detector: Detector, found: Iterator[tuple[Predictions, Sample]], folder: Path) -> None:
    kept = _kept(found, arm, folder)
    if "boxes" in arm.tasks:
        write_predictions(folder / "results.json", kept, detector.class_names, _META)
    for _ in kept:  # what no file of boxes has asked for
        pass


def _kept(found: Iterator[tuple[Predictions, Sample]], arm: Arm, folder: Path) -> Iterator[tuple[Predictions, Tensor]]:
    for predictions, sample in found:
        for task in arm.tasks:
            if task in WRITTEN:
                WRITTEN[task].write(folder / task, [(predictions, sample.scene)])
        yield predictions, sample.ego2global


def _of_boxes(study: Study, folder: Path) -> Figures:
    """The devkit's own figures; the intervals are of this project's, which equal them."""
    summary = evaluate_official(study.dataroot, VERSION, SPLIT, folder / "results.json", folder)
    drawn = bootstrap(evaluate_submission(folder / "results.json", study.index, SPLIT))
    official = {"mAP": summary["mean_ap"], "NDS": summary["nd_score"]}
    return {name: Interval(value, drawn[name].low, drawn[name].high) for name, value in official.items()}


def _of_folder(study: Study, folder: Path, task: str) -> Figures:
    written = WRITTEN[task]
    return written.intervals(written.evaluate(folder, study.dataroot, study.index, SPLIT), 1000)


def _blind_map(study: Study) -> Figures:
    prior = map_prior(study.dataroot, study.index, "train")
    return map_bootstrap(score_maps(lambda scene, token: prior, study.dataroot, study.index, SPLIT))


def _blind_occupancy(study: Study, mask: str) -> Figures:
    prior = occupancy_prior(study.dataroot, study.index, "train", mask)
    return occupancy_bootstrap(evaluate_occupancy_prior(prior, study.dataroot, study.index, SPLIT))


def _keep(folder: Path, row: Mapping[str, Any], figures: Figures) -> None:
    known = {name: it for name, it in figures.items() if math.isfinite(it.value)}
    values = {name: it.value for name, it in known.items()}
    intervals = {name: [_number(it.low), _number(it.high)] for name, it in known.items()}
    with atomic_writer(folder / "scores.json") as file:
        file.write(json.dumps({**row, "figures": values, "intervals": intervals}, indent=1, allow_nan=False).encode())
    print(f"{folder.name}: " + ", ".join(f"{name} {value:.4f}" for name, value in values.items()), flush=True)


def _number(value: float) -> float | None:
    """Of a file that has no NaN: an end of an interval is unknown where a draw of scenes lacks what is scored."""
    return value if math.isfinite(value) else None
