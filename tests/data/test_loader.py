"""Datasets, samplers and data loaders: the same samples whatever the number of workers."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from perception.data.collate import collate
from perception.data.dataset import SampleDataset
from perception.data.dropout import SensorDropout
from perception.data.loader import build_loader
from perception.data.loading import CameraLoading, LidarLoading, SampleLoader
from perception.data.samplers import EpochSampler
from perception.data.transforms import BevAugmentation, ImageAugmentation
from perception.formats.classes import DETECTION_CLASSES
from perception.structures import Batch
from perception.structures.tensors import map_tensors
from tests.data.conftest import IndexedSet


def dataset_of(made_up: IndexedSet, seed: int = 3, **options: object) -> SampleDataset:
    loader = SampleLoader(
        index=made_up.index,
        dataroot=made_up.dataroot,
        class_names=DETECTION_CLASSES,
        cameras=CameraLoading(image_size_px=(45, 80)),
        lidar=LidarLoading(num_sweeps=1),
        **options,
    )
    transforms = [
        ImageAugmentation(resize_range=(0.9, 1.2), rotation_range_rad=(-0.1, 0.1), flip=True),
        BevAugmentation(rotation_range_rad=(-0.4, 0.4), scale_range=(0.9, 1.1), flip_y=True),
    ]
    return SampleDataset(loader, transforms=transforms, seed=seed)


def tensors_of(batch: Batch) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    map_tensors(batch, lambda tensor: found.append(tensor) or tensor)
    return found


def same(first: Batch, second: Batch) -> bool:
    pairs = zip(tensors_of(first), tensors_of(second), strict=True)
    return first.tokens == second.tokens and all(torch.equal(a, b) for a, b in pairs)


def passes(dataset: SampleDataset, num_workers: int) -> Iterator[Batch]:
    """Two passes in mixed order; workers live through both."""
    sampler = EpochSampler(num_samples=len(dataset), seed=dataset.seed, even=False)
    loader = build_loader(dataset, batch_size=2, sampler=sampler, num_workers=num_workers)
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        yield from loader


def test_samples_do_not_depend_on_workers(synthetic: IndexedSet) -> None:
    dataset = dataset_of(synthetic)
    alone = list(passes(dataset, 0))
    assert len(alone) == 6
    for num_workers in (1, 2):
        batches = list(passes(dataset, num_workers))
        assert all(same(a, b) for a, b in zip(alone, batches, strict=True))


def test_samples_depend_on_seed_epoch_and_position(synthetic: IndexedSet) -> None:
    dataset = dataset_of(synthetic)
    first = dataset[2]
    assert same(collate([first]), collate([dataset[(0, 2)]]))
    dataset.set_epoch(4)
    assert same(collate([dataset[2]]), collate([dataset[(4, 2)]]))
    others = [dataset[(1, 2)], dataset[(0, 3)], dataset_of(synthetic, seed=4)[2]]
    assert not any(torch.equal(first.ego2aug, other.ego2aug) for other in others)
    repeated = SampleDataset(dataset.loader, [2, 2], dataset.transforms, dataset.seed)
    assert repeated[0].token == repeated[1].token == first.token
    assert not torch.equal(repeated[0].ego2aug, repeated[1].ego2aug)


def test_a_dataset_takes_positions_of_the_index(synthetic: IndexedSet) -> None:
    loader = dataset_of(synthetic).loader
    chosen = SampleDataset(loader, synthetic.index.samples_of("mini_val"))
    assert [chosen[i].scene for i in range(len(chosen))] == ["scene-0103"] * 3
    assert torch.equal(chosen[0].ego2aug, torch.eye(4, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"SampleDataset: indices must be in 0\.\.4, got 2\.\.5"):
        SampleDataset(loader, [2, 5])
    with pytest.raises(ValueError, match="seed must not be negative, got -1"):
        SampleDataset(loader, seed=-1)
    with pytest.raises(IndexError, match=r"position must be in 0\.\.2, got 3"):
        chosen[3]


def test_what_workers_skip_is_counted(own_synthetic: IndexedSet) -> None:
    for position, channel in ((0, "CAM_BACK"), (3, "CAM_FRONT"), (4, "CAM_FRONT")):
        Path(own_synthetic.dataroot / own_synthetic.index.record(position).sensors[channel].path).unlink()
    dataset = dataset_of(own_synthetic, on_error="skip")
    absent = sum(int((~batch.cameras["surround"].present).sum()) for batch in passes(dataset, 1))
    assert absent == 6
    assert dataset.skipped == Counter(missing_file=6)


def test_a_sample_with_nothing_that_is_read_gives_its_place_to_the_next_one(synthetic: IndexedSet) -> None:
    """A model of cameras whose LiDAR only teaches must not meet a sample that has lost all cameras."""
    plain = dataset_of(synthetic)
    losing = [*plain.transforms, SensorDropout(drop={"camera": 0.6})]
    dataset = SampleDataset(plain.loader, transforms=losing, seed=3, needed=["camera", "radar"])
    anything = SampleDataset(plain.loader, transforms=losing, seed=3)
    blind = [position for position in range(len(anything)) if not anything[position].cameras]
    assert 0 < len(blind) < len(anything)
    for position in range(len(dataset)):
        place = next(it for it in (*range(position, len(dataset)), *range(position)) if it not in blind)
        assert dataset[position].token == anything[place].token and dataset[position].cameras
    assert dataset.skipped["blind_sample"] >= len(blind)
    nothing = SampleDataset(plain.loader, seed=3, needed=["radar"])
    with pytest.raises(ValueError, match="a sample must have one of the sensors radar"):
        nothing[0]
