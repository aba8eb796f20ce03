"""The simulator: keyframes a second of whole runs, and where the time of one keyframe goes."""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import torch

from perception.formats.nuscenes_tables import write_tables
from perception.simulation.can_bus import can_bus
from perception.simulation.manifest import MINI, plan_manifest
from perception.simulation.recorder import (
    keyframe_annotations,
    record_scene,
    scene_solids,
    scene_surroundings,
    town_at,
)
from perception.simulation.rig import sensor_rig
from perception.simulation.runner import simulate
from perception.simulation.schedule import FIRST_US, KEYFRAME_US
from perception.simulation.settings import SENSORS, TRUTHS, Settings
from perception.simulation.truth.files import TruthFiles

_SUITES = {
    "near": Settings(sweeps=4, sensors=("camera", "lidar", "radar", "ultrasonic")),
    "everything": Settings(sweeps=9, sensors=SENSORS, radar_sweeps=6, truths=TRUTHS, can_bus=True),
}
"""Whole runs beside those of cameras and LiDAR: five radars and twelve ultrasonic sensors; every sensor and truth."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this benchmark's options.

    Args:
        parser: the parser to add to.
    """
    parser.add_argument("--seconds", type=float, default=20.0, help="length of the two scenes of each whole run")
    parser.add_argument("--sweeps", type=int, nargs="*", default=[0, 4, 9], help="LiDAR sweeps before each keyframe")
    parser.add_argument("--suites", nargs="*", choices=_SUITES, default=list(_SUITES), help="whole runs with more")
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
    plain = [("6 x 400x225, LiDAR and", Settings(seconds=options.seconds, sweeps=sweeps)) for sweeps in options.sweeps]
    more = [(f"{name}: LiDAR and", replace(_SUITES[name], seconds=options.seconds)) for name in options.suites]
    rows = [_whole_run(name, settings, options.workers) for name, settings in (*plain, *more)]
    threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        return rows + _parts(options.repeats)
    finally:
        torch.set_num_threads(threads[0])
        cv2.setNumThreads(threads[1])


def _whole_run(name: str, settings: Settings, workers: int) -> dict[str, Any]:
    """Two scenes by the runner."""
    times: list[float] = [time.perf_counter()]
    with tempfile.TemporaryDirectory() as folder:
        simulate(plan_manifest(2, 0, settings), Path(folder), workers, lambda *_: times.append(time.perf_counter()))
        end = time.perf_counter()
    keyframes = 2 * settings.num_keyframes
    marks = times[2:]  # without the start and the call before the first keyframe
    return {
        "what": "whole run",
        "case": f"{name} {settings.sweeps} sweeps, {workers} workers",
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
    rig = sensor_rig(replace(settings, sensors=SENSORS))
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
    solids = note("scene", "meshes for ground truths", lambda: scene_solids(world))
    noted = keyframe_annotations(world, rig[0], taken).noted
    note("scene", f"CAN bus, {settings.seconds:g} s", lambda: can_bus(world, 0))
    with tempfile.TemporaryDirectory() as folder:
        for truth in TRUTHS:
            wanted = replace(settings, truths=(truth,))
            files = TruthFiles(order, wanted, Path(folder), MINI, rig, surroundings, solids)
            note("keyframe", f"{truth}, files included", lambda files=files: files.write(0, taken, noted), repeats)
        tables = record_scene(order, Settings(seconds=1.0), Path(folder), MINI)
        note("scene", "tables of 2 keyframes", lambda: write_tables(Path(folder) / "tables", tables))
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    for row in run(parser.parse_args()):
        print(", ".join(f"{key} {value:.4g}" if isinstance(value, float) else str(value) for key, value in row.items()))
