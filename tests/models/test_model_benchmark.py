"""What the model benchmark counts and times."""

import argparse
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.flops import count_macs
from benchmarks.model import part_rows, run, train_step, with_fuser
from benchmarks.model_inputs import POINTS_PER_SWEEP, made_up_suite
from benchmarks.model_inputs_ranging import REPORTS_PER_SENSOR, RETURNS_PER_SCAN
from perception.drives.setup import sensor_settings
from perception.models.encoders.sparse import SparseBackbone, VoxelFeatures
from perception.models.fusers.qmf import QmfFuser
from perception.models.temporal.history import BevHistory
from perception.ops.bev_pool import bev_pool, bev_pool_plan
from perception.ops.sparse_conv_plan import strided_plan, submanifold_plan
from perception.runtime.config import build_detector, load_config
from perception.structures import RADAR_FIELDS
from tests.models.scenes import make_batch, make_cameras, make_detector, make_lidar, two_boxes
from tests.tiny_config import tiny_config, write_config

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def test_sparse_convolutions_count_the_voxels_that_meet() -> None:
    coords = torch.tensor([[0, 1, 1, 1], [0, 1, 1, 2], [0, 3, 5, 5]])
    backbone = SparseBackbone(in_channels=2, stage_channels=[3], stage_blocks=[1], out_channels=4).eval()
    voxels = VoxelFeatures(features=torch.randn(3, 2), coords=coords, shape=(5, 6, 6))
    pairs = len(submanifold_plan(coords, (5, 6, 6)).sources)
    assert pairs == 5  # each voxel with itself, and two neighbours with each other
    exits = len(strided_plan(coords, (5, 6, 6), kernel=(3, 1, 1), stride=(2, 1, 1), padding=0).sources)
    assert exits == 3  # outputs see layers 0 to 2 and 2 to 4; the voxels are in layers 1, 1 and 3
    counts = count_macs(backbone, lambda: backbone(voxels))
    assert counts["stages"] == pairs * (2 * 3 + 2 * 3 * 3)
    assert counts[""] - counts["stages"] == exits * 3 * 4


def test_pooling_counts_the_points_inside() -> None:
    cells = torch.tensor([0, 3, -1, 3]).view(1, 1, 2, 1, 2)
    plan = bev_pool_plan(cells, (2, 2))
    depth, features = torch.rand(1, 1, 2, 1, 2), torch.rand(1, 1, 5, 1, 2)
    assert count_macs(nn.Identity(), lambda: bev_pool(depth, features, plan))[""] == 3 * 5


def test_the_parts_add_up() -> None:
    detector = make_detector()
    batch = make_batch(make_cameras([[True] * 2]), make_lidar([200]), [two_boxes()])
    rows = {row["part"]: row for row in part_rows(detector, batch, repeats=2)}
    parts = [
        "branches.camera.encoder",
        "branches.camera.view",
        "branches.lidar.encoder",
        "fuser",
        "neck",
        "heads.boxes",
    ]
    whole = ["branches.camera", "branches.lidar"]
    assert list(rows) == [whole[0], *parts[:2], whole[1], *parts[2:], "decode", "all", "plan, also in the parts"]
    assert rows[whole[1]]["gmac"] == pytest.approx(rows["branches.lidar.encoder"]["gmac"])
    assert rows[whole[0]]["ms"] >= rows["branches.camera.encoder"]["ms"]
    assert sum(rows[part]["gmac"] for part in parts) == pytest.approx(rows["all"]["gmac"])
    assert 0 < sum(rows[part]["share"] for part in (*parts, "decode")) <= 1.01
    assert not any(detector.get_submodule(part)._forward_hooks for part in parts)
    before = [parameter.clone() for parameter in detector.neck.parameters()]
    train_step(detector, batch)()
    assert any(not torch.equal(old, new) for old, new in zip(before, detector.neck.parameters(), strict=True))


def test_a_history_is_timed_with_a_past() -> None:
    detector = make_detector()
    detector.temporal = BevHistory(channels={"main": 16})
    batch = make_batch(make_cameras([[True] * 2]), make_lidar([200]), [two_boxes()])
    compared = []
    detector.temporal.levels["main"].compare.register_forward_hook(lambda *_: compared.append(1))
    rows = {row["part"]: row for row in part_rows(detector, batch, repeats=3)}
    assert len(compared) == 2  # not in the first moment
    assert rows["temporal"]["ms"] > 0


def test_a_run_is_measured_with_its_loader(dataroot: Path, tmp_path: Path) -> None:
    config = tiny_config(dataroot)
    config["data"]["init_args"]["loader"]["batch_size"] = 1
    options = argparse.Namespace(
        config=write_config(tmp_path / "config.yaml", config),
        repeats=2,
        threads=1,
        dataroot=dataroot,
        version="v1.0-mini",
        scenes=None,
        fuser=None,
        sample=None,
    )
    *parts, step, loader = run(options)
    assert parts[-2]["part"] == "all"
    assert step["part"] == "training step, batch size 1"
    assert loader["over_training"] == pytest.approx(loader["samples_per_s"] / step["samples_per_s"])


def test_every_sensor_of_a_config_is_made_up() -> None:
    sensors = sensor_settings(load_config(CONFIGS / "sim_v2" / "every_sensor.yaml"))
    batch = made_up_suite(sensors, 2)
    assert {name: images.camera_model for name, images in batch.cameras.items()} == {
        "surround": "pinhole",
        "fisheye": "kannala_brandt",
    }
    fisheyes = batch.cameras["fisheye"]
    assert fisheyes.images.shape == (2, 4, 3, 192, 288)
    ahead = fisheyes.camera2ego[1, :, :3, 2]  # (4, 3) the optical axes: front, left, rear, right
    torch.testing.assert_close(ahead[:, :2], torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]], dtype=torch.float64))
    assert batch.radar.fields == RADAR_FIELDS
    assert batch.radar.batch_index.bincount().tolist() == [5 * 5 * RETURNS_PER_SCAN] * 2
    assert batch.ultrasonic.batch_index.bincount().tolist() == [12 * REPORTS_PER_SENSOR] * 2
    assert batch.radar4d is None  # nor does the config name any
    assert len(batch.lidar.points) == 2 * 5 * POINTS_PER_SWEEP


def test_a_fuser_takes_the_place_of_the_configs() -> None:
    config = load_config(CONFIGS / "sim_v2" / "every_sensor.yaml")
    detector = build_detector(with_fuser(config, "qmf"))
    assert isinstance(detector.fuser, QmfFuser)
    assert {"depth", "quality"} <= set(detector.auxiliary_losses)
    assert not isinstance(build_detector(config).fuser, QmfFuser)  # it was not changed


def test_a_loaded_sample_takes_the_place_of_made_up_data(dataroot: Path, tmp_path: Path) -> None:
    options = argparse.Namespace(
        config=write_config(tmp_path / "config.yaml", tiny_config(dataroot)),
        repeats=2,
        threads=1,
        dataroot=dataroot,
        version="v1.0-mini",
        scenes=None,
        fuser=None,
        sample=1,
    )
    assert [row["part"] for row in run(options)][-2:] == ["plan, also in the parts", "training step, batch size 2"]
    options.sample = 10_000
    with pytest.raises(ValueError, match=r"--sample must be one of \d+, got 10000"):
        run(options)
    options.dataroot = None
    with pytest.raises(ValueError, match="must come with the set that it is of, got no --dataroot"):
        run(options)
