"""A simulated set under the official devkit, unpatched."""

import json
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

from perception.formats.classes import CATEGORY_TO_CLASS, DETECTION_CLASSES
from perception.simulation.manifest import Manifest
from perception.simulation.rig import surround_cameras

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def devkit(simulated: Path):
    from nuscenes.nuscenes import NuScenes

    return NuScenes("v1.0-mini", str(simulated), verbose=False)


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    pyplot.close("all")


def test_the_devkits_own_tests_pass(simulated: Path, devkit) -> None:
    from nuscenes.tests.assert_download import verify_setup

    environment = {**os.environ, "NUSCENES": str(simulated)}
    command = [sys.executable, "-m", "nuscenes.tests.test_nuscenes"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    verify_setup(devkit)


def test_what_the_devkit_lists(devkit, capsys) -> None:
    devkit.list_scenes()
    devkit.list_categories()
    devkit.list_attributes()
    devkit.list_sample(devkit.sample[0]["token"])
    said = capsys.readouterr().out
    assert all(name in said for name in ("scene-0061", "scene-0103", "vehicle.car", "vehicle.parked", "CAM_BACK"))


def test_what_the_devkit_draws_of_a_sample(devkit, tmp_path: Path) -> None:
    sample = devkit.sample[5]
    devkit.render_sample(sample["token"], out_path=str(tmp_path / "sample.png"), verbose=False)
    devkit.render_pointcloud_in_image(sample["token"], out_path=str(tmp_path / "points.png"), verbose=False)
    devkit.render_pointcloud_in_image(
        sample["token"], render_intensity=True, out_path=str(tmp_path / "intensity.png"), verbose=False
    )
    for channel, token in sample["data"].items():
        devkit.render_sample_data(token, out_path=str(tmp_path / f"{channel}.png"), verbose=False)
    lidar = sample["data"]["LIDAR_TOP"]
    devkit.render_sample_data(lidar, nsweeps=5, underlay_map=True, out_path=str(tmp_path / "a.png"), verbose=False)
    assert all(np.asarray(Image.open(path)).std() > 5 for path in tmp_path.glob("*.png"))


def test_what_the_devkit_draws_of_a_track_and_of_a_map(devkit, tmp_path: Path) -> None:
    seen = [it for it in devkit.sample_annotation if it["visibility_token"] == "4" and it["num_lidar_pts"] > 30]
    assert seen
    drawn = 0
    for annotation in seen[:: len(seen) // 20]:  # some are not wholly in front of one camera, which the devkit refuses
        try:
            devkit.render_annotation(annotation["token"], out_path=str(tmp_path / "annotation.png"))
            devkit.render_instance(annotation["instance_token"], out_path=str(tmp_path / "instance.png"))
            drawn += 1
        except AssertionError:
            continue
        if drawn == 2:
            break
    assert drawn == 2
    devkit.render_egoposes_on_map("singapore-queenstown", out_path=str(tmp_path / "map.png"))


def test_ego_poses_lie_on_the_drivable_area_of_their_map(devkit) -> None:
    from nuscenes.map_expansion.map_api import NuScenesMap
    from nuscenes.map_expansion.utils import get_egoposes_on_drivable_ratio

    for scene in devkit.scene:
        location = devkit.get("log", scene["log_token"])["location"]
        vector_map = NuScenesMap(devkit.dataroot, location)
        assert get_egoposes_on_drivable_ratio(devkit, vector_map, scene["token"]) == 1.0
        for sample in (row for row in devkit.sample if row["scene_token"] == scene["token"]):
            pose = devkit.get("ego_pose", devkit.get("sample_data", sample["data"]["LIDAR_TOP"])["ego_pose_token"])
            x, y = pose["translation"][:2]
            assert _mask(devkit, scene).is_on_mask(x, y)
            assert min(x, y) >= 60
            assert max(x - vector_map.canvas_edge[0], y - vector_map.canvas_edge[1]) <= -60


def _mask(devkit, scene: dict):
    return next(row["mask"] for row in devkit.map if scene["log_token"] in row["log_tokens"])


def test_all_four_vector_maps_open(simulated: Path) -> None:
    from nuscenes.map_expansion.map_api import NuScenesMap, locations

    for location in locations:
        vector_map = NuScenesMap(str(simulated), location)
        layers = ["drivable_area", "ped_crossing", "walkway", "stop_line", "carpark_area", "road_divider"]
        assert vector_map.get_map_mask((100.0, 100.0, 100.0, 100.0), 33.0, layers, (200, 200)).shape == (6, 200, 200)


def test_ground_truth_as_detections_is_perfect(devkit, tmp_path: Path) -> None:
    from nuscenes.eval.common.config import config_factory
    from nuscenes.eval.detection.evaluate import DetectionEval

    results = {token: [] for token in _val_samples(devkit)}
    for row in devkit.sample_annotation:
        name = CATEGORY_TO_CLASS.get(row["category_name"])
        if row["sample_token"] in results and name is not None and _is_evaluated(row):
            results[row["sample_token"]].append(
                {
                    **{key: row[key] for key in ("sample_token", "translation", "size", "rotation")},
                    "velocity": devkit.box_velocity(row["token"])[:2].tolist(),
                    "detection_name": name,
                    "detection_score": 1.0,
                    "attribute_name": "".join(devkit.get("attribute", it)["name"] for it in row["attribute_tokens"]),
                }
            )
    path = _write_results(tmp_path, results)
    config = config_factory("detection_cvpr_2019")
    evaluation = DetectionEval(devkit, config, path, "mini_val", str(tmp_path / "out"), verbose=False)
    metrics, _ = evaluation.evaluate()
    assert set(metrics.mean_dist_aps) == set(DETECTION_CLASSES)
    for name in DETECTION_CLASSES:
        assert metrics.mean_dist_aps[name] == pytest.approx(1.0), name
    assert metrics.nd_score > 0.99
    present = {box.detection_name for token in evaluation.sample_tokens for box in evaluation.gt_boxes[token]}
    assert present == set(DETECTION_CLASSES)


def test_ground_truth_as_tracks_is_perfect(devkit, simulated: Path, tmp_path: Path) -> None:
    pytest.importorskip("motmetrics")
    from nuscenes.eval.common.config import config_factory
    from nuscenes.eval.tracking.evaluate import TrackingEval

    config = config_factory("tracking_nips_2019")
    results = {token: [] for token in _val_samples(devkit)}
    for row in devkit.sample_annotation:
        name = CATEGORY_TO_CLASS.get(row["category_name"])
        if row["sample_token"] in results and name in config.tracking_names and _is_evaluated(row):
            results[row["sample_token"]].append(
                {
                    **{key: row[key] for key in ("sample_token", "translation", "size", "rotation")},
                    "velocity": [0.0, 0.0],
                    "tracking_id": row["instance_token"],
                    "tracking_name": name,
                    "tracking_score": 1.0,
                }
            )
    path = _write_results(tmp_path, results)
    evaluation = TrackingEval(
        config, path, "mini_val", str(tmp_path / "out"), "v1.0-mini", str(simulated), verbose=False
    )
    metrics, _ = evaluation.evaluate()
    assert metrics.compute_metric("amota") == pytest.approx(1.0, abs=0.02)
    assert metrics.compute_metric("ids") == 0


def _is_evaluated(row: dict) -> bool:
    """Whether LiDAR or radar touched a box; the devkit leaves out all others."""
    return row["num_lidar_pts"] + row["num_radar_pts"] > 0


def _val_samples(devkit) -> list[str]:
    val = {row["token"] for row in devkit.scene if row["name"] in ("scene-0103", "scene-0916")}
    return [row["token"] for row in devkit.sample if row["scene_token"] in val]


def _write_results(folder: Path, results: dict) -> str:
    flags = {f"use_{name}": False for name in ("camera", "lidar", "radar", "map", "external")}
    path = folder / "results.json"
    path.write_text(json.dumps({"meta": flags, "results": results}))
    return str(path)


def test_projected_boxes_lie_over_what_the_pictures_show(devkit, manifest: Manifest) -> None:
    from nuscenes.utils.geometry_utils import view_points

    from perception.simulation.recorder import scene_surroundings
    from perception.simulation.schedule import FIRST_US, KEYFRAME_US

    order = next(order for order in manifest.scenes if order.split == "val")
    world, surroundings = scene_surroundings(order, manifest.settings)
    scene = next(row for row in devkit.scene if row["name"] == order.name)
    samples = [row for row in devkit.sample if row["scene_token"] == scene["token"]]
    compared = 0
    for number in (0, 7, 15):
        t_us = FIRST_US + number * KEYFRAME_US
        slow = np.linalg.norm(world.actor_velocities(t_us), axis=1) < 0.2
        for camera in surround_cameras(manifest.settings.image_size_px):
            shown = camera.capture(surroundings, t_us + camera.delay_us)
            path, boxes, intrinsic = devkit.get_sample_data(samples[number]["data"][camera.channel])
            assert Path(path).read_bytes() == shown.content
            places = (world.town.town2global @ world.actor2global(t_us))[:, :3, 3]
            for box in boxes:
                actor = int(np.linalg.norm(places - devkit.get_box(box.token).center, axis=1).argmin())
                corners = box.corners()
                v, u = np.nonzero(shown.actor == actor)
                if not slow[actor] or len(u) < 15 or (corners[2] < 0.5).any():
                    continue
                low, high = (
                    pick(view_points(corners, intrinsic, normalize=True)[:2], axis=1) for pick in (np.min, np.max)
                )
                assert (low - 1 <= (u.min(), v.min())).all()
                assert (high + 1 >= (u.max(), v.max())).all()
                in_picture = (low >= 0).all() and (high <= (159, 89)).all()
                if in_picture and shown.visible_px[actor] > 0.98 * shown.unoccluded_px[actor]:
                    assert v.max() - v.min() + 1 > 0.6 * (high - low)[1] - 1  # and reach most of the box's height
                compared += 1
    assert compared > 20


def test_the_tables_hold_the_counts_of_the_files(devkit) -> None:
    from nuscenes.utils.data_classes import LidarPointCloud
    from nuscenes.utils.geometry_utils import points_in_box

    for sample in devkit.sample[::9]:
        path, boxes, _ = devkit.get_sample_data(sample["data"]["LIDAR_TOP"])
        points = LidarPointCloud.from_file(path).points[:3].astype(np.float64)
        for box in boxes:
            counted = points_in_box(box, points).sum()
            assert abs(counted - devkit.get("sample_annotation", box.token)["num_lidar_pts"]) <= 1  # on a face


def test_a_set_has_much_to_see(devkit) -> None:
    assert np.median([len(sample["anns"]) for sample in devkit.sample]) >= 25
    distances = []
    for row in devkit.sample_annotation:
        data = devkit.get("sample", row["sample_token"])["data"]["LIDAR_TOP"]
        pose = devkit.get("ego_pose", devkit.get("sample_data", data)["ego_pose_token"])
        distances.append(np.linalg.norm(np.subtract(row["translation"], pose["translation"])[:2]))
    assert np.mean(np.array(distances) > 30) >= 0.3
