"""What is trained: all tasks together, each alone, and boxes by queries instead of a dense map."""

from __future__ import annotations

from dataclasses import dataclass

TASKS = ("boxes", "near_field", "map", "occupancy")
"""The heads of `configs/models/every_task_small.yaml`."""

JOINT, QUERY, PRIOR = "joint", "query", "prior"
SEEDS = range(3)


@dataclass(frozen=True)
class Arm:
    """One training run.

    Attributes:
        kind: `JOINT` trains all tasks, the name of a task that one alone, `QUERY` boxes alone with a query head.
        seed: of order, initial weights and drawn subsets.
    """

    kind: str
    seed: int = 0

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"{self.kind}-{self.seed}"

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that it is trained for."""
        if self.kind == JOINT:
            return TASKS
        return ("boxes",) if self.kind == QUERY else (self.kind,)


def arms() -> list[Arm]:
    """Every run of the study.

    Returns:
        All kinds with the first seed, then with the next ones.
    """
    return [Arm(kind, seed) for seed in SEEDS for kind in (JOINT, *TASKS, QUERY)]
