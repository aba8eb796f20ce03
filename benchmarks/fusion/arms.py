"""What is trained: fusers for any subset of the sensors, and specialists that know one subset alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

LETTERS = {"C": "camera", "F": "fisheye", "L": "lidar", "R": "radar", "U": "ultrasonic"}
"""One letter for each branch."""

ALL = "C+F+L+R+U"
SUBSETS = ("C", "L", "R", "U", "F", "C+L", "C+R", "L+R", "C+L+R", ALL)
"""What every fuser is scored on."""

FUSERS = tuple(sorted(path.stem for path in (Path(__file__).parents[2] / "configs" / "fusers").glob("*.yaml")))
MAIN, BASELINE = "deformable", "concat_conv"

SPECIALISTS = ("C+L", "L", "C+R")
"""Subsets that have a model of their own to compare with, three seeds each."""


@dataclass(frozen=True)
class Draws:
    """How often a sample of a run for any subset has which sensors.

    Attributes:
        whole: share of the samples with all sensors.
        eyes: cameras and LiDAR of the others -> share of them.
        kept: any other sensor -> how often those have it.
    """

    whole: float
    eyes: Mapping[str, float]
    kept: Mapping[str, float]


ANY_SUBSET = Draws(
    whole=0.1,
    eyes={"C": 0.74, "L": 0.12, "CL": 0.08, "": 0.06},
    kept={"F": 0.6, "R": 0.95, "U": 0.6},
)
"""Most lack LiDAR, as they have the most to learn: neck and heads saw one in most samples of the branches' run."""


@dataclass(frozen=True)
class Arm:
    """One training run.

    Attributes:
        fuser: name of its config in `configs/fusers`.
        sensors: the subset that it is trained on, such as "C+L"; None: any, drawn for each sample.
        seed: of order, initial weights and drawn subsets.
        end_to_end: whether its branches were trained with it, as `tools/train.py` does.
        warm: whether its fuser, too, starts from the branches' run, in which it has met any subset.
    """

    fuser: str
    sensors: str | None = None
    seed: int = 0
    end_to_end: bool = False
    warm: bool = False

    @property
    def name(self) -> str:
        """Name of its folder."""
        trained_on = "end-to-end" if self.end_to_end else self.sensors or "any"
        return f"{self.fuser}-{trained_on}-{self.seed}" + ("-warm" if self.warm else "")

    @property
    def sees_near(self) -> bool:
        """Whether any of its sensors sees the near field; one of which none does is not trained on it."""
        return self.sensors is None or not {"F", "U"}.isdisjoint(self.sensors)

    @property
    def scored_on(self) -> tuple[str, ...]:
        """Subsets that it is scored on: a specialist on its own, a further seed where specialists are."""
        if self.sensors not in (None, ALL):
            return (str(self.sensors),)
        return SPECIALISTS if self.seed else SUBSETS


def arms() -> list[Arm]:
    """Every run of the study, the most wanted ones first.

    Returns:
        What the main fuser is for any subset and for one, from the same start, three seeds of each; fusers that start
        untrained: the main one and the baseline, the baseline that has never missed a sensor, the others.
    """
    runs = [Arm(MAIN, subset, seed, warm=True) for seed in range(3) for subset in (None, *SPECIALISTS)]
    runs += [Arm(MAIN), Arm(BASELINE), Arm(BASELINE, ALL)]
    return runs + [Arm(fuser) for fuser in FUSERS if fuser not in (MAIN, BASELINE)]


def end_to_end_arms() -> list[Arm]:
    """The models that are trained as a whole, to see what kept maps cost."""
    return [Arm(fuser, end_to_end=True) for fuser in (MAIN, BASELINE)]


def scored_arms() -> list[Arm]:
    """Everything that has rows: the runs of the study, then the models that are trained as a whole."""
    return [*arms(), *end_to_end_arms()]


def branches_of(subset: str) -> frozenset[str]:
    """The branches of a subset such as "C+L"."""
    return frozenset(LETTERS[letter] for letter in subset.split("+"))


def drawn_sensors(arm: Arm, count: int, generator: torch.Generator, draws: Draws = ANY_SUBSET) -> list[frozenset[str]]:
    """The sensors of the samples of a batch.

    Args:
        arm: says whether they are drawn.
        count: B samples.
        generator: source of the draws.
        draws: how often they have which.

    Returns:
        B sets of branches, none empty.
    """
    if arm.sensors is not None:
        return [branches_of(arm.sensors)] * count
    shares = torch.tensor(list(draws.eyes.values()))
    result: list[frozenset[str]] = []
    while len(result) < count:
        whole, *chances = torch.rand(1 + len(draws.kept), generator=generator).tolist()
        eyes = list(draws.eyes)[int(torch.multinomial(shares, 1, generator=generator))]
        others = {letter for letter, chance in zip(draws.kept, chances, strict=True) if chance < draws.kept[letter]}
        chosen = set(LETTERS) if whole < draws.whole else {*eyes, *others}
        result += [branches_of("+".join(sorted(chosen)))] if chosen else []
    return result
