"""A set of every scenario under the official devkit, unpatched: rural maps, car parks, night, rain and fog."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from perception.data.index import Index
from perception.data.index_build import build_index
from perception.data.loading import CameraLoading, LidarLoading, SampleLoader
from perception.formats.classes import CATEGORY_TO_CLASS, DETECTION_CLASSES, POINT_CATEGORIES
from perception.formats.occupancy import read_occupancy
from perception.simulation.manifest import Manifest, plan_manifest
from perception.simulation.scenarios import scenario
from perception.simulation.settings import PRESETS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def mixed() -> Manifest:
    """Ten scenes of two seconds."""
    return plan_manifest(10, 1, replace(PRESETS["suite"], seconds=2.0), scenario(["mix"]))


@pytest.fixture(scope="module")
def root(mixed: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataroot of the set."""
    from perception.simulation.runner import simulate

    root = tmp_path_factory.mktemp("mixed") / "set"
    simulate(mixed, root, workers=min(2, os.cpu_count() or 1))
    return root


@pytest.fixture(scope="module")
def devkit(root: Path):
    from nuscenes.nuscenes import NuScenes

    return NuScenes("v1.0-mini", str(root), verbose=False)


def test_descriptions_say_night_and_rain_as_those_of_nuscenes_do(devkit, mixed: Manifest) -> None:
    by_name = {order.name: order for order in mixed.scenes}
    for scene in devkit.scene:
        order, said = by_name[scene["name"]], scene["description"].lower()
        assert ("night" in said) == (order.light == "night")
        assert ("rain" in said) == (order.weather == "rain")


def test_the_ego_keeps_to_the_drivable_area_of_towns_and_country(devkit) -> None:
    from nuscenes.map_expansion.map_api import NuScenesMap
    from nuscenes.map_expansion.utils import get_egoposes_on_drivable_ratio

    for scene in devkit.scene:
        vector_map = NuScenesMap(devkit.dataroot, devkit.get("log", scene["log_token"])["location"])
        assert get_egoposes_on_drivable_ratio(devkit, vector_map, scene["token"]) == 1.0, scene["description"]


def test_every_scene_has_the_ten_classes_within_reach_of_a_sensor(devkit) -> None:
    for scene in devkit.scene:
        samples = {row["token"] for row in devkit.sample if row["scene_token"] == scene["token"]}
        seen = {
            CATEGORY_TO_CLASS.get(row["category_name"])
            for row in devkit.sample_annotation
            if row["sample_token"] in samples and row["num_lidar_pts"] + row["num_radar_pts"] > 0
        }
        assert seen >= set(DETECTION_CLASSES), scene["description"]


def test_drops_and_fog_are_labelled_noise_and_hide_what_is_far(devkit, mixed: Manifest) -> None:
    by_name, shares, reach_m = {order.name: order for order in mixed.scenes}, {}, {}
    for scene in devkit.scene:
        sample = devkit.get("sample", scene["first_sample_token"])
        lidar = sample["data"]["LIDAR_TOP"]
        points = np.fromfile(devkit.get_sample_data_path(lidar), np.float32).reshape(-1, 5)
        labels = np.fromfile(Path(devkit.dataroot) / devkit.get("lidarseg", lidar)["filename"], np.uint8)
        distance = np.linalg.norm(points[:, :3], axis=1)
        returned = distance > 1
        weather = by_name[scene["name"]].weather
        noise = labels[returned] == POINT_CATEGORIES.index("noise")
        shares.setdefault(weather, []).append(noise.mean())
        reach_m.setdefault(weather, []).append(np.percentile(distance[returned], 99))
    assert max(shares["clear"]) == 0
    assert min(shares["rain"]) > 0 and max(shares["rain"]) < 0.2
    assert min(shares["fog"]) > 0
    assert max(reach_m["fog"]) < np.median(reach_m["clear"])


def test_occupancy_is_seen_in_any_weather(devkit) -> None:
    """Masks are those of clear air, so that surfaces are seen in rain and fog too."""
    for scene in devkit.scene:
        sample = scene["first_sample_token"]
        truth = read_occupancy(Path(devkit.dataroot) / "gts" / scene["name"] / sample / "labels.npz")
        seen = truth.semantics[truth.mask_lidar.astype(bool)]
        assert (seen != 17).sum() > 200, scene["description"]


def test_radars_hardly_notice_the_weather(devkit, mixed: Manifest) -> None:
    from nuscenes.utils.data_classes import RadarPointCloud

    by_name, kept = {order.name: order for order in mixed.scenes}, {}
    for scene in devkit.scene:
        for sample in (row for row in devkit.sample if row["scene_token"] == scene["token"]):
            RadarPointCloud.default_filters()
            path = devkit.get_sample_data_path(sample["data"]["RADAR_FRONT"])
            kept.setdefault(by_name[scene["name"]].weather, []).append(RadarPointCloud.from_file(path).nbr_points())
    clear = np.mean(kept["clear"])
    assert all(abs(np.mean(numbers) - clear) < 0.5 * clear for numbers in kept.values())


def test_the_devkit_reads_the_can_bus_of_every_drive(devkit, root: Path) -> None:
    from nuscenes.can_bus.can_bus_api import NuScenesCanBus

    reader = NuScenesCanBus(str(root))
    for scene in devkit.scene:
        for message in reader.can_messages:
            rows = reader.get_messages(scene["name"], message)
            assert len(rows) == reader.get_messages(scene["name"], "meta")[message]["message_count"]


def test_our_loader_takes_it(root: Path, tmp_path: Path) -> None:
    build_index(root, "v1.0-mini", tmp_path / "index")
    index = Index.open(tmp_path / "index")
    loader = SampleLoader(
        index=index,
        dataroot=root,
        class_names=DETECTION_CLASSES,
        cameras=CameraLoading(image_size_px=(90, 160)),
        lidar=LidarLoading(num_sweeps=1),
    )
    for i in range(0, len(index), 3):
        sample = loader.load(i)
        assert len(sample.lidar.points) > 2000
        assert bool(sample.cameras["surround"].present.all())
    assert not loader.skipped
