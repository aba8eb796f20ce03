"""What the heads say about one sample."""

from dataclasses import dataclass

from torch import Tensor

from perception.geometry.grid import Grid
from perception.structures.tensors import check_shapes


@dataclass(frozen=True, kw_only=True)
class Detections:
    """Boxes found in one sample.

    Args:
        boxes: (M, 9) float32 in the ego frame (not the augmented one): x y z l w h yaw vx vy.
        scores: (M,) float32 in [0, 1], falling.
        labels: (M,) int64, index into the class names.

    Raises:
        TypeError: a field that must be a tensor is none.
        ValueError: shapes that do not fit each other.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        check_shapes(self, {"boxes": "M 9", "scores": "M", "labels": "M"})

    def __len__(self) -> int:
        return self.boxes.shape[0]


@dataclass(frozen=True, kw_only=True)
class NearFieldPrediction:
    """How likely something stands on the ground near the vehicle.

    Args:
        occupied: (Y, X) float32 probability in [0, 1], NaN where nothing was predicted; row = y cell, column = x cell.
        grid: where the cells lie in the ego frame (the true one, not the augmented).

    Raises:
        TypeError: `occupied` is no tensor.
        ValueError: shapes that do not fit the grid.
    """

    occupied: Tensor
    grid: Grid

    def __post_init__(self) -> None:
        check_shapes(self, {"occupied": "Y X"}, {"Y": self.grid.num_y, "X": self.grid.num_x})


@dataclass(frozen=True, kw_only=True)
class MapPrediction:
    """How likely each cell of the ground belongs to each class of the map.

    Args:
        probabilities: (K, Y, X) float32 in [0, 1], NaN where nothing was predicted; row = y cell, column = x cell.
        class_names: K names of the layers.
        grid: where the cells lie in the ego frame (the true one, not the augmented).

    Raises:
        TypeError: `probabilities` is no tensor.
        ValueError: shapes that do not fit the names and the grid.
    """

    probabilities: Tensor
    class_names: tuple[str, ...]
    grid: Grid

    def __post_init__(self) -> None:
        sizes = {"K": len(self.class_names), "Y": self.grid.num_y, "X": self.grid.num_x}
        check_shapes(self, {"probabilities": "K Y X"}, sizes)


@dataclass(frozen=True, kw_only=True)
class OccupancyPrediction:
    """What fills each voxel around the vehicle.

    Args:
        labels: (Z, Y, X) uint8, number in `perception.formats.occupancy.OCCUPANCY_CLASSES`.
        grid: where the voxels lie in the ego frame (the true one, not the augmented).

    Raises:
        TypeError: `labels` is no tensor.
        ValueError: shapes that do not fit the grid.
    """

    labels: Tensor
    grid: Grid

    def __post_init__(self) -> None:
        sizes = {"Z": self.grid.num_z, "Y": self.grid.num_y, "X": self.grid.num_x}
        check_shapes(self, {"labels": "Z Y X"}, sizes)


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Everything predicted for one sample.

    Args:
        token: the sample's token.
        detections: boxes; None where the model has no detection head.
        near_field: obstacles near the vehicle; None where the model has no near-field head.
        map: classes of the map; None where the model has no map head.
        occupancy: the occupied space; None where the model has no occupancy head.
    """

    token: str
    detections: Detections | None
    near_field: NearFieldPrediction | None = None
    map: MapPrediction | None = None
    occupancy: OccupancyPrediction | None = None
