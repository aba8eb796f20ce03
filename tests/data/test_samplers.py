"""Orders of visits: shared by ranks, repeatable, balanced over classes, gone on with in the middle."""

import itertools
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from perception.data.dataset import SampleDataset
from perception.data.loader import build_loader
from perception.data.loading import LidarLoading, SampleLoader
from perception.data.samplers import (
    ClassBalancedSampler,
    DriveSampler,
    EpochSampler,
    Visit,
    present_classes,
    seeded_generator,
)
from perception.data.transforms import BevAugmentation
from perception.formats.classes import DETECTION_CLASSES
from tests.data.conftest import IndexedSet

LABELS = st.lists(st.sets(st.integers(0, 4), max_size=3), min_size=1, max_size=30).filter(any)


@given(st.integers(1, 40), st.integers(1, 7), st.booleans(), st.booleans(), st.integers(0, 5))
def test_ranks_share_an_epoch(num_samples: int, world_size: int, shuffle: bool, even: bool, epoch: int) -> None:
    shares = []
    for rank in range(world_size):
        sampler = EpochSampler(
            num_samples=num_samples, shuffle=shuffle, seed=1, rank=rank, world_size=world_size, even=even
        )
        sampler.set_epoch(epoch)
        shares.append(list(sampler))
        assert len(shares[-1]) == len(sampler)
        assert all(item[0] == epoch for item in shares[-1])
    visits = Counter(position for share in shares for _, position, _ in share)
    assert set(visits) == set(range(num_samples))
    if even:
        assert len({len(share) for share in shares}) == 1
        assert max(visits.values()) - min(visits.values()) <= 1
    else:
        assert set(visits.values()) == {1}


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=8),
    st.integers(1, 4),
    st.integers(1, 3),
    st.booleans(),
    st.booleans(),
)
def test_every_row_follows_a_drive(lengths: list[int], batch_size: int, ranks: int, shuffle: bool, even: bool) -> None:
    drives = [drive for drive, length in enumerate(lengths) for _ in range(length)]
    visits: Counter[int] = Counter()
    for rank in range(ranks):
        sampler = DriveSampler(
            drives=drives, batch_size=batch_size, shuffle=shuffle, rank=rank, world_size=ranks, even=even
        )
        seen = [position for _, position, _ in sampler]
        assert len(seen) == len(sampler)
        assert not even or len(seen) % batch_size == 0
        visits.update(seen)
        for now, then in zip(seen, seen[batch_size:], strict=False):  # the same row of the next batch
            if now + 1 < len(drives) and drives[now + 1] == drives[now]:
                assert then == now + 1
            else:  # a drive is over, another begins
                assert then == 0 or drives[then - 1] != drives[then]
    assert set(visits) == set(range(len(drives)))
    assert even or set(visits.values()) == {1}


def test_drives_come_in_another_order_every_epoch() -> None:
    sampler = DriveSampler(drives=[0] * 3 + [7] * 2 + [2] * 4, batch_size=1)
    orders = set()
    for epoch in range(20):
        sampler.set_epoch(epoch)
        orders.add(tuple(position for _, position, _ in sampler))
    assert orders <= {(*a, *b, *c) for a, b, c in itertools.permutations([(0, 1, 2), (3, 4), (5, 6, 7, 8)])}
    assert len(orders) > 3


def test_order_changes_with_epoch_and_seed_alone() -> None:
    def order(seed: int, epoch: int, shuffle: bool = True) -> list[int]:
        sampler = EpochSampler(num_samples=50, shuffle=shuffle, seed=seed)
        sampler.set_epoch(epoch)
        return [position for _, position, _ in sampler]

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1) != order(1, 0)
    assert order(0, 5, shuffle=False) == list(range(50))


def test_generators_of_different_numbers_differ() -> None:
    first = {float(torch.rand((), generator=seeded_generator(*n))) for n in [(0, 1, 2), (0, 2, 1), (1, 0, 2), (0, 1)]}
    assert len(first) == 4


def test_wrong_shares_are_refused() -> None:
    with pytest.raises(ValueError, match="num_samples must be at least 1, got 0"):
        EpochSampler(num_samples=0)
    with pytest.raises(ValueError, match=r"rank must be in 0\.\.1, got 2"):
        EpochSampler(num_samples=4, rank=2, world_size=2)
    with pytest.raises(ValueError, match=r"numbers must not be negative, got \(0, -1\)"):
        seeded_generator(0, -1)


def test_repeats_of_a_position_are_counted() -> None:
    sampler = EpochSampler(num_samples=2, shuffle=False, world_size=1)
    assert list(sampler) == [Visit(0, 0, 0), Visit(0, 1, 0)]
    shares = [list(EpochSampler(num_samples=2, shuffle=False, rank=rank, world_size=3)) for rank in range(3)]
    assert shares == [[(0, 0, 0)], [(0, 1, 0)], [(0, 0, 1)]]  # the third rank sees position 0 once more


@given(LABELS, st.integers(1, 4), st.integers(0, 3))
def test_classes_are_drawn_equally_often(classes: list[set[int]], world_size: int, epoch: int) -> None:
    occurring = set().union(*classes)
    num_samples = {label: sum(label in held for held in classes) for label in occurring}
    shares = []
    for rank in range(world_size):
        sampler = ClassBalancedSampler(classes=classes, seed=2, rank=rank, world_size=world_size)
        sampler.set_epoch(epoch)
        shares.append(list(sampler))
        assert len(shares[-1]) == len(sampler) == -(-sampler.num_visits // world_size)
    per_class = sum(num_samples.values()) // len(occurring)
    assert sampler.num_visits == per_class * len(occurring)
    assert all(classes[position] for share in shares for _, position, _ in share)
    visits = [(position, repeat) for share in shares for _, position, repeat in share]
    assert len(set(visits)) == len(visits)  # no two visits of an epoch look the same
    counts = Counter(sampler.order(epoch).tolist())
    assert sum(counts.values()) == sampler.num_visits
    for label in occurring:
        assert sum(count for position, count in counts.items() if label in classes[position]) >= per_class


def test_a_rare_class_is_seen_as_often_as_a_common_one() -> None:
    # 90 samples hold class 0 alone, 10 class 1 alone: 50 visits each instead of 90 to 10.
    sampler = ClassBalancedSampler(classes=[{0}] * 90 + [{1}] * 10 + [set()], seed=0)
    drawn = [position for _, position, _ in sampler]
    assert len(drawn) == 100
    assert sum(position < 90 for position in drawn) == 50
    assert 100 not in drawn
    spread = Counter(position for _ in range(200) for position in _epoch(sampler, _) if position >= 90)
    assert set(spread) == set(range(90, 100))
    assert all(800 < count < 1200 for count in spread.values())  # 1000 expected, standard deviation 30
    assert drawn != sorted(drawn)
    assert _epoch(sampler, 0) == drawn != _epoch(sampler, 1)


def _epoch(sampler: EpochSampler, epoch: int) -> list[int]:
    sampler.set_epoch(epoch)
    return [position for _, position, _ in sampler]


@pytest.mark.parametrize("balanced", [False, True])
def test_one_pass_goes_on_where_another_stopped(balanced: bool) -> None:
    arguments = {"seed": 5, "rank": 1, "world_size": 2}

    def sampler() -> EpochSampler:
        if balanced:
            return ClassBalancedSampler(classes=[{0}, {1}, {0, 1}, {0}, {0}, {0}], **arguments)
        return EpochSampler(num_samples=9, **arguments)

    whole = sampler()
    whole.set_epoch(3)
    expected = list(whole)
    resumed = sampler()
    resumed.resume(3, 2)
    resumed.set_epoch(0)  # as a trainer does that does not know better yet
    assert list(resumed) == expected[2:]
    assert len(resumed) == len(expected)
    resumed.set_epoch(3)
    assert list(resumed) == expected


def test_classes_are_those_with_points(own_synthetic: IndexedSet, caplog: pytest.LogCaptureFixture) -> None:
    index = own_synthetic.index
    names = ["pedestrian", "car", "bus"]
    found = present_classes(index, [0, 4, 0], names)
    for position, labels in zip([0, 4, 0], found, strict=True):
        annotations = index.record(position).annotations
        assert annotations is not None
        wanted = {
            names.index(DETECTION_CLASSES[label])
            for label, lidar, radar in zip(
                annotations.labels, annotations.num_lidar_pts, annotations.num_radar_pts, strict=True
            )
            if label >= 0 and DETECTION_CLASSES[label] in names and lidar + radar > 0
        }
        assert labels == wanted
    assert any(found)
    assert "no sample holds an object of bus" in caplog.text


def test_repeated_visits_of_a_balanced_epoch_are_changed_differently(synthetic: IndexedSet) -> None:
    loader = SampleLoader(
        index=synthetic.index, dataroot=synthetic.dataroot, class_names=DETECTION_CLASSES, lidar=LidarLoading()
    )
    dataset = SampleDataset(loader, [0, 1], [BevAugmentation(rotation_range_rad=(-1, 1))])
    batches = list(build_loader(dataset, batch_size=1, sampler=ClassBalancedSampler(classes=[{0}, {0, 1}])))
    assert len(batches) == 2  # class 1 is only in the second sample, 3 // 2 visits per class
    frames = torch.stack([dataset[Visit(0, 0, repeat)].ego2aug for repeat in range(4)])
    assert len(frames.unique(dim=0)) == 4
    assert torch.equal(dataset[(0, 0)].ego2aug, frames[0])


def test_without_objects_nothing_can_be_balanced() -> None:
    with pytest.raises(ValueError, match="classes must name an object in at least one sample, got none"):
        ClassBalancedSampler(classes=[set(), set()])
