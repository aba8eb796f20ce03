"""From options to what a run needs: a detector with weights, and a loader of the sensors that it reads."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from perception.data.index import Index
from perception.data.index_build import build_index
from perception.data.loading import SampleLoader
from perception.data.problems import OnError
from perception.data.sensor_settings import (
    CameraLoading,
    LidarLoading,
    Radar4dLoading,
    RadarLoading,
    RangingLoading,
    SensorSuite,
    UltrasonicLoading,
    camera_groups,
)
from perception.drives.options import RunOptions, check_out_dir
from perception.drives.writers import no_detections
from perception.evaluation.map_report import no_map
from perception.evaluation.near_field_report import no_near_field
from perception.evaluation.occupancy_report import no_occupancy
from perception.formats.radar import RadarFilter
from perception.formats.submission import SubmissionMeta
from perception.models.detector import Detector
from perception.models.heads.map import MapHead
from perception.runtime.checkpoint import load_weights
from perception.runtime.class_paths import check_config
from perception.runtime.config import build_detector, load_config
from perception.runtime.predictor import Predictor
from perception.structures import Predictions

_RANGING = {"radar": RadarLoading, "radar4d": Radar4dLoading, "ultrasonic": UltrasonicLoading}


@dataclass(frozen=True, kw_only=True)
class Run:
    """A model and the samples to run it on.

    Args:
        dataroot: of the set.
        version: of the set.
        predictor: the model.
        loader: loads samples without annotations.
        meta: what a submission says of the sensors.
        class_names: what the labels of predictions index.
        on_error: "raise" or "skip", at a damaged file.
    """

    dataroot: Path
    version: str
    predictor: Predictor
    loader: SampleLoader
    meta: SubmissionMeta
    class_names: tuple[str, ...]
    on_error: OnError


def prepare_run(options: RunOptions) -> Run:
    """Builds the model, verifies and loads its weights, opens the index and makes the folder for the results.

    Args:
        options: what to run on what.

    Returns:
        All that a run needs.

    Raises:
        FileNotFoundError: the set does not exist.
        ValueError: config, weights, index or sensors do not fit each other, or one of them is damaged; the results
            would lie in the set.
    """
    config = load_config(options.config)
    sensor_settings(config, options.sensors)  # what is wrong with them is said before the model is built
    dataroot = options.dataroot or Path(_setting(config, "dataroot"))
    version = options.version or _setting(config, "version")
    check_out_dir(options.out_dir, dataroot, version)
    detector = build_detector(config, allowed_packages=options.allowed_packages)
    # A model of cameras alone may have been trained with LiDAR as its teacher; it does not run on it.
    trained = sensor_settings(config).names
    used = [sensor for sensor in detector.sensors if sensor in trained]
    sensors = sensor_settings(config, options.sensors or used)
    load_weights(detector, options.checkpoint)
    options.out_dir.mkdir(parents=True, exist_ok=True)
    loader = SampleLoader(
        index=open_index(dataroot, version, options.index or options.out_dir / f"index-{version}"),
        dataroot=dataroot,
        class_names=detector.class_names,
        cameras=sensors.cameras,
        lidar=sensors.lidar,
        radar=sensors.ranging.radar,
        radar4d=sensors.ranging.radar4d,
        ultrasonic=sensors.ranging.ultrasonic,
        truths=None,
        on_error=cast(OnError, options.on_error),
    )
    return Run(
        dataroot=dataroot,
        version=version,
        predictor=Predictor(detector, options.device or ("cuda" if torch.cuda.is_available() else "cpu")),
        loader=loader,
        meta=SubmissionMeta(
            use_camera=bool(sensors.cameras),
            use_lidar=sensors.lidar is not None,
            use_radar=not {"radar", "radar4d"}.isdisjoint(sensors.names),
        ),
        class_names=detector.class_names,
        on_error=cast(OnError, options.on_error),
    )


def nothing_found(detector: Detector) -> Predictions:
    """Gives what is predicted of a sample in which no sensor saw anything.

    Args:
        detector: the model.

    Returns:
        From every head its answer in which nothing is known, such as no boxes; without a token.
    """
    found: dict[str, Any] = {"detections": None}
    for head in detector.heads.values():
        if head.predicts == "detections":
            found["detections"] = no_detections()
        elif head.predicts == "near_field":
            found["near_field"] = no_near_field()
        elif head.predicts == "occupancy":
            found["occupancy"] = no_occupancy()
        elif isinstance(head, MapHead):
            found["map"] = no_map(head.map_classes, head.grid)
    return Predictions(token="", **found)


def sensor_settings(config: Mapping[str, Any], sensors: Collection[str] | None = None) -> SensorSuite:
    """Reads how the sensors were loaded in training.

    Args:
        config: of a training run, as `load_config` gives it; `data.init_args` names cameras, lidar and ranging.
        sensors: names as `SensorSuite.names` gives them, such as "camera", "fisheye", "radar"; None takes all that
            the config has.

    Returns:
        The sensors that are wanted.

    Raises:
        ValueError: the config does not have the sensors, or their settings are wrong.
    """
    arguments = _data_arguments(config)
    check_config(config["data"], where="data")
    cameras, lidar, ranging = (arguments.get(key) for key in ("cameras", "lidar", "ranging"))
    groups = cameras if isinstance(cameras, list) else [] if cameras is None else [cameras]
    trained = SensorSuite(
        cameras=camera_groups([CameraLoading(**_tuples(group)) for group in groups]),
        lidar=None if lidar is None else LidarLoading(**_tuples(lidar)),
        ranging=RangingLoading(
            **{
                kind: loading(**_tuples(ranging[kind]))
                for kind, loading in _RANGING.items()
                if ranging is not None and ranging.get(kind) is not None
            }
        ),
    )
    wanted = trained.names if sensors is None else tuple(sensors)
    if not wanted or not set(wanted) <= set(trained.names):
        raise ValueError(
            f"sensor_settings: sensors must be of those in the config, {', '.join(trained.names)}, "
            f"got {', '.join(wanted) or 'none'}"
        )
    return trained.only(wanted)


def open_index(dataroot: Path, version: str, folder: Path) -> Index:
    """Opens an index, which is made first where there is none.

    Args:
        dataroot: of the set.
        version: of the set.
        folder: of the index.

    Returns:
        The index.

    Raises:
        FileNotFoundError: there is neither an index nor a set to make it of.
        ValueError: the index is of another version.
    """
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        build_index(dataroot, version, folder)
    index = Index.open(folder)
    if index.version != version:
        raise ValueError(f"open_index: index must be of version {version}, {folder} is of {index.version}")
    return index


def _data_arguments(config: Mapping[str, Any]) -> Mapping[str, Any]:
    data = config.get("data")
    arguments = data.get("init_args") if isinstance(data, Mapping) else None
    if not isinstance(arguments, Mapping):
        raise ValueError(f"prepare_run: config must have data.init_args, got only {', '.join(config)}")
    return arguments


def _setting(config: Mapping[str, Any], name: str) -> str:
    value = _data_arguments(config).get(name)
    if not isinstance(value, str) or not value:
        raise ValueError(f"prepare_run: --{name} must be given where the config does not name it, got {value!r} there")
    return value


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a frozen dataclass: YAML has lists where it has tuples, and mappings where it has a filter."""
    arguments = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    states = values.get("radar_filter")
    if isinstance(states, Mapping):
        arguments["radar_filter"] = RadarFilter(**_tuples(states))
    return arguments
