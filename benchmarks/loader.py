"""Loading one sample's sensors: ours against Pillow with numpy and the nuScenes devkit, one thread each.

The devkit reads pictures not at all (Pillow does), and no radar that measures height, no ultrasonic sensor and no
near-field truth: in the cases that hold them, ours does more.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from benchmarks.map_truth import map_rows
from benchmarks.small_set import add_set_arguments, small_set
from benchmarks.timing import pair_row
from perception.data.images import fit_image
from perception.data.index import Index
from perception.data.index_build import build_index
from perception.data.loading import (
    FISHEYE_CAMERAS,
    NUSCENES_CAMERAS,
    NUSCENES_RADARS,
    CameraLoading,
    LidarLoading,
    Radar4dLoading,
    RadarLoading,
    SampleLoader,
    UltrasonicLoading,
)
from perception.formats.classes import DETECTION_CLASSES

IMAGE_SIZE_PX = (256, 704)
MEAN = np.array([123.675, 116.28, 103.53], dtype=np.float32)
STD = np.array([58.395, 57.12, 57.375], dtype=np.float32)
NUM_SWEEPS = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this benchmark's options.

    Args:
        parser: the parser to add to.
    """
    recorded = os.environ.get("PERCEPTION_REAL_DATA")
    add_set_arguments(parser, Path(recorded) / "nuscenes" if recorded else None)
    parser.add_argument("--repeats", type=int, default=30, help="timed runs of each case, ours and the peer in turn")


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Times the cases.

    Args:
        options: see `add_arguments`.

    Returns:
        Rows of op, case, ours_ms, peer, peer_ms (medians) and ratio (above 1: ours is faster).

    Raises:
        ValueError: no sample of the set has six cameras.
    """
    threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            dataroot = small_set(options, Path(folder) / "small", "--image-size", "1600x900", "--sweeps", "4")
            build_index(dataroot, options.version, Path(folder) / "index")
            index = Index.open(Path(folder) / "index")
            return [
                *_picture_rows(index, dataroot, options.repeats),
                *_point_rows(index, dataroot, options.version, options.repeats),
                *map_rows(index, dataroot, options.repeats),
            ]
    finally:
        torch.set_num_threads(threads[0])
        cv2.setNumThreads(threads[1])


def _picture_rows(index: Index, dataroot: Path, repeats: int) -> list[dict[str, Any]]:
    positions = [i for i in range(len(index)) if index.record(i).sensors.keys() >= set(NUSCENES_CAMERAS)]
    if not positions:
        raise ValueError(f"run: {dataroot} must have a sample with six cameras, got none in {len(index)} samples")
    position, cameras = positions[0], CameraLoading(image_size_px=IMAGE_SIZE_PX)
    loader = SampleLoader(index=index, dataroot=dataroot, class_names=DETECTION_CLASSES, cameras=cameras, truths=None)
    sensors = index.record(position).sensors
    paths = [dataroot / sensors[channel].path for channel in NUSCENES_CAMERAS]
    case = f"six {sensors['CAM_FRONT'].width}x{sensors['CAM_FRONT'].height} JPEGs -> "
    mean, std = (torch.from_numpy(values)[:, None, None] for values in (MEAN, STD))

    def ours() -> torch.Tensor:
        """(6, 3, H, W) uint8."""
        return loader.load(position).cameras["surround"].images

    def peer() -> np.ndarray:
        """(6, 3, H, W) uint8."""
        return np.stack([_pillow_picture(path) for path in paths])

    return [
        pair_row("load pictures", case + "6x3x256x704 uint8", ours, "Pillow + numpy", peer, repeats),
        pair_row(
            "load pictures",
            case + "6x3x256x704 float32, normalised",
            lambda: (ours().float() - mean) / std,
            "Pillow + numpy",
            lambda: (peer().astype(np.float32) - MEAN[:, None, None]) / STD[:, None, None],
            repeats,
        ),
    ]


def _pillow_picture(path: Path) -> np.ndarray:
    """(3, H, W) uint8, decoded in full, resized bilinearly, cropped."""
    with Image.open(path) as image:
        fit = fit_image((image.height, image.width), IMAGE_SIZE_PX)
        scaled = image.resize(fit.scaled_size_px[::-1], Image.Resampling.BILINEAR)
        box = (fit.left_px, fit.top_px, fit.left_px + IMAGE_SIZE_PX[1], fit.top_px + IMAGE_SIZE_PX[0])
        return np.asarray(scaled.crop(box)).transpose(2, 0, 1)  # (H, W, 3) -> (3, H, W)


def _point_rows(index: Index, dataroot: Path, version: str, repeats: int) -> list[dict[str, Any]]:
    from nuscenes.nuscenes import NuScenes

    nusc = NuScenes(version, str(dataroot), verbose=False)
    position = max(range(len(index)), key=lambda i: len(index.sweeps(i, "LIDAR_TOP", NUM_SWEEPS)))
    peer = DevkitReader(nusc, nusc.get("sample", index.record(position).token))
    case = f"keyframe + {NUM_SWEEPS} sweeps, {peer.lidar().shape[1]} points"
    sensors: dict[str, Any] = {"index": index, "dataroot": dataroot, "class_names": DETECTION_CLASSES}
    lidar = SampleLoader(**sensors, lidar=LidarLoading(num_sweeps=NUM_SWEEPS), truths=None)
    rows = [pair_row("load sweeps", case, lambda: lidar.load(position).lidar, "nuscenes-devkit", peer.lidar, repeats)]
    radars = [i for i in range(len(index)) if not index.record(i).sensors.keys().isdisjoint(NUSCENES_RADARS)]
    if not radars:
        return rows
    position = max(radars, key=lambda i: (len(index.sweeps(i, "RADAR_FRONT", NUM_SWEEPS)), len(index.extra_sensors(i))))
    peer = DevkitReader(nusc, nusc.get("sample", index.record(position).token))
    radar = SampleLoader(**sensors, radar=RadarLoading(num_sweeps=NUM_SWEEPS), truths=None)
    case = f"{len(peer.radars)} radars, {len(index.sweeps(position, 'RADAR_FRONT', NUM_SWEEPS))} sweeps each"
    rows.append(
        pair_row("load radars", case, lambda: radar.load(position).radar, "nuscenes-devkit", peer.radar, repeats)
    )
    every = SampleLoader(
        **sensors,
        cameras=[
            CameraLoading(image_size_px=IMAGE_SIZE_PX),
            CameraLoading(FISHEYE_CAMERAS, peer.fisheye_size_px, "fisheye"),
        ],
        lidar=LidarLoading(num_sweeps=NUM_SWEEPS),
        radar=RadarLoading(num_sweeps=NUM_SWEEPS),
        radar4d=Radar4dLoading(num_sweeps=1),
        ultrasonic=UltrasonicLoading(),
    )
    channels = [*index.record(position).sensors, *index.extra_sensors(position)]
    case = f"{len(channels)} channels: {_counted(channels)}"
    rows.append(
        pair_row("load every sensor", case, lambda: every.load(position), "devkit + Pillow", peer.every, repeats)
    )
    return rows


def _counted(channels: list[str]) -> str:
    kinds = Counter(channel.split("_")[0].lower() for channel in channels)
    return ", ".join(f"{count} {kind}" for kind, count in kinds.items())


class DevkitReader:
    """Reads a sample's sensors with the devkit, and with Pillow the pictures, which the devkit does not read.

    Args:
        nusc: the devkit's set.
        sample: row of the sample table.
    """

    def __init__(self, nusc: Any, sample: dict[str, Any]) -> None:
        self.nusc = nusc
        self.sample = sample
        self.radars = [channel for channel in NUSCENES_RADARS if channel in sample["data"]]
        attached = [row for row in nusc.sample_data if row["sample_token"] == sample["token"]]
        self.fisheyes = [row for row in attached if row["channel"] in FISHEYE_CAMERAS]
        self.fisheye_size_px = (self.fisheyes[0]["height"], self.fisheyes[0]["width"]) if self.fisheyes else (1, 1)

    def lidar(self) -> np.ndarray:
        """Accumulates sweeps.

        Returns:
            (4, P) in the LiDAR's frame.
        """
        from nuscenes.utils.data_classes import LidarPointCloud

        return self._points(LidarPointCloud, "LIDAR_TOP", 1.0)

    def radar(self) -> list[np.ndarray]:
        """Accumulates sweeps of all radars.

        Returns:
            (18, P) of each in the LiDAR's frame.
        """
        from nuscenes.utils.data_classes import RadarPointCloud

        return [self._points(RadarPointCloud, channel, 0.0) for channel in self.radars]

    def every(self) -> None:
        """Reads pictures, points and boxes."""
        names = [channel for channel in NUSCENES_CAMERAS if channel in self.sample["data"]]
        rows = [self.nusc.get("sample_data", self.sample["data"][channel]) for channel in names]
        for row in rows:
            _pillow_picture(Path(self.nusc.dataroot) / row["filename"])
        for row in self.fisheyes:
            with Image.open(Path(self.nusc.dataroot) / row["filename"]) as image:
                np.asarray(image).transpose(2, 0, 1)  # (H, W, 3) -> (3, H, W)
        self.lidar()
        self.radar()
        self.nusc.get_boxes(self.sample["data"]["LIDAR_TOP"])

    def _points(self, cloud: Any, channel: str, min_distance_m: float) -> np.ndarray:
        points, _ = cloud.from_file_multisweep(
            self.nusc, self.sample, channel, "LIDAR_TOP", nsweeps=NUM_SWEEPS + 1, min_distance=min_distance_m
        )
        return points.points


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    for row in run(parser.parse_args()):
        print(
            f"{row['op']}: {row['case']}: ours {row['ours_ms']:.1f} ms, "
            f"{row['peer']} {row['peer_ms']:.1f} ms, ratio {row['ratio']:.2f}"
        )
