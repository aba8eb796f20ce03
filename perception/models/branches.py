"""Branches: an encoder, and for cameras a view, run on the samples that have the sensor."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from perception.geometry.grid import Grid
from perception.models.encoders.image import ImageEncoder
from perception.models.encoders.ultrasonic import UltrasonicEncoder
from perception.models.layers import scatter_samples
from perception.models.parts import Branch, PointEncoder, View
from perception.structures import Batch, BevMap, EchoBatch, PointBatch, SensorFeatures
from perception.structures.sensors import ECHO_AXES, group_modality


class CameraBranch(Branch):
    """One group of cameras in the bird's-eye view.

    Args:
        encoder: pictures -> image features.
        view: image features -> map.
        group: name of the group in `Batch.cameras`.

    Raises:
        ValueError: the view does not read what the encoder gives.
    """

    def __init__(self, *, encoder: ImageEncoder, view: View, group: str = "surround") -> None:
        super().__init__()
        if view.in_channels != encoder.out_channels:
            raise ValueError(
                f"CameraBranch: view {type(view).__name__} requires {view.in_channels} channels, "
                f"but encoder {type(encoder).__name__} gives {encoder.out_channels}"
            )
        self.encoder = encoder
        self.view = view
        self.group = group
        self.sensor = group_modality(group)
        self.out_channels = view.out_channels

    def plan(self, batch: Batch, grids: Mapping[str, Grid]) -> Any:
        """Computes what the view needs and calibration alone decides.

        Args:
            batch: B samples.
            grids: level name -> grid.

        Returns:
            The view's plan for every batch with this calibration, the same present cameras and `ego2aug`; None where
            no camera is present.
        """
        cameras = batch.cameras.get(self.group)
        if cameras is None or not bool(cameras.present.any()):
            return None
        feature_size = self.encoder.feature_sizes(cameras.image_size_px)[self.view.view_level]
        return self.view.plan(cameras, feature_size, batch.ego2aug, grids)

    def forward(self, batch: Batch, grids: Mapping[str, Grid], plan: Any = None) -> SensorFeatures:
        """Encodes the pictures of the cameras that are present.

        Args:
            batch: B samples.
            grids: level name -> grid.
            plan: what `plan` gave for this calibration; None makes it.

        Returns:
            Map, image features and the view's auxiliary outputs; one camera of the group makes a sample present.
        """
        cameras = batch.cameras.get(self.group)
        if cameras is None or not bool(cameras.present.any()):
            return absent_features(batch, grids, self.out_channels)
        return self.view(self.encoder(cameras), batch.ego2aug, grids, plan)


class LidarBranch(Branch):
    """LiDAR points in the bird's-eye view.

    Args:
        encoder: points -> map.
    """

    sensor = "lidar"

    def __init__(self, *, encoder: PointEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.out_channels = encoder.out_channels

    def forward(self, batch: Batch, grids: Mapping[str, Grid], plan: None = None) -> SensorFeatures:
        """Encodes the points of the samples that have the sensor.

        Args:
            batch: B samples.
            grids: level name -> grid.
            plan: nothing is planned.

        Returns:
            The map; a sample whose sensor is present and saw nothing counts as present.
        """
        return _encode_points(self.encoder, batch.lidar, batch, grids)


class RadarBranch(Branch):
    """Radar returns in the bird's-eye view.

    Args:
        encoder: returns -> map.
        source: which radars: "radar", or "radar4d" for those that measure height.

    Raises:
        ValueError: unknown source.
    """

    def __init__(self, *, encoder: PointEncoder, source: Literal["radar", "radar4d"] = "radar") -> None:
        super().__init__()
        if source not in ("radar", "radar4d"):
            raise ValueError(f"RadarBranch: source must be 'radar' or 'radar4d', got {source!r}")
        self.encoder = encoder
        self.source = source
        self.sensor = source
        self.out_channels = encoder.out_channels

    def forward(self, batch: Batch, grids: Mapping[str, Grid], plan: None = None) -> SensorFeatures:
        """Encodes the returns of the samples that have a radar.

        Args:
            batch: B samples.
            grids: level name -> grid.
            plan: nothing is planned.

        Returns:
            The map; a sample whose radars are present and saw nothing counts as present.
        """
        return _encode_points(self.encoder, getattr(batch, self.source), batch, grids)


class UltrasonicBranch(Branch):
    """Ultrasonic echoes in the bird's-eye view.

    Args:
        encoder: echoes -> maps.
    """

    sensor = "ultrasonic"

    def __init__(self, *, encoder: UltrasonicEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.out_channels = encoder.out_channels

    def forward(self, batch: Batch, grids: Mapping[str, Grid], plan: None = None) -> SensorFeatures:
        """Encodes the echoes of the samples that have ultrasonic sensors.

        Args:
            batch: B samples.
            grids: level name -> grid.
            plan: nothing is planned.

        Returns:
            The maps; a sample whose sensors are present and heard nothing counts as present.
        """
        echoes = batch.ultrasonic
        if echoes is None or not bool(echoes.present.any()):
            return absent_features(batch, grids, self.out_channels)
        samples = echoes.present.nonzero()[:, 0]  # (S,)
        maps = self.encoder(_select_echoes(echoes), batch.ego2aug[samples], grids)
        return SensorFeatures(
            present=echoes.present, bev={level: _spread(bev, samples, len(batch)) for level, bev in maps.items()}
        )


def absent_features(batch: Batch, grids: Mapping[str, Grid], channels: Mapping[str, int]) -> SensorFeatures:
    """Gives the features of a sensor that no sample has.

    Args:
        batch: B samples.
        grids: level name -> grid.
        channels: level name -> channels.

    Returns:
        Zeros, present nowhere and valid nowhere.
    """
    bev = {}
    for level, count in channels.items():
        grid = grids[level]
        features = torch.zeros(len(batch), count, grid.num_y, grid.num_x, device=batch.device)
        bev[level] = BevMap(features=features, validity=torch.zeros_like(features[:, :1], dtype=torch.bool), grid=grid)
    return SensorFeatures(present=torch.zeros(len(batch), dtype=torch.bool, device=batch.device), bev=bev)


def _encode_points(
    encoder: PointEncoder, points: PointBatch | None, batch: Batch, grids: Mapping[str, Grid]
) -> SensorFeatures:
    if points is None or not bool(points.present.any()):
        return absent_features(batch, grids, encoder.out_channels)
    samples = points.present.nonzero()[:, 0]  # (S,)
    encoded: BevMap = encoder(_select_points(points), batch.ego2aug[samples], grids)
    return SensorFeatures(present=points.present, bev={encoder.level: _spread(encoded, samples, len(batch))})


def _spread(encoded: BevMap, samples: Tensor, batch_size: int) -> BevMap:
    """The map of S samples among all B."""
    return BevMap(
        features=scatter_samples(encoded.features, samples, batch_size),  # (S, C, Y, X) -> (B, C, Y, X)
        validity=scatter_samples(encoded.validity, samples, batch_size),
        grid=encoded.grid,
    )


def _select_points(points: PointBatch) -> PointBatch:
    """Keeps the samples that have the sensor, and their points."""
    if bool(points.present.all()):
        return points
    kept, batch_index = _select(points.present, points.batch_index)
    return PointBatch(
        points=points.points[kept],
        batch_index=batch_index,
        present=points.present[points.present],
        sensor2ego=points.sensor2ego[points.present],
        fields=points.fields,
    )


def _select_echoes(echoes: EchoBatch) -> EchoBatch:
    """Keeps the samples that have the sensors, and their echoes."""
    if bool(echoes.present.all()):
        return echoes
    kept, batch_index = _select(echoes.present, echoes.batch_index)
    rows = {name: getattr(echoes, name)[kept] for name in ECHO_AXES}
    return EchoBatch(**rows, batch_index=batch_index, present=echoes.present[echoes.present])


def _select(present: Tensor, batch_index: Tensor) -> tuple[Tensor, Tensor]:
    """Which rows belong to samples that have the sensor, and to which of these samples."""
    kept = present[batch_index]
    new_index = present.cumsum(0) - 1  # (B,) old sample -> new sample
    return kept, new_index[batch_index[kept]]
