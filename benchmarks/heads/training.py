"""One run of the study: fuser, neck and the heads of its tasks on cached maps."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.fusion.arms import ALL, Draws, branches_of, drawn_sensors
from benchmarks.fusion.arms import Arm as FusionArm
from benchmarks.fusion.study import CONFIGS, Study, run_from_features
from benchmarks.fusion.training import FIRST_SEED, Recipe, Run, drawn_places, optimise
from benchmarks.heads.arms import JOINT, QUERY, Arm
from benchmarks.heads.truths import TrainingSamples
from perception.data.collate import collate
from perception.models.detector import Detector
from perception.runtime.checkpoint import load_weights
from perception.runtime.config import build_detector, load_config
from perception.structures import SensorFeatures
from perception.training.feature_cache import FeatureCache
from perception.training.gradients import GradientMonitor, gradient_figures, watched

MODEL = CONFIGS / "models" / "every_task_small.yaml"
QUERY_HEAD = CONFIGS / "models" / "parts" / "head_query_small.yaml"
_MONITOR = GradientMonitor(every_n_steps=50)
_DRAWS = Draws(whole=0.15, eyes={"C": 0.46, "L": 0.26, "CL": 0.16, "": 0.12}, kept={"F": 0.6, "R": 0.75, "U": 0.6})
"""Half of the samples have LiDAR: what heads say is measured with all sensors."""


@dataclass(frozen=True)
class Plan:
    """What all runs have in common.

    Attributes:
        study: of the branches and their maps.
        recipe: how to train.
        trunk: weights that fuser and neck start from, as a run of the fusion study leaves them; None starts with the
            neck of the branches' run and an untrained fuser.
        any_subset: whether each sample is trained on with some of its sensors, as in the fusion study; else with all.
    """

    study: Study
    recipe: Recipe
    trunk: Path | None = None
    any_subset: bool = False

    def run(self, arm: Arm) -> Run:
        """Where and how an arm is trained."""
        trunk = None if self.trunk is None else self.trunk.parent.name
        note = {"arm": asdict(arm), "any_subset": self.any_subset, "trunk": trunk}
        return Run(self.study.work / "heads" / arm.name, arm.name, self.recipe, note)

    def detector(self, arm: Arm) -> Detector:
        """The detector of an arm as it starts: branches and trunk as they are given, heads untrained."""
        arguments = load_config(MODEL)
        heads = arguments["init_args"]["heads"]
        chosen = {task: heads[task] for task in arm.tasks}
        if arm.kind == QUERY:
            chosen["boxes"] = load_config(QUERY_HEAD)
        detector = build_detector({**arguments, "init_args": {**arguments["init_args"], "heads": chosen}})
        load_weights(detector, self.study.weights, "branches")
        load_weights(detector, self.trunk or self.study.weights, "neck")
        if self.trunk is not None:
            load_weights(detector, self.trunk, "fuser")
        return detector


def train(arm: Arm, plan: Plan, cache: FeatureCache, samples: TrainingSamples) -> None:
    """Trains a run to its end.

    Args:
        arm: which run.
        plan: how.
        cache: the branches' maps.
        samples: of the training split.
    """
    torch.manual_seed(FIRST_SEED + arm.seed)
    detector = plan.detector(arm)
    fresh = [*detector.heads.values(), *([] if plan.trunk else [detector.fuser])]
    optimise(detector, lambda step: _loss(detector, arm, plan, cache, samples, step), plan.run(arm), fresh)


def gradient_means(run: Run) -> dict[str, float]:
    """How strongly and in which agreement the tasks pulled, on average over a run.

    Args:
        run: of several tasks.

    Returns:
        Figures by name, as `perception.training.gradients.gradient_figures` gives them; none of a run of one task.
    """
    path = run.folder / "gradients.jsonl"
    found = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        row = json.loads(line)
        found[row["step"]] = row["figures"]  # a step that was done again after an interruption counts once
    names = sorted({name for figures in found.values() for name in figures})
    columns = {name: [figures[name] for figures in found.values() if name in figures] for name in names}
    return {name: sum(values) / len(values) for name, values in columns.items()}


def _loss(detector: Detector, arm: Arm, plan: Plan, cache: FeatureCache, samples: TrainingSamples, step: int) -> Tensor:
    """The loss of one step; samples, sensors and whatever is drawn depend on the arm's seed and the step alone."""
    torch.manual_seed(1_000_003 * arm.seed + step)
    places = drawn_places(arm.seed, len(samples), plan.recipe.batch_size, step)
    batch = collate([samples.sample(place, arm.tasks) for place in places])
    features = cache.read(cache.rows(batch.tokens), _sensors(arm, plan, len(batch), step))
    measured = arm.kind == JOINT and _MONITOR.due(step)
    with torch.autocast("cpu", torch.bfloat16), watched(detector) as maps:
        if measured:
            maps |= {name: _leaves(part) for name, part in features.items() if bool(part.present.any())}
        losses = detector.losses(run_from_features(detector, features), batch)
    if measured:
        figures = {name: float(value) for name, value in gradient_figures(losses, maps).items()}
        _append(plan.run(arm).folder / "gradients.jsonl", {"step": step, "figures": figures})
    return torch.stack(list(losses.values())).sum()


def _sensors(arm: Arm, plan: Plan, count: int, step: int) -> list[frozenset[str]]:
    if not plan.any_subset:
        return [branches_of(ALL)] * count
    generator = torch.Generator().manual_seed(7_919 * arm.seed + 104_729 + step)
    return drawn_sensors(FusionArm("any", None, arm.seed), count, generator, _DRAWS)


def _leaves(part: SensorFeatures) -> list[Tensor]:
    """The maps of a branch, from now on with a gradient."""
    return [level.features.requires_grad_() for level in part.bev.values()]


def _append(path: Path, row: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
