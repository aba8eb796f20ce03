"""Scores a model that was trained as a whole: `python -m benchmarks.fusion.end_to_end FUSER WEIGHTS --work W ...`.

The maps of its own branches are computed and kept, those of the validation samples alone; then it is scored on every
subset of the sensors as the runs of the study are.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.fusion.arms import Arm, end_to_end_arms
from benchmarks.fusion.scoring import KEY, RESULTS, SPLIT, publish, rows, score
from benchmarks.fusion.study import CONFIGS, FEATURES, Study
from perception.training.feature_cache import FeatureCache


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fuser", choices=[arm.fuser for arm in end_to_end_arms()])
    parser.add_argument("weights", type=Path)
    parser.add_argument("--dataroot", type=Path, required=True, help="of sim-v2")
    parser.add_argument("--work", type=Path, required=True, help="folder of the study")
    parser.add_argument("--config", type=Path, default=CONFIGS / "sim_v2" / "every_sensor.yaml")
    parser.add_argument("--json", type=Path, default=RESULTS)
    options = parser.parse_args()
    study = Study(options.dataroot, options.work, options.config, options.weights)
    samples = study.annotations(SPLIT, study.detector().class_names)
    score(Arm(options.fuser, end_to_end=True), study, _cache(study, options.fuser), samples, options.weights)
    publish(study.work, lambda: rows(study.work), options.json, KEY)


def _cache(study: Study, fuser: str) -> FeatureCache:
    """The study's own maps, where they come from these weights; else new ones."""
    own = study.work / FEATURES
    if own.exists() and FeatureCache(own).description["source"] == study.source:
        return study.cache()
    return study.cache(f"{FEATURES}-{fuser}", (SPLIT,))


if __name__ == "__main__":
    main()
