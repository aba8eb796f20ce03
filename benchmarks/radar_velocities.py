"""What radars measured beside the velocities of boxes: `python -m benchmarks.radar_velocities DATAROOT`.

A return's velocity over ground points at the radar or away from it, so a box's velocity is taken along that ray. The
other way round, a vehicle that drives where it points has a speed that each of its returns tells; where a set has no
velocities of boxes, as of a single keyframe, all returns of a box must tell the same one.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from perception.data.index import Index
from perception.data.index_build import build_index
from perception.data.loading import RadarLoading, SampleLoader
from perception.formats.classes import DETECTION_CLASSES

_MARGIN_M = 0.5


@dataclass(frozen=True)
class Pair:
    """A moving box and the moving returns on it.

    Attributes:
        name: class of the box.
        speed_mps: of the box; NaN where unknown.
        along_mps: its velocity along the returns' rays, the median; NaN where unknown.
        measured_mps: what the returns say, the median.
        ahead_mps: speed along the box's heading that the returns tell, the median; negative if it reverses.
        spread_mps: from the lowest to the highest of these.
        count: of the returns.
    """

    name: str
    speed_mps: float
    along_mps: float
    measured_mps: float
    ahead_mps: float
    spread_mps: float
    count: int


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataroot", type=Path, help="of a set in nuScenes' format with radars and box velocities")
    parser.add_argument("--version", default="v1.0-trainval")
    parser.add_argument("--every", type=int, default=1, help="takes each so many-th sample")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        build_index(options.dataroot, options.version, Path(folder) / "index")
        pairs = velocity_pairs(options.dataroot, Index.open(Path(folder) / "index"), options.every)
    titles = ("box m/s", "along the ray", "radar m/s", "along the heading", "spread", "returns")
    print(f"{'class':<22}" + "".join(f"{title:>{len(title) + 2}}" for title in titles))
    for it in pairs:
        values = (it.speed_mps, it.along_mps, it.measured_mps, it.ahead_mps, it.spread_mps)
        columns = [f"{value:{len(title) + 2}.2f}" for title, value in zip(titles, values, strict=False)]
        print(f"{it.name:<22}" + "".join(columns) + f"{it.count:9d}")
    gaps = torch.tensor([abs(it.along_mps - it.measured_mps) for it in pairs])
    if len(gaps := gaps[~gaps.isnan()]):
        print(f"{len(gaps)} boxes, median difference {gaps.median():.2f} m/s, {(gaps < 1).float().mean():.0%} below 1")
    if unknown := [it for it in pairs if it.speed_mps != it.speed_mps]:
        print(f"{len(unknown)} boxes without a velocity, largest spread {max(it.spread_mps for it in unknown):.3f} m/s")


def velocity_pairs(dataroot: Path, index: Index, every: int = 1, moving_mps: float = 1.5) -> list[Pair]:
    """Every box that moves and has moving returns.

    Args:
        dataroot: of a set with radars.
        index: of the set.
        every: takes each so many-th sample.
        moving_mps: speed from which boxes and returns count as moving.

    Returns:
        Boxes of all samples, in the ego frame at the sample's time.
    """
    loader = SampleLoader(index=index, dataroot=dataroot, class_names=DETECTION_CLASSES, radar=RadarLoading())
    pairs = []
    for position in range(0, len(index), every):
        sample = loader.load(position)
        if sample.radar is None or sample.boxes is None:
            continue
        moving = sample.radar.points[sample.radar.points[:, 4:6].norm(dim=1) > moving_mps]
        for box, label in zip(sample.boxes.boxes, sample.boxes.labels.tolist(), strict=True):
            velocities = moving[_on_box(moving, box), 4:6]
            speed = box[7:9].norm()
            if len(velocities) and not speed <= moving_mps:
                speeds = velocities.norm(dim=1)
                rays = velocities / speeds[:, None]
                ahead = speeds / (rays @ torch.stack((box[6].cos(), box[6].sin())))
                values = (speed, (rays @ box[7:9]).median(), speeds.median(), ahead.median(), ahead.max() - ahead.min())
                pairs.append(Pair(DETECTION_CLASSES[label], *(float(it) for it in values), len(velocities)))
    return pairs


def _on_box(points: Tensor, box: Tensor) -> Tensor:
    """(P,) which points lie on a box, seen from above."""
    offset, sine, cosine = points[:, :2] - box[:2], box[6].sin(), box[6].cos()
    own = torch.stack((offset @ torch.stack((cosine, sine)), offset @ torch.stack((-sine, cosine))), dim=1)
    return (own.abs() <= box[3:5] / 2 + _MARGIN_M).all(1)


if __name__ == "__main__":
    main()
