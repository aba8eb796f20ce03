"""What radars and ultrasonic sensors tell, and what is known of the ground near the vehicle."""

from dataclasses import dataclass

from torch import Tensor

from perception.geometry.grid import Grid
from perception.structures.tensors import check_shapes

RADAR_FIELDS = (
    "rcs_dbsm",
    "vx_mps",
    "vy_mps",
    "time_lag_s",
    "cov_xx_m2",
    "cov_xy_m2",
    "cov_yy_m2",
    "quality",
)
"""Extra columns of radar points in a `PointCloud` or `PointBatch`: cross-section; velocity over ground along the line
of sight, in ego axes, NaN where unknown; seconds before the sample's time; covariance of x and y; trust in the
measurement, 0 to 1."""

RADAR4D_FIELDS = ("power_db", *RADAR_FIELDS[1:])
"""The same of radars that measure height, with the power over the noise in place of the cross-section."""

ECHO_AXES = {
    "sender": "E 3",
    "receiver": "E 3",
    "distance_m": "E",
    "beam_rad": "E",
    "sigma_m": "E",
    "level": "E",
    "age_s": "E",
    "kind": "E",
    "state": "E",
    "sensor": "E",
}
"""The tensors of one echo per row that `UltrasonicEchoes` and `EchoBatch` share, with their axes."""


def group_modality(group: str) -> str:
    """The name of a group of cameras as a kind of sensor.

    Args:
        group: name in `Sample.cameras`.

    Returns:
        "camera" for "surround", else the name itself.
    """
    return "camera" if group == "surround" else group


@dataclass(frozen=True, kw_only=True)
class UltrasonicEchoes:
    """What the ultrasonic sensors of one sample reported, one row per echo or statement of no echo.

    Args:
        sender: (E, 3) float32 x y in metres and heading in radians, in the ego frame at the sample's time, of the
            sensor that sent, where it was at its burst.
        receiver: (E, 3) float32 likewise of the sensor that heard, where it was when it heard. For a direct echo both
            are the same: where the sensor was half-way between.
        distance_m: (E,) float32 half the path of the sound; the largest that would have been heard where there is no
            echo.
        beam_rad: (E,) float32 angle off the axis at which a direct echo counts half.
        sigma_m: (E,) float32 standard deviation of the distance.
        level: (E,) float32 loudness in (0, 1]; 0 where there is no echo.
        age_s: (E,) float32 how long before the sample's time it was heard.
        kind: (E,) int64 `perception.ops.echo_splat.EchoKind`.
        state: (E,) int64 `perception.formats.ultrasonic.EchoState` of the report.
        sensor: (E,) int64 number of the sensor that heard, from 1.
        sent_by: (E,) int64 number of the sensor that sent; None where nobody asks.

    Raises:
        TypeError: a field that must be a tensor is none.
        ValueError: shapes that do not fit each other.
    """

    sender: Tensor
    receiver: Tensor
    distance_m: Tensor
    beam_rad: Tensor
    sigma_m: Tensor
    level: Tensor
    age_s: Tensor
    kind: Tensor
    state: Tensor
    sensor: Tensor
    sent_by: Tensor | None = None

    def __post_init__(self) -> None:
        check_shapes(self, ECHO_AXES if self.sent_by is None else {**ECHO_AXES, "sent_by": "E"})

    def __len__(self) -> int:
        return self.distance_m.shape[0]


@dataclass(frozen=True, kw_only=True)
class EchoBatch(UltrasonicEchoes):
    """Echoes of several samples, concatenated, each in its own sample's ego frame.

    Args:
        batch_index: (E,) int64, the sample that each echo belongs to, rising.
        present: (B,) bool; a sample whose sensors are absent has no echoes, one may be present without any.

    Raises:
        TypeError: a field that must be a tensor is none.
        ValueError: shapes that do not fit each other.
    """

    batch_index: Tensor
    present: Tensor

    def __post_init__(self) -> None:
        check_shapes(self, {**ECHO_AXES, "batch_index": "E", "present": "B"})


@dataclass(frozen=True, kw_only=True)
class NearField:
    """What is known of the ground near the vehicle: free, occupied, unknown.

    Args:
        cells: (Y, X) uint8 `perception.formats.near_field.NearFieldCell`; row = y cell, column = x cell.
        grid: where the cells lie in the ego frame (the true one, not the augmented).

    Raises:
        TypeError: `cells` is no tensor.
        ValueError: shapes that do not fit the grid.
    """

    cells: Tensor
    grid: Grid

    def __post_init__(self) -> None:
        check_shapes(self, {"cells": "Y X"}, {"Y": self.grid.num_y, "X": self.grid.num_x})
