"""Runs the study, or goes on with it: `python -m benchmarks.fusion --dataroot D --work W --config C --weights F`.

Steps: the maps of the branches are computed and kept; every run is trained on them; every run is scored on every subset
of the sensors that it is meant for; the scores become rows. Whatever is finished is not done again.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from benchmarks.fusion.arms import arms
from benchmarks.fusion.scoring import KEY, RESULTS, SPLIT, publish, rows, score
from benchmarks.fusion.study import add_study_arguments, study_of
from benchmarks.fusion.training import FRESH, WARM, train


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_study_arguments(parser)
    parser.add_argument("--arms", nargs="*", help="names of runs; all if nothing is said")
    parser.add_argument(
        "--steps", type=int, help=f"of a run; {WARM.steps} where all starts trained, else {FRESH.steps}"
    )
    parser.add_argument("--json", type=Path, default=RESULTS)
    options = parser.parse_args()
    study = study_of(options)
    wanted = [arm for arm in arms() if not options.arms or arm.name in options.arms]
    cache = study.cache()
    class_names = study.detector().class_names
    training, validation = (study.annotations(split, class_names) for split in ("train", SPLIT))
    for arm in wanted:
        recipe = WARM if arm.warm else FRESH
        train(arm, study, cache, training, replace(recipe, steps=options.steps or recipe.steps))
        score(arm, study, cache, validation)
        publish(study.work, lambda: rows(study.work), options.json, KEY)


if __name__ == "__main__":
    main()
