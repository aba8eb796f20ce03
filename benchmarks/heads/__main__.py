"""Runs the study, or goes on with it: `python -m benchmarks.heads --dataroot D --work W --weights F`.

With the same `--work` as the fusion study its maps of the branches serve. Whatever is finished is not done again, so
the settings of a work folder must stay. Several processes may work at once, each on runs of its own
(`--arms joint-0 map-0`); `--arms prior` scores what looks at nothing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.fusion.scoring import SPLIT, publish
from benchmarks.fusion.study import add_study_arguments, study_of
from benchmarks.fusion.training import Recipe
from benchmarks.heads.arms import PRIOR, Arm, arms
from benchmarks.heads.scoring import rows, score, score_priors
from benchmarks.heads.training import Plan, train
from benchmarks.heads.truths import TrainingSamples

RESULTS = Path(__file__).parents[1] / "results" / "heads.json"


def main() -> None:
    """Runs the command line."""
    names = [arm.name for arm in arms()]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_study_arguments(parser)
    parser.add_argument("--trunk", type=Path, help="weights that fuser and neck start from, of the fusion study")
    parser.add_argument("--sensors", choices=["all", "any"], default="all", help="what each sample is trained on with")
    parser.add_argument(
        "--arms", nargs="*", choices=[*names, PRIOR], metavar="NAME", help="of runs; all if nothing is said"
    )
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=Recipe.batch_size)
    parser.add_argument("--json", type=Path, default=RESULTS)
    options = parser.parse_args()
    study = study_of(options)
    recipe = Recipe(steps=options.steps, batch_size=options.batch_size)
    plan = Plan(study, recipe, options.trunk, options.sensors == "any")
    wanted = [arm for arm in arms() if not options.arms or arm.name in options.arms]
    folder = study.work / "heads"
    folder.mkdir(parents=True, exist_ok=True)
    if not options.arms or PRIOR in options.arms:
        score_priors(study, folder)
        _publish(folder, options.json)
    _run([arm for arm in wanted if not (folder / arm.name / "scores.json").exists()], plan, options.json)


def _run(wanted: list[Arm], plan: Plan, results: Path) -> None:
    if not wanted:
        return
    study, cache = plan.study, plan.study.cache()
    class_names = plan.detector(wanted[0]).class_names
    untrained = [arm for arm in wanted if not plan.run(arm).weights.exists()]
    tasks = {task for arm in untrained for task in arm.tasks}
    samples = TrainingSamples(study, class_names, sorted(tasks)) if untrained else None
    validation = study.annotations(SPLIT, class_names)
    for arm in wanted:
        if arm in untrained and samples is not None:
            train(arm, plan, cache, samples)
        score(arm, plan, cache, validation)
        _publish(study.work / "heads", results)


def _publish(folder: Path, results: Path) -> None:
    publish(folder, lambda: rows(folder), results, ("kind", "seed", "mask"))


if __name__ == "__main__":
    main()
