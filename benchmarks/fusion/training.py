"""One run of the study: fuser, neck and heads on cached maps; interrupted, it goes on where it was."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from benchmarks.fusion.arms import Arm, drawn_sensors
from benchmarks.fusion.study import Study, run_from_features
from perception.data.collate import collate
from perception.formats.files import atomic_writer
from perception.models.detector import Detector
from perception.runtime.checkpoint import save_weights
from perception.structures import Sample
from perception.training.feature_cache import FeatureCache
from perception.training.schedules import WarmupCosine

FIRST_SEED = 1000
"""Initial weights must not be those that the branches' run began with: its neck has learnt to read these."""

_SAVE_EVERY = 100


@dataclass(frozen=True)
class Recipe:
    """How a run is trained.

    Attributes:
        steps: of the optimizer.
        batch_size: samples of a step.
        learning_rate: highest of the run, of what starts trained.
        fresh_learning_rate: the same of what starts untrained.
        weight_decay: of AdamW.
        clip: largest norm of the gradient.
        ema: share of the averaged weights that a step keeps; small, for a short run must forget its untrained start.
    """

    steps: int = 600
    batch_size: int = 4
    learning_rate: float = 1e-3
    fresh_learning_rate: float = 4e-3
    weight_decay: float = 0.01
    clip: float = 35.0
    ema: float = 0.98


FRESH = Recipe()
"""Of runs with an untrained fuser; the slowest fuser takes 1.3 s a step on two cores, so none more than 15 minutes."""

WARM = Recipe(steps=1000, learning_rate=2e-3)
"""Of runs that start trained as a whole."""


@dataclass(frozen=True)
class Run:
    """One run, of this study or of another that trains on kept maps.

    Attributes:
        folder: of the run; holds `weights.safetensors` once it is finished.
        name: for people.
        recipe: how to train.
        note: plain values that are kept with the weights.
    """

    folder: Path
    name: str
    recipe: Recipe
    note: Mapping[str, Any]

    @property
    def weights(self) -> Path:
        """The trained weights, there once the run is finished."""
        return self.folder / "weights.safetensors"


def train(arm: Arm, study: Study, cache: FeatureCache, samples: list[Sample], recipe: Recipe) -> None:
    """Trains a run to its end; a finished one is left alone.

    Args:
        arm: which run.
        study: where everything lies.
        cache: the branches' maps.
        samples: annotations of the training samples.
        recipe: how.
    """
    run = Run(study.work / "runs" / arm.name, arm.name, recipe, {"arm": asdict(arm)})
    if run.weights.exists():
        return
    torch.manual_seed(FIRST_SEED + arm.seed)
    detector = study.detector(arm.fuser, arm.warm)
    fresh = [] if arm.warm else [detector.fuser]
    optimise(detector, lambda step: _loss(detector, arm, cache, samples, recipe, step), run, fresh)


def optimise(
    detector: Detector, loss_of: Callable[[int], torch.Tensor], run: Run, fresh: Iterable[torch.nn.Module]
) -> None:
    """Trains all but the branches; interrupted, it goes on where it was.

    Args:
        detector: as it starts.
        loss_of: the loss of a step that is counted from 0, with its graph.
        run: where and how.
        fresh: its modules that start untrained.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    detector.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a sixth faster
    detector.branches.requires_grad_(False).eval()
    trainable = [parameter for parameter in detector.parameters() if parameter.requires_grad]
    recipe, new = run.recipe, {id(parameter) for module in fresh for parameter in module.parameters()}
    groups = [
        {"params": [it for it in trainable if id(it) not in new], "lr": recipe.learning_rate},
        {"params": [it for it in trainable if id(it) in new], "lr": recipe.fresh_learning_rate},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=recipe.weight_decay)
    schedule = WarmupCosine(warmup=0.1).build(optimizer, recipe.steps)
    average = AveragedModel(detector, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema), use_buffers=True)
    state: dict[str, Any] = {"detector": detector, "optimizer": optimizer, "schedule": schedule, "average": average}
    checkpoint = run.folder / "checkpoint.pt"
    begin, spent_s = _resume(checkpoint, state)
    for step in tqdm(range(begin, recipe.steps), desc=run.name, initial=begin, total=recipe.steps):
        start_s = time.perf_counter()
        loss = loss_of(step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable, recipe.clip)
        optimizer.step()
        schedule.step()
        average.update_parameters(detector)
        spent_s += time.perf_counter() - start_s
        if step % _SAVE_EVERY == _SAVE_EVERY - 1:
            kept = {name: part.state_dict() for name, part in state.items()}
            _save(checkpoint, {"step": step + 1, "spent_s": spent_s, **kept})
            print(f"{run.name}: step {step + 1}, loss {float(loss.detach()):.3f}, {spent_s:.0f} s", flush=True)
    note = {**run.note, "recipe": asdict(recipe), "train_s": spent_s}
    with atomic_writer(run.folder / "run.json") as file:
        file.write(json.dumps(note).encode())
    averaged = average.module
    assert isinstance(averaged, Detector), "the average is of the detector"
    save_weights(averaged, run.weights, {name: json.dumps(value) for name, value in note.items()})
    checkpoint.unlink(missing_ok=True)


def drawn_places(seed: int, count: int, batch_size: int, step: int) -> list[int]:
    """Which samples a step is trained on: a new order in every epoch, which depends on seed and step alone.

    Args:
        seed: of the run.
        count: of the training samples.
        batch_size: samples of a step.
        step: counted from 0.

    Returns:
        As many places as a batch has, below `count`.
    """
    per_epoch = count // batch_size
    order = torch.Generator().manual_seed(1_000_003 * seed + step // per_epoch)
    first = step % per_epoch * batch_size
    return torch.randperm(count, generator=order)[first : first + batch_size].tolist()


def _loss(
    detector: Detector, arm: Arm, cache: FeatureCache, samples: list[Sample], recipe: Recipe, step: int
) -> torch.Tensor:
    """The loss of one step; samples and sensors depend on the arm's seed and the step alone."""
    batch = collate([samples[i] for i in drawn_places(arm.seed, len(samples), recipe.batch_size, step)])
    drawn = drawn_sensors(arm, len(batch), torch.Generator().manual_seed(7_919 * arm.seed + 104_729 + step))
    features = cache.read(cache.rows(batch.tokens), drawn)
    with torch.autocast("cpu", torch.bfloat16):
        output = run_from_features(detector, features)
        losses = detector.losses(output, batch)
    if not arm.sees_near:
        losses = {name: loss for name, loss in losses.items() if not name.startswith("near_field/")}
    return torch.stack(list(losses.values())).sum()


def _resume(path: Path, state: dict[str, Any]) -> tuple[int, float]:
    if not path.exists():
        return 0, 0.0
    kept = torch.load(path, weights_only=True)
    for name, part in state.items():
        part.load_state_dict(kept[name])
    return kept["step"], kept["spent_s"]


def _save(path: Path, content: dict[str, Any]) -> None:
    draft = path.with_suffix(".draft")
    torch.save(content, draft)
    draft.rename(path)
