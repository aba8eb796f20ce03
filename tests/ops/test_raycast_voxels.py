import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perception.geometry.grid import Grid
from perception.ops.raycast_voxels import raycast_voxels, raycast_voxels_reference, visible_voxels

GRID = Grid((-8.0, 8.0), (-6.0, 7.0), (-1.0, 3.0), (0.5, 1.0, 1.0))  # Z 4, Y 13, X 32: a row fills a word
SMALL = Grid((0.0, 4.0), (0.0, 3.0), (0.0, 2.0), (1.0, 1.0, 1.0))  # Z 2, Y 3, X 4


def random_case(generator, device, num_rays=700, dtype=torch.float64, share=0.03, grid=GRID):
    """Rays from inside and outside the grid, some along an axis, some not finite."""
    occupied = torch.rand(grid.shape, generator=generator) < share
    origins = torch.rand(num_rays, 3, generator=generator, dtype=torch.float64) * 24 - 12
    directions = torch.randn(num_rays, 3, generator=generator, dtype=torch.float64)
    directions[::7, 0], directions[::11, 1:] = 0, 0
    origins[::2, :] /= 6
    origins[5::97, 1], directions[6::97, 2], directions[7::97] = math.nan, math.inf, 0
    return occupied.to(device), origins.to(device, dtype), directions.to(device, dtype)


def number(z, y, x, grid=SMALL):
    return (z * grid.num_y + y) * grid.num_x + x


def test_known_hits(device):
    occupied = torch.zeros(SMALL.shape, dtype=torch.bool, device=device)
    occupied[0, 1, 3] = occupied[1, 2, 0] = True
    rays = torch.tensor(
        [
            [0.5, 1.5, 0.5, 10.0, 0.0, 0.0],  # along x: enters the voxel at x = 3
            [3.5, 1.5, 0.5, 0.0, -1.0, 0.0],  # starts in it
            [-2.0, 1.5, 0.5, 0.1, 0.0, 0.0],  # from outside
            [0.5, 1.5, 0.5, -1.0, 0.0, 0.0],  # the other way
            [0.5, 0.5, 1.5, 0.0, 1.0, 0.0],  # along y, above: enters the other one at y = 2
            [3.5, 1.5, 1.75, 0.0, 0.0, -3.0],  # down onto the first
            [2.5, 0.5, 0.5, 3.0, 4.0, 0.0],  # passes at 45 degrees and more, over the corner: (3, 1) at x = 3
            [-1.0, 5.0, 0.5, 1.0, 0.0, 0.0],  # beside the grid
        ],
        device=device,
    )
    hits = raycast_voxels(occupied, rays[:, :3], rays[:, 3:], SMALL)
    one, other = number(0, 1, 3), number(1, 2, 0)
    assert hits.cells.tolist() == [one, one, one, -1, other, one, one, -1]
    expected = [2.5, 0, 5, math.inf, 1.5, 0.75, 0.5 * 5 / 3, math.inf]
    torch.testing.assert_close(hits.distance_m.cpu(), torch.tensor(expected))


def test_known_visible_voxels(device):
    occupied = torch.zeros(SMALL.shape, dtype=torch.bool, device=device)
    occupied[0, 1, 2] = True
    origins, directions = torch.tensor([[[0.5, 1.5, 0.5]], [[1.0, 0.0, 0.0]]], device=device)
    visible = visible_voxels(occupied, origins, directions, SMALL)
    assert visible.nonzero().tolist() == [[0, 1, 0], [0, 1, 1], [0, 1, 2]]  # not what lies behind
    assert (visible & ~occupied).nonzero().tolist() == [[0, 1, 0], [0, 1, 1]]
    near = visible_voxels(occupied, origins, directions, SMALL, max_range_m=1.0)
    assert near.nonzero().tolist() == [[0, 1, 0], [0, 1, 1]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("max_range_m", [math.inf, 5.0, 0.0])
@pytest.mark.parametrize("share", [0.0, 0.03, 1.0])
def test_matches_reference(device, generator, dtype, max_range_m, share):
    case = random_case(generator, device, dtype=dtype, share=share)
    expected = raycast_voxels_reference(*case, GRID, max_range_m=max_range_m)
    hits = raycast_voxels(*case, GRID, max_range_m=max_range_m)
    assert hits.distance_m.dtype == dtype
    agree = hits.cells == expected[0]
    assert agree.float().mean() > 0.995  # a ray through an edge may go either way after rounding
    torch.testing.assert_close(hits.distance_m[agree], expected[1][agree])
    marks = visible_voxels(*case, GRID, max_range_m=max_range_m)
    assert (marks == expected[2]).float().mean() > 0.995


@pytest.mark.parametrize("x_cells", [1, 31, 32, 33, 64, 70])
def test_rows_of_any_length(device, generator, x_cells):
    grid = Grid((0.0, float(x_cells)), (0.0, 3.0), (0.0, 2.0), (1.0, 1.0, 1.0))
    case = random_case(generator, device, num_rays=300, share=0.1, grid=grid)
    hits = raycast_voxels(*case, grid)
    expected = raycast_voxels_reference(*case, grid)
    assert torch.equal(hits.cells, expected[0])
    assert torch.equal(visible_voxels(*case, grid), expected[2])


def test_hits_lie_on_the_ray_at_their_distance(device, generator):
    occupied, origins, directions = random_case(generator, device, num_rays=2000, share=0.05)
    hits = raycast_voxels(occupied, origins, directions, GRID)
    met = hits.cells >= 0
    assert met.sum() > 200
    assert torch.equal(met, hits.distance_m.isfinite())
    assert occupied.flatten()[hits.cells[met]].all()
    unit = directions[met] / directions[met].norm(dim=1, keepdim=True)
    points = origins[met] + hits.distance_m[met][:, None] * unit
    centers = GRID.centers().to(device).view(-1, 3)[hits.cells[met]]
    assert ((points - centers).abs() <= centers.new_tensor(GRID.cell_m) / 2 + 1e-9).all()


def test_nothing_occupied_lies_before_a_hit(device, generator):
    occupied, origins, directions = random_case(generator, device)
    hits = raycast_voxels(occupied, origins, directions, GRID)
    for share in (0.25, 0.5, 0.75):
        met = hits.distance_m.isfinite() & (hits.distance_m > 0)
        unit = directions[met] / directions[met].norm(dim=1, keepdim=True)
        cells, inside = GRID.cells(origins[met] + (share * hits.distance_m[met])[:, None] * unit)
        z, y, x = cells[inside].unbind(1)
        assert not occupied[z, y, x].any()


def test_free_space_is_what_no_hit_ends_in(device, generator):
    occupied, origins, directions = random_case(generator, device)
    visible = visible_voxels(occupied, origins, directions, GRID)
    hits = raycast_voxels(occupied, origins, directions, GRID).cells
    surface = (visible & occupied).flatten().nonzero()[:, 0]
    assert torch.equal(surface, hits[hits >= 0].unique())


def test_length_of_directions_does_not_matter(device, generator):
    occupied, origins, directions = random_case(generator, device)
    hits = raycast_voxels(occupied, origins, directions, GRID)
    longer = raycast_voxels(occupied, origins, directions * 4, GRID)
    assert torch.equal(hits.cells, longer.cells)
    assert torch.equal(hits.distance_m, longer.distance_m)


def test_no_rays(device):
    occupied, rays = torch.ones(GRID.shape, dtype=torch.bool, device=device), torch.zeros(0, 3, device=device)
    hits = raycast_voxels(occupied, rays, rays, GRID)
    assert hits.cells.shape == hits.distance_m.shape == (0,)
    assert not visible_voxels(occupied, rays, rays, GRID).any()


def test_takes_strided_views_and_leaves_inputs_alone(device, generator):
    occupied, origins, directions = random_case(generator, device)
    turned, pairs = occupied.transpose(0, 2).contiguous().transpose(0, 2), torch.cat((origins, directions), dim=1)
    before = turned.clone(), pairs.clone()
    hits = raycast_voxels(turned, pairs[:, :3], pairs[:, 3:], GRID)
    assert torch.equal(hits.cells, raycast_voxels(occupied, origins, directions, GRID).cells)
    assert torch.equal(turned, before[0])
    torch.testing.assert_close(pairs, before[1], equal_nan=True)


def test_same_bits_on_any_number_of_threads(generator, on_threads):
    case = random_case(generator, "cpu", 5000, torch.float32)
    results = []
    for threads in (1, 2, 5):
        on_threads(threads)
        results.append((*raycast_voxels(*case, GRID), visible_voxels(*case, GRID)))
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_autocast_computes_in_float32(device, generator, dtype):
    case = random_case(generator, device, dtype=dtype)
    with torch.autocast(device, dtype=torch.bfloat16):
        hits = raycast_voxels(*case, GRID)
    assert hits.distance_m.dtype == torch.float32
    assert torch.equal(hits.cells, raycast_voxels(*case, GRID).cells)


numbers = st.one_of(st.floats(-6, 6, width=32), st.floats(width=32), st.sampled_from([0.0, 1.0, 2.0, -1e-30, 1e30]))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(numbers, min_size=6, max_size=6), max_size=5), st.floats(0, 10), st.integers(0, 2**24 - 1))
def test_any_numbers_give_hits_that_are_occupied(rows, max_range_m, bits):
    rays = torch.tensor(rows).reshape(-1, 6)
    occupied = torch.tensor([bits >> i & 1 for i in range(24)], dtype=torch.bool).view(SMALL.shape)
    hits = raycast_voxels(occupied, rays[:, :3], rays[:, 3:], SMALL, max_range_m=max_range_m)
    met = hits.cells >= 0
    assert occupied.flatten()[hits.cells[met]].all()
    assert (hits.cells < 24).all()
    assert (hits.distance_m[met] <= max_range_m + 1e-3).all()
    assert (hits.distance_m[~met] == math.inf).all()
    assert visible_voxels(occupied, rays[:, :3], rays[:, 3:], SMALL).shape == SMALL.shape


def test_rejects_wrong_arguments():
    occupied, rays = torch.zeros(SMALL.shape, dtype=torch.bool), torch.zeros(5, 3)
    with pytest.raises(ValueError, match=r"raycast_voxels: occupied must be \(2, 3, 4\) bool, got \(4, 3, 2\) bool"):
        raycast_voxels(occupied.permute(2, 1, 0), rays, rays, SMALL)
    with pytest.raises(ValueError, match=r"visible_voxels: occupied must be \(2, 3, 4\) bool, got .* float32"):
        visible_voxels(occupied.float(), rays, rays, SMALL)
    with pytest.raises(ValueError, match=r"raycast_voxels: directions must be \(5, 3\) .*, got \(4, 3\) float32"):
        raycast_voxels(occupied, rays, rays[1:], SMALL)
    with pytest.raises(TypeError, match="raycast_voxels: grid must be a Grid, got tuple"):
        raycast_voxels(occupied, rays, rays, (1, 2, 3))
    for bad in (-1.0, math.nan):
        with pytest.raises(ValueError, match=f"raycast_voxels: max_range_m must be 0 or more, got {bad}"):
            raycast_voxels(occupied, rays, rays, SMALL, max_range_m=bad)
    huge = Grid((0.0, 1024.0), (0.0, 1024.0), (0.0, 256.0), (1.0, 1.0, 1.0))
    with pytest.raises(
        ValueError, match=r"raycast_voxels: occupied must have fewer than 2\^28 voxels, got \(256, 1024"
    ):
        raycast_voxels(torch.zeros(1, dtype=torch.bool).expand(huge.shape), rays, rays, huge)


def test_compiled_op_rejects_what_the_kernel_cannot_read(kernel_device):
    op = torch.ops.perception.raycast_voxels
    occupied = torch.zeros(2, 3, 4, dtype=torch.bool, device=kernel_device)
    rays, three = torch.zeros(5, 3, device=kernel_device), (1.0, 1.0, 1.0)
    with pytest.raises(RuntimeError, match=r"raycast_voxels: origins must be \(any, 3\), got \(5, 2\) Float"):
        op(occupied, rays[:, :2], rays, three, three, 1.0, False)
    with pytest.raises(RuntimeError, match="raycast_voxels: occupied must be bool, got"):
        op(occupied.int(), rays, rays, three, three, 1.0, False)
    with pytest.raises(
        RuntimeError, match=r"raycast_voxels: occupied must have cells, and fewer than 2\^28, got \(0, 3"
    ):
        op(occupied[:0], rays, rays, three, three, 1.0, False)
    with pytest.raises(RuntimeError, match="raycast_voxels: lower_m and cell_m must have three numbers each"):
        op(occupied, rays, rays, three[:2], three, 1.0, False)


@pytest.mark.parametrize("mark", [False, True])
def test_opcheck(kernel_device, generator, mark):
    case = random_case(generator, kernel_device, num_rays=9)
    torch.library.opcheck(torch.ops.perception.raycast_voxels.default, (*case, GRID.origin_m, GRID.cell_m, 9.0, mark))
