"""Draws a set in nuScenes format, annotations beside predictions: a PNG per sample, an MP4 per scene, 3-D windows.

`python tools/visualize.py --dataroot D --version V --out-dir O [--scene S ...] [--results R.json] [--video] [--show]`

What `tools/test.py` and `tools/run_drive.py` write of other tasks is drawn too, beside the truth where the set has it:
`--map OUT/map --occupancy OUT/occupancy --near-field OUT/near_field`; `--truths` draws those truths alone.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from perception.drives.options import given_index

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from perception.data.index import Index, SensorRecord
    from perception.data.loading import CameraLoading
    from perception.data.truths import TruthLoading
    from perception.formats.submission_reader import Submission
    from perception.structures import Sample
    from perception.visualization.layers import BoxLayer
    from perception.visualization.prediction_folders import PredictionFolders
    from perception.visualization.task_tiles import TaskTile

_IMAGE_SIZE_PX = (900, 1600)
_TASKS = ("map", "occupancy", "near_field")


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: without the program's name; None takes the process's own.

    Returns:
        Exit status: 0, or 1 with the reason on standard error.
    """
    options = _parser().parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory() as folder:
            _draw_all(options, Path(folder))
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        print(f"visualize: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataroot", type=Path, required=True, help="the folder that holds the version folder")
    parser.add_argument("--version", required=True, help="name of the folder with the tables, as v1.0-mini")
    parser.add_argument("--out-dir", type=Path, required=True, help="<scene>/<number>_<token>.png and <scene>.mp4")
    parser.add_argument("--index", type=Path, help="made by create_data.py; without it a temporary one is made")
    parser.add_argument("--results", type=Path, help="predictions to draw: a nuScenes detection submission")
    for task in _TASKS:
        option = f"--{task.replace('_', '-')}"
        parser.add_argument(option, type=Path, metavar="FOLDER", help=f"predictions to draw: {task}/ of a run")
    parser.add_argument("--truths", action="store_true", help="of these tasks draw the truth without predictions too")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--scene", nargs="+", help="scenes to draw; all samples if nothing is chosen")
    chosen.add_argument("--sample", nargs="+", help="tokens of samples to draw")
    chosen.add_argument("--split", help="split to draw, as mini_val")
    parser.add_argument("--score-threshold", type=float, default=0.3, help="least score of a prediction (%(default)s)")
    parser.add_argument("--range-m", type=float, default=52.0, help="the bird's-eye view reaches so far (%(default)s)")
    parser.add_argument("--camera-width-px", type=int, default=800, help="of each camera in the panel (%(default)s)")
    parser.add_argument("--video", action="store_true", help="write an MP4 per scene besides")
    parser.add_argument("--fps", type=float, default=2.0, help="samples per second of the MP4 (%(default)s)")
    parser.add_argument("--show", action="store_true", help="open a 3-D window per sample (needs a display)")
    parser.add_argument("--on-error", choices=("raise", "skip"), default="raise", help="at a sensor file without use")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def _draw_all(options: argparse.Namespace, scratch: Path) -> None:
    _check_options(options)
    index = given_index(options, scratch)
    by_scene = _chosen(options, index)
    drawing = _Drawing(options, index, [i for positions in by_scene.values() for i in positions])
    with drawing.bar:
        for scene, positions in by_scene.items():
            drawing.draw_scene(scene, positions)
    drawing.report()


def _check_options(options: argparse.Namespace) -> None:
    ranges = {
        "--score-threshold": (options.score_threshold, -1e9, 1e9),
        "--range-m": (options.range_m, 1.0, 10_000.0),
        "--camera-width-px": (options.camera_width_px, 160, 4096),
        "--fps": (options.fps, 0.01, 1000.0),
    }
    for name, (value, least, most) in ranges.items():
        if not least <= value <= most:
            raise ValueError(f"{name} must be in {least:g}..{most:g}, got {value}")


def _chosen(options: argparse.Namespace, index: Index) -> dict[str, list[int]]:
    """Scene -> positions of its samples to draw, in order of time."""
    if options.sample:
        positions = [_position(index, token) for token in dict.fromkeys(options.sample)]
    elif options.scene or options.split:
        positions = index.samples_of(options.scene or options.split).tolist()
    else:
        positions = list(range(len(index)))
    if not positions:
        raise ValueError(f"--dataroot must hold samples to draw, {index.version} in {options.dataroot} has none")
    by_scene: dict[str, list[tuple[int, int]]] = {}
    for i in positions:
        record = index.record(i)
        by_scene.setdefault(record.scene, []).append((record.timestamp_us, i))
    return {scene: [i for _, i in sorted(moments)] for scene, moments in by_scene.items()}


def _position(index: Index, token: str) -> int:
    try:
        return index.by_token(token)
    except KeyError:
        raise ValueError(f"--sample must be tokens of samples in {index.version}, got {token!r}") from None


class _Drawing:
    """Loads and draws the samples that were chosen."""

    def __init__(self, options: argparse.Namespace, index: Index, positions: list[int]) -> None:
        from tqdm import tqdm

        from perception.data.loading import LidarLoading, SampleLoader

        self.options, self.index = options, index
        self.folders, self.map_classes = _prediction_folders(options, index, positions)
        self.loader = SampleLoader(
            index=index,
            dataroot=options.dataroot,
            class_names=index.classes,
            cameras=_camera_groups(_drawn_cameras(index, positions)),
            lidar=LidarLoading(),
            truths=self._truths(positions),
            on_error=options.on_error,
        )
        self.submission, self.rows = _read_results(options.results, [index.record(i).token for i in positions])
        self.drawn = 0
        self.bar = tqdm(total=len(positions), unit="sample", disable=options.quiet)

    def draw_scene(self, scene: str, positions: list[int]) -> None:
        """Writes the pictures of a scene, and its video where one is wanted."""
        from perception.visualization.png import write_png
        from perception.visualization.video import VideoWriter

        folder: Path = self.options.out_dir
        channels, tiles = _drawn_cameras(self.index, positions), self._tiles(positions)
        with VideoWriter(folder / f"{scene}.mp4", self.options.fps) if self.options.video else nullcontext() as video:
            for i in positions:
                sample = self.loader.load(i)
                layers = self._layers(sample)
                picture = self._panel(sample, layers, tuple(channels), tiles)
                write_png(folder / scene / f"{sample.timestamp_us}_{sample.token}.png", picture)
                if video:
                    video.add(picture)
                if self.options.show:
                    _show(sample, layers)
                self.drawn += 1
                self.bar.update()

    def report(self) -> None:
        """Says what was written, and what is missing in it."""
        print(f"{self.options.out_dir}: {self.drawn} pictures")
        for kind, count in self.loader.skipped.items():
            print(f"visualize: {count} x {kind} was skipped", file=sys.stderr)

    def _layers(self, sample: Sample) -> list[BoxLayer]:
        from perception.visualization.layers import detection_layer, ground_truth_layer
        from perception.visualization.submissions import detections_in_ego

        layers = []
        if sample.boxes is not None:
            layers.append(ground_truth_layer(sample.boxes, self.index.classes, hollow=self.submission is not None))
        if self.submission is not None and sample.token in self.rows:
            found = detections_in_ego(self.submission, self.rows[sample.token], sample.ego2global)
            try:
                layers.append(detection_layer(found, self.index.classes, self.options.score_threshold))
            except ValueError as error:
                raise ValueError(f"{self.options.results}: sample {sample.token}: {error}") from error
        return layers

    def _truths(self, positions: list[int]) -> TruthLoading:
        from perception.drives.truths import truths_of

        tasks = _TASKS if self.options.truths else tuple(self.folders.folders)
        return truths_of(self.index, self.options.dataroot, positions, tasks, self.map_classes)

    def _tiles(self, positions: list[int]) -> tuple[TaskTile, ...]:
        """What the pictures of a scene show of other tasks, all of them alike."""
        from perception.visualization.task_tiles import TASKS, TaskTile

        known = self._truths(positions)
        there = {"map": known.map is not None, "occupancy": known.occupancy, "near_field": known.near_field}
        predicted = [TaskTile(task, "prediction") for task in TASKS if task in self.folders.folders]
        true = [TaskTile(task, "truth") for task in TASKS if there[task]]
        return tuple(sorted(predicted + true, key=lambda tile: TASKS.index(tile.task)))

    def _panel(
        self, sample: Sample, layers: list[BoxLayer], channels: tuple[str, ...], tiles: tuple[TaskTile, ...]
    ) -> np.ndarray:
        from perception.visualization.panel import PanelStyle, render_panel

        width = self.options.camera_width_px
        style = PanelStyle(
            tile_px=(round(width * 9 / 16), width),
            bev_half_m=self.options.range_m,
            channels=channels,
            task_tiles=tiles,
        )
        title = sample.token
        if self.submission is not None:
            known = sample.token in self.rows
            title += f"   scores from {self.options.score_threshold:g}" if known else "   not in the results file"
        return render_panel(sample, layers, style, title, self.folders.load(sample.scene, sample.token))


def _drawn_cameras(index: Index, positions: list[int]) -> dict[str, SensorRecord]:
    """Cameras of the samples by channel, nuScenes' own first, then others and fisheyes."""
    from perception.data.loading import NUSCENES_CAMERAS

    sensors = [sensor for i in positions for sensor in index.record(i).sensors.values()]
    sensors += [sensor for i in positions for sensors_of in index.extra_sensors(i).values() for sensor in sensors_of]
    cameras = {sensor.channel: sensor for sensor in sensors if sensor.modality in ("camera", "fisheye")}
    order = dict.fromkeys((*NUSCENES_CAMERAS, *cameras))
    return {channel: cameras[channel] for channel in order if channel in cameras}


def _camera_groups(cameras: Mapping[str, SensorRecord]) -> list[CameraLoading]:
    """Whole pictures, a group for each camera model."""
    from perception.data.loading import CameraLoading

    groups = []
    for model in dict.fromkeys(camera.camera_model for camera in cameras.values()):
        group = {channel: camera for channel, camera in cameras.items() if camera.camera_model == model}
        sizes = [(camera.height, camera.width) for camera in group.values() if camera.height and camera.width]
        groups.append(CameraLoading(tuple(group), max(sizes, default=_IMAGE_SIZE_PX), str(model)))
    return groups


def _prediction_folders(
    options: argparse.Namespace, index: Index, positions: list[int]
) -> tuple[PredictionFolders, tuple[str, ...]]:
    """The folders of other tasks, and which classes of the map there are to draw."""
    from perception.formats.nuscenes_map_raster import MAP_CLASSES
    from perception.visualization.prediction_folders import PredictionFolders
    from perception.visualization.task_tiles import TASKS

    named = {task: getattr(options, task) for task in TASKS}
    folders = PredictionFolders({task: folder for task, folder in named.items() if folder is not None})
    samples = [(record.scene, record.token) for record in map(index.record, positions)]
    for task, count in folders.missing(samples).items():
        print(f"visualize: {named[task]}: {count} of {len(samples)} samples are not in it", file=sys.stderr)
    return folders, folders.map_classes(samples) or MAP_CLASSES


def _read_results(path: Path | None, tokens: list[str]) -> tuple[Submission | None, dict[str, slice]]:
    """The results file and which rows of it belong to which sample."""
    if path is None:
        return None, {}
    from perception.formats.submission_reader import read_submission
    from perception.visualization.submissions import rows_by_token

    submission = read_submission(path)
    rows = rows_by_token(submission)
    missing = [token for token in tokens if token not in rows]
    if len(missing) == len(tokens):
        raise ValueError(f"{path}: must hold samples that are drawn, got none of the {len(tokens)}")
    if missing:
        print(f"visualize: {path}: {len(missing)} of {len(tokens)} samples are not in it", file=sys.stderr)
    return submission, rows


def _show(sample: Sample, layers: list[BoxLayer]) -> None:
    from perception.visualization.scene3d import build_scene, show

    points = sample.lidar.points if sample.lidar else None
    show(build_scene(points, layers), f"{sample.scene} {sample.token}")


if __name__ == "__main__":
    sys.exit(main())
