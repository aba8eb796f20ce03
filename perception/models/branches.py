"""Branches: an encoder, and for cameras a view, run on the samples that have the sensor."""

from collections.abc import Mapping
from typing import Any

import torch

from perception.geometry.grid import Grid
from perception.models.encoders.image import ImageEncoder
from perception.models.layers import scatter_samples
from perception.models.parts import Branch, PointEncoder, View
from perception.structures import Batch, BevMap, PointBatch, SensorFeatures


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
        lidar = batch.lidar
        if lidar is None or not bool(lidar.present.any()):
            return absent_features(batch, grids, self.out_channels)
        samples = lidar.present.nonzero()[:, 0]  # (S,)
        encoded: BevMap = self.encoder(_select(lidar), batch.ego2aug[samples], grids)
        level = BevMap(
            features=scatter_samples(encoded.features, samples, len(batch)),  # (S, C, Y, X) -> (B, C, Y, X)
            validity=scatter_samples(encoded.validity, samples, len(batch)),
            grid=encoded.grid,
        )
        return SensorFeatures(present=lidar.present, bev={self.encoder.level: level})


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


def _select(lidar: PointBatch) -> PointBatch:
    """Keeps the samples that have the sensor, and their points."""
    if bool(lidar.present.all()):
        return lidar
    kept = lidar.present[lidar.batch_index]
    new_index = lidar.present.cumsum(0) - 1  # (B,) old sample -> new sample
    return PointBatch(
        points=lidar.points[kept],
        batch_index=new_index[lidar.batch_index[kept]],
        present=lidar.present[lidar.present],
        sensor2ego=lidar.sensor2ego[lidar.present],
        fields=lidar.fields,
    )
