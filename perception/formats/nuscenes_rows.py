"""The rows of the nuScenes tables: what each one holds, as the devkit's schema names it."""

from __future__ import annotations

from typing import Annotated

import msgspec

Int32 = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Vector = tuple[float, float, float]
Quaternion = tuple[float, float, float, float]


class Row(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What every row has: a token that is unique in its table. Keys that are not named here are ignored."""

    token: str


class CategoryRow(Row, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """A kind of object; `index` exists where the set has point labels."""

    name: str
    description: str = ""
    index: Int64 | None = None


class AttributeRow(Row, frozen=True, gc=False, kw_only=True):
    """A state that an object may be in."""

    name: str
    description: str = ""


class VisibilityRow(Row, frozen=True, gc=False, kw_only=True):
    """A bin of the visible fraction over all cameras."""

    level: str
    description: str = ""


class InstanceRow(Row, frozen=True, gc=False, kw_only=True):
    """One object through one scene."""

    category_token: str
    nbr_annotations: Int64
    first_annotation_token: str
    last_annotation_token: str


class SensorRow(Row, frozen=True, gc=False, kw_only=True):
    """A place on the vehicle where something listens."""

    channel: str
    modality: str


class CalibratedSensorRow(Row, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """A sensor as mounted on one vehicle: sensor to ego, rotation w x y z; intrinsics of cameras, else ().

    What follows `camera_intrinsic` is an addition for fisheye cameras; nuScenes itself has pinholes only. A fisheye's
    picture is a circle that ends at the angle `camera_theta_max_rad` from the axis, and means nothing beyond.
    """

    sensor_token: str
    translation: Vector
    rotation: Quaternion
    camera_intrinsic: tuple[Vector, ...]
    camera_model: str | None = None
    camera_distortion: Quaternion | None = None
    camera_theta_max_rad: float | None = None


class EgoPoseRow(Row, frozen=True, gc=False, kw_only=True):
    """Ego to global at one time in microseconds; rotation w x y z."""

    timestamp: Int64
    rotation: Quaternion
    translation: Vector


class LogRow(Row, frozen=True, gc=False, kw_only=True):
    """A drive from which scenes were cut."""

    logfile: str
    vehicle: str
    date_captured: str
    location: str


class SceneRow(Row, frozen=True, gc=False, kw_only=True):
    """About 20 seconds of a drive."""

    log_token: str
    nbr_samples: Int64
    first_sample_token: str
    last_sample_token: str
    name: str
    description: str = ""


class SampleRow(Row, frozen=True, gc=False, kw_only=True):
    """An annotated moment of a scene, in microseconds."""

    timestamp: Int64
    scene_token: str
    prev: str
    next: str


class SampleDataRow(Row, frozen=True, gc=False, kw_only=True):
    """One recording of one sensor; `prev` and `next` link the recordings of a channel within a scene."""

    sample_token: str
    ego_pose_token: str
    calibrated_sensor_token: str
    timestamp: Int64
    is_key_frame: bool
    filename: str
    prev: str
    next: str
    fileformat: str = ""
    width: Int32 | None = 0
    height: Int32 | None = 0


class SampleAnnotationRow(Row, frozen=True, gc=False, kw_only=True):
    """One object at one sample: a box in the global frame, size width length height, rotation w x y z."""

    sample_token: str
    instance_token: str
    visibility_token: str
    attribute_tokens: tuple[str, ...]
    translation: Vector
    size: Vector
    rotation: Quaternion
    num_lidar_pts: Int64
    num_radar_pts: Int64
    prev: str
    next: str


class MapRow(Row, frozen=True, gc=False, kw_only=True):
    """A picture of the drivable area and the drives that it covers."""

    log_tokens: tuple[str, ...]
    category: str
    filename: str


class PointLabelRow(Row, frozen=True, gc=False, kw_only=True):
    """The point label file of one LiDAR recording."""

    sample_data_token: str
    filename: str


ROW_TYPES: dict[str, type[Row]] = {
    "category": CategoryRow,
    "attribute": AttributeRow,
    "visibility": VisibilityRow,
    "instance": InstanceRow,
    "sensor": SensorRow,
    "calibrated_sensor": CalibratedSensorRow,
    "ego_pose": EgoPoseRow,
    "log": LogRow,
    "scene": SceneRow,
    "sample": SampleRow,
    "sample_data": SampleDataRow,
    "sample_annotation": SampleAnnotationRow,
    "map": MapRow,
    "lidarseg": PointLabelRow,
    "panoptic": PointLabelRow,
}
"""Row type by table name; all tables are required except `OPTIONAL_TABLES`."""

OPTIONAL_TABLES = ("lidarseg", "panoptic")
