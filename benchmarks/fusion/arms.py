"""What is trained: fusers for any subset of the sensors, and specialists that know one subset alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch

LETTERS = {"C": "camera", "F": "fisheye", "L": "lidar", "R": "radar", "U": "ultrasonic"}
"""One letter for each branch."""

ALL = "C+F+L+R+U"
SUBSETS = ("C", "L", "R", "U", "F", "C+L", "C+R", "L+R", "C+L+R", ALL)
"""What every fuser is scored on."""

FUSERS = (
    "concat_conv",
    "gmu",
    "ssma",
    "cmx",
    "bottleneck",
    "sequential",
    "qmf",
    "metaocc",
    "reconstruction",
    "deformable",
)
MAIN, BASELINE = "deformable", "concat_conv"

SPECIALISTS = ("C+L", "L", "C+R")
"""Subsets that have a model of their own to compare with, three seeds each."""

_WHOLE = 0.15
_EYES = {frozenset("C"): 0.46, frozenset("L"): 0.26, frozenset("CL"): 0.16, frozenset(): 0.12}
"""Which of cameras and LiDAR a sample that lacks something has. Those without LiDAR are the most, as they have the most
to learn: neck and heads have seen a LiDAR in most samples of the branches' run."""
_KEPT = {"F": 0.6, "R": 0.75, "U": 0.6}


@dataclass(frozen=True)
class Arm:
    """One training run.

    Attributes:
        fuser: name of its config in `configs/fusers`.
        sensors: the subset that it is trained on, such as "C+L"; None: any, drawn for each sample.
        seed: of order, initial weights and drawn subsets.
        end_to_end: whether its branches were trained with it, as `tools/train.py` does.
    """

    fuser: str
    sensors: str | None = None
    seed: int = 0
    end_to_end: bool = False

    @property
    def name(self) -> str:
        """Name of its folder."""
        trained_on = "end-to-end" if self.end_to_end else self.sensors or "any"
        return f"{self.fuser}-{trained_on}-{self.seed}"

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
        The main fuser and the baseline; the baseline that has never missed a sensor; specialists and the main fuser,
        three seeds of each; the other fusers.
    """
    runs = [Arm(MAIN), Arm(BASELINE), Arm(BASELINE, ALL)]
    for seed in range(3):
        runs += [Arm(MAIN, subset, seed) for subset in SPECIALISTS]
        runs += [Arm(MAIN, None, seed)] if seed else []
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


def drawn_sensors(arm: Arm, count: int, generator: torch.Generator) -> list[frozenset[str]]:
    """The sensors of the samples of a batch.

    Args:
        arm: says whether they are drawn.
        count: B samples.
        generator: source of the draws.

    Returns:
        B sets of branches, none empty.
    """
    if arm.sensors is not None:
        return [branches_of(arm.sensors)] * count
    result: list[frozenset[str]] = []
    while len(result) < count:
        whole, *chances = torch.rand(1 + len(_KEPT), generator=generator).tolist()
        eyes = list(_EYES)[int(torch.multinomial(torch.tensor(list(_EYES.values())), 1, generator=generator))]
        others = {letter for letter, chance in zip(_KEPT, chances, strict=True) if chance < _KEPT[letter]}
        chosen = frozenset(LETTERS) if whole < _WHOLE else eyes | others
        result += [branches_of("+".join(chosen))] if chosen else []
    return result
