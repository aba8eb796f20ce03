import numpy as np
import pytest

from tests.synthetic_nuscenes import OBJECTS, SCENES, VERSION, write_synthetic_nuscenes

devkit = pytest.importorskip("nuscenes", reason="nuscenes-devkit is not installed (extra: nuscenes)")


def test_devkit_loads_it_and_counts_the_points_that_the_tables_name(tmp_path):
    from nuscenes.utils.data_classes import LidarPointCloud
    from nuscenes.utils.geometry_utils import points_in_box

    tables = devkit.NuScenes(VERSION, str(write_synthetic_nuscenes(tmp_path)), verbose=False)
    assert len(tables.sample) == sum(SCENES.values())
    assert len(tables.sample_annotation) == len(tables.sample) * len(OBJECTS)
    for sample in tables.sample:
        path, boxes, _ = tables.get_sample_data(sample["data"]["LIDAR_TOP"])
        points = LidarPointCloud.from_file(path).points[:3]
        for box in boxes:
            stored = tables.get("sample_annotation", box.token)["num_lidar_pts"]
            assert points_in_box(box, points).sum() >= stored  # the ground may add a few
        _, seen, _ = tables.get_sample_data(sample["data"]["CAM_FRONT"])
        assert any(box.name == "vehicle.car" for box in seen)


def test_moving_things_move_over_ground(tmp_path):
    tables = devkit.NuScenes(VERSION, str(write_synthetic_nuscenes(tmp_path, cameras=False)), verbose=False)
    for annotation in tables.sample_annotation:
        speed = {thing[0]: thing[4] for thing in reversed(OBJECTS)}[annotation["category_name"]]
        if annotation["category_name"] != "vehicle.car":
            np.testing.assert_allclose(np.linalg.norm(tables.box_velocity(annotation["token"])[:2]), speed, atol=1e-6)
