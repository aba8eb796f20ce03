"""What the fusers cost: a forward pass over maps of four sensors, and how many parameters they have."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.flops import count_macs
from benchmarks.model import Clock
from perception.geometry.grid import Grid
from perception.models.parts import Fuser
from perception.runtime.config import load_config
from perception.structures import BevMap, SensorFeatures

_CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "fusers"
_SENSORS = ("camera", "lidar", "radar", "ultrasonic")
_CHANNELS = 64
_CELL_M = 0.8
_MIXED = (_SENSORS, ("lidar", "camera"), ("camera", "radar"), ("lidar", "radar", "ultrasonic"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this benchmark's options.

    Args:
        parser: the parser to add to.
    """
    known = sorted(path.stem for path in _CONFIGS.glob("*.yaml"))
    parser.add_argument(
        "--only", metavar="FUSER", action="append", choices=known, help=f"may be repeated: {', '.join(known)}"
    )
    parser.add_argument("--cells", type=int, default=128, help="cells of the map per side")
    parser.add_argument("--repeats", type=int, default=9, help="timed runs; medians are given")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--training", action="store_true", help="also a training pass of four samples, in bfloat16")


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Times every fuser that has a config, in evaluation, one sample, four sensors of 64 channels.

    Args:
        options: see `add_arguments`.

    Returns:
        Rows of fuser, ms (median), cpu_ms (of all threads, median), lidar_ms (the LiDAR alone is present), kparams
        (thousands of parameters), gmac (10^9 multiply-accumulates, those of attention left out) and, where asked for,
        training_cpu_ms.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        names = options.only or sorted(path.stem for path in _CONFIGS.glob("*.yaml"))
        rows = [_measure(name, options.cells, options.repeats) for name in names]
        for row in rows if options.training else ():
            row["training_cpu_ms"] = _training_cpu_ms(row["fuser"], options.cells, options.repeats)
        return rows
    finally:
        torch.set_num_threads(threads)


def build_fuser(
    config: Mapping[str, Any], in_channels: dict[str, dict[str, int]], out_channels: dict[str, int]
) -> Fuser:
    """Builds a fuser of a config for other sensors and channels than the config's.

    Args:
        config: `class_path` and `init_args`, which may hold a fuser of its own.
        in_channels: level name -> sensor name -> channels.
        out_channels: level name -> channels.

    Returns:
        The fuser, without losses of its own.
    """
    module, name = config["class_path"].rsplit(".", 1)
    arguments = {name: value for name, value in config["init_args"].items() if name != "losses"}
    if "fuser" in arguments:
        arguments["fuser"] = build_fuser(arguments["fuser"], in_channels, out_channels)
    else:
        arguments |= {"in_channels": in_channels, "out_channels": out_channels}
    fuser: Fuser = getattr(importlib.import_module(module), name)(**arguments)
    return fuser


def made_up_features(num_cells: int, present: Sequence[Sequence[str]] = (_SENSORS,)) -> dict[str, SensorFeatures]:
    """Makes random maps of four sensors.

    Args:
        num_cells: cells per side.
        present: which of them each sample has.

    Returns:
        Sensor name -> features on the level `main`.
    """
    generator = torch.Generator().manual_seed(0)
    grid = Grid.square(num_cells * _CELL_M / 2, _CELL_M)
    features = {}
    for sensor in _SENSORS:
        maps = torch.randn(len(present), _CHANNELS, grid.num_y, grid.num_x, generator=generator)
        bev = BevMap(features=maps, validity=torch.ones_like(maps[:, :1], dtype=torch.bool), grid=grid)
        features[sensor] = SensorFeatures(
            present=torch.tensor([sensor in names for names in present]), bev={"main": bev}
        )
    return features


def _measure(name: str, num_cells: int, repeats: int) -> dict[str, Any]:
    fuser = _fuser(name).eval()
    every, alone = made_up_features(num_cells), made_up_features(num_cells, (("lidar",),))
    clocks = {"all": Clock(), "lidar": Clock()}
    with torch.inference_mode():
        macs = count_macs(fuser, lambda: fuser(every))  # warms up too
        fuser(alone)
        for _ in range(repeats):
            for clock, features in zip(clocks.values(), (every, alone), strict=True):
                with clock.running():
                    fuser(features)
    return {
        "fuser": name,
        "ms": clocks["all"].ms(),
        "cpu_ms": clocks["all"].cpu_ms(),
        "lidar_ms": clocks["lidar"].ms(),
        "kparams": sum(parameter.numel() for parameter in fuser.parameters()) / 1e3,
        "gmac": macs[""] / 1e9,
    }


def _training_cpu_ms(name: str, num_cells: int, repeats: int) -> float:
    fuser, features, clock = _fuser(name).train(), made_up_features(num_cells, _MIXED), Clock()
    for _ in range(max(repeats // 3, 2)):
        with clock.running():
            with torch.autocast("cpu", torch.bfloat16):
                fused = fuser(features).bev["main"].features
            fused.float().square().mean().backward()
    return clock.cpu_ms(skip=1)


def _fuser(name: str) -> Fuser:
    torch.manual_seed(0)
    channels = {"main": dict.fromkeys(_SENSORS, _CHANNELS)}
    return build_fuser(load_config(_CONFIGS / f"{name}.yaml"), channels, {"main": _CHANNELS})
