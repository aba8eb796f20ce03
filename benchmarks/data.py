"""From tables to the first sample: the index against the nuScenes devkit, each in a fresh process."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.small_set import add_set_arguments, small_set

ROOT = Path(__file__).parents[1]
REPEATS = 5
PEAK_PERIOD_S = 0.02


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this benchmark's options.

    Args:
        parser: the parser to add to.
    """
    add_set_arguments(parser)
    parser.add_argument("--scenes", type=int, default=850, help="how many scenes to make of it; 850 is trainval")
    parser.add_argument("--work-dir", type=Path, help="where 5 GB fit for a while; the system's temporary folder else")


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Blows the set up, makes the index, and opens both ways.

    Args:
        options: see `add_arguments`.

    Returns:
        One row per step: name, seconds, megabytes of private and of file-mapped memory; the last has the ratios.

    Raises:
        subprocess.CalledProcessError: a step failed.
    """
    from benchmarks.blow_up_nuscenes import VERSION, Size, blow_up

    share = options.scenes / Size.scenes
    counts = [round(count * share) for count in (Size.samples, Size.sample_data, Size.annotations)]
    size = Size(options.scenes, *counts)
    work = Path(tempfile.mkdtemp(prefix="perception-benchmark-", dir=options.work_dir))
    try:
        source = small_set(options, work / "small") / options.version
        start = time.perf_counter()
        blow_up(source, work / "set", size)
        seconds = time.perf_counter() - start
        tables = sum(file.stat().st_size for file in (work / "set" / VERSION).iterdir())
        rows: list[dict[str, Any]] = [{"name": "blow up", "seconds": seconds, "table_mb": tables / 1e6, **vars(size)}]
        rows.append({"name": "create_data", **_measure("create", work / "set", VERSION, work / "index")})
        rows[-1]["index_mb"] = sum(file.stat().st_size for file in (work / "index").iterdir()) / 1e6
        opened = [_measure("index", work / "index") for _ in range(REPEATS)]
        ours = {key: statistics.median(one[key] for one in opened) for key in opened[0]}
        rows.append({"name": "index: open, first sample", **ours})
        theirs = _measure("devkit", work / "set", VERSION)
        rows.append({"name": "devkit: open, first sample", **theirs})
        rows.append(_ratios(ours, theirs))
    finally:
        shutil.rmtree(work)
    return rows


def _ratios(ours: dict[str, float], theirs: dict[str, float]) -> dict[str, Any]:
    """How much the index saves; times with and without the imports."""
    whole = (theirs["import_seconds"] + theirs["seconds"]) / (ours["import_seconds"] + ours["seconds"])
    return {
        "name": "ratio",
        "speed_up": theirs["seconds"] / ours["seconds"],
        "speed_up_with_imports": whole,
        "private_memory_ratio": ours["private_mb"] / theirs["private_mb"],
        "private_memory_ratio_of_data": ours["private_data_mb"] / theirs["private_data_mb"],
        "same_boxes": ours["num_boxes"] == theirs["num_boxes"],
    }


def _measure(step: str, *arguments: str | Path) -> dict[str, float]:
    """Runs one step in a fresh interpreter."""
    command = [sys.executable, "-m", "benchmarks.data", step, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _memory_mb() -> dict[str, float]:
    """This process's memory.

    `private_mb`: pages of its own, in no file. `mapped_mb`: pages of files, which the kernel drops when it needs room
    and which processes share. `unshared_mb`: both kinds, as far as no other process has them mapped at this moment.
    """
    fields = {}
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]:
        key, value = line.split()[:2]
        fields[key.rstrip(":")] = int(value) * 1024 / 1e6
    return {
        "private_mb": fields["Anonymous"],
        "mapped_mb": fields["Rss"] - fields["Anonymous"],
        "unshared_mb": fields["Private_Clean"] + fields["Private_Dirty"],
    }


class _PeakAnonymous:
    """Looks again and again how much memory this process has of its own."""

    def __init__(self) -> None:
        self.peak_mb = 0.0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            status = Path("/proc/self/status").read_text()
            own = int(status.split("RssAnon:")[1].split()[0]) * 1024 / 1e6
            self.peak_mb = max(self.peak_mb, own)
            time.sleep(PEAK_PERIOD_S)


def _create(dataroot: str, version: str, folder: str) -> dict[str, float]:
    from perception.data.index_build import build_index

    peak, start = _PeakAnonymous(), time.perf_counter()
    build_index(dataroot, version, folder)
    return {"seconds": time.perf_counter() - start, "peak_private_mb": peak.peak_mb}


def _index(folder: str) -> dict[str, float]:
    start = time.perf_counter()
    from perception.data.index import Index

    imported, before = time.perf_counter(), _memory_mb()
    record = Index.open(folder).record(0)
    end, after = time.perf_counter(), _memory_mb()
    assert record.annotations is not None, "the set must have annotations"
    return _opened(start, imported, end, before, after) | {"num_boxes": len(record.annotations.boxes_global)}


def _devkit(dataroot: str, version: str) -> dict[str, float]:
    start = time.perf_counter()
    from nuscenes import NuScenes

    imported, before = time.perf_counter(), _memory_mb()
    devkit = NuScenes(version, dataroot, verbose=False)
    sample = devkit.sample[0]
    boxes = [devkit.get_box(token) for token in sample["anns"]]
    velocities = [devkit.box_velocity(token) for token in sample["anns"]]
    for token in sample["data"].values():
        row = devkit.get("sample_data", token)
        devkit.get("ego_pose", row["ego_pose_token"])
        devkit.get("calibrated_sensor", row["calibrated_sensor_token"])
    end, after = time.perf_counter(), _memory_mb()
    assert len(boxes) == len(velocities), "a velocity for every box"
    return _opened(start, imported, end, before, after) | {"num_boxes": len(boxes)}


def _opened(
    start: float, imported: float, end: float, before: dict[str, float], after: dict[str, float]
) -> dict[str, float]:
    """Times and memory of an opening; `private_data_mb` leaves out what the imports took."""
    data_mb = after["private_mb"] - before["private_mb"]
    return {"import_seconds": imported - start, "seconds": end - imported, **after, "private_data_mb": data_mb}


if __name__ == "__main__":
    steps: dict[str, Callable[..., dict[str, float]]] = {"create": _create, "index": _index, "devkit": _devkit}
    print(json.dumps(steps[sys.argv[1]](*sys.argv[2:])))
