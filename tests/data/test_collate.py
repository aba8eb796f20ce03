"""Samples with different sensors side by side."""

from dataclasses import replace

import pytest
import torch

from perception.data.collate import collate
from perception.data.loading import CameraLoading, LidarLoading, SampleLoader
from perception.formats.classes import DETECTION_CLASSES
from perception.structures import Sample
from tests.data.conftest import IndexedSet


@pytest.fixture(scope="module")
def samples(synthetic: IndexedSet) -> list[Sample]:
    """Everything; LiDAR alone; cameras alone; nothing at all; a LiDAR that saw nothing."""
    loader = SampleLoader(
        index=synthetic.index,
        dataroot=synthetic.dataroot,
        class_names=DETECTION_CLASSES,
        cameras=CameraLoading(image_size_px=(45, 80)),
        lidar=LidarLoading(),
    )
    full, lidar_alone, cameras_alone, bare, blind = (loader.load(position) for position in range(5))
    return [
        full,
        replace(lidar_alone, cameras={}, ego2aug=2 * torch.eye(4, dtype=torch.float64)),
        replace(cameras_alone, lidar=None),
        replace(bare, cameras={}, lidar=None, boxes=None),
        replace(blind, lidar=replace(blind.lidar, points=blind.lidar.points[:0])),
    ]


def test_a_batch_holds_its_samples_and_marks_what_is_absent(samples: list[Sample]) -> None:
    batch = collate(samples)
    assert len(batch) == 5
    assert batch.tokens == tuple(sample.token for sample in samples)
    assert batch.scenes == tuple(sample.scene for sample in samples)
    assert batch.timestamps_us.tolist() == [sample.timestamp_us for sample in samples]
    assert batch.boxes == tuple(sample.boxes for sample in samples)
    assert batch.boxes[3] is None
    cameras = batch.cameras["surround"]
    assert cameras.present.all(1).tolist() == [True, False, True, False, True]
    assert cameras.images.shape == (5, 6, 3, 45, 80)
    assert batch.lidar.present.tolist() == [True, True, False, False, True]
    assert batch.lidar.fields == ("intensity", "time_lag_s")
    for row, sample in enumerate(samples):
        assert torch.equal(batch.ego2global[row], sample.ego2global)
        assert torch.equal(batch.ego2aug[row], sample.ego2aug)
        own = batch.lidar.points[batch.lidar.batch_index == row]
        assert torch.equal(own, sample.lidar.points if sample.lidar else own[:0])
        source = sample.cameras.get("surround")
        for name in ("images", "intrinsics", "distortion", "camera2ego", "image2aug", "present"):
            if source:
                assert torch.equal(getattr(cameras, name)[row], getattr(source, name))
        if source is None:
            assert not cameras.images[row].any()
            assert torch.equal(cameras.camera2ego[row, 0], torch.eye(4, dtype=torch.float64))
            assert torch.equal(cameras.intrinsics[row, 0], torch.eye(3, dtype=torch.float64))
    assert torch.equal(batch.lidar.sensor2ego[2], torch.eye(4, dtype=torch.float64))
    assert (batch.lidar.batch_index.diff() >= 0).all()


def test_order_only_moves_rows(samples: list[Sample]) -> None:
    forward, backward = collate(samples), collate(samples[::-1])
    assert torch.equal(forward.cameras["surround"].images, backward.cameras["surround"].images.flip(0))
    assert torch.equal(forward.lidar.present, backward.lidar.present.flip(0))


def test_a_sensor_that_no_sample_has_is_not_there(samples: list[Sample]) -> None:
    batch = collate(samples[3:4])
    assert (batch.cameras, batch.lidar, batch.boxes) == ({}, None, (None,))


def test_groups_of_different_samples_stay_apart(samples: list[Sample]) -> None:
    cameras = samples[0].cameras["surround"]
    batch = collate([samples[0], replace(samples[2], cameras={"near": cameras})])
    assert batch.cameras["surround"].present[:, 0].tolist() == [True, False]
    assert batch.cameras["near"].present[:, 0].tolist() == [False, True]


def test_what_does_not_fit_is_refused_by_name(samples: list[Sample]) -> None:
    full = samples[0]
    cameras, lidar = full.cameras["surround"], full.lidar
    others = {
        "smaller": replace(cameras, images=cameras.images[..., :-1]),
        "renamed": replace(cameras, names=tuple(name.lower() for name in cameras.names)),
        "bent": replace(cameras, camera_model="kannala_brandt"),
    }
    for token, changed in others.items():
        odd = replace(full, token=token, cameras={"surround": changed})
        with pytest.raises(ValueError, match=rf"collate: camera group 'surround' must have the same .* in {token}"):
            collate([full, odd])
    with pytest.raises(ValueError, match="collate: points must have the same fields"):
        collate([full, replace(full, lidar=replace(lidar, points=lidar.points[:, :4], fields=("intensity",)))])
    with pytest.raises(ValueError, match="collate: samples must hold at least one"):
        collate([])


@pytest.mark.parametrize("field", ["intrinsics", "distortion", "camera2ego", "image2aug"])
def test_calibration_of_a_camera_that_is_there_must_be_finite(samples: list[Sample], field: str) -> None:
    full = samples[0]
    cameras = full.cameras["surround"]
    broken = getattr(cameras, field).clone()
    broken[1, 0] = torch.nan
    there = replace(cameras, **{field: broken})
    with pytest.raises(ValueError, match=rf"collate: sample {full.token}, {cameras.names[1]}: {field} must be finite"):
        collate([replace(full, cameras={"surround": there})])
    gone = replace(there, present=cameras.present & (torch.arange(len(cameras.names)) != 1))
    assert collate([replace(full, cameras={"surround": gone})]).cameras["surround"].present.tolist() == [
        gone.present.tolist()
    ]
