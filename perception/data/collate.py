"""Samples -> a Batch, whatever sensors each of them has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from perception.geometry.cameras import kannala_brandt_theta_max
from perception.structures import Batch, CameraImages, EchoBatch, PointBatch, PointCloud, Sample, UltrasonicEchoes
from perception.structures.sensors import ECHO_AXES

_CALIBRATION = ("intrinsics", "distortion", "camera2ego", "image2aug")


def collate(samples: Sequence[Sample]) -> Batch:
    """Puts samples side by side; a sensor that a sample lacks is marked absent.

    Where a sample has no pictures of a group that another has, its rows are zeros and identities with `present` False.

    Args:
        samples: B samples, at least one.

    Returns:
        The batch; no tensor is shared with the samples except annotations and truths.

    Raises:
        ValueError: no samples; a group differs in its cameras, picture size or camera model; the calibration of a
            camera that is present is not finite; points differ in fields.
    """
    if not samples:
        raise ValueError("collate: samples must hold at least one, got none")
    groups = dict.fromkeys(name for sample in samples for name in sample.cameras)
    return Batch(
        tokens=tuple(sample.token for sample in samples),
        scenes=tuple(sample.scene for sample in samples),
        timestamps_us=torch.tensor([sample.timestamp_us for sample in samples], dtype=torch.int64),
        ego2global=torch.stack([sample.ego2global for sample in samples]),  # B x (4, 4) -> (B, 4, 4)
        ego2aug=torch.stack([sample.ego2aug for sample in samples]),
        cameras={name: _collate_cameras(name, samples) for name in groups},
        lidar=_collate_points([sample.lidar for sample in samples]),
        radar=_collate_points([sample.radar for sample in samples]),
        radar4d=_collate_points([sample.radar4d for sample in samples]),
        ultrasonic=_collate_echoes([sample.ultrasonic for sample in samples]),
        near_field=tuple(sample.near_field for sample in samples),
        map=tuple(sample.map for sample in samples),
        occupancy=tuple(sample.occupancy for sample in samples),
        boxes=tuple(sample.boxes for sample in samples),
    )


def _collate_cameras(group: str, samples: Sequence[Sample]) -> CameraImages:
    pictures = [sample.cameras.get(group) for sample in samples]
    owner = next(index for index, cameras in enumerate(pictures) if cameras is not None)
    model = pictures[owner]
    assert model is not None, "a group comes from a sample that has it"
    for sample, cameras in zip(samples, pictures, strict=True):
        if cameras is not None and _layout(cameras) != _layout(model):
            raise ValueError(
                f"collate: camera group {group!r} must have the same cameras, model and picture size in all samples, "
                f"got {_layout(model)} in {samples[owner].token} and {_layout(cameras)} in {sample.token}"
            )
    absent = _absent_cameras(model)
    for sample in samples:
        _check_calibration(group, sample)
    rows = [absent if cameras is None else cameras for cameras in pictures]
    return replace(
        model,
        images=torch.stack([row.images for row in rows]),  # B x (N, 3, H, W) -> (B, N, 3, H, W)
        intrinsics=torch.stack([row.intrinsics for row in rows]),
        distortion=torch.stack([row.distortion for row in rows]),
        camera2ego=torch.stack([row.camera2ego for row in rows]),
        image2aug=torch.stack([row.image2aug for row in rows]),
        present=torch.stack([row.present for row in rows]),
        theta_max_rad=_collate_theta_max(rows),
    )


def _check_calibration(group: str, sample: Sample) -> None:
    cameras = sample.cameras.get(group)
    if cameras is None:
        return
    for field in _CALIBRATION:
        values: Tensor = getattr(cameras, field)
        bad = cameras.present & ~values.flatten(1).isfinite().all(1)
        if bool(bad.any()):
            row = int(bad.nonzero()[0, 0])
            raise ValueError(
                f"collate: sample {sample.token}, {cameras.names[row]}: {field} must be finite, "
                f"got {values[row].tolist()}"
            )


def _collate_theta_max(rows: Sequence[CameraImages]) -> Tensor | None:
    """(B, N), from the distortion where a sample says nothing; None where none says anything."""
    if all(row.theta_max_rad is None for row in rows):
        return None
    return torch.stack(
        [kannala_brandt_theta_max(row.distortion) if row.theta_max_rad is None else row.theta_max_rad for row in rows]
    )


def _layout(cameras: CameraImages) -> tuple[tuple[str, ...], str, tuple[int, int]]:
    return cameras.names, cameras.camera_model, cameras.image_size_px


def _absent_cameras(model: CameraImages) -> CameraImages:
    num_cameras = len(model.names)
    return replace(
        model,
        images=torch.zeros_like(model.images),
        intrinsics=_identities(num_cameras, 3),
        distortion=torch.zeros_like(model.distortion),
        camera2ego=_identities(num_cameras, 4),
        image2aug=_identities(num_cameras, 3),
        present=torch.zeros_like(model.present),
        theta_max_rad=None,
    )


def _collate_points(clouds: Sequence[PointCloud | None]) -> PointBatch | None:
    found = [cloud for cloud in clouds if cloud is not None]
    if not found:
        return None
    fields = found[0].fields
    if any(cloud.fields != fields for cloud in found):
        names = sorted({cloud.fields for cloud in found})
        raise ValueError(f"collate: points must have the same fields in all samples, got {names}")
    counts = [0 if cloud is None else len(cloud.points) for cloud in clouds]
    return PointBatch(
        points=torch.cat([cloud.points for cloud in found]),  # sum of P
        batch_index=_batch_index(counts),
        present=torch.tensor([cloud is not None for cloud in clouds]),
        sensor2ego=torch.stack([_identities(1, 4)[0] if cloud is None else cloud.sensor2ego for cloud in clouds]),
        fields=fields,
    )


def _collate_echoes(reports: Sequence[UltrasonicEchoes | None]) -> EchoBatch | None:
    found = [report for report in reports if report is not None]
    if not found:
        return None
    return EchoBatch(
        **{name: torch.cat([getattr(report, name) for report in found]) for name in ECHO_AXES},  # sum of E
        batch_index=_batch_index([0 if report is None else len(report) for report in reports]),
        present=torch.tensor([report is not None for report in reports]),
    )


def _batch_index(counts: Sequence[int]) -> Tensor:
    """(sum of counts,) the number of the sample that each row belongs to."""
    return torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))


def _identities(count: int, size: int) -> Tensor:
    return torch.eye(size, dtype=torch.float64).repeat(count, 1, 1)  # (count, size, size)
