"""A tiny set in nuScenes' format: a straight drive past a few objects, with LiDAR points on them and six pictures."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from perception.formats.classes import ATTRIBUTES, CATEGORY_TO_CLASS
from perception.formats.nuscenes_rows import (
    AttributeRow,
    CalibratedSensorRow,
    CategoryRow,
    EgoPoseRow,
    InstanceRow,
    LogRow,
    MapRow,
    SampleAnnotationRow,
    SampleDataRow,
    SampleRow,
    SceneRow,
    SensorRow,
    VisibilityRow,
)
from perception.formats.nuscenes_tables import Tables, write_tables

VERSION = "v1.0-mini"
SCENES = {"scene-0061": 2, "scene-0103": 3}
CAMERA_YAW_DEG = {
    "CAM_FRONT": 0,
    "CAM_FRONT_LEFT": 55,
    "CAM_BACK_LEFT": 110,
    "CAM_BACK": 180,
    "CAM_BACK_RIGHT": -110,
    "CAM_FRONT_RIGHT": -55,
}
IMAGE_SIZE_PX = (90, 160)
STEP_US = 500_000
EGO_SPEED_M_S = 4.0
LIDAR_HEIGHT_M = 1.84

# category, start x y (metres, ego frame of the first sample), yaw, speed along it, size l w h, attribute
OBJECTS = (
    ("vehicle.car", 12.0, 3.5, 0.0, 5.0, (4.6, 1.9, 1.7), "vehicle.moving"),
    ("vehicle.car", 18.0, -6.0, 0.3, 0.0, (4.4, 1.8, 1.6), "vehicle.parked"),
    ("vehicle.truck", -14.0, 5.0, math.pi - 0.1, 0.0, (8.0, 2.6, 3.2), "vehicle.parked"),
    ("human.pedestrian.adult", 9.0, -8.0, 1.5, 1.2, (0.7, 0.7, 1.75), "pedestrian.moving"),
    ("movable_object.barrier", 6.0, 9.0, -1.2, 0.0, (0.5, 2.2, 1.0), ""),
    ("movable_object.trafficcone", -7.0, -4.0, 0.0, 0.0, (0.4, 0.4, 0.8), ""),
    ("static_object.bicycle_rack", 15.0, 12.0, 0.2, 0.0, (3.0, 1.2, 1.1), ""),
)


def token(*parts: object) -> str:
    """32 hexadecimal digits, always the same for the same parts."""
    return hashlib.md5("/".join(map(str, parts)).encode()).hexdigest()


def write_synthetic_nuscenes(
    root: Path, scenes: Mapping[str, int] | None = None, *, cameras: bool = True, annotations: bool = True
) -> Path:
    """Writes the set.

    Args:
        root: the folder to write to.
        scenes: number of samples by scene name; one scene of mini_train and one of mini_val by default.
        cameras: write six pictures per sample.
        annotations: write boxes.

    Returns:
        `root`.
    """
    tables = _common_tables()
    (root / "maps").mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((10, 10), 255, dtype=np.uint8)).save(root / "maps" / "mask.png")
    for number, (scene, num_samples) in enumerate((scenes or SCENES).items()):
        _write_scene(tables, root, scene, num_samples, number, cameras)
    tables.map.append(
        MapRow(
            token=token("map"),
            log_tokens=tuple(row.token for row in tables.log),
            category="semantic_prior",
            filename="maps/mask.png",
        )
    )
    if not annotations:
        tables.sample_annotation, tables.instance = [], []
    write_tables(root / VERSION, tables)
    return root


def _common_tables() -> Tables:
    rotation_of_yaw = {channel: _camera_rotation(math.radians(deg)) for channel, deg in CAMERA_YAW_DEG.items()}
    channels = {"LIDAR_TOP": "lidar", **dict.fromkeys(CAMERA_YAW_DEG, "camera")}
    height, width = IMAGE_SIZE_PX
    intrinsic = ((0.8 * width, 0.0, width / 2 - 0.5), (0.0, 0.8 * width, height / 2 - 0.5), (0.0, 0.0, 1.0))
    return Tables(
        category=[
            CategoryRow(token=token("category", name), name=name)
            for name in (*CATEGORY_TO_CLASS, "static_object.bicycle_rack")
        ],
        attribute=[AttributeRow(token=token("attribute", name), name=name) for name in ATTRIBUTES],
        visibility=[VisibilityRow(token=str(level), level=f"v{level}") for level in (1, 2, 3, 4)],
        sensor=[SensorRow(token=token("sensor", name), channel=name, modality=kind) for name, kind in channels.items()],
        calibrated_sensor=[
            CalibratedSensorRow(
                token=token("calibration", name),
                sensor_token=token("sensor", name),
                translation=(0.9, 0.0, LIDAR_HEIGHT_M) if kind == "lidar" else (1.0, 0.0, 1.5),
                rotation=_yaw_quaternion(-math.pi / 2) if kind == "lidar" else rotation_of_yaw[name],
                camera_intrinsic=() if kind == "lidar" else intrinsic,
            )
            for name, kind in channels.items()
        ],
    )


def _write_scene(tables: Tables, root: Path, scene: str, num_samples: int, number: int, cameras: bool) -> None:
    start_us = 1_533_000_000_000_000 + number * 100_000_000
    log = token("log", scene)
    tables.log.append(
        LogRow(
            token=log,
            logfile=f"drive-{number}",
            vehicle="test",
            date_captured="2018-08-01",
            location="singapore-onenorth",
        )
    )
    samples = [token("sample", scene, step) for step in range(num_samples)]
    tables.scene.append(
        SceneRow(
            token=token("scene", scene),
            log_token=log,
            nbr_samples=num_samples,
            first_sample_token=samples[0],
            last_sample_token=samples[-1],
            name=scene,
        )
    )
    for step, sample in enumerate(samples):
        time_us = start_us + step * STEP_US
        tables.sample.append(
            SampleRow(
                token=sample,
                timestamp=time_us,
                scene_token=token("scene", scene),
                prev=samples[step - 1] if step else "",
                next=samples[step + 1] if step + 1 < num_samples else "",
            )
        )
        for channel in ("LIDAR_TOP", *(CAMERA_YAW_DEG if cameras else ())):
            _write_recording(tables, root, scene, channel, (step, num_samples), time_us)
    _add_tracks(tables, root, scene, num_samples)


def _write_recording(
    tables: Tables, root: Path, scene: str, channel: str, step_of: tuple[int, int], time_us: int
) -> None:
    step, num_steps = step_of
    name = token("data", scene, channel, step)
    lidar = channel == "LIDAR_TOP"
    if not lidar:
        time_us += 1_000 * (1 + list(CAMERA_YAW_DEG).index(channel))
    filename = f"samples/{channel}/{scene}__{channel}__{time_us}.{'pcd.bin' if lidar else 'jpg'}"
    (root / filename).parent.mkdir(parents=True, exist_ok=True)
    if not lidar:
        rng = np.random.default_rng(step)
        coarse = rng.integers(0, 255, (9, 16, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize(IMAGE_SIZE_PX[::-1]).save(root / filename, quality=80)
    tables.ego_pose.append(_ego_pose(scene, name, time_us))
    height, width = (0, 0) if lidar else IMAGE_SIZE_PX
    tables.sample_data.append(
        SampleDataRow(
            token=name,
            sample_token=token("sample", scene, step),
            ego_pose_token=name,
            calibrated_sensor_token=token("calibration", channel),
            timestamp=time_us,
            is_key_frame=True,
            filename=filename,
            prev=token("data", scene, channel, step - 1) if step else "",
            next=token("data", scene, channel, step + 1) if step + 1 < num_steps else "",
            fileformat="pcd" if lidar else "jpg",
            width=width,
            height=height,
        )
    )


def _heading(scene: str) -> float:
    return 0.4 + 0.1 * (int(scene[-4:]) % 7)


def _ego_pose(scene: str, name: str, time_us: int) -> EgoPoseRow:
    """The vehicle drives straight on from (500, 1000)."""
    heading, distance_m = _heading(scene), EGO_SPEED_M_S * 1e-6 * (time_us % 100_000_000)
    position = (500 + distance_m * math.cos(heading), 1000 + distance_m * math.sin(heading), 0.0)
    return EgoPoseRow(token=name, timestamp=time_us, rotation=_yaw_quaternion(heading), translation=position)


def _add_tracks(tables: Tables, root: Path, scene: str, num_samples: int) -> None:
    """One track per object, and the LiDAR files with points on the objects and on the ground."""
    rng = np.random.default_rng(int(scene[-4:]))
    recordings = {row.sample_token: row for row in tables.sample_data if row.filename.startswith("samples/LIDAR_TOP")}
    poses = {row.token: row for row in tables.ego_pose}
    for number, (category, *_) in enumerate(OBJECTS):
        names = [token("annotation", scene, number, step) for step in range(num_samples)]
        tables.instance.append(
            InstanceRow(
                token=token("instance", scene, number),
                category_token=token("category", category),
                nbr_annotations=num_samples,
                first_annotation_token=names[0],
                last_annotation_token=names[-1],
            )
        )
    for step in range(num_samples):
        recording = recordings[token("sample", scene, step)]
        pose = poses[recording.ego_pose_token]
        clouds = [_ground(rng)]
        for number, thing in enumerate(OBJECTS):
            ego_center, yaw = _place(thing, step)
            num_points = 60 if number % 3 else 12
            clouds.append(_points_inside(rng, ego_center, yaw, thing[5], num_points))
            tables.sample_annotation.append(_annotation(scene, number, (step, num_samples), pose, num_points))
        points = np.concatenate(clouds)  # (P, 3) in the ego frame
        x, y, z = (points - (0.9, 0.0, LIDAR_HEIGHT_M)).T
        rows = np.stack([-y, x, z, np.full_like(x, 30.0), np.zeros_like(x)], axis=1)  # the LiDAR's y points forward
        rows.astype("<f4").tofile(root / recording.filename)


def _place(thing: tuple, step: int) -> tuple[np.ndarray, float]:
    """Centre and yaw of an object in the ego frame of a sample."""
    _, x, y, yaw, speed, size, _ = thing
    time_s = 1e-6 * step * STEP_US
    center = (x + time_s * (speed * math.cos(yaw) - EGO_SPEED_M_S), y + time_s * speed * math.sin(yaw), size[2] / 2)
    return np.array(center), yaw


def _annotation(
    scene: str, number: int, step_of: tuple[int, int], pose: EgoPoseRow, num_points: int
) -> SampleAnnotationRow:
    step, num_steps = step_of
    heading, thing = _heading(scene), OBJECTS[number]
    center, yaw = _place(thing, step)
    x, y, z = center.tolist()
    length, width, height = thing[5]
    return SampleAnnotationRow(
        token=token("annotation", scene, number, step),
        sample_token=token("sample", scene, step),
        instance_token=token("instance", scene, number),
        visibility_token="4",
        attribute_tokens=(token("attribute", thing[6]),) if thing[6] else (),
        translation=(
            pose.translation[0] + x * math.cos(heading) - y * math.sin(heading),
            pose.translation[1] + x * math.sin(heading) + y * math.cos(heading),
            z,
        ),
        size=(width, length, height),
        rotation=_yaw_quaternion(heading + yaw),
        num_lidar_pts=num_points,
        num_radar_pts=0,
        prev=token("annotation", scene, number, step - 1) if step else "",
        next=token("annotation", scene, number, step + 1) if step + 1 < num_steps else "",
    )


def _ground(rng: np.random.Generator, num_points: int = 1500) -> np.ndarray:
    """(P, 3) points on the road, 3 to 45 m from the vehicle."""
    radius, angle = rng.uniform(3, 45, num_points), rng.uniform(-math.pi, math.pi, num_points)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), rng.normal(-0.05, 0.01, num_points)], axis=1)


def _points_inside(
    rng: np.random.Generator, center: np.ndarray, yaw: float, size: tuple[float, float, float], num_points: int
) -> np.ndarray:
    """(P, 3) points inside an upright box."""
    local = rng.uniform(-0.48, 0.48, (num_points, 3)) * size
    turn = np.array([[math.cos(yaw), -math.sin(yaw), 0.0], [math.sin(yaw), math.cos(yaw), 0.0], [0.0, 0.0, 1.0]])
    return local @ turn.T + center


def _yaw_quaternion(yaw: float) -> tuple[float, float, float, float]:
    return math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)


def _camera_rotation(yaw: float) -> tuple[float, float, float, float]:
    """Camera (x right, y down, z forward) to ego, looking along `yaw`: the turn times the change of axes."""
    c, s = math.cos(yaw / 2), math.sin(yaw / 2)
    w, x, y, z = 0.5, -0.5, 0.5, -0.5
    return c * w - s * z, c * x - s * y, c * y + s * x, c * z + s * w
