"""The nuScenes tables of a simulated set: what all sets share, one scene's rows, and how they become one set."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise

import numpy as np
import torch

from perception.formats.classes import ATTRIBUTES, POINT_CATEGORIES
from perception.formats.nuscenes_map import MASK_FILES
from perception.formats.nuscenes_rows import (
    AttributeRow,
    CalibratedSensorRow,
    CategoryRow,
    EgoPoseRow,
    InstanceRow,
    LogRow,
    MapRow,
    Quaternion,
    SampleAnnotationRow,
    SampleDataRow,
    SampleRow,
    SceneRow,
    SensorRow,
    Vector,
    VisibilityRow,
)
from perception.formats.nuscenes_tables import Tables
from perception.geometry.transforms import matrix_to_quaternion
from perception.simulation.annotations import Annotations
from perception.simulation.manifest import SceneOrder
from perception.simulation.sensors.base import Sensor
from perception.simulation.sensors.camera import Camera
from perception.simulation.sensors.fisheye import Fisheye

_EPOCH_US = 1_533_000_000_000_000
_SCENE_PERIOD_US = 100_000_000
_VISIBILITY = {"1": "v0-40", "2": "v40-60", "3": "v60-80", "4": "v80-100"}


@dataclass(frozen=True, eq=False)
class Recorded:
    """A file that a sensor wrote.

    Attributes:
        channel: of the sensor.
        t_us: timestamp, since the scene's own zero.
        ego2global: (4, 4) pose of the ego vehicle then.
        filename: relative to the dataroot.
        sample: number of the keyframe that it belongs to: its own, or for a sweep the one that follows.
        is_key_frame: whether it is the channel's recording of that keyframe.
    """

    channel: str
    t_us: int
    ego2global: np.ndarray
    filename: str
    sample: int
    is_key_frame: bool


def start_us(scene: str) -> int:
    """The time that a scene's own times count from.

    Args:
        scene: official name.

    Returns:
        Microseconds since 1970; scenes follow one another by number.
    """
    return _EPOCH_US + _SCENE_PERIOD_US * int(scene.removeprefix("scene-"))


def common_tables(sensors: Sequence[Sensor]) -> Tables:
    """The tables that do not depend on scenes.

    Args:
        sensors: of the vehicle.

    Returns:
        Categories, attributes, visibility bins and sensors; all else empty.
    """
    return Tables(
        category=[
            CategoryRow(token=_token("category", name), name=name, index=index)
            for index, name in enumerate(POINT_CATEGORIES)
        ],
        attribute=[AttributeRow(token=_token("attribute", name), name=name) for name in ATTRIBUTES],
        visibility=[
            VisibilityRow(token=token, level=level, description=f"{level[1:]} % of the object are visible")
            for token, level in _VISIBILITY.items()
        ],
        sensor=[
            SensorRow(token=_token("sensor", it.channel), channel=it.channel, modality=it.modality) for it in sensors
        ],
    )


def scene_tables(
    order: SceneOrder,
    sensors: Sequence[Sensor],
    recorded: Sequence[Recorded],
    categories: Sequence[str],
    keyframes: Sequence[Annotations],
) -> Tables:
    """The rows of one scene.

    Args:
        order: which scene.
        sensors: of the vehicle, the one that times the samples first.
        recorded: every file of the scene, in any order.
        categories: nuScenes category of each of the A actors.
        keyframes: the actors at each keyframe.

    Returns:
        The scene with its log, calibration, poses, samples, recordings, instances and annotations.
    """
    tables = Tables(
        log=[_log_row(order)],
        calibrated_sensor=[_calibration_row(order, sensor) for sensor in sensors],
    )
    recorded = sorted(recorded, key=lambda it: it.t_us)
    _add_samples(tables, order, [it for it in recorded if it.channel == sensors[0].channel and it.is_key_frame])
    _add_recordings(tables, order, sensors, recorded)
    for actor, category in enumerate(categories):
        _add_instance(tables, order, actor, category, keyframes)
    by_sample = {row.token: number for number, row in enumerate(tables.sample)}
    tables.sample_annotation.sort(key=lambda row: by_sample[row.sample_token])
    return tables


def merged(common: Tables, scenes: Iterable[Tables]) -> Tables:
    """One set of several scenes.

    Args:
        common: the tables that do not depend on scenes.
        scenes: the rows of each scene, in the order of the set.

    Returns:
        All tables, with a map for every location that has a log.
    """
    tables = common
    for scene in scenes:
        for name, rows in vars(scene).items():
            getattr(tables, name).extend(rows)
    for location in sorted({row.location for row in tables.log}):
        logs = tuple(row.token for row in tables.log if row.location == location)
        filename = f"maps/{MASK_FILES[location]}"
        row = MapRow(token=_token("map", location), log_tokens=logs, category="semantic_prior", filename=filename)
        tables.map.append(row)
    return tables


def _token(*parts: object) -> str:
    """32 hexadecimal digits, always the same for the same parts."""
    return hashlib.md5("/".join(map(str, parts)).encode(), usedforsecurity=False).hexdigest()


def _scene_token(order: SceneOrder, *role: object) -> str:
    return _token(order.seed, order.town, order.name, *role)


def sample_token(order: SceneOrder, number: int) -> str:
    """The token of a scene's sample.

    Args:
        order: which scene.
        number: of the keyframe.

    Returns:
        32 hexadecimal digits.
    """
    return _scene_token(order, "sample", number)


def recording_token(order: SceneOrder, channel: str, t_us: int) -> str:
    """The token of a recording.

    Args:
        order: which scene.
        channel: of the sensor.
        t_us: timestamp, since the scene's zero.

    Returns:
        32 hexadecimal digits.
    """
    return _scene_token(order, "data", channel, t_us)


def _quaternion(rotation: np.ndarray) -> Quaternion:
    return _numbers4(matrix_to_quaternion(torch.from_numpy(np.ascontiguousarray(rotation))).numpy())


def _numbers4(values: np.ndarray) -> tuple[float, float, float, float]:
    a, b, c, d = values.tolist()
    return a, b, c, d


def _vector(values: np.ndarray) -> Vector:
    x, y, z = np.asarray(values, dtype=np.float64).tolist()
    return x, y, z


def _log_row(order: SceneOrder) -> LogRow:
    day = datetime.fromtimestamp(start_us(order.name) // 1_000_000, UTC).date().isoformat()
    return LogRow(
        token=_scene_token(order, "log"),
        logfile=f"simulated-{order.name}",
        vehicle="simulated",
        date_captured=day,
        location=order.location,
    )


def _calibration_row(order: SceneOrder, sensor: Sensor) -> CalibratedSensorRow:
    """The mounting, and of cameras the lens; of fisheyes what nuScenes has no field for as well."""
    lens = sensor.lens if isinstance(sensor, Fisheye) else None
    camera = sensor if isinstance(sensor, Camera) else lens
    intrinsics = camera.intrinsics if camera else ()
    return CalibratedSensorRow(
        token=_scene_token(order, "calibration", sensor.channel),
        sensor_token=_token("sensor", sensor.channel),
        translation=_vector(sensor.sensor2ego[:3, 3]),
        rotation=_quaternion(sensor.sensor2ego[:3, :3]),
        camera_intrinsic=tuple(map(_vector, intrinsics)),
        camera_model="kannala_brandt" if lens else None,
        camera_distortion=_numbers4(lens.distortion) if lens else None,
        camera_theta_max_rad=lens.theta_max_rad if lens else None,
    )


def _add_samples(tables: Tables, order: SceneOrder, timing: Sequence[Recorded]) -> None:
    """Adds the scene and its samples, which have the times of the first sensor's keyframes."""
    scene = _scene_token(order, "scene")
    tokens = [sample_token(order, number) for number in range(len(timing))]
    for (before, token, after), it in zip(_linked(tokens), timing, strict=True):
        timestamp = start_us(order.name) + it.t_us
        tables.sample.append(SampleRow(token=token, timestamp=timestamp, scene_token=scene, prev=before, next=after))
    tables.scene.append(
        SceneRow(
            token=scene,
            log_token=tables.log[0].token,
            nbr_samples=len(tokens),
            first_sample_token=tokens[0],
            last_sample_token=tokens[-1],
            name=order.name,
            description=", ".join(["Simulated drive", f"seed {order.seed}", *order.traits]),
        )
    )


def _add_recordings(tables: Tables, order: SceneOrder, sensors: Sequence[Sensor], recorded: Sequence[Recorded]) -> None:
    """Adds recordings and ego poses, channel by channel, each channel linked in the order of `recorded`."""
    for sensor in sensors:
        height, width = sensor.image_size_px if isinstance(sensor, Camera | Fisheye) else (0, 0)
        of_channel = [it for it in recorded if it.channel == sensor.channel]
        tokens = [recording_token(order, sensor.channel, it.t_us) for it in of_channel]
        for (before, token, after), it in zip(_linked(tokens), of_channel, strict=True):
            timestamp = start_us(order.name) + it.t_us
            pose, translation = it.ego2global, _vector(it.ego2global[:3, 3])
            rotation = _quaternion(pose[:3, :3])
            tables.ego_pose.append(
                EgoPoseRow(token=token, timestamp=timestamp, rotation=rotation, translation=translation)
            )
            tables.sample_data.append(
                SampleDataRow(
                    token=token,
                    sample_token=tables.sample[it.sample].token,
                    ego_pose_token=token,
                    calibrated_sensor_token=_scene_token(order, "calibration", sensor.channel),
                    timestamp=timestamp,
                    is_key_frame=it.is_key_frame,
                    filename=it.filename,
                    prev=before,
                    next=after,
                    fileformat=sensor.suffix.split(".")[1],
                    width=width,
                    height=height,
                )
            )


def _add_instance(
    tables: Tables, order: SceneOrder, actor: int, category: str, keyframes: Sequence[Annotations]
) -> None:
    """Adds an actor and its annotations, linked over the keyframes at which it is not noted; nothing if it never is."""
    noted = [number for number, annotations in enumerate(keyframes) if annotations.noted[actor]]
    if not noted:
        return
    instance = _scene_token(order, "instance", actor)
    tokens = [_scene_token(order, "annotation", actor, number) for number in noted]
    tables.instance.append(
        InstanceRow(
            token=instance,
            category_token=_token("category", category),
            nbr_annotations=len(tokens),
            first_annotation_token=tokens[0],
            last_annotation_token=tokens[-1],
        )
    )
    for (before, token, after), number in zip(_linked(tokens), noted, strict=True):
        it = keyframes[number]
        x, y, z, length, width, height, yaw = it.boxes[actor].tolist()
        attribute = it.attributes[actor]
        tables.sample_annotation.append(
            SampleAnnotationRow(
                token=token,
                sample_token=tables.sample[number].token,
                instance_token=instance,
                visibility_token=it.visibility[actor],
                attribute_tokens=(_token("attribute", attribute),) if attribute else (),
                translation=(x, y, z),
                size=(width, length, height),
                rotation=(float(np.cos(yaw / 2)), 0.0, 0.0, float(np.sin(yaw / 2))),
                num_lidar_pts=int(it.num_lidar_pts[actor]),
                num_radar_pts=int(it.num_radar_pts[actor]),
                prev=before,
                next=after,
            )
        )


def _linked(tokens: Sequence[str]) -> list[tuple[str, str, str]]:
    """Each token between the one before and the one after; "" at the ends."""
    padded = ["", *tokens, ""]
    return [(before, token, after) for (before, token), after in zip(pairwise(padded), padded[2:], strict=False)]
