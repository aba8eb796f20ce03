from pathlib import Path

import pytest
import torch

from perception.formats.files import atomic_writer
from perception.formats.map_predictions import map_path, map_prediction_bytes
from perception.formats.near_field import NEAR_FIELD_GRID
from perception.formats.near_field_predictions import near_field_path, near_field_prediction_bytes
from perception.formats.occupancy import OCCUPANCY_SHAPE
from perception.formats.occupancy_predictions import occupancy_prediction_bytes, occupancy_prediction_path
from perception.geometry.grid import Grid
from perception.visualization.prediction_folders import PredictionFolders

SAMPLES = [("scene-0001", "one"), ("scene-0001", "two")]
GRID = Grid.square(2.0, 0.5)


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_writer(path) as file:
        file.write(content)


@pytest.fixture
def folders(tmp_path: Path) -> PredictionFolders:
    """All tasks of the first sample, and of the second the near field."""
    shares = torch.zeros(1, 8, 8)
    shares[0, 6, 2] = 0.5
    labels = torch.full(OCCUPANCY_SHAPE, 17, dtype=torch.uint8)
    labels[3, 5, 7] = 4  # x y z
    near = torch.zeros(160, 160)
    near[30, 20] = 1.0
    scene, first = SAMPLES[0]
    write(map_path(tmp_path / "m", scene, first), map_prediction_bytes(shares.numpy(), ("walkway",), GRID))
    write(occupancy_prediction_path(tmp_path / "o", scene, first), occupancy_prediction_bytes(labels.numpy()))
    for _, name in SAMPLES:
        write(near_field_path(tmp_path / "n", scene, name), near_field_prediction_bytes(near.numpy()))
    return PredictionFolders({"map": tmp_path / "m", "occupancy": tmp_path / "o", "near_field": tmp_path / "n"})


def test_what_was_written_is_read(folders: PredictionFolders) -> None:
    found = folders.load(*SAMPLES[0])
    assert found.detections is None and found.token == "one"
    assert found.map is not None and found.occupancy is not None and found.near_field is not None
    assert (found.map.class_names, found.map.grid.x_range_m) == (("walkway",), (-2.0, 2.0))
    assert found.map.probabilities.nonzero().tolist() == [[0, 6, 2]] and float(found.map.probabilities.max()) == 0.5
    assert (found.occupancy.labels == 4).nonzero().tolist() == [[7, 5, 3]]  # z y x
    assert found.near_field.occupied.nonzero().tolist() == [[30, 20]]
    assert found.near_field.grid == NEAR_FIELD_GRID
    assert folders.map_classes(SAMPLES) == ("walkway",)


def test_a_sample_without_a_file_has_no_prediction(folders: PredictionFolders) -> None:
    found = folders.load(*SAMPLES[1])
    assert found.map is None and found.occupancy is None and found.near_field is not None
    assert folders.missing(SAMPLES) == {"map": 1, "occupancy": 1}
    assert folders.map_classes(SAMPLES[1:]) == ()
    assert PredictionFolders({}).missing(SAMPLES) == {} and PredictionFolders({}).load(*SAMPLES[0]).map is None


def test_folders_of_something_else_are_refused(folders: PredictionFolders, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="m: must hold samples that are drawn, got none of the 1"):
        folders.missing([("scene-0002", "one")])
    with pytest.raises(FileNotFoundError, match=r"PredictionFolders: map must be a folder, got .*nowhere"):
        PredictionFolders({"map": tmp_path / "nowhere"})
    near_field_path(folders.folders["near_field"], *SAMPLES[1]).write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"n/scene-0001/two\.npz"):
        folders.load(*SAMPLES[1])
