import hashlib

import pytest
import torch
from jsonargparse import ArgumentParser

from perception.data.gt_paste import GroundTruthPaste
from perception.data.index_build import build_index
from perception.data.loading import CameraLoading, LidarLoading, MapLoading, TruthLoading
from perception.data.transforms import BevAugmentation
from perception.training.data import LoaderSettings, NuScenesDataModule
from tests.synthetic_nuscenes import VERSION, token


def make_data(dataroot, **arguments) -> NuScenesDataModule:
    """LiDAR of the training scenes."""
    return NuScenesDataModule(dataroot=str(dataroot), **({"lidar": LidarLoading()} | arguments))


def ready(data: NuScenesDataModule) -> NuScenesDataModule:
    """As a trainer makes it ready."""
    data.prepare_data()
    data.setup("fit")
    return data


def test_the_index_is_made_where_there_is_none_and_kept(dataroot, tmp_path):
    data = ready(make_data(dataroot, index=str(tmp_path / "index")))
    stamp = (tmp_path / "index" / "index.json").stat().st_mtime_ns
    assert len(data.train_dataloader()) == 2
    assert data.val_dataloader() == []
    ready(data)
    assert (tmp_path / "index" / "index.json").stat().st_mtime_ns == stamp


def test_repeats_fill_an_epoch_and_validation_sees_each_sample_once(dataroot, tmp_path):
    loader = LoaderSettings(batch_size=2, repeats=3)
    data = ready(
        make_data(
            dataroot,
            index=str(tmp_path / "index"),
            val=["scene-0103"],
            loader=loader,
            transforms=[BevAugmentation(scale_range=(1.5, 1.5))],
        )
    )
    batches = list(data.train_dataloader())
    seen = [name for batch in batches for name in batch.tokens]
    assert sorted(seen) == sorted([token("sample", "scene-0061", step) for step in range(2)] * 3)
    assert all(torch.linalg.det(batch.ego2aug[0]).item() == pytest.approx(1.5**3) for batch in batches)
    checked = list(data.val_dataloader())
    assert [name for batch in checked for name in batch.tokens] == [token("sample", "scene-0103", n) for n in range(3)]
    assert all(torch.equal(batch.ego2aug[0], torch.eye(4, dtype=torch.float64)) for batch in checked)


def test_no_sensor_wrong_version_and_unknown_scene_are_errors(dataroot, tmp_path):
    with pytest.raises(ValueError, match="cameras, lidar or ranging must be asked for, got none"):
        NuScenesDataModule(dataroot=str(dataroot))
    build_index(dataroot, VERSION, tmp_path / "index")
    data = make_data(dataroot, index=str(tmp_path / "index"), version="v1.0-trainval")
    with pytest.raises(ValueError, match=r"index must be of version v1\.0-trainval, .* is of v1\.0-mini"):
        ready(data)
    with pytest.raises(ValueError, match=r"scene must be one of the 2 in .*, got 'scene-0001'"):
        ready(make_data(dataroot, index=str(tmp_path / "index"), train=["scene-0001"]))
    with pytest.raises(FileNotFoundError, match="there is no such version folder"):
        ready(make_data(tmp_path, index=str(tmp_path / "other")))


def test_an_epoch_may_be_balanced_over_classes(dataroot, tmp_path):
    loader = LoaderSettings(batch_size=5, balance_classes=True)
    data = ready(make_data(dataroot, index=str(tmp_path / "index"), val=["scene-0103"], loader=loader))
    batches = data.train_dataloader()
    assert len(batches) == 2  # five classes in each of two samples: two visits for each class
    assert sum(len(batch) for batch in batches) == 10
    assert len(data.val_dataloader()) == 1


def test_objects_to_paste_are_made_once_of_the_training_samples(dataroot, tmp_path, caplog):
    counts = {"car": 9, "pedestrian": 9}
    folder = tmp_path / "objects"
    paste = GroundTruthPaste(counts=counts, min_points=1, database=str(folder))
    arguments = {"index": str(tmp_path / "index"), "transforms": [paste]}
    data = ready(make_data(dataroot, train=["scene-0103"], **arguments))
    (batch,) = [batch for batch in data.train_dataloader() if batch.tokens[0] == token("sample", "scene-0103", 2)]
    pasted = set(batch.boxes[0].tokens) - object_tokens("scene-0103", 2)
    assert pasted
    assert pasted <= object_tokens("scene-0103", 0) | object_tokens("scene-0103", 1)
    stamp = (folder / "objects.json").stat().st_mtime_ns
    ready(make_data(dataroot, train=["scene-0103"], **arguments))
    assert (folder / "objects.json").stat().st_mtime_ns == stamp
    with pytest.raises(ValueError, match="must hold the objects of these training samples, got another num_samples"):
        ready(make_data(dataroot, train="mini_train", **arguments))
    make_data(dataroot, cameras=CameraLoading(), **arguments)
    assert "GroundTruthPaste leaves samples with other sensors as they are" in caplog.text


def object_tokens(scene: str, step: int) -> set[str]:
    """The annotations of a sample."""
    return {token("annotation", scene, number, step) for number in range(7)}


def test_the_data_are_described_by_what_was_loaded(dataroot, tmp_path):
    data = ready(make_data(dataroot, index=str(tmp_path / "index"), val=["scene-0103"]))
    described = data.describe()
    assert described["dataroot"] == str(dataroot)
    assert described["version"] == VERSION
    names = "\n".join(token("sample", "scene-0061", step) for step in range(2))
    sha256 = hashlib.sha256(names.encode()).hexdigest()
    assert described["train"] == f"mini_train: 2 samples, sha256 of their tokens {sha256}"
    assert described["val"].startswith("['scene-0103']: 3 samples")


def test_a_config_asks_for_truths(dataroot, tmp_path):
    parser = ArgumentParser()
    parser.add_class_arguments(NuScenesDataModule, "data")
    truths = {"near_field": False, "map": {"class_names": ["vehicle"]}, "occupancy": True}
    given = {"dataroot": str(dataroot), "index": str(tmp_path / "index"), "lidar": {}, "loader": {"truths": truths}}
    data = ready(parser.instantiate(parser.parse_object({"data": given})).data)
    assert data.settings.truths == TruthLoading(
        near_field=False, map=MapLoading(class_names=("vehicle",)), occupancy=True
    )
    batch = next(iter(data.train_dataloader()))
    assert batch.map[0].class_names == ("vehicle",) and batch.map[0].cells.any()
    assert batch.occupancy == (None,)  # the set has none
    assert make_data(dataroot).settings.truths == TruthLoading()
