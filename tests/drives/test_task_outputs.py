"""What is kept and drawn of the near field, the map and occupancy in a drive."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from perception.data.index import Index
from perception.data.index_build import build_index
from perception.data.loading import LidarLoading, SampleLoader
from perception.drives.reader import NuScenesDrive
from perception.drives.runner import run_drive
from perception.drives.setup import nothing_found
from perception.drives.truths import truths_of
from perception.drives.writers import PictureWriter, TaskWriter
from perception.formats.classes import DETECTION_CLASSES
from perception.formats.map_predictions import map_path, read_map_prediction
from perception.formats.near_field import NEAR_FIELD_GRID, near_field_bytes
from perception.formats.near_field_predictions import near_field_path, read_near_field_prediction
from perception.formats.occupancy import FREE, OCCUPANCY_GRID, OCCUPANCY_SHAPE, Occupancy, occupancy_bytes
from perception.formats.occupancy_predictions import occupancy_prediction_path, read_occupancy_prediction
from perception.geometry.grid import Grid
from perception.runtime.config import build_detector
from perception.structures import MapPrediction, NearFieldPrediction, OccupancyPrediction, Predictions, Sample
from perception.visualization.near_field import OCCUPIED
from tests.synthetic_nuscenes import VERSION, token, write_synthetic_nuscenes
from tests.tiny_config import tiny_detector

SCENE = "scene-0103"
TOKENS = [token("sample", SCENE, step) for step in range(3)]
BLIND = Sample(token="blind", scene=SCENE, timestamp_us=0, ego2global=torch.eye(4, dtype=torch.float64))


class SaysTheSame:
    """Predicts one thing in one place for every sample."""

    def predict(self, samples):
        """One obstacle ahead, one class everywhere, one voxel."""
        occupied = torch.zeros(160, 160)
        occupied[76:84, 120:130] = 1.0
        labels = torch.full(OCCUPANCY_GRID.shape, FREE, dtype=torch.uint8)
        labels[4, 100, 120] = 4
        said = {
            "map": MapPrediction(
                probabilities=torch.ones(1, 8, 8), class_names=("vehicle",), grid=Grid.square(50.0, 12.5)
            ),
            "near_field": NearFieldPrediction(occupied=occupied, grid=NEAR_FIELD_GRID),
            "occupancy": OccupancyPrediction(labels=labels, grid=OCCUPANCY_GRID),
        }
        return tuple(Predictions(token=sample.token, detections=None, **said) for sample in samples)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A set whose second drive has truths of the near field and occupancy; it has no map of the ground."""
    folder = write_synthetic_nuscenes(tmp_path_factory.mktemp("tasks"), cameras=False)
    cells = np.zeros((160, 160), np.uint8)
    cells[70:90, 20:40] = 1
    everywhere = np.ones(OCCUPANCY_SHAPE, bool)
    space = Occupancy(np.full(OCCUPANCY_SHAPE, 11, np.uint8), everywhere, everywhere)
    for name in TOKENS:
        near = near_field_path(folder / "near_field", SCENE, name)
        near.parent.mkdir(parents=True, exist_ok=True)
        near.write_bytes(near_field_bytes(cells))
        labels = folder / "gts" / SCENE / name / "labels.npz"
        labels.parent.mkdir(parents=True)
        labels.write_bytes(occupancy_bytes(space))
    build_index(folder, VERSION, folder / "index")
    return folder


@pytest.fixture(scope="module")
def index(root) -> Index:
    return Index.open(root / "index")


def loader(root, index, truths=None, lidar=None) -> SampleLoader:
    return SampleLoader(
        index=index, dataroot=root, class_names=DETECTION_CLASSES, lidar=lidar, truths=truths, on_error="skip"
    )


def test_every_task_is_kept_as_it_was_predicted(root, index, tmp_path):
    writer = TaskWriter(tmp_path)
    run_drive(NuScenesDrive(loader(root, index, lidar=LidarLoading()), SCENE), SaysTheSame(), [writer])
    assert writer.num_files == {"map": 3, "near_field": 3, "occupancy": 3}
    (said,) = SaysTheSame().predict([BLIND])
    for name in TOKENS:
        found = read_map_prediction(map_path(tmp_path / "map", SCENE, name))
        assert found.class_names == ("vehicle",) and (found.probabilities == 1).all()
        near = read_near_field_prediction(near_field_path(tmp_path / "near_field", SCENE, name))
        np.testing.assert_array_equal(near, said.near_field.occupied)
        space = read_occupancy_prediction(occupancy_prediction_path(tmp_path / "occupancy", SCENE, name))
        assert np.argwhere(space != FREE).tolist() == [[120, 100, 4]]


def test_a_model_of_boxes_alone_leaves_no_folder(root, index, tmp_path):
    TaskWriter(tmp_path).write(BLIND, Predictions(token="blind", detections=None))
    assert not list(tmp_path.iterdir())


def test_a_drive_that_breaks_off_leaves_whole_files(root, index, tmp_path):
    def broken():
        yield from list(NuScenesDrive(loader(root, index, lidar=LidarLoading()), SCENE))[:2]
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        run_drive(broken(), SaysTheSame(), [TaskWriter(tmp_path)])
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert len(files) == 6 and {path.suffix for path in files} == {".npz"}
    for path in tmp_path.rglob("near_field/**/*.npz"):
        read_near_field_prediction(path)


def test_nothing_is_known_where_no_sensor_was_there(tmp_path):
    config = tiny_detector(cameras=False)
    heads, sizes = "perception.models.heads", {"in_channels": 8, "channels": 8}
    network = {"class_path": f"{heads}.occupancy_networks.ChannelToHeight", "init_args": sizes}
    config["init_args"]["heads"] |= {
        "map": {"class_path": f"{heads}.map.MapHead", "init_args": sizes | {"map_classes": ["walkway"]}},
        "occupancy": {"class_path": f"{heads}.occupancy.OccupancyHead", "init_args": {"network": network}},
    }
    nothing = nothing_found(build_detector(config))
    assert nothing.near_field is None and len(nothing.detections) == 0
    assert nothing.map.probabilities.isnan().all() and nothing.map.class_names == ("walkway",)
    assert (nothing.occupancy.labels == FREE).all()
    with pytest.raises(ValueError, match="must have data of a sensor that is read, got none in all 1"):
        run_drive([BLIND], SaysTheSame(), [TaskWriter(tmp_path)], nothing)
    assert np.isnan(read_map_prediction(map_path(tmp_path / "map", SCENE, "blind")).probabilities).all()
    assert not (tmp_path / "near_field").exists()


def test_pictures_show_every_task_beside_its_truth_and_are_all_of_one_size(root, index, tmp_path):
    drive = NuScenesDrive(loader(root, index, lidar=LidarLoading()), SCENE)
    truths = loader(root, index, truths_of(index, root, drive.positions, map_classes=("vehicle",)))
    writer = PictureWriter(tmp_path / "pictures", DETECTION_CLASSES, truths=truths)
    samples = list(drive)
    samples[1] = replace(samples[1], lidar=None)  # without any sensor
    run_drive(samples, SaysTheSame(), [writer])
    assert [tile.source for tile in writer.style.task_tiles] == ["prediction", "truth"] * 3
    pictures = [np.asarray(Image.open(path)).astype(int) for path in sorted((tmp_path / "pictures").iterdir())]
    assert len({picture.shape for picture in pictures}) == 1
    orange = [(np.abs(picture - OCCUPIED).max(-1) < 40).nonzero() for picture in pictures]
    assert all(len(rows) > 2000 for rows, _ in orange)
    # Predicted ahead, true behind: above and below the middle of the near field; the blind sample has the truth alone.
    reach = [int(np.ptp(rows[columns > pictures[0].shape[1] * 0.6])) for rows, columns in orange]
    assert reach[0] > reach[1] and reach[0] == reach[2]


def test_truths_are_those_that_the_scene_has(root, index):
    first, second = (index.samples_of([scene]).tolist() for scene in ("scene-0061", SCENE))
    known = truths_of(index, root, second)
    assert (known.boxes, known.near_field, known.map, known.occupancy) == (True, True, None, True)
    known = truths_of(index, root, first)
    assert (known.boxes, known.near_field, known.map, known.occupancy) == (True, False, None, False)
    assert truths_of(index, root, second, ["map"]).occupancy is False
    cars = truths_of(index, root, first, ["map"], ["vehicle"]).map
    assert cars is not None and cars.class_names == ("vehicle",)
    assert truths_of(index, root, first, ["map"], ["grass"]).map is None
    assert loader(root, index, truths_of(index, root, [*first, *second])).load(first[0]).problems != ()


def test_truths_of_a_map_need_its_file(root, index, tmp_path):
    positions = index.samples_of([SCENE]).tolist()
    place = index.scene(SCENE).location
    folder = tmp_path / "maps" / "expansion"
    folder.mkdir(parents=True)
    (folder / f"{place}.json").write_text("{}")
    known = truths_of(index, tmp_path, positions, map_classes=("vehicle", "divider"))
    assert known.map is not None and known.map.class_names == ("divider", "vehicle")
    assert truths_of(index, root, positions, map_classes=("vehicle", "divider")).map is None
