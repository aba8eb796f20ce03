"""A set in nuScenes format of any size, made of the rows of a small one: every token new, every chain valid."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import msgspec
import numpy as np

from perception.formats.nuscenes_rows import CalibratedSensorRow, SampleAnnotationRow, SensorRow
from perception.formats.nuscenes_tables import Tables, read_tables, write_tables
from perception.formats.splits import split_scenes

VERSION = "v1.0-trainval"
CAMERAS = ("FRONT", "FRONT_LEFT", "FRONT_RIGHT", "BACK", "BACK_LEFT", "BACK_RIGHT")
RADARS = ("FRONT", "FRONT_LEFT", "FRONT_RIGHT", "BACK_LEFT", "BACK_RIGHT")
CHANNELS = ("LIDAR_TOP", *(f"CAM_{place}" for place in CAMERAS), *(f"RADAR_{place}" for place in RADARS))
MODALITIES = {"LIDAR": "lidar", "CAM": "camera", "RADAR": "radar"}
BIG_TABLES = ("sample", "sample_data", "ego_pose", "sample_annotation", "instance")
NUM_LOGS = 68
STEP_US = 500_000


@dataclass(frozen=True)
class Size:
    """How many rows the large tables get; the defaults are those of trainval."""

    scenes: int = 850
    samples: int = 34_149
    sample_data: int = 2_631_083
    annotations: int = 1_166_187


def blow_up(source: str | Path, target: str | Path, size: Size | None = None) -> None:
    """Writes a large set.

    Args:
        source: version folder of the small set.
        target: dataroot of the large one; its version is `v1.0-trainval`. Sensor files are named, not made.
        size: how many rows; that of trainval by default.

    Raises:
        ValueError: the small set has no annotation, or no calibrated camera; more than 850 scenes are asked for.
    """
    size = size or Size()
    names = [*split_scenes("train"), *split_scenes("val")][: size.scenes]
    tables = read_tables(source)
    templates = _calibrations(tables)
    if len(names) < size.scenes or not tables.sample_annotation:
        raise ValueError(f"blow_up: need annotations and at most {len(names)} scenes, got {size}")
    target = Path(target)
    (target / "maps").mkdir(parents=True)
    (target / "maps" / "mask.png").write_bytes(b"")  # the devkit asks that it exists and opens it only to draw
    writer = _SceneWriter(tables, templates, size)
    small = writer.small_tables(names)
    write_tables(target / VERSION, small)  # the large tables still empty
    with ExitStack() as stack:
        files = {name: stack.enter_context((target / VERSION / f"{name}.json").open("w")) for name in BIG_TABLES}
        for number in range(size.scenes):
            writer.write(number, files)
        for file in files.values():
            file.write("\n]")


class _Tokens:
    """Unique random tokens."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def take(self, count: int) -> list[str]:
        """That many new tokens."""
        text = self._rng.bytes(16 * count).hex()
        return [text[i : i + 32] for i in range(0, len(text), 32)]


class _SceneWriter:
    """Makes the rows of one scene after the other."""

    def __init__(self, tables: Tables, templates: list[CalibratedSensorRow], size: Size) -> None:
        self._tables, self._templates, self._size = tables, templates, size
        self._tokens = _Tokens(0)
        self._boxes = tables.sample_annotation
        categories = {row.token: row.category_token for row in tables.instance}
        self._category_of_box = [categories[row.instance_token] for row in self._boxes]
        self._offsets_m = _offsets_from_ego(tables)
        self._started: set[str] = set()
        self._scene_tokens: list[str] = []
        self._sample_tokens: list[list[str]] = []
        self._calibrations: list[list[str]] = []

    def small_tables(self, names: list[str]) -> Tables:
        """Everything but the large tables, with sensors for every scene."""
        old, tokens = self._tables, self._tokens
        sensors = [
            SensorRow(token=token, channel=channel, modality=MODALITIES[channel.split("_")[0]])
            for token, channel in zip(tokens.take(len(CHANNELS)), CHANNELS, strict=True)
        ]
        new = Tables(category=old.category, attribute=old.attribute, visibility=old.visibility, sensor=sensors)
        new.log = [
            msgspec.structs.replace(old.log[number % len(old.log)], token=token)
            for number, token in enumerate(tokens.take(NUM_LOGS))
        ]
        logs = tuple(row.token for row in new.log)
        new.map = [msgspec.structs.replace(old.map[0], log_tokens=logs, filename="maps/mask.png")]
        self._scene_tokens = tokens.take(len(names))
        for number, name in enumerate(names):
            samples = tokens.take(_share(self._size.samples, len(names), number))
            self._sample_tokens.append(samples)
            changes = {"first_sample_token": samples[0], "last_sample_token": samples[-1], "nbr_samples": len(samples)}
            changes |= {"token": self._scene_tokens[number], "name": name, "log_token": logs[number % len(logs)]}
            new.scene.append(msgspec.structs.replace(old.scene[number % len(old.scene)], **changes))
            calibrations = tokens.take(len(CHANNELS))
            self._calibrations.append(calibrations)
            new.calibrated_sensor.extend(
                msgspec.structs.replace(template, token=token, sensor_token=sensor.token)
                for template, token, sensor in zip(self._templates, calibrations, sensors, strict=True)
            )
        return new

    def write(self, number: int, files: Mapping[str, IO[str]]) -> None:
        """Writes the large tables' rows of one scene."""
        samples = self._sample_tokens[number]
        start_us = 1_530_000_000_000_000 + number * 100_000_000
        for row in _sample_rows(samples, self._scene_tokens[number], start_us):
            self._put(files, "sample", row)
        rest = _share(self._size.sample_data, len(self._sample_tokens), number)
        for channel, calibration in enumerate(self._calibrations[number]):
            count = _share(rest, len(CHANNELS), channel)
            for data, pose in self._recordings(channel, calibration, samples, start_us, count):
                self._put(files, "sample_data", data)
                self._put(files, "ego_pose", pose)
        num_boxes = _share(self._size.annotations, len(self._sample_tokens), number)
        num_tracks = num_boxes * 2 // len(samples)
        for track in range(num_tracks):
            count = _share(num_boxes, num_tracks, track)
            first = track % 2 * (len(samples) - count)  # every other track lasts to the end
            for table, row in self._track(track + number, samples[first : first + count], first):
                self._put(files, table, row)

    def _put(self, files: Mapping[str, IO[str]], table: str, row: str) -> None:
        files[table].write(",\n{\n" if table in self._started else "[\n{\n")
        files[table].write(row + "\n}")
        self._started.add(table)

    def _recordings(
        self, channel: int, calibration: str, samples: list[str], start_us: int, count: int
    ) -> Iterator[tuple[str, str]]:
        """Recordings of one channel: one keyframe per sample, the rest between them."""
        name, tokens = CHANNELS[channel], ["", *self._tokens.take(count), ""]
        keyframes = {(count - 1) * k // max(1, len(samples) - 1): k for k in range(len(samples))}
        sample, size_px = 0, (1600, 900) if name.startswith("CAM") else (0, 0)
        for i in range(count):
            is_key = i in keyframes
            sample = keyframes.get(i, min(sample + (i - 1 in keyframes), len(samples) - 1))
            time_us = start_us + (len(samples) - 1) * STEP_US * i // max(1, count - 1)
            x, y = _ego_xy_m(time_us - start_us)
            folder = "samples" if is_key else "sweeps"
            data = (
                f'"token": "{tokens[i + 1]}",\n"sample_token": "{samples[sample]}",\n'
                f'"ego_pose_token": "{tokens[i + 1]}",\n"calibrated_sensor_token": "{calibration}",\n'
                f'"timestamp": {time_us},\n"fileformat": "jpg",\n"is_key_frame": {str(is_key).lower()},\n'
                f'"height": {size_px[1]},\n"width": {size_px[0]},\n'
                f'"filename": "{folder}/{name}/n015-2018-07-24-11-22-45+0800__{name}__{time_us}.jpg",\n'
                f'"prev": "{tokens[i]}",\n"next": "{tokens[i + 2]}"'
            )
            pose = (
                f'"token": "{tokens[i + 1]}",\n"timestamp": {time_us},\n'
                f'"rotation": [\n0.5720320396729045,\n-0.0016977771610471074,\n0.011798001930183783,\n'
                f"-0.8201446642457809\n],\n"
                f'"translation": [\n{x!r},\n{y!r},\n0.0\n]'
            )
            yield data, pose

    def _track(self, number: int, samples: list[str], first: int) -> Iterator[tuple[str, str]]:
        """One object through some samples, of which the first has this number in the scene."""
        box, offset_m = self._boxes[number % len(self._boxes)], self._offsets_m[number % len(self._boxes)]
        (instance,), tokens = self._tokens.take(1), ["", *self._tokens.take(len(samples)), ""]
        yield (
            "instance",
            f'"token": "{instance}",\n"category_token": "{self._category_of_box[number % len(self._boxes)]}",\n'
            f'"nbr_annotations": {len(samples)},\n"first_annotation_token": "{tokens[1]}",\n'
            f'"last_annotation_token": "{tokens[-2]}"',
        )
        for step, sample in enumerate(samples):
            x, y = _ego_xy_m((first + step) * STEP_US)
            translation = (round(x + offset_m[0] + 0.37 * step, 3), round(y + offset_m[1] - 0.21 * step, 3))
            placed = msgspec.structs.replace(box, translation=(*translation, box.translation[2]))
            yield "sample_annotation", _annotation(placed, tokens[step : step + 3], sample, instance)


def _ego_xy_m(elapsed_us: int) -> tuple[float, float]:
    return 400 + 1e-7 * elapsed_us * 8.1, 1100 - 1e-7 * elapsed_us * 4.7


def _offsets_from_ego(tables: Tables) -> list[tuple[float, float]]:
    """Where each annotated box lies from the ego vehicle, in the axes of the global frame."""
    poses = {row.token: row.translation for row in tables.ego_pose}
    ego = {row.sample_token: poses[row.ego_pose_token] for row in tables.sample_data if row.is_key_frame}
    places = [(row.translation, ego[row.sample_token]) for row in tables.sample_annotation]
    return [(box[0] - vehicle[0], box[1] - vehicle[1]) for box, vehicle in places]


def _annotation(box: SampleAnnotationRow, tokens: list[str], sample: str, instance: str) -> str:
    x, y, z = box.translation
    attributes = ",\n".join(f'"{token}"' for token in box.attribute_tokens)
    return (
        f'"token": "{tokens[1]}",\n"sample_token": "{sample}",\n"instance_token": "{instance}",\n'
        f'"visibility_token": "{box.visibility_token}",\n"attribute_tokens": [\n{attributes}\n],\n'
        f'"translation": [\n{x},\n{y},\n{z}\n],\n'
        f'"size": [\n{", ".join(map(str, box.size))}\n],\n"rotation": [\n{", ".join(map(str, box.rotation))}\n],\n'
        f'"prev": "{tokens[0]}",\n"next": "{tokens[2]}",\n'
        f'"num_lidar_pts": {box.num_lidar_pts},\n"num_radar_pts": {box.num_radar_pts}'
    )


def _sample_rows(samples: list[str], scene: str, start_us: int) -> Iterator[str]:
    chain = ["", *samples, ""]
    for step, sample in enumerate(samples):
        yield (
            f'"token": "{sample}",\n"timestamp": {start_us + step * STEP_US},\n"prev": "{chain[step]}",\n'
            f'"next": "{chain[step + 2]}",\n"scene_token": "{scene}"'
        )


def _calibrations(tables: Tables) -> list[CalibratedSensorRow]:
    """A row of the small set for each channel: of that channel, else of any camera or of any other sensor."""
    channels = {row.token: row.channel for row in tables.sensor}
    by_channel = {channels[row.sensor_token]: row for row in reversed(tables.calibrated_sensor)}
    cameras = [row for row in tables.calibrated_sensor if row.camera_intrinsic]
    others = [row for row in tables.calibrated_sensor if not row.camera_intrinsic]
    if not cameras or not others:
        raise ValueError("blow_up: the small set must have a camera and another sensor")
    return [by_channel.get(name, (cameras if name.startswith("CAM") else others)[0]) for name in CHANNELS]


def _share(total: int, parts: int, number: int) -> int:
    """One of `parts` nearly equal shares that add up to `total`."""
    return total * (number + 1) // parts - total * number // parts


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="version folder of a small set, as data/nuscenes/v1.0-mini")
    parser.add_argument("target", type=Path, help="dataroot of the large set, a new folder")
    parser.add_argument("--scenes", type=int, default=Size.scenes, help="1 to 850; the other tables shrink with it")
    options = parser.parse_args()
    share = options.scenes / Size.scenes
    rows = (round(count * share) for count in (Size.samples, Size.sample_data, Size.annotations))
    blow_up(options.source, options.target, Size(options.scenes, *rows))


if __name__ == "__main__":
    main()
