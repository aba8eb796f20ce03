"""Features on disk: what is read is what was written, sensor by sensor, and interrupted work goes on."""

import numpy as np
import pytest
import torch

from perception.geometry.grid import Grid
from perception.structures import BevMap, SensorFeatures
from perception.training.feature_cache import FeatureCache

GRIDS = {"main": Grid.square(4.0, 1.0), "near": Grid.square(1.0, 0.2)}
CHANNELS = {"camera": {"main": 3}, "ultrasonic": {"main": 2, "near": 4}}


def features(seed: int, count: int) -> dict[str, SensorFeatures]:
    """Made-up features that half precision holds exactly."""
    generator = torch.Generator().manual_seed(seed)
    result = {}
    for branch, levels in CHANNELS.items():
        bev = {}
        for level, channels in levels.items():
            grid = GRIDS[level]
            size = (count, channels, grid.num_y, grid.num_x)
            maps = torch.randint(-999, 999, size, generator=generator) / 8
            valid = torch.rand(count, 1, *size[2:], generator=generator) < 0.5
            bev[level] = BevMap(features=maps, validity=valid, grid=grid)
        result[branch] = SensorFeatures(present=torch.rand(count, generator=generator) < 0.7, bev=bev)
    return result


def create(folder, tokens=("a", "b", "c", "d"), source="weights"):
    return FeatureCache.create(folder, tokens=tokens, channels=CHANNELS, grids=GRIDS, source=source)


def test_what_is_read_is_what_was_written(tmp_path):
    cache, wrote = create(tmp_path / "cache"), features(0, 3)
    wrote["camera"].present[:] = torch.tensor([True, False, True])
    cache.write([3, 0, 2], wrote)
    read = FeatureCache(tmp_path / "cache").read(cache.rows(["d", "a", "c"]))
    for branch, part in wrote.items():
        assert torch.equal(read[branch].present, part.present)
        for level, found in part.bev.items():
            assert torch.equal(read[branch].bev[level].features, found.features)
            assert torch.equal(read[branch].bev[level].validity, found.validity)
            assert read[branch].bev[level].grid == GRIDS[level]


def test_sensors_that_are_not_wanted_are_absent(tmp_path):
    cache, wrote = create(tmp_path / "cache"), features(1, 2)
    for part in wrote.values():
        part.present[:] = True
    cache.write([0, 1], wrote)
    read = cache.read([0, 1], [{"camera"}, {"camera", "ultrasonic"}])
    assert read["camera"].present.tolist() == [True, True]
    assert read["ultrasonic"].present.tolist() == [False, True]
    alone = cache.read([0], [{"ultrasonic"}])
    assert alone["camera"].present.tolist() == [False]
    assert not alone["camera"].bev["main"].features.any()
    assert not alone["camera"].bev["main"].validity.any()
    assert alone["camera"].bev["main"].features.shape == wrote["camera"].bev["main"].features[:1].shape


def test_interrupted_work_goes_on(tmp_path):
    cache = create(tmp_path / "cache")
    cache.write([1], features(2, 1))
    again = create(tmp_path / "cache")
    assert again.missing == [0, 2, 3]
    with pytest.raises(ValueError, match=r"rows must be written, .* lacks some of \[1, 2\]"):
        again.read([1, 2])


def test_another_set_or_other_weights_are_refused(tmp_path):
    create(tmp_path / "cache")
    for wrong in ({"tokens": ("a", "b")}, {"source": "other"}):
        with pytest.raises(ValueError, match="must be new or of the same samples and branches"):
            create(tmp_path / "cache", **wrong)
    with pytest.raises(KeyError, match="e"):
        FeatureCache(tmp_path / "cache").rows(["e"])


def test_a_cut_file_is_named(tmp_path):
    create(tmp_path / "cache")
    path = tmp_path / "cache" / "ultrasonic.near.f16"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(ValueError, match=r"ultrasonic.near.f16 must have 3200 bytes, got 3198"):
        FeatureCache(tmp_path / "cache")


def test_half_precision_is_what_is_lost(tmp_path):
    cache, wrote = create(tmp_path / "cache"), features(3, 1)
    exact = wrote["camera"].bev["main"].features
    exact += 1 / 3
    wrote["camera"].present[:] = True
    cache.write([0], wrote)
    read = cache.read([0])["camera"].bev["main"].features
    assert np.allclose(read.numpy(), exact.numpy(), rtol=2**-11)
    assert not torch.equal(read, exact)
