"""Measures sizes and costs of the recipes into the table of docs/models.md: `python docs/model_table.py [RECIPE ...]`.

Each recipe is built and run in a process of its own, on a batch that is made up at the sizes of nuScenes. Rows of
recipes that are not named stay as they are.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the benchmarks lie beside this folder and are not installed

DOCUMENT = ROOT / "docs" / "models.md"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
HEADER = """| recipe | sensors | parameters | GMAC | forward | step | memory, forward | memory, step |
|---|---|---|---|---|---|---|---|"""
RECIPES = {
    "nuscenes/models/camera_r50": "6 cameras, ResNet-50",
    "nuscenes/models/camera_swin_t": "6 cameras, Swin-T",
    "nuscenes/models/lidar_pillars": "LiDAR, pillars",
    "nuscenes/models/lidar_voxel0075": "LiDAR, voxels",
    "nuscenes/models/camera_lidar_r50": "both, ResNet-50, voxels",
    "nuscenes/models/camera_lidar_swin_t": "both, Swin-T, voxels",
    "models/camera_small": "6 cameras",
    "models/lidar_small": "LiDAR, pillars",
    "models/lidar_voxels_small": "LiDAR, voxels",
    "models/camera_lidar_small": "both, pillars",
    "models/camera_lidar_voxels_small": "both, voxels",
}
_THREADS = 2
# Pictures and sweeps before the keyframe of the full-size and of the small recipes.
_FULL, _SMALL = ((256, 704), 9), ((192, 400), 0)


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What one recipe costs.

    Args:
        parameters: trainable numbers.
        macs: multiply-accumulates of a forward pass.
        forward_s: a forward pass and decoding, seconds.
        step_s: a training step, seconds.
        forward_bytes: most memory in the forward pass.
        step_bytes: most memory in the training step.
    """

    parameters: int
    macs: int
    forward_s: float
    step_s: float
    forward_bytes: int
    step_bytes: int


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures the recipes and writes the table, row by row.

    Args:
        arguments: of the command line; None takes the process's own.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help=f"some of {', '.join(RECIPES)}; default: all")
    parser.add_argument("--runs", type=int, default=4, help="runs of each kind; the fastest but the first is given")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.recipes) - set(RECIPES))
    if unknown:
        parser.error(f"RECIPE must be one of {', '.join(RECIPES)}, got {', '.join(unknown)}")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        for name in options.recipes or RECIPES:
            figures = pool.submit(measure, name, options.runs).result()
            DOCUMENT.write_text(replace_row(DOCUMENT.read_text(), name, row(name, figures)))


def measure(name: str, runs: int) -> Figures:
    """Builds one recipe and runs it.

    Args:
        name: of the config below `configs`, without its ending.
        runs: of each kind.

    Returns:
        What it costs.
    """
    from benchmarks.flops import count_macs
    from benchmarks.model import train_step
    from benchmarks.model_inputs import made_up_batch
    from perception.data.loading import CameraLoading, LidarLoading
    from perception.runtime.config import build_detector, load_config

    torch.set_num_threads(_THREADS)
    config = load_config(ROOT / "configs" / f"{name}.yaml")
    build_detector(config)  # what building loads once does not count
    before = _memory("VmRSS")
    detector = build_detector(config).eval()
    image_size_px, num_sweeps = _FULL if name.startswith("nuscenes") else _SMALL
    cameras = CameraLoading(image_size_px=image_size_px) if "camera" in detector.branches else None
    batch = made_up_batch(cameras, LidarLoading(num_sweeps=num_sweeps))

    @torch.no_grad()
    def forward() -> None:
        """From the batch to boxes."""
        detector.predict(detector(batch), batch)

    forward_s, forward_bytes = _fastest(forward, runs)
    with torch.no_grad():
        macs = count_macs(detector, lambda: detector(batch))[""]
    step_s, step_bytes = _fastest(train_step(detector, batch), runs)
    return Figures(
        parameters=sum(parameter.numel() for parameter in detector.parameters()),
        macs=macs,
        forward_s=forward_s,
        step_s=step_s,
        forward_bytes=forward_bytes - before,
        step_bytes=step_bytes - before,
    )


def row(name: str, figures: Figures) -> str:
    """Lays the figures of a recipe out as Markdown.

    Args:
        name: of the recipe.
        figures: what it costs.

    Returns:
        A row of the table.
    """
    cells = [
        f"`{name}`",
        RECIPES[name],
        f"{figures.parameters / 1e6:.1f} M",
        f"{figures.macs / 1e9:.1f}",
        f"{figures.forward_s:.2f} s",
        f"{figures.step_s:.2f} s",
        f"{figures.forward_bytes / 2**30:.1f} GiB",
        f"{figures.step_bytes / 2**30:.1f} GiB",
    ]
    return f"| {' | '.join(cells)} |"


def replace_row(document: str, name: str, line: str) -> str:
    """Puts a row into the table.

    Args:
        document: its text; the table stands between the marks.
        name: of the recipe.
        line: its row.

    Returns:
        The text with the row of this recipe, in the order of the recipes.
    """
    before, rest = document.split(BEGIN)
    rows, after = rest.split(END)
    known = {found[1]: text for text in rows.splitlines() if (found := re.match(r"\| `([^`]+)` \|", text))}
    known[name] = line
    body = [HEADER, *(known[recipe] for recipe in RECIPES if recipe in known)]
    return before + BEGIN + "\n" + "\n".join(body) + "\n" + END + after


def _fastest(function: Callable[[], None], runs: int) -> tuple[float, int]:
    """Seconds of the fastest run but the first, and the most bytes that the process held."""
    Path("/proc/self/clear_refs").write_text("5")  # forgets the highest mark so far
    times = []
    for _ in range(max(runs, 2)):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times[1:]), _memory("VmHWM")


def _memory(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None, f"/proc/self/status has {field} on Linux"
    return int(found[1]) * 1024


if __name__ == "__main__":
    main()
