"""Fusers to test and what they are fed."""

import importlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from perception.geometry.grid import Grid
from perception.models.fusers.bottleneck import BottleneckFuser
from perception.models.fusers.cmx import CmxFuser
from perception.models.fusers.concat_conv import ConcatConvFuser
from perception.models.fusers.deformable import DeformableFuser
from perception.models.fusers.gmu import GmuFuser
from perception.models.fusers.metaocc import MetaOccFuser
from perception.models.fusers.qmf import QmfFuser
from perception.models.fusers.reconstruction import ReconstructingFuser
from perception.models.fusers.sequential import SequentialFuser
from perception.models.fusers.ssma import SsmaFuser
from perception.models.parts import Fuser
from perception.runtime.config import load_config
from perception.structures import BevMap, SensorFeatures

CONFIGS = Path(__file__).resolve().parents[3] / "configs" / "fusers"
GRIDS = {"main": Grid.square(4.0, 0.5), "near": Grid.square(1.0, 0.2)}  # 16 x 16 and 10 x 10 cells
SENSORS = ("camera", "lidar", "radar", "ultrasonic")
IN_CHANNELS = {
    "main": {"camera": 5, "lidar": 6, "radar": 4, "ultrasonic": 3},
    "near": {"camera": 5, "ultrasonic": 3},
}
OUT_CHANNELS = {"main": 8, "near": 4}
SUBSETS = [subset for count in range(1, 5) for subset in itertools.combinations(SENSORS, count)]

Channels = dict[str, dict[str, int]]
Builder = Callable[[Channels, dict[str, int]], Fuser]


def _as_configured(path: Path) -> Builder:
    """A builder of the fuser that a config describes, for other maps and without what it is taught by."""
    config = load_config(path)
    module, _, name = config["class_path"].rpartition(".")
    given = {key: value for key, value in config["init_args"].items() if key != "losses"}
    return lambda in_channels, out_channels: getattr(importlib.import_module(module), name)(
        **{**given, "in_channels": in_channels, "out_channels": out_channels}
    )


_SMALL: dict[str, Builder] = {
    "concat_conv": lambda given, wanted: ConcatConvFuser(in_channels=given, out_channels=wanted),
    "gmu": lambda given, wanted: GmuFuser(in_channels=given, out_channels=wanted),
    "ssma": lambda given, wanted: SsmaFuser(in_channels=given, out_channels=wanted, reduction=2),
    "cmx": lambda given, wanted: CmxFuser(in_channels=given, out_channels=wanted, num_heads=2),
    "bottleneck": lambda given, wanted: BottleneckFuser(
        in_channels=given, out_channels=wanted, num_tokens=2, window=3, num_heads=2
    ),
    "sequential": lambda given, wanted: SequentialFuser(in_channels=given, out_channels=wanted),
    "qmf": lambda given, wanted: QmfFuser(in_channels=given, out_channels=wanted, num_classes=2, hidden_channels=4),
    "deformable": lambda given, wanted: DeformableFuser(in_channels=given, out_channels=wanted, width=8, num_layers=2),
    "metaocc": lambda given, wanted: MetaOccFuser(in_channels=given, out_channels=wanted, width=8, num_points=2),
    "reconstruction": lambda given, wanted: ReconstructingFuser(
        fuser=SequentialFuser(in_channels=given, out_channels=wanted), width=6
    ),
}
BUILDERS = {path.stem: _as_configured(path) for path in sorted(CONFIGS.glob("*.yaml"))} | _SMALL
"""Every fuser that has a config: smaller than it comes where that is said above, as it comes otherwise."""
TRUSTING = ("gmu", "qmf", "deformable", "metaocc")  # those that give a trust map


def make_fuser(name: str, *, seed: int = 0) -> Fuser:
    """A fuser of two levels; what starts at zero is moved, so that it counts."""
    torch.manual_seed(seed)
    fuser = BUILDERS[name](IN_CHANNELS, OUT_CHANNELS)
    with torch.no_grad():
        for parameter in fuser.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return fuser


def make_features(present: Mapping[str, Sequence[bool]], *, seed: int = 0) -> dict[str, SensorFeatures]:
    """Random maps of every sensor on all of its levels; every second column is valid."""
    generator = torch.Generator().manual_seed(seed)
    features = {}
    for sensor in SENSORS:
        bev = {}
        for level, sensors in IN_CHANNELS.items():
            if sensor in sensors:
                grid = GRIDS[level]
                shape = (len(present[sensor]), sensors[sensor], grid.num_y, grid.num_x)
                validity = torch.zeros(shape[0], 1, *shape[2:], dtype=torch.bool)
                validity[..., ::2] = True
                bev[level] = BevMap(features=torch.randn(shape, generator=generator), validity=validity, grid=grid)
        features[sensor] = SensorFeatures(present=torch.tensor(present[sensor]), bev=bev)
    return features


def present_of(*subsets: Sequence[str]) -> dict[str, list[bool]]:
    """Which sensors are there, sample by sample."""
    return {sensor: [sensor in subset for subset in subsets] for sensor in SENSORS}


def sample_of(features: Mapping[str, SensorFeatures], index: int) -> dict[str, SensorFeatures]:
    """One sample of a batch, alone."""
    rows = slice(index, index + 1)
    return {
        sensor: SensorFeatures(
            present=part.present[rows],
            bev={
                level: BevMap(features=bev.features[rows], validity=bev.validity[rows], grid=bev.grid)
                for level, bev in part.bev.items()
            },
        )
        for sensor, part in features.items()
    }


def overwrite_absent(features: Mapping[str, SensorFeatures], fill: Callable[[Tensor], Tensor]) -> None:
    """Writes into the rows of absent samples, in place."""
    for part in features.values():
        for bev in part.bev.values():
            bev.features[~part.present] = fill(bev.features[~part.present])
            bev.validity[~part.present] = True


def random_bytes(like: Tensor) -> Tensor:
    """Whatever a memory may hold."""
    return torch.randint(0, 256, (*like.shape, 4), dtype=torch.uint8).view(torch.float32).squeeze(-1)
