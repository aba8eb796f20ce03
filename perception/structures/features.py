"""Features on their way from the encoders through the fuser to the heads."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from perception.geometry.grid import Grid
from perception.structures.sample import CameraImages
from perception.structures.tensors import check_shapes


@dataclass(frozen=True, kw_only=True)
class BevMap:
    """Features on one level of the shared BEV frame, in the augmented ego frame.

    Args:
        features: (B, C, Y, X).
        validity: (B, 1, Y, X) bool, where a sensor has said anything; features elsewhere carry no evidence.
        grid: where the cells lie.

    Raises:
        ValueError: shapes that do not fit each other or the grid.
    """

    features: Tensor
    validity: Tensor
    grid: Grid

    def __post_init__(self) -> None:
        sizes = {"Y": self.grid.num_y, "X": self.grid.num_x}
        check_shapes(self, {"features": "B C Y X", "validity": "B 1 Y X"}, sizes)


@dataclass(frozen=True, kw_only=True)
class CameraViews:
    """Features in the image plane of each camera, with what is needed to place them.

    Args:
        levels: one (B, N, C, H, W) per level, finest first.
        strides: pixels of `cameras.images` per feature cell, one per level.
        cameras: the calibration (batched).
    """

    levels: tuple[Tensor, ...]
    strides: tuple[int, ...]
    cameras: CameraImages


@dataclass(frozen=True, kw_only=True)
class SensorFeatures:
    """What one sensor kind knows.

    Args:
        present: (B,) bool; rows of absent samples are zeros that no fuser may read.
        bev: level name -> map.
        views: image-plane features, for cameras.
        aux: named outputs that the config pairs with loss modules.
    """

    present: Tensor
    bev: Mapping[str, BevMap] = field(default_factory=dict)
    views: CameraViews | None = None
    aux: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class FusedFeatures:
    """What all sensors know together.

    Args:
        bev: level name -> map.
        aux: named outputs that the config pairs with loss modules.
    """

    bev: Mapping[str, BevMap]
    aux: Mapping[str, Tensor] = field(default_factory=dict)
