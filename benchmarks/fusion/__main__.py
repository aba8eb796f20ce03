"""Runs the study, or goes on with it: `python -m benchmarks.fusion --dataroot D --work W --config C --weights F`.

Steps: the maps of the branches are computed and kept; every run is trained on them; every run is scored on every subset
of the sensors that it is meant for; the scores become rows. Whatever is finished is not done again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.fusion.arms import arms, end_to_end_arms
from benchmarks.fusion.scoring import SPLIT, score
from benchmarks.fusion.study import CONFIGS, Study
from benchmarks.fusion.training import Recipe, train
from perception.formats.files import atomic_writer

RESULTS = Path(__file__).parents[1] / "results" / "fusion.json"


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataroot", type=Path, required=True, help="of sim-v2")
    parser.add_argument("--work", type=Path, required=True, help="folder of maps, runs and scores")
    parser.add_argument("--config", type=Path, default=CONFIGS / "sim_v2" / "every_sensor.yaml")
    parser.add_argument("--weights", type=Path, required=True, help="of the branches, trained with that config")
    parser.add_argument("--arms", nargs="*", help="names of runs; all if nothing is said")
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--json", type=Path, default=RESULTS)
    options = parser.parse_args()
    study = Study(options.dataroot, options.work, options.config, options.weights)
    wanted = [arm for arm in arms() if not options.arms or arm.name in options.arms]
    cache = study.cache()
    class_names = study.detector().class_names
    training, validation = (study.annotations(split, class_names) for split in ("train", SPLIT))
    for arm in wanted:
        train(arm, study, cache, training, Recipe(steps=options.steps))
        score(arm, study, cache, validation)
        publish(study.work, options.json)


def publish(work: Path, results: Path) -> None:
    """Writes a row for each run and subset that is scored so far.

    Args:
        work: folder of the study.
        results: JSON file.
    """
    folders = [work / "runs" / arm.name / subset for arm in [*arms(), *end_to_end_arms()] for subset in arm.scored_on]
    rows = [json.loads((folder / "scores.json").read_text()) for folder in folders if (folder / "scores.json").exists()]
    with atomic_writer(results) as file:
        file.write((json.dumps(rows, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
