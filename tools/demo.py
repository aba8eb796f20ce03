"""Shows the whole of it in minutes, on a CPU and without a download: `python tools/demo.py`, or `make demo`.

Simulates a few drives, measures the shipped weights on them with the nuScenes devkit, with all sensors and without
some, trains for two minutes, runs one drive and draws it. Everything lies in one folder, with `demo.log`, which has
every command and what it said.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from perception.simulation.manifest import Manifest

ROOT = Path(__file__).resolve().parents[1]
LOG_NAME = "demo.log"
_STEPS = 8  # and one for each failure
_FAILURES = {"without_cameras": {"camera", "fisheye"}, "without_lidar": {"lidar"}}
_OVERLAPS = {"map": "lidar/mean", "occupancy": "miou_mask_camera", "near_field": "iou"}
_CAMERA_WIDTH_PX = 640
_SHOWN_LINES = 30  # of a tool that failed
_AVERAGED_STEPS = 10  # one step's loss depends on its samples

Words = Sequence[str | int | Path]


class StepError(Exception):
    """A tool failed."""


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: without the program's name; None takes the process's own.

    Returns:
        Exit status: 0, 1 with the reason on standard error, or 130 when interrupted.
    """
    options = _parser().parse_args(arguments)
    try:
        _run(options)
    except KeyboardInterrupt:
        print("\ndemo: interrupted", file=sys.stderr)
        return 130
    except (OSError, ValueError, ImportError, StepError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    configs = ROOT / "configs"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out-dir", type=Path, default=Path("work_dirs/demo"), help="a new folder or an earlier demo's (%(default)s)"
    )
    parser.add_argument(
        "--weights", type=Path, default=ROOT / "weights/every_task_small.safetensors", help="that are measured"
    )
    parser.add_argument(
        "--config", type=Path, default=configs / "sim_v2/every_task.yaml", help="that the weights were trained with"
    )
    parser.add_argument("--drives", type=Path, default=configs / "demo/drives.yaml", help="manifest of the drives")
    parser.add_argument(
        "--train-config", type=Path, default=configs / "demo/training.yaml", help="of the training that is shown"
    )
    parser.add_argument("--train-seconds", type=int, default=120, help="how long it trains (%(default)s)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that simulate")
    return parser


def _run(options: argparse.Namespace) -> None:
    from perception.drives.setup import sensor_settings
    from perception.runtime.config import load_config
    from perception.simulation.manifest_file import read_manifest

    start_s = time.perf_counter()
    _check(options)
    manifest = read_manifest(options.drives)
    drive = next((order.name for order in manifest.scenes if order.split == "val"), None)
    if drive is None or len(manifest.versions) > 1 or not any(order.split == "train" for order in manifest.scenes):
        raise ValueError(f"{options.drives}: must have drives of train and val, and none of test")
    remaining = sensors_left(sensor_settings(load_config(options.config)).names)
    _make_anew(options.out_dir)
    with (options.out_dir / LOG_NAME).open("w") as log:
        demo = _Demo(options, manifest, log, remaining)
        demo.simulate()
        demo.evaluate()
        demo.train()
        demo.run_drive(drive)
    print(f"\nDone in {(time.perf_counter() - start_s) / 60:.1f} minutes.\n")
    _report(options.out_dir, options.weights.stem, drive, remaining)


def _check(options: argparse.Namespace) -> None:
    """What would fail after minutes is said at once."""
    if not 1 <= options.train_seconds < 86_400:
        raise ValueError(f"--train-seconds must be at least 1 and less than a day, got {options.train_seconds}")
    if options.workers < 1:
        raise ValueError(f"--workers must be at least 1, got {options.workers}")
    for name in ("--weights", "--config", "--drives", "--train-config"):
        path = getattr(options, name[2:].replace("-", "_"))
        if not path.is_file():
            raise ValueError(f"{name} must be a file, got {path}")
        if path.resolve().is_relative_to(options.out_dir.resolve()):
            raise ValueError(f"{name} must lie outside of --out-dir, which is emptied, got {path}")


def _make_anew(folder: Path) -> None:
    """Empties the folder of an earlier demo, all but its simulated set."""
    found = list(folder.iterdir()) if folder.exists() else []
    if found and not (folder / LOG_NAME).is_file():
        raise ValueError(f"--out-dir must be a new folder or that of an earlier demo, {folder} has other files")
    for path in found:
        if path.is_dir() and path.name != "data":
            shutil.rmtree(path)
        elif not path.is_dir() and path.name != LOG_NAME:
            path.unlink()
    folder.mkdir(parents=True, exist_ok=True)


class _Demo:
    """The steps, each a run of another tool.

    Args:
        options: of the command line.
        manifest: of the drives.
        log: receives the commands and all that they say.
        remaining: failure -> the sensors that remain.
    """

    def __init__(
        self, options: argparse.Namespace, manifest: Manifest, log: IO[str], remaining: Mapping[str, Sequence[str]]
    ) -> None:
        self.options = options
        self.manifest = manifest
        self.log = log
        self.remaining = remaining
        self.folder: Path = options.out_dir
        self.num_done = 0
        data, index = self.folder / "data", self.folder / "index"
        self.set_options: Words = ["--dataroot", data, "--version", manifest.version, "--index", index]

    def simulate(self) -> None:
        """Makes the drives, unless an earlier demo has made the same, and their index."""
        data, drives, manifest = self.folder / "data", self.options.drives, self.manifest
        seconds = f"{len(manifest.scenes)} drives of {manifest.settings.seconds:g} s"
        if _is_finished(data, manifest):
            self._say(f"takes the {seconds} that are there", end="\n")
        else:
            shutil.rmtree(data, ignore_errors=True)
            options = ["--out", data, "--manifest", drives, "--workers", self.options.workers, "--quiet"]
            self._tool(f"simulates {seconds}", "simulate.py", options)
        where: Words = ["--dataroot", data, "--version", manifest.version, "--out-dir", self.folder / "index"]
        self._tool("indexes them", "create_data.py", ["nuscenes", *where, "--quiet"])

    def evaluate(self) -> None:
        """Measures the weights with the devkit, with all sensors and without some."""
        config, weights = self.options.config, self.options.weights
        self._evaluate(f"measures {weights.name} with the devkit", config, weights, "val", self.folder)
        for failure, sensors in self.remaining.items():
            what = f"measures them {failure.replace('_', ' ')}"
            self._evaluate(what, config, weights, "val", self.folder / failure, ["--sensors", ",".join(sensors)])

    def train(self) -> None:
        """Trains for a while, and measures what has come of it."""
        run, seconds = self.folder / "training", self.options.train_seconds
        data, index = self.folder / "data", self.folder / "index"
        where: Words = ["--data.dataroot", data, "--data.version", self.manifest.version, "--data.index", index]
        length: Words = ["--trainer.max_time", time.strftime("00:%H:%M:%S", time.gmtime(seconds)), "--out-dir", run]
        self._tool(f"trains for {seconds} s", "train.py", ["--config", self.options.train_config, *where, *length])
        write_loss_curve(read_losses(run / "metrics.csv"), run / "loss.png")
        weights = run / "weights.safetensors"
        self._evaluate("measures that on its own drive", run / "config.yaml", weights, "train", run / "own_drive")
        self._evaluate("measures that on the others", run / "config.yaml", weights, "val", run / "other_drives")

    def run_drive(self, drive: str) -> None:
        """Runs the weights over a drive and draws what they find beside what is there."""
        folder = self.folder / "drive"
        model: Words = [self.options.config, self.options.weights, drive]
        options: Words = [*self.set_options, "--out-dir", folder, "--no-pictures"]
        self._tool(f"runs over {drive}", "run_drive.py", [*model, *options])
        drawn: Words = ["--scene", drive, "--results", folder / "results.json", "--out-dir", folder, "--quiet"]
        said = {task: folder / task for task in ("map", "occupancy", "near_field")}
        tasks: Words = [
            word for task, place in said.items() if place.is_dir() for word in (f"--{task.replace('_', '-')}", place)
        ]
        style: Words = ["--video", "--camera-width-px", _CAMERA_WIDTH_PX]
        self._tool("draws pictures and a video", "visualize.py", [*self.set_options, *drawn, *tasks, *style])

    def _evaluate(self, what: str, config: Path, weights: Path, split: str, out_dir: Path, options: Words = ()) -> None:
        split = f"mini_{split}" if self.manifest.version.endswith("mini") else split
        where: Words = ["--split", split, "--out-dir", out_dir]
        self._tool(what, "test.py", [config, weights, *self.set_options, *where, *options])

    def _tool(self, what: str, name: str, options: Words) -> None:
        """Runs another tool; says what it does, and how long it took."""
        command = [sys.executable, str(ROOT / "tools" / name), *map(str, options)]
        self._say(what)
        start_s = time.perf_counter()
        self.log.write(f"$ {shlex.join(command)}\n")
        self.log.flush()
        begin = self.log.tell()
        environment = {**os.environ, "TQDM_DISABLE": "1"}
        result = subprocess.run(command, stdout=self.log, stderr=subprocess.STDOUT, env=environment, check=False)
        if result.returncode:
            print("failed")
            said = _text_from(Path(self.log.name), begin).splitlines()[-_SHOWN_LINES:]
            lines = "\n".join(said)
            raise StepError(f"status {result.returncode} of\n  {shlex.join(command)}\nwhich said\n{lines}")
        print(f"{time.perf_counter() - start_s:.0f} s", flush=True)

    def _say(self, what: str, end: str = " ... ") -> None:
        self.num_done += 1
        print(f"[{self.num_done}/{_STEPS + len(self.remaining)}] {what}", end=end, flush=True)


def sensors_left(sensors: Sequence[str]) -> dict[str, list[str]]:
    """Which sensors remain when some fail.

    Args:
        sensors: all that a model reads.

    Returns:
        Failure, as the name of a folder -> the others; only where there is something to fail and something to remain.
    """
    left = {failure: [name for name in sensors if name not in lost] for failure, lost in _FAILURES.items()}
    return {failure: names for failure, names in left.items() if 0 < len(names) < len(sensors)}


def read_losses(path: Path) -> list[float]:
    """Reads the loss of every logged step.

    Args:
        path: `metrics.csv` of a run.

    Returns:
        The sums of all losses, oldest first.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds fewer than two.
    """
    with path.open(newline="") as file:
        losses = [float(row["train/loss"]) for row in csv.DictReader(file) if row.get("train/loss")]
    if len(losses) < 2:
        raise ValueError(f"{path}: must have the losses of two steps or more, got {len(losses)}; train for longer")
    return losses


def first_and_last(losses: Sequence[float]) -> tuple[float, float]:
    """Averages the first and the last steps, as one step's loss depends on its samples.

    Args:
        losses: by step.

    Returns:
        Means over ten steps, or half of all where there are fewer than twenty.
    """
    count = min(_AVERAGED_STEPS, len(losses) // 2)
    return sum(losses[:count]) / count, sum(losses[-count:]) / count


def write_loss_curve(losses: Sequence[float], path: Path) -> None:
    """Draws the loss over the steps.

    Args:
        losses: by step.
        path: the PNG.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="loss", ylim=(0, 1.05 * max(losses)))
    axes.plot(range(1, len(losses) + 1), losses)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def _is_finished(data: Path, manifest: Manifest) -> bool:
    """Whether a folder has a whole set made from the same manifest."""
    from perception.simulation.manifest_file import manifest_text

    path = data / "manifest.yaml"
    same = path.is_file() and path.read_text() == manifest_text(manifest)
    return same and all((data / version).is_dir() for version in manifest.versions)


def _text_from(path: Path, begin: int) -> str:
    with path.open("rb") as file:
        file.seek(begin)
        return file.read().decode(errors="replace")


def _overlap(folder: Path, task: str, figure: str) -> str:
    path = folder / f"{task}.json"
    value = json.loads(path.read_bytes())["figures"].get(figure, {}).get("value") if path.is_file() else None
    return "" if value is None else f"{value:.3f}"


def _report(folder: Path, weights: str, drive: str, failures: Iterable[str]) -> None:
    run = folder / "training"
    losses = read_losses(run / "metrics.csv")
    first, last = first_and_last(losses)
    rows = {
        f"{weights}, on drives new to it": folder,
        **{f"  {failure.replace('_', ' ')}": folder / failure for failure in failures},
        "trained here, on the drive it learnt": run / "own_drive",
        "trained here, on drives new to it": run / "other_drives",
    }
    print(f"{'mAP and NDS by the nuScenes devkit; overlaps':<46}{'mAP':>5}{'NDS':>8}", end="")
    print("".join(f"{task.replace('_', ' '):>12}" for task in _OVERLAPS))
    for name, place in rows.items():
        summary = json.loads((place / "metrics_summary.json").read_bytes())
        overlaps = "".join(f"{_overlap(place, task, figure):>12}" for task, figure in _OVERLAPS.items())
        print(f"{name:<44}{summary['mean_ap']:>7.3f}{summary['nd_score']:>8.3f}{overlaps}".rstrip())
    print(f"\nTraining, {len(losses)} steps: loss {first:.2f} -> {last:.2f} (means of the first and the last steps)\n")
    places = {
        "video": folder / "drive" / f"{drive}.mp4",
        "pictures": folder / "drive" / drive,
        "metrics": folder / "metrics_summary.json",
        "their page": folder / "report.html",
        "loss": folder / "training" / "loss.png",
        "checkpoint": folder / "training" / "weights.safetensors",
        "commands": folder / LOG_NAME,
    }
    for name, path in places.items():
        print(f"{name:<12}{path}")
    print("\nNext: the commands in that log, on data of your own; `make test`; docs/training.md; docs/benchmark.md.")


if __name__ == "__main__":
    sys.exit(main())
