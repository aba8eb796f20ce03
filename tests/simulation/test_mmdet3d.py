"""A simulated set under mmdet3d as it is shipped: its converter, its data set and its metric."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from perception.formats.classes import DETECTION_CLASSES
from perception.formats.nuscenes_tables import Tables, read_tables
from tests.simulation.conftest import SETTINGS

MMDET3D = importlib.util.find_spec("mmdet3d")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(MMDET3D is None, reason="mmdet3d is not installed; `make mmdet3d` installs it"),
]

CAMERAS = [f"CAM_{name}" for name in ("FRONT", "FRONT_RIGHT", "FRONT_LEFT", "BACK", "BACK_LEFT", "BACK_RIGHT")]
NUM_SWEEPS = 3


@pytest.fixture(scope="module")
def tables(simulated: Path) -> Tables:
    return read_tables(simulated / "v1.0-mini")


@pytest.fixture(scope="module")
def converted(simulated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The set with mmdet3d's files beside the tables, which the converter wants in data/nuscenes."""
    folder = tmp_path_factory.mktemp("mmdet3d")
    root = folder / "data" / "nuscenes"
    root.mkdir(parents=True)
    for entry in simulated.iterdir():
        (root / entry.name).symlink_to(entry)
    shipped = Path(MMDET3D.origin).parent / ".mim"
    command = [sys.executable, str(shipped / "tools" / "create_data.py"), "nuscenes", "--version", "v1.0-mini"]
    command += ["--root-path", "./data/nuscenes", "--out-dir", "./data/nuscenes", "--extra-tag", "nuscenes"]
    environment = {**os.environ, "PYTHONPATH": str(shipped)}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return root


def data_set(root: Path, split: str) -> Any:
    """mmdet3d's data set of a split, with pictures, keyframe points and sweeps."""
    from mmdet3d.datasets import NuScenesDataset
    from mmdet3d.utils import register_all_modules

    register_all_modules()
    points = {"coord_type": "LIDAR", "load_dim": 5, "use_dim": 5}
    return NuScenesDataset(
        data_root=f"{root}/",
        ann_file=f"nuscenes_infos_{split}.pkl",
        metainfo={"version": "v1.0-mini"},
        data_prefix={
            "pts": "samples/LIDAR_TOP",
            "sweeps": "sweeps/LIDAR_TOP",
            **{name: f"samples/{name}" for name in CAMERAS},
        },
        modality={"use_lidar": True, "use_camera": True},
        use_valid_flag=True,  # boxes that LiDAR or radar touched: those that the devkit evaluates
        test_mode=True,
        pipeline=[
            {"type": "LoadMultiViewImageFromFiles"},
            {"type": "LoadPointsFromFile", **points},
            {"type": "LoadPointsFromMultiSweeps", "sweeps_num": NUM_SWEEPS, "test_mode": True},
        ],
    )


def test_the_converter_finds_every_sample_box_and_sweep(converted: Path, tables: Tables) -> None:
    import mmengine
    from nuscenes.utils import splits

    names = {row.token: row.name for row in tables.scene}
    boxes = [row.sample_token for row in tables.sample_annotation]
    for split, scenes in (("train", splits.mini_train), ("val", splits.mini_val)):
        infos = mmengine.load(converted / f"nuscenes_infos_{split}.pkl")["data_list"]
        samples = [row for row in tables.sample if names[row.scene_token] in scenes]
        assert {info["token"] for info in infos} == {row.token for row in samples}
        for info in infos:
            assert len(info.get("instances", ())) == boxes.count(info["token"])
            assert set(info["images"]) == set(CAMERAS)
        sweeps = [len(info.get("lidar_sweeps", ())) for info in infos]
        assert sweeps.count(0) == len({row.scene_token for row in samples})  # a scene's first keyframe has none
        assert max(sweeps) == 10
    assert (converted / "nuscenes_dbinfos_train.pkl").stat().st_size > 0
    assert any((converted / "nuscenes_gt_database").iterdir())


def test_the_data_set_loads_pictures_and_sweeps_that_lie_on_what_stands_still(converted: Path) -> None:
    from mmdet3d.structures.ops import box_np_ops

    data = data_set(converted, "val")
    ratios = []
    for sample in (data[number] for number in range(3, len(data), 3)):
        assert [image.shape for image in sample["img"]] == [(*SETTINGS.image_size_px, 3)] * 6
        points = sample["points"].tensor.numpy()
        truth = sample["eval_ann_info"]
        boxes, is_still = truth["gt_bboxes_3d"].tensor.numpy(), (truth["velocities"] == 0).all(1)
        boxes = boxes[is_still & (truth["num_lidar_pts"] >= 20), :7]
        inside = box_np_ops.points_in_rbbox(points[:, :3], boxes)
        from_keyframe = points[:, -1] == 0  # seconds before it
        ratios += list(inside.sum(0) / np.maximum(inside[from_keyframe].sum(0), 1))
    assert len(ratios) > 10
    assert np.median(ratios) == pytest.approx(1 + NUM_SWEEPS, rel=0.2)


def test_ground_truth_as_predictions_is_perfect(converted: Path) -> None:
    from mmdet3d.evaluation import NuScenesMetric

    data = data_set(converted, "val")
    metric = NuScenesMetric(data_root=str(converted), ann_file=str(converted / "nuscenes_infos_val.pkl"))
    metric.dataset_meta = data.metainfo
    for number in range(len(data)):
        info = data.get_data_info(number)
        truth = info["eval_ann_info"]
        labels = torch.from_numpy(truth["gt_labels_3d"])
        known = labels >= 0  # mmdet3d gives -1 to what is not a class of the benchmark
        boxes = {
            "bboxes_3d": truth["gt_bboxes_3d"][known],
            "labels_3d": labels[known],
            "scores_3d": torch.ones(int(known.sum())),
        }
        result = {"pred_instances_3d": boxes, "pred_instances": {}, "sample_idx": info["sample_idx"]}
        metric.process({}, [result])
    figures = {name.split("/")[-1]: value for name, value in metric.evaluate(len(data)).items()}
    for name in DETECTION_CLASSES:
        for radius_m in (0.5, 1.0, 2.0, 4.0):
            assert figures[f"{name}_AP_dist_{radius_m}"] == pytest.approx(1.0), name
    assert figures["mAP"] == pytest.approx(1.0)
    assert max(figures[error] for error in ("mATE", "mASE", "mAOE")) < 0.01
    assert figures["mAVE"] < 0.05
