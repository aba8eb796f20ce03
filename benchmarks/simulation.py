"""The simulator: keyframes a second of whole runs, and where the time of one keyframe goes."""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import torch

from perception.formats.nuscenes_tables import write_tables
from perception.simulation.manifest import plan_manifest
from perception.simulation.recorder import (
    FIRST_US,
    KEYFRAME_US,
    keyframe_annotations,
    record_scene,
    scene_surroundings,
    town_at,
)
from perception.simulation.rig import surround_rig
from perception.simulation.runner import simulate
from perception.simulation.settings import Settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this benchmark's options.

    Args:
        parser: the parser to add to.
    """
    parser.add_argument("--seconds", type=float, default=20.0, help="length of the two scenes of each whole run")
    parser.add_argument("--sweeps", type=int, nargs="*", default=[0, 4, 9], help="LiDAR sweeps before each keyframe")
    parser.add_argument("--workers", type=int, default=2, help="processes of the whole runs")
    parser.add_argument("--repeats", type=int, default=10, help="keyframes of which each part is timed")


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Times whole runs and the parts of one keyframe.

    Args:
        options: see `add_arguments`.

    Returns:
        Rows of what and case; for whole runs keyframes_per_s (from the first keyframe to the last), with_start_per_s
        (start-up, towns, traffic and tables included) and peak_gib (the largest worker so far); for parts cpu_ms, the
        median on one thread.
    """
    rows = [_whole_run(options.seconds, sweeps, options.workers) for sweeps in options.sweeps]
    threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        return rows + _parts(options.repeats)
    finally:
        torch.set_num_threads(threads[0])
        cv2.setNumThreads(threads[1])


def _whole_run(seconds: float, sweeps: int, workers: int) -> dict[str, Any]:
    """Two scenes by the runner."""
    settings = Settings(seconds=seconds, sweeps=sweeps)
    times: list[float] = [time.perf_counter()]
    with tempfile.TemporaryDirectory() as folder:
        simulate(plan_manifest(2, 0, settings), Path(folder), workers, lambda *_: times.append(time.perf_counter()))
        end = time.perf_counter()
    keyframes = 2 * settings.num_keyframes
    marks = times[2:]  # without the start and the call before the first keyframe
    return {
        "what": "whole run",
        "case": f"6 x 400x225, LiDAR and {sweeps} sweeps, {workers} workers",
        "keyframes_per_s": (len(marks) - 1) / (marks[-1] - marks[0]),
        "with_start_per_s": keyframes / (end - times[0]),
        "peak_gib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20,
    }


def _parts(repeats: int) -> list[dict[str, Any]]:
    """What a scene and a keyframe are made of, on one thread."""
    settings = Settings(seconds=max(1.0, repeats / 2 + 0.5))
    (order,) = plan_manifest(1, 0, settings).scenes
    rows = []

    def note(what: str, case: str, function: Callable[[], Any], count: int = 1) -> Any:
        """Times calls after one that warms up; a single call is not warmed up."""
        seconds = []
        for _ in range(count + (count > 1)):
            start = time.process_time()
            result = function()
            seconds.append(time.process_time() - start)
        rows.append({"what": what, "case": case, "cpu_ms": 1e3 * statistics.median(seconds[-count:])})
        return result

    note("scene", "town", lambda: town_at(order))
    world, surroundings = note("scene", "traffic and ray scene", lambda: scene_surroundings(order, settings))
    rig = surround_rig()
    for sensor in rig:
        times = iter(range(FIRST_US, world.last_us, KEYFRAME_US))
        note(
            "keyframe",
            f"{sensor.channel}, file included",
            lambda sensor=sensor, times=times: sensor.capture(surroundings, next(times) + sensor.delay_us).content,
            repeats,
        )
    taken = [sensor.capture(surroundings, FIRST_US + sensor.delay_us) for sensor in rig]
    note("keyframe", "annotations", lambda: keyframe_annotations(world, rig[0], taken), repeats)
    with tempfile.TemporaryDirectory() as folder:
        short = Settings(seconds=1.0)
        tables = record_scene(order, short, Path(folder))
        note("scene", "tables of 2 keyframes", lambda: write_tables(Path(folder) / "tables", tables))
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    for row in run(parser.parse_args()):
        print(", ".join(f"{key} {value:.4g}" if isinstance(value, float) else str(value) for key, value in row.items()))
