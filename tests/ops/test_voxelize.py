import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from perception.geometry.grid import Grid
from perception.ops.voxelize import (
    voxelize_dynamic,
    voxelize_dynamic_reference,
    voxelize_hard,
    voxelize_hard_reference,
)

SMALL = Grid((0.0, 4.0), (-1.0, 1.0), (0.0, 2.0), (1.0, 1.0, 2.0))  # Z 1, Y 2, X 4
REAL_DATA = os.environ.get("PERCEPTION_REAL_DATA")


def random_case(generator, device, num_points=3000, num_samples=3, columns=5, dtype=torch.float32):
    """Points in and around a grid of 4 x 12 x 16 voxels, some exactly on faces, some not finite."""
    points = torch.rand(num_points, columns, generator=generator, dtype=torch.float64) * 20 - 10
    points[::5] = points[::5].round()
    points[::97, 1] = math.nan
    points[::89, 2] = math.inf
    batch_index = torch.randint(num_samples, (num_points,), generator=generator).sort().values
    grid = Grid((-8.0, 8.0), (-6.0, 6.0), (-3.0, 5.0), (1.0, 1.0, 2.0))
    return points.to(device, dtype), batch_index.to(device), grid


@pytest.mark.parametrize("function", [voxelize_hard, voxelize_hard_reference])
def test_known_voxels(device, function):
    points = torch.tensor(
        [
            [2.5, 0.5, 1.0, 10.0],  # the first voxel
            [0.0, -1.0, 0.0, 11.0],  # lower faces belong to a voxel: the second
            [4.0, 0.5, 1.0, 12.0],  # upper faces do not: outside
            [2.1, 0.1, 0.1, 13.0],  # the first again
            [2.2, 0.2, 0.2, 14.0],  # one more than max_points
            [3.5, -0.5, 1.0, 15.0],  # sample 1
        ],
        device=device,
    )
    batch_index = torch.tensor([0, 0, 0, 0, 0, 1], device=device)
    voxels, num_points, coords, point2voxel = function(points, batch_index, SMALL, max_points=2)
    assert coords.tolist() == [[0, 0, 1, 2], [0, 0, 0, 0], [1, 0, 0, 3]]
    assert num_points.tolist() == [2, 1, 1]
    assert point2voxel.tolist() == [0, 1, -1, 0, 0, 2]
    assert voxels[:, :, 3].tolist() == [[10, 13], [11, 0], [15, 0]]
    assert torch.equal(voxels[1, 0], points[1])


@pytest.mark.parametrize("function", [voxelize_dynamic, voxelize_dynamic_reference])
def test_max_voxels_counts_per_sample_and_keeps_later_points_of_kept_voxels(device, function):
    x = torch.tensor([0.5, 1.5, 2.5, 0.6, 3.5, 1.5, 1.6], device=device)
    points = torch.stack((x, torch.zeros_like(x), torch.ones_like(x)), dim=1)
    batch_index = torch.tensor([0, 0, 0, 0, 1, 1, 1], device=device)
    coords, point2voxel = function(points, batch_index, SMALL, max_voxels=1)
    assert coords.tolist() == [[0, 0, 1, 0], [1, 0, 1, 3]]
    assert point2voxel.tolist() == [0, -1, -1, 0, 1, -1, -1]


@pytest.mark.parametrize("function", [voxelize_dynamic, voxelize_dynamic_reference])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e38, -1e38])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_points_that_are_not_finite_are_outside(device, function, bad, axis):
    points = torch.tensor([[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]], device=device)
    points[0, axis] = bad
    coords, point2voxel = function(points, torch.zeros(2, dtype=torch.int64, device=device), SMALL)
    assert coords.tolist() == [[0, 0, 1, 0]]
    assert point2voxel.tolist() == [-1, 0]


def test_other_columns_may_be_anything(device):
    points = torch.tensor([[0.5, 0.5, 0.5, math.nan]], device=device)
    index = torch.zeros(1, dtype=torch.int64, device=device)
    assert voxelize_hard(points, index, SMALL, max_points=2).voxels[0, 0, 3].isnan()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("max_voxels", [None, 1, 50])
def test_matches_reference(device, generator, dtype, max_voxels):
    points, batch_index, grid = random_case(generator, device, dtype=dtype)
    actual = voxelize_dynamic(points, batch_index, grid, max_voxels=max_voxels)
    torch.testing.assert_close(
        tuple(actual), tuple(voxelize_dynamic_reference(points, batch_index, grid, max_voxels=max_voxels))
    )
    for max_points in (1, 4, 100):
        limits = {"max_points": max_points, "max_voxels": max_voxels}
        actual = voxelize_hard(points, batch_index, grid, **limits)
        expected = voxelize_hard_reference(points, batch_index, grid, **limits)
        torch.testing.assert_close(tuple(actual), tuple(expected), rtol=0, atol=0, equal_nan=True)


def test_cells_of_uneven_size_match_reference(device, generator):
    grid = Grid((-7.2, 7.2), (-5.4, 5.4), (-3.0, 3.0), (0.075, 0.3, 0.2))
    points = (torch.rand(5000, 3, generator=generator) * 16 - 8).to(device)
    batch_index = torch.zeros(5000, dtype=torch.int64, device=device)
    torch.testing.assert_close(
        tuple(voxelize_dynamic(points, batch_index, grid)),
        tuple(voxelize_dynamic_reference(points, batch_index, grid)),
    )


@pytest.mark.parametrize(("cells", "first_sample"), [(1 << 8, 0), (1 << 12, 0), (1 << 8, (1 << 30) - 2)])
def test_voxel_numbers_past_32_and_53_bits(device, generator, cells, first_sample):
    grid = Grid(*[(0.0, float(cells))] * 3, (1.0, 1.0, 1.0))
    points = (torch.rand(2000, 3, generator=generator, dtype=torch.float64) * cells).to(device)
    points[1000:] = points[:1000] + 0.001  # the same cells or their neighbours
    batch_index = first_sample + torch.arange(2000, device=device) // 900
    actual = voxelize_hard(points, batch_index, grid, max_points=2, max_voxels=800)
    expected = voxelize_hard_reference(points, batch_index, grid, max_points=2, max_voxels=800)
    torch.testing.assert_close(tuple(actual), tuple(expected), rtol=0, atol=0)


@pytest.mark.parametrize("columns", [3, 4, 5, 7, 8, 13])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_points_of_any_width_are_copied_whole(device, generator, columns, dtype):
    points, batch_index, grid = random_case(generator, device, num_points=500, columns=columns, dtype=dtype)
    actual = voxelize_hard(points, batch_index, grid, max_points=3)
    expected = voxelize_hard_reference(points, batch_index, grid, max_points=3)
    torch.testing.assert_close(tuple(actual), tuple(expected), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("num_points", [0, 4])
def test_no_point_inside_gives_no_voxel(device, num_points):
    points = torch.full((num_points, 5), 100.0, device=device)
    batch_index = torch.zeros(num_points, dtype=torch.int64, device=device)
    for function in (voxelize_hard, voxelize_hard_reference):
        voxels, counts, coords, point2voxel = function(points, batch_index, SMALL, max_points=3)
        assert voxels.shape == (0, 3, 5)
        assert counts.shape == (0,)
        assert coords.shape == (0, 4)
        assert point2voxel.tolist() == [-1] * num_points


def test_each_point_is_in_the_voxel_that_it_names(device, generator):
    points, batch_index, grid = random_case(generator, device)
    coords, point2voxel = voxelize_dynamic(points, batch_index, grid)
    cells, inside = grid.cells(points)
    assert torch.equal(point2voxel >= 0, inside)
    expected = torch.cat((batch_index[:, None], cells), dim=1)[inside]
    assert torch.equal(coords[point2voxel[inside]], expected)
    assert len(torch.unique(coords, dim=0)) == len(coords)


def test_samples_do_not_affect_one_another(device, generator):
    points, batch_index, grid = random_case(generator, device)
    together = voxelize_hard(points, batch_index, grid, max_points=3, max_voxels=40)
    own = batch_index == 1
    alone = voxelize_hard(points[own], batch_index[own], grid, max_points=3, max_voxels=40)
    of_sample = together.coords[:, 0] == 1
    assert torch.equal(together.coords[of_sample], alone.coords)
    assert torch.equal(together.voxels[of_sample], alone.voxels)


def test_takes_strided_views_and_leaves_inputs_alone(device, generator):
    points, batch_index, grid = random_case(generator, device)
    wide, pairs = points.repeat(1, 2), torch.stack((batch_index, batch_index), dim=1)
    before = wide.clone(), pairs.clone()
    actual = voxelize_hard(wide[:, 5:], pairs[:, 0], grid, max_points=3)
    expected = voxelize_hard(points, batch_index, grid, max_points=3)
    torch.testing.assert_close(tuple(actual), tuple(expected), equal_nan=True)
    torch.testing.assert_close((wide, pairs), before, rtol=0, atol=0, equal_nan=True)


def test_same_result_on_any_number_of_threads(generator, on_threads):
    points, batch_index, grid = random_case(generator, "cpu", num_points=40_000)
    results = []
    for threads in (1, 2, 5):
        on_threads(threads)
        results.append(tuple(voxelize_hard(points, batch_index, grid, max_points=3, max_voxels=200)))
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(results[2], results[0], rtol=0, atol=0, equal_nan=True)


def test_opcheck(kernel_device, generator):
    points, batch_index, grid = random_case(generator, kernel_device, num_points=100)
    arguments = points, batch_index, grid.origin_m, grid.cell_m, grid.shape, 20
    torch.library.opcheck(torch.ops.perception.voxelize_dynamic.default, arguments)
    torch.library.opcheck(torch.ops.perception.voxelize_hard.default, (*arguments, 3))


def test_rejects_wrong_arguments():
    points, index = torch.zeros(4, 5), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"voxelize_dynamic: points must be \(P, 3\+\) .*, got \(4, 2\) float32"):
        voxelize_dynamic(points[:, :2], index, SMALL)
    with pytest.raises(ValueError, match=r"voxelize_dynamic: points must be .*, got \(4, 5\) float16"):
        voxelize_dynamic(points.half(), index, SMALL)
    with pytest.raises(ValueError, match=r"voxelize_hard: batch_index must be \(4\) int64, got \(3,\) int64"):
        voxelize_hard(points, index[:3], SMALL, max_points=1)
    with pytest.raises(ValueError, match="voxelize_hard: max_points must be a whole number of at least 1, got 0"):
        voxelize_hard(points, index, SMALL, max_points=0)
    with pytest.raises(ValueError, match="voxelize_hard: max_voxels must be a whole number of at least 1, got 0"):
        voxelize_hard(points, index, SMALL, max_points=1, max_voxels=0)
    with pytest.raises(TypeError, match="voxelize_dynamic: grid must be a Grid, got tuple"):
        voxelize_dynamic(points, index, (0, 1))


@pytest.mark.parametrize(("bad", "where"), [([0, 1, 0, 1], "0 at 2"), ([-1, 0, 0, 0], "-1 at 0")])
def test_rejects_a_batch_index_that_falls_or_is_negative(bad, where):
    with pytest.raises(ValueError, match=f"voxelize_dynamic: batch_index must not be negative or fall, got {where}"):
        voxelize_dynamic(torch.zeros(4, 3), torch.tensor(bad), SMALL)


def test_rejects_a_batch_index_that_overflows_voxel_numbers():
    with pytest.raises(ValueError, match="voxelize_dynamic: batch_index must keep voxel numbers below 2\\^62"):
        voxelize_dynamic(torch.zeros(1, 3), torch.tensor([2**61]), SMALL)


@pytest.mark.skipif(not REAL_DATA, reason="PERCEPTION_REAL_DATA is not set")
def test_real_cloud_matches_reference(device):
    path = sorted(Path(REAL_DATA, "nuscenes/samples/LIDAR_TOP").glob("*.bin"))[0]
    points = torch.from_numpy(np.fromfile(path, dtype=np.float32).reshape(-1, 5)).to(device)
    batch_index = torch.zeros(len(points), dtype=torch.int64, device=device)
    grid = Grid((-54.0, 54.0), (-54.0, 54.0), (-5.0, 3.0), (0.075, 0.075, 0.2))
    limits = {"max_points": 10, "max_voxels": 20_000}
    actual = voxelize_hard(points, batch_index, grid, **limits)
    expected = voxelize_hard_reference(points, batch_index, grid, **limits)
    torch.testing.assert_close(tuple(actual), tuple(expected), rtol=0, atol=0)
    assert 10_000 < len(actual.coords) <= 20_000
