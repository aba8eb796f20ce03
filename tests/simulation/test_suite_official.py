"""What the official devkit, unpatched, makes of point labels, radars and CAN-bus messages of a simulated set."""

import os
import subprocess
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pytest
from matplotlib import pyplot
from PIL import Image

pytestmark = pytest.mark.slow

RADARS = [f"RADAR_{name}" for name in ("FRONT", "FRONT_LEFT", "FRONT_RIGHT", "BACK_LEFT", "BACK_RIGHT")]


@pytest.fixture(scope="module")
def devkit(simulated: Path):
    from nuscenes.nuscenes import NuScenes

    return NuScenes("v1.0-mini", str(simulated), verbose=False)


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    pyplot.close("all")


def test_the_devkits_tests_of_point_labels_pass(simulated: Path) -> None:
    environment = {**os.environ, "NUSCENES": str(simulated)}
    command = [sys.executable, "-m", "nuscenes.tests.test_lidarseg"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_statistics_of_point_labels(devkit, capsys: pytest.CaptureFixture[str]) -> None:
    for source in ("lidarseg", "panoptic"):
        devkit.list_lidarseg_categories(sort_by="count", gt_from=source)
        devkit.get_sample_lidarseg_stats(devkit.sample[3]["token"], sort_by="count", gt_from=source)
        said = capsys.readouterr().out
        assert all(name in said for name in ("vehicle.car", "flat.driveable_surface", "static.vegetation"))
    devkit.list_panoptic_instances(sort_by="count")
    assert "vehicle.car" in capsys.readouterr().out


def test_point_labels_are_drawn(devkit, tmp_path: Path) -> None:
    sample = devkit.sample[20]
    for shown in ({"show_lidarseg": True, "show_lidarseg_legend": True}, {"show_panoptic": True}):
        name, lidar = next(iter(shown)), sample["data"]["LIDAR_TOP"]
        devkit.render_sample_data(lidar, **shown, out_path=str(tmp_path / f"{name}.png"), verbose=False)
        devkit.render_pointcloud_in_image(
            sample["token"], **shown, out_path=str(tmp_path / f"{name}_image.png"), verbose=False
        )
    for name in ("show_lidarseg", "show_panoptic"):
        path = str(tmp_path / f"{name}_sample.png")
        devkit.render_sample(sample["token"], **{name: True}, out_path=path, verbose=False)
    assert len(list(tmp_path.iterdir())) == 6
    assert all(np.asarray(Image.open(path)).std() > 5 for path in tmp_path.iterdir())


def test_ground_truth_as_segmentation_is_perfect(devkit, tmp_path: Path) -> None:
    from nuscenes.eval.lidarseg.evaluate import LidarSegEval
    from nuscenes.eval.lidarseg.utils import LidarsegClassMapper, get_samples_in_eval_set

    folder, mapper = tmp_path / "lidarseg" / "mini_val", LidarsegClassMapper(devkit)
    folder.mkdir(parents=True)
    for token in get_samples_in_eval_set(devkit, "mini_val"):
        row = devkit.get("lidarseg", devkit.get("sample", token)["data"]["LIDAR_TOP"])
        labels = mapper.convert_label(np.fromfile(Path(devkit.dataroot) / row["filename"], np.uint8))
        labels = np.maximum(labels, 1).astype(np.uint8)  # 0, which is not evaluated, is no class that may be predicted
        (folder / Path(row["filename"]).name).write_bytes(labels.tobytes())
    result = LidarSegEval(devkit, str(tmp_path), "mini_val").evaluate()
    present = [value for value in result["iou_per_class"].values() if not np.isnan(value)]
    assert len(present) >= 12
    assert result["miou"] == pytest.approx(1.0)


def test_radars_are_read_filtered_and_drawn(devkit, tmp_path: Path) -> None:
    from nuscenes.utils.data_classes import RadarPointCloud

    kept = []
    for sample in devkit.sample[::5]:
        for channel in RADARS:
            path = devkit.get_sample_data_path(sample["data"][channel])
            RadarPointCloud.default_filters()
            kept.append(RadarPointCloud.from_file(path).nbr_points())
    assert min(kept) > 5
    assert 30 < np.mean(kept) < 90
    sample = devkit.sample[5]
    both, _ = RadarPointCloud.from_file_multisweep(devkit, sample, "RADAR_FRONT", "LIDAR_TOP", nsweeps=2)
    alone, _ = RadarPointCloud.from_file_multisweep(devkit, sample, "RADAR_FRONT", "LIDAR_TOP", nsweeps=1)
    assert both.nbr_points() > 1.5 * alone.nbr_points()
    devkit.render_pointcloud_in_image(
        sample["token"], pointsensor_channel="RADAR_FRONT", out_path=str(tmp_path / "radar.png"), verbose=False
    )
    assert np.asarray(Image.open(tmp_path / "radar.png")).std() > 5


def test_the_tables_count_the_returns_of_all_radars(devkit) -> None:
    from nuscenes.utils.data_classes import RadarPointCloud
    from nuscenes.utils.geometry_utils import points_in_box, transform_matrix
    from pyquaternion import Quaternion

    RadarPointCloud.disable_filters()
    total = 0
    try:
        for sample in devkit.sample[::9]:
            points = []
            for channel in RADARS:
                row = devkit.get("sample_data", sample["data"][channel])
                cloud = RadarPointCloud.from_file(devkit.get_sample_data_path(row["token"]))
                places = cloud.points[:3].astype(np.float64)
                for table in ("calibrated_sensor", "ego_pose"):
                    pose = devkit.get(table, row[f"{table}_token"])
                    matrix = transform_matrix(pose["translation"], Quaternion(pose["rotation"]))
                    places = matrix[:3, :3] @ places + matrix[:3, 3:]
                points.append(places)
            for token in sample["anns"]:
                counted = points_in_box(devkit.get_box(token), np.concatenate(points, axis=1)).sum()
                assert devkit.get("sample_annotation", token)["num_radar_pts"] == counted
                total += counted
    finally:
        RadarPointCloud.default_filters()
    assert total > 100


def test_the_devkit_reads_the_can_bus_and_finds_the_way_on_the_route(devkit, simulated: Path) -> None:
    from nuscenes.can_bus.can_bus_api import NuScenesCanBus

    reader = NuScenesCanBus(str(simulated))
    assert reader.list_misaligned_routes(max_misalignment=0.6) == []
    for scene in devkit.scene:
        for message in reader.can_messages:
            rows = reader.get_messages(scene["name"], message)
            assert len(rows) == reader.get_messages(scene["name"], "meta")[message]["message_count"]
        route, pose = reader.get_pose_and_route(scene["name"], print_warnings=False)
        assert len(route) > 80
        assert len(pose) > 300
