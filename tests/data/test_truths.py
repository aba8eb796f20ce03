"""Map and occupancy of a sample: in which frame, at which cells, and what happens where a set lacks them."""

import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from perception.data.loading import LidarLoading, MapLoading, SampleLoader, TruthLoading
from perception.data.map_truth import MAP_TRUTH_CLASSES, PROTOCOL_GRID, MapSource, vehicle_mask
from perception.data.problems import SensorFileError
from perception.formats.classes import DETECTION_CLASSES
from perception.formats.nuscenes_map import VectorMapBuilder, write_maps
from perception.formats.nuscenes_map_raster import MAP_CLASSES
from perception.formats.occupancy import FREE, OCCUPANCY_SHAPE, Occupancy, occupancy_bytes
from perception.geometry.grid import Grid
from tests.data.conftest import IndexedSet, index_set
from tests.synthetic_nuscenes import EGO_SPEED_M_S, write_synthetic_nuscenes

CAR = 4
EVERY = TruthLoading(map=MapLoading(class_names=MAP_TRUTH_CLASSES), occupancy=True)


def loader_of(data: IndexedSet, truths: TruthLoading, **options: object) -> SampleLoader:
    return SampleLoader(
        index=data.index, dataroot=data.dataroot, class_names=DETECTION_CLASSES, truths=truths, **options
    )


def in_ego_of(data: IndexedSet, position: int, points: list) -> np.ndarray:
    """(N, 2) places of a sample's ego frame on the map."""
    ego2global = data.index.record(position).ego2global
    return np.array(points, dtype=np.float64) @ ego2global[:2, :2].T + ego2global[:2, 3]


def write_truths(data: IndexedSet) -> None:
    """Around the first sample a carriageway 3 m to both sides, a walkway 20-22 m ahead, a divider; a voxel each."""
    builder = VectorMapBuilder((2000.0, 2000.0), "street")
    builder.add_drivable_area([in_ego_of(data, 0, [(-90, -3.1), (90, -3.1), (90, 3.1), (-90, 3.1)])])
    builder.add_area("walkway", in_ego_of(data, 0, [(20.1, 5.1), (21.9, 5.1), (21.9, 7.9), (20.1, 7.9)]))
    builder.add_line("lane_divider", in_ego_of(data, 0, [(-30.0, 0.1), (30.0, 0.1)]))
    locations = {data.index.scene(name).location for name in data.index.scenes}
    write_maps(data.dataroot, dict.fromkeys(locations, builder.build()))
    for position in range(len(data.index)):
        record = data.index.record(position)
        semantics = np.full(OCCUPANCY_SHAPE, FREE, np.uint8)
        semantics[130, 110, 4] = CAR
        seen, visible = semantics == CAR, np.zeros(OCCUPANCY_SHAPE, bool)
        visible[:, :, 3] = True
        path = data.dataroot / f"gts/{record.scene}/{record.token}/labels.npz"
        path.parent.mkdir(parents=True)
        path.write_bytes(occupancy_bytes(Occupancy(semantics, seen, visible)))


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> IndexedSet:
    folder = tmp_path_factory.mktemp("street")
    data = index_set(write_synthetic_nuscenes(folder / "set", cameras=False), folder / "index")
    write_truths(data)
    return data


def test_the_map_lies_around_the_vehicle_with_a_margin(street: IndexedSet) -> None:
    truth = loader_of(street, EVERY).load(0).map
    assert truth.class_names == MAP_TRUTH_CLASSES
    assert truth.grid == Grid.square(80.0, 0.5) and truth.cells.shape == (7, 320, 320)
    cells = dict(zip(truth.class_names, truth.cells, strict=True))
    centers = truth.grid.centers_xy()
    x, y = centers[..., 0], centers[..., 1]
    assert torch.equal(cells["drivable_area"], y.abs() < 3.1 + 0.25)  # a cell that an outline runs through counts
    walkway = centers[cells["walkway"]]
    assert walkway.mean(0).tolist() == pytest.approx([21.0, 6.5], abs=0.26)
    assert ((walkway - walkway.mean(0)).abs().amax(0) <= torch.tensor([1.3, 1.8])).all()
    assert (x[cells["divider"]].abs() < 31).all() and (y[cells["divider"]].abs() < 1.2).all()
    assert cells["divider"].any() and not cells["stop_line"].any()
    driven = loader_of(street, EVERY).load(1).map
    moved = driven.grid.centers_xy()[driven.cells[2]].mean(0)
    assert (walkway.mean(0) - moved).tolist() == pytest.approx([EGO_SPEED_M_S * 0.5, 0.0], abs=0.3)


def test_a_turned_scaled_and_shifted_grid_finds_the_truth() -> None:
    turns = torch.linspace(0, 2 * math.pi, 73, dtype=torch.float64)
    corner = 50 * math.sqrt(2) * torch.stack([turns.cos(), turns.sin()], dim=1)  # of +-50 m under every turn
    reach = ((corner.abs() + 0.5) / 0.9).amax()
    assert reach < MapLoading().half_m


def test_vehicles_are_drawn_as_lift_splat_draws_them(street: IndexedSet) -> None:
    quaternion = pytest.importorskip("pyquaternion").Quaternion
    devkit = pytest.importorskip("nuscenes.nuscenes").NuScenes("v1.0-mini", str(street.dataroot), verbose=False)
    for position in range(len(street.index)):
        sample = devkit.get("sample", street.index.record(position).token)
        lidar = devkit.get("sample_data", sample["data"]["LIDAR_TOP"])
        pose = devkit.get("ego_pose", lidar["ego_pose_token"])
        expected = np.zeros((200, 200))
        for token in sample["anns"]:
            if devkit.get("sample_annotation", token)["category_name"].split(".")[0] == "vehicle":
                box = devkit.get_box(token)
                box.translate(-np.array(pose["translation"]))
                box.rotate(quaternion(pose["rotation"]).inverse)
                corners = np.round((box.bottom_corners()[:2].T + 50.0) / 0.5).astype(np.int32)
                cv2.fillPoly(expected, [corners[:, ::-1]], 1.0)
        mask = MapSource(street.index, street.dataroot).in_ego(position, ["vehicle"])[0]
        np.testing.assert_array_equal(mask.T, expected.astype(bool))
        assert mask.sum() > 100


def test_no_vehicle_covers_nothing_and_a_far_one_either(street: IndexedSet) -> None:
    record = street.index.record(0)
    far = replace(record.annotations, boxes_global=record.annotations.boxes_global + 1e12)
    assert not vehicle_mask(far, record.ego2global).any()
    none = replace(record.annotations, categories=("animal",) * len(record.annotations.categories))
    assert not vehicle_mask(none, record.ego2global).any()


def test_masks_in_the_lidars_frame_are_those_of_bevfusion(street: IndexedSet) -> None:
    map_api = pytest.importorskip("nuscenes.map_expansion.map_api")
    source = MapSource(street.index, street.dataroot)
    for position in range(len(street.index)):
        record = street.index.record(position)
        lidar = record.sensors["LIDAR_TOP"]
        lidar2global = lidar.ego2global @ lidar.sensor2ego
        heading = lidar2global[:3, :3] @ [1.0, 0.0, 0.0]
        angle_deg = np.arctan2(heading[1], heading[0]) / np.pi * 180
        api = map_api.NuScenesMap(str(street.dataroot), street.index.scene(record.scene).location)
        layers = [*MAP_CLASSES[:5], "road_divider", "lane_divider"]
        drawn = api.get_map_mask((*lidar2global[:2, 3], 100.0, 100.0), angle_deg, layers, (200, 200))
        drawn = drawn.transpose(0, 2, 1).astype(bool)
        masks = source.in_lidar(position)
        np.testing.assert_array_equal(masks, np.concatenate([drawn[:5], drawn[5:6] | drawn[6:]]))
        assert masks[0].any() and masks.shape == (6, PROTOCOL_GRID.num_x, PROTOCOL_GRID.num_y)


def test_occupancy_is_turned_to_z_y_x(street: IndexedSet) -> None:
    truth = loader_of(street, EVERY).load(0).occupancy
    assert truth.labels.shape == (16, 200, 200) and truth.labels.is_contiguous()
    assert (truth.labels != FREE).nonzero().tolist() == [[4, 110, 130]]
    assert truth.labels[4, 110, 130] == CAR
    assert torch.equal(truth.mask_lidar, truth.labels == CAR)
    assert truth.mask_camera[3].all() and truth.mask_camera.sum() == 200 * 200
    assert truth.grid.centers()[4, 110, 130].tolist() == pytest.approx([12.2, 4.2, 0.8])


def test_nothing_is_loaded_that_nobody_asks_for(street: IndexedSet) -> None:
    sample = loader_of(street, TruthLoading()).load(0)
    assert sample.boxes is not None and sample.map is None and sample.occupancy is None
    bare = loader_of(street, TruthLoading(boxes=False, map=MapLoading(class_names=("vehicle",)))).load(0)
    assert bare.boxes is None and bare.map.cells.any() and bare.problems == ()


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_a_set_without_truths_says_which_file_is_missing_and_goes_on(
    synthetic: IndexedSet, on_error: str, caplog: pytest.LogCaptureFixture
) -> None:
    loader = loader_of(synthetic, EVERY, lidar=LidarLoading(), on_error=on_error)
    record = synthetic.index.record(0)
    for _ in range(2):
        sample = loader.load(0)
    assert sample.map is None and sample.occupancy is None
    assert sample.lidar is not None and sample.boxes is not None
    location = synthetic.index.scene(record.scene).location
    assert [problem.split(", ")[-1] for problem in sample.problems] == [
        f"map maps/expansion/{location}.json: file is missing",
        f"occupancy gts/{record.scene}/{record.token}/labels.npz: file is missing",
    ]
    assert loader.skipped == {"missing_map": 2, "missing_occupancy": 2}
    assert len(caplog.messages) == 2  # the first of a kind


def test_a_damaged_truth_is_an_error_or_skipped(own_synthetic: IndexedSet) -> None:
    write_truths(own_synthetic)
    for path in [*own_synthetic.dataroot.glob("maps/expansion/*"), *own_synthetic.dataroot.glob("gts/*/*/*")]:
        path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(SensorFileError, match=r"\(position 0\), map maps/expansion/.*json: .*not JSON"):
        loader_of(own_synthetic, TruthLoading(map=MapLoading())).load(0)
    with pytest.raises(SensorFileError, match=r"occupancy gts/.*labels.npz: read_occupancy"):
        loader_of(own_synthetic, TruthLoading(occupancy=True)).load(0)
    loader = loader_of(own_synthetic, EVERY, on_error="skip")
    for _ in range(2):
        sample = loader.load(0)
        assert (sample.map, sample.occupancy, len(sample.problems)) == (None, None, 2)
    assert loader.skipped == {"unreadable_file": 4}
    vehicles = loader_of(own_synthetic, TruthLoading(map=MapLoading(class_names=("vehicle",)))).load(0)
    assert vehicles.map is not None and vehicles.map.cells.any()


def test_vehicles_of_a_set_without_annotations_are_unknown(tmp_path: Path) -> None:
    root = write_synthetic_nuscenes(tmp_path / "set", {"scene-0103": 1}, cameras=False, annotations=False)
    data = index_set(root, tmp_path / "index")
    sample = loader_of(data, TruthLoading(map=MapLoading(class_names=("vehicle",)))).load(0)
    assert sample.map is None and sample.problems[0].endswith("map vehicle: the set has no annotations")
    with pytest.raises(ValueError, match="in_ego: class vehicle needs annotations, the index has none"):
        MapSource(data.index, data.dataroot).in_ego(0, ["vehicle"])


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"class_names must be different names of drivable_area, .*, got \['river'\]"):
        MapLoading(class_names=("river",))
    with pytest.raises(ValueError, match=r"class_names must be different names .* got \[\]"):
        MapLoading(class_names=())
    with pytest.raises(ValueError, match="must hold a whole number of cells"):
        MapLoading(half_m=80.0, cell_m=0.7)
