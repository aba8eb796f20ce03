"""Sensors that fail: a transform that leaves a random part of them, so that one model learns all subsets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from perception.structures import CameraImages, PointCloud, Sample, UltrasonicEchoes
from perception.structures.sensors import ECHO_AXES, group_modality

MODALITIES = ("camera", "fisheye", "lidar", "radar", "radar4d", "ultrasonic")
"""Names of sensor kinds; "camera" is the group of cameras "surround", "fisheye" the group of that name."""


class SensorDropout:
    """Leaves a random non-empty part of the sensors that a sample has.

    First whole kinds fail: each by its own chance in `drop`, or together as `subsets` says. A sample that would lose
    all keeps what it would have kept by another draw of the same chances. Then single cameras, radars and ultrasonic
    sensors of the kinds that are left fail; one of each kind stays.

    Args:
        drop: chance that a kind fails, below 1, by name of the kind; kinds not named stay.
        subsets: weight by kinds joined with "+", such as "camera+lidar". One is drawn for each sample among those that
            it has something of; other kinds fail. A sample that has nothing of any stays whole.
        single: chance that one camera, radar or ultrasonic sensor fails, below 1, by name of its kind; an ultrasonic
            sensor neither sends nor hears.
        until_epoch: the transform is left out from this epoch on; None never.

    Raises:
        ValueError: a kind is unknown; a chance is not in 0..1, below 1; a weight is negative or none is positive; both
            `drop` and `subsets` are given.
    """

    def __init__(
        self,
        *,
        drop: Mapping[str, float] | None = None,
        subsets: Mapping[str, float] | None = None,
        single: Mapping[str, float] | None = None,
        until_epoch: int | None = None,
    ) -> None:
        self.drop = _check_chances("drop", drop or {})
        self.single = _check_chances("single", single or {})
        self.subsets = {frozenset(names.split("+")): float(weight) for names, weight in (subsets or {}).items()}
        self.until_epoch = until_epoch
        if self.drop and self.subsets:
            raise ValueError("SensorDropout: drop and subsets must not both be given, got both")
        weights = self.subsets.values()
        if self.subsets and not (all(weight >= 0 for weight in weights) and sum(weights) > 0):
            raise ValueError(f"SensorDropout: subsets must have weights >= 0, not all 0, got {subsets}")
        _check_kinds("drop", self.drop)
        _check_kinds("subsets", frozenset().union(*self.subsets))
        _check_kinds("single", self.single, tuple(name for name in MODALITIES if name != "lidar"))

    def __call__(self, sample: Sample, generator: torch.Generator) -> Sample:
        """Drops sensors of a sample.

        Args:
            sample: stays as it is.
            generator: source of all randomness.

        Returns:
            The sample with at least one of its sensors; all tensors of what is left are shared with the argument
            but where single sensors fail.
        """
        have = modalities_of(sample)
        # Drawn always, so that what other transforms draw does not depend on the sensors.
        chance = float(torch.rand((), generator=generator, dtype=torch.float64))
        seed = int(torch.randint(2**31, (), generator=generator))
        kept = self._draw(have, chance)
        sample = keep_modalities(sample, kept)
        own = torch.Generator().manual_seed(seed)
        for name in kept:
            if self.single.get(name, 0.0) > 0:
                sample = self._drop_single(sample, name, own)
        return sample

    def _draw(self, have: Sequence[str], chance: float) -> tuple[str, ...]:
        """The kinds that stay, for an even draw from 0 to 1."""
        weights: dict[tuple[str, ...], float] = {}
        if self.subsets:
            for names, weight in self.subsets.items():
                kept = tuple(name for name in have if name in names)
                if kept:
                    weights[kept] = weights.get(kept, 0.0) + weight
        else:
            for kept in (part for count in range(1, len(have) + 1) for part in combinations(have, count)):
                weight = 1.0
                for name in have:
                    dropped = self.drop.get(name, 0.0)
                    weight *= 1 - dropped if name in kept else dropped
                weights[kept] = weight
        total = sum(weights.values())
        left = chance * total
        for kept, weight in weights.items():
            left -= weight
            if left < 0:
                return kept
        return tuple(have)

    def _drop_single(self, sample: Sample, name: str, generator: torch.Generator) -> Sample:
        chance = self.single[name]
        changes: dict[str, Any] = {}
        if name in ("radar", "radar4d"):
            changes = {name: _without_radars(getattr(sample, name), chance, generator)}
        elif name == "ultrasonic":
            assert sample.ultrasonic is not None, "only kinds that a sample has are drawn"
            changes = {name: _without_ultrasonics(sample.ultrasonic, chance, generator)}
        else:
            group = next(group for group in sample.cameras if group_modality(group) == name)
            left = _without_cameras(sample.cameras[group], chance, generator)
            changes = {"cameras": {**sample.cameras, group: left}}
        return replace(sample, **changes)


def modalities_of(sample: Sample) -> tuple[str, ...]:
    """Names the kinds of sensors that a sample has.

    Args:
        sample: not batched.

    Returns:
        Some of `MODALITIES` and of the names of other groups of cameras, cameras first.
    """
    groups = (group_modality(group) for group, images in sample.cameras.items() if bool(images.present.any()))
    points = (name for name in ("lidar", "radar", "radar4d", "ultrasonic") if getattr(sample, name) is not None)
    return (*groups, *points)


def keep_modalities(sample: Sample, kept: Sequence[str]) -> Sample:
    """Takes the other kinds of sensors away.

    Args:
        sample: not batched; stays as it is.
        kept: names as `modalities_of` gives them.

    Returns:
        The sample with these kinds alone.
    """
    cameras = {group: images for group, images in sample.cameras.items() if group_modality(group) in kept}
    return replace(
        sample,
        cameras=cameras,
        lidar=sample.lidar if "lidar" in kept else None,
        radar=sample.radar if "radar" in kept else None,
        radar4d=sample.radar4d if "radar4d" in kept else None,
        ultrasonic=sample.ultrasonic if "ultrasonic" in kept else None,
    )


def _without_cameras(cameras: CameraImages, chance: float, generator: torch.Generator) -> CameraImages:
    present = cameras.present.clone()
    rows = present.nonzero()[:, 0]
    present[rows] = _staying(len(rows), chance, generator)
    return replace(cameras, present=present)


def _without_radars(cloud: PointCloud, chance: float, generator: torch.Generator) -> PointCloud:
    if cloud.sensor is None:
        return cloud
    radars, number = cloud.sensor.unique(return_inverse=True)
    stays = _staying(len(radars), chance, generator)[number]  # (P,)
    return replace(cloud, points=cloud.points[stays], sensor=cloud.sensor[stays])


def _without_ultrasonics(echoes: UltrasonicEchoes, chance: float, generator: torch.Generator) -> UltrasonicEchoes:
    sent_by = echoes.sensor if echoes.sent_by is None else echoes.sent_by
    sensors, number = torch.stack((echoes.sensor, sent_by)).unique(return_inverse=True)  # (2, E) numbers
    stays = _staying(len(sensors), chance, generator)[number].all(0)  # (E,)
    changes = {name: getattr(echoes, name)[stays] for name in ECHO_AXES}
    return replace(echoes, **changes, sent_by=None if echoes.sent_by is None else sent_by[stays])


def _staying(count: int, chance: float, generator: torch.Generator) -> Tensor:
    """(count,) bool; each fails by chance, one stays."""
    draws = torch.rand(count, generator=generator, dtype=torch.float64)
    return (draws >= chance) | (draws == draws.max()) if count else draws.bool()


def _check_kinds(name: str, kinds: Iterable[str], known: Sequence[str] = MODALITIES) -> None:
    if unknown := sorted(set(kinds) - set(known)):
        raise ValueError(f"SensorDropout: {name} must name kinds of {', '.join(known)}, got {', '.join(unknown)}")


def _check_chances(name: str, chances: Mapping[str, float]) -> dict[str, float]:
    if not all(0 <= chance < 1 for chance in chances.values()):
        raise ValueError(f"SensorDropout: {name} must be chances in 0..1, below 1, got {dict(chances)}")
    return dict(chances)
