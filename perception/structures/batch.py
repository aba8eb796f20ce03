"""Several samples side by side, as the models read them."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from perception.structures.sample import Boxes3D, CameraImages
from perception.structures.sensors import EchoBatch, NearField
from perception.structures.tensors import check_shapes, map_tensors
from perception.structures.truths import MapTruth, OccupancyTruth


@dataclass(frozen=True, kw_only=True)
class PointBatch:
    """Points of one sensor kind of several samples, concatenated.

    Args:
        points: (P, 3 + C) float32 in each sample's ego frame.
        batch_index: (P,) int64, the sample that each point belongs to, rising.
        present: (B,) bool; a sample whose sensor is absent has no points, one that saw nothing has none either.
        sensor2ego: (B, 4, 4) float64; identity where absent, and for points of several sensors.
        fields: names of the C extra columns.

    Raises:
        TypeError: a field that must be a tensor is none.
        ValueError: shapes that do not fit each other.
    """

    points: Tensor
    batch_index: Tensor
    present: Tensor
    sensor2ego: Tensor
    fields: tuple[str, ...]

    def __post_init__(self) -> None:
        shapes = {"points": "P F", "batch_index": "P", "present": "B", "sensor2ego": "B 4 4"}
        check_shapes(self, shapes, {"F": 3 + len(self.fields)})


@dataclass(frozen=True, kw_only=True)
class Batch:
    """B samples; an absent sensor is a mask (`present`), and None or not in the mapping where no sample has it.

    Args:
        tokens: B sample tokens.
        scenes: B scene names.
        timestamps_us: (B,) int64.
        ego2global: (B, 4, 4) float64.
        ego2aug: (B, 4, 4) float64.
        cameras: group name -> pictures with a leading batch axis.
        lidar: LiDAR points.
        boxes: B annotations, None for a sample without.
        radar: points of all radars, with `RADAR_FIELDS`.
        radar4d: points of all radars that measure height, with `RADAR4D_FIELDS`.
        ultrasonic: echoes of all ultrasonic sensors.
        near_field: B truths about the ground near the vehicle, None for a sample without; none given stands for B None.
        map: B truths about the classes of the map, likewise.
        occupancy: B truths about the occupied space, likewise.

    Raises:
        TypeError: a field that must be a tensor is none.
        ValueError: shapes that do not fit each other.
    """

    tokens: tuple[str, ...]
    scenes: tuple[str, ...]
    timestamps_us: Tensor
    ego2global: Tensor
    ego2aug: Tensor
    cameras: Mapping[str, CameraImages]
    lidar: PointBatch | None
    boxes: tuple[Boxes3D | None, ...]
    radar: PointBatch | None = None
    radar4d: PointBatch | None = None
    ultrasonic: EchoBatch | None = None
    near_field: tuple[NearField | None, ...] = ()
    map: tuple[MapTruth | None, ...] = ()
    occupancy: tuple[OccupancyTruth | None, ...] = ()

    def __post_init__(self) -> None:
        shapes = {"timestamps_us": "B", "ego2global": "B 4 4", "ego2aug": "B 4 4"}
        check_shapes(self, shapes, {"B": len(self.tokens)})
        if len(self.boxes) != len(self) or len(self.scenes) != len(self):
            raise ValueError(
                f"Batch: boxes and scenes must have {len(self)} entries, got {len(self.boxes)} and {len(self.scenes)}"
            )
        for name in ("near_field", "map", "occupancy"):
            truths = getattr(self, name) or (None,) * len(self)
            if len(truths) != len(self):
                raise ValueError(f"Batch: {name} must have {len(self)} entries, got {len(truths)}")
            object.__setattr__(self, name, truths)
        for name in ("lidar", "radar", "radar4d", "ultrasonic"):
            sensor = getattr(self, name)
            if sensor is not None and len(sensor.present) != len(self):
                raise ValueError(f"Batch: {name}.present must be ({len(self)}), got {tuple(sensor.present.shape)}")

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def device(self) -> torch.device:
        """Where the tensors lie."""
        return self.ego2aug.device

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """Copies the batch to a device.

        Args:
            device: where to.
            non_blocking: as `Tensor.to`.

        Returns:
            The batch there.
        """
        return map_tensors(self, lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Batch":
        """Copies the batch to page-locked memory (called by the data loader).

        Returns:
            The pinned batch.
        """
        return map_tensors(self, lambda tensor: tensor.pin_memory())
