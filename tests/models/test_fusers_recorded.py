"""Every fuser on a recorded keyframe of six cameras, a LiDAR and a front radar: all that they can be without."""

import dataclasses
import itertools
from pathlib import Path

import pytest
import torch

from perception.data.collate import collate
from perception.data.index import Index
from perception.data.index_build import build_index
from perception.data.loading import SampleLoader
from perception.data.sensor_settings import CameraLoading, LidarLoading, RadarLoading
from perception.formats.classes import DETECTION_CLASSES
from perception.structures import Batch, Sample
from tests.models.scenes import augmentation, settled
from tests.models.test_every_fuser import EVERY, built, check_trained, outputs_of, with_branches

SENSORS = ("camera", "lidar", "radar")
SUBSETS = [subset for count in range(1, 4) for subset in itertools.combinations(SENSORS, count)]


@pytest.fixture(scope="module")
def sample(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """The keyframe, its pictures small."""
    folder = tmp_path_factory.mktemp("recorded") / "index"
    build_index(real_data / "nuscenes", "v1.0-mini", folder)
    loader = SampleLoader(
        index=Index.open(folder),
        dataroot=real_data / "nuscenes",
        class_names=DETECTION_CLASSES,
        cameras=CameraLoading(image_size_px=(96, 208)),
        lidar=LidarLoading(),
        radar=RadarLoading(),
    )
    return loader.load(0)


@pytest.fixture(scope="module")
def batch(sample: Sample) -> Batch:
    """The keyframe once for each subset, each time in another frame."""
    whole = collate([sample] * len(SUBSETS))
    moves = [augmentation(0.4 * number, 0.95 + 0.02 * number, number % 2 == 0) for number in range(len(SUBSETS))]
    return dataclasses.replace(with_branches(whole, SUBSETS), ego2aug=torch.stack(moves))


def overwritten(batch: Batch) -> Batch:
    """The batch with anything in the place of absent cameras."""
    cameras = batch.cameras["surround"]
    there = cameras.present[:, :, None, None]
    images = torch.where(there[..., None], cameras.images, torch.randint_like(cameras.images, 256))
    calibration = {
        name: torch.where(there, getattr(cameras, name), torch.nan)
        for name in ("intrinsics", "camera2ego", "image2aug")
    }
    return dataclasses.replace(batch, cameras={"surround": dataclasses.replace(cameras, images=images, **calibration)})


@EVERY
def test_every_subset_of_recorded_sensors_trains(batch: Batch, path: Path) -> None:
    check_trained(built(path), batch)


@EVERY
@torch.no_grad()
def test_recorded_subsets_are_the_same_alone_and_together_whatever_lies_in_absent_places(
    sample: Sample, batch: Batch, path: Path
) -> None:
    detector = settled(built(path), batch)
    together, others = outputs_of(detector(batch)), outputs_of(detector(overwritten(batch)))
    for index, subset in enumerate(SUBSETS):
        single = dataclasses.replace(
            with_branches(collate([sample]), [subset]), ego2aug=batch.ego2aug[index : index + 1]
        )
        alone = outputs_of(detector(single))
        for name, value in together.items():
            assert torch.equal(value[index], others[name][index]), (subset, name)
            error = (alone[name][0] - value[index]).abs().max().item()
            assert error < 2e-3 * max(value[index].std().item(), 1.0), (subset, name, error)
