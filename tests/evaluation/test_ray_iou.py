"""RayIoU: the rays, where they begin, a slow traversal of its own as reference, cases by hand."""

import math

import numpy as np
import pytest
import torch

from perception.evaluation.ray_iou import RayScorer, cast_rays, ray_directions, ray_origins
from perception.formats.occupancy import FREE, OCCUPANCY_GRID
from perception.geometry.grid import Grid
from perception.geometry.transforms import rigid_from_quaternion

CAR, ROAD = 4, 11
LIDAR_M = np.array([[0.94, 0.0, 1.84]])


def traversed(labels: np.ndarray, origin: np.ndarray, direction: np.ndarray, grid: Grid) -> tuple[int, float]:
    """Amanatides and Woo, step by step in double precision, from a point inside: class and depth of one ray."""
    size, counts = np.array(grid.cell_m), grid.shape[::-1]
    start = (origin - grid.origin_m) / size  # cells, x y z
    cell = [math.floor(value) for value in start]
    step = [1 if value > 0 else -1 for value in direction]
    speed = direction / size  # cells per metre
    ahead = [cell[a] + (step[a] > 0) for a in range(3)]
    reach = [math.inf if direction[a] == 0 else (ahead[a] - start[a]) / speed[a] for a in range(3)]
    while True:
        leave_m = min(reach)
        label = labels[cell[2], cell[1], cell[0]]
        if label != FREE:
            return int(label), leave_m
        axis = reach.index(leave_m)
        cell[axis] += step[axis]
        ahead[axis] += step[axis]
        reach[axis] = (ahead[axis] - start[axis]) / speed[axis]
        if not 0 <= cell[axis] < counts[axis]:
            return FREE, leave_m


def empty() -> torch.Tensor:
    return torch.full(OCCUPANCY_GRID.shape, FREE, dtype=torch.uint8)


def test_rays_are_those_of_the_definition() -> None:
    directions = ray_directions()
    assert directions.shape == (14040, 3)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1)
    elevations = np.degrees(np.arcsin(directions[::360, 2]))
    np.testing.assert_allclose(elevations[:10], [-math.degrees(math.atan(1 / k)) for k in range(1, 11)])
    np.testing.assert_allclose(np.diff(elevations)[8:], elevations[9] - elevations[8])
    np.testing.assert_allclose(elevations[[0, 9, -1]], [-45, -5.71, 12.55], atol=0.005)
    assert np.radians(elevations[-2]) < 0.21 <= np.radians(elevations[-1])
    np.testing.assert_allclose(np.degrees(np.arctan2(directions[:180, 1], directions[:180, 0])), range(180))


def test_origins_are_in_the_samples_frame_and_near_it() -> None:
    ego2global = rigid_from_quaternion(
        torch.tensor([100.0, 50.0, 0.0]).double(), torch.tensor([math.sqrt(0.5), 0, 0, math.sqrt(0.5)]).double()
    ).numpy()  # looks along the global y axis
    lidar = np.array(
        [[100.0, 11.5, 2.0], [100.0, 50.0, 2.0], [90.0, 60.0, 2.0], [100.0, 89.001, 2.0], [139.5, 50.0, 2.0]]
    )
    np.testing.assert_allclose(ray_origins(lidar, ego2global), [[-38.5, 0, 2], [0, 0, 2], [10, 10, 2]], atol=1e-9)


def test_of_many_origins_eight_are_taken_evenly() -> None:
    lidar = np.stack((np.arange(40.0) * 0.5, np.zeros(40), np.zeros(40)), axis=1)
    kept = ray_origins(lidar, np.eye(4))[:, 0] / 0.5
    np.testing.assert_array_equal(kept, [0, 6, 11, 17, 22, 28, 33, 39])  # 39 / 7 = 5.57, rounded
    assert len(ray_origins(lidar[:8], np.eye(4))) == 8


def test_depths_by_hand() -> None:
    labels = empty()
    labels[7, 100, 110] = CAR  # x 4.0 to 4.4, y 0 to 0.4, z 1.8 to 2.2
    origins = torch.tensor([[0.1, 0.1, 2.0]] * 4, dtype=torch.float64)
    down = math.sqrt(0.5)
    directions = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0, 0, -1.0], [down, 0, -down]], dtype=torch.float64)
    found, depth_m = cast_rays(labels, origins, directions, OCCUPANCY_GRID, FREE)
    assert found.tolist() == [CAR, FREE, FREE, FREE]
    # Where the ray leaves the car's voxel; where the others leave the volume.
    np.testing.assert_allclose(depth_m, [4.3, 39.9, 3.0, 3 * math.sqrt(2)])
    inside, depth_m = cast_rays(
        labels, origins[:1] + origins.new_tensor([4.0, 0, 0]), directions[:1], OCCUPANCY_GRID, FREE
    )
    assert inside.tolist() == [CAR]
    np.testing.assert_allclose(depth_m, [0.3])


def test_rays_from_outside_enter_the_volume_or_meet_nothing() -> None:
    labels = empty()
    labels[15, 100, 100:110] = CAR
    origins = torch.tensor([[0.1, 0.1, 6.0], [0.1, 0.1, 6.0]], dtype=torch.float64)
    directions = torch.tensor([[0.0, 0, -1.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    found, depth_m = cast_rays(labels, origins, directions, OCCUPANCY_GRID, FREE)
    assert found.tolist() == [CAR, FREE]
    np.testing.assert_allclose(depth_m, [1.0, 0.0])


@pytest.mark.parametrize("seed", range(3))
def test_rays_end_where_a_slow_traversal_ends(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.full(OCCUPANCY_GRID.shape, FREE, np.uint8)
    filled = rng.random(labels.shape) < 0.01
    labels[filled] = rng.integers(0, FREE, filled.sum())
    directions = ray_directions()[rng.choice(14040, 200, replace=False)]
    origins = rng.uniform([-39, -39, -0.9], [39, 39, 5.3], (200, 3))
    origins[:50] = LIDAR_M  # on the boundary of two rows of voxels
    expected = [traversed(labels, o, d, OCCUPANCY_GRID) for o, d in zip(origins, directions, strict=True)]
    found, depth_m = cast_rays(
        torch.from_numpy(labels), torch.from_numpy(origins), torch.from_numpy(directions), OCCUPANCY_GRID, FREE
    )
    assert found.tolist() == [label for label, _ in expected]
    np.testing.assert_allclose(depth_m, [depth for _, depth in expected], rtol=1e-12, atol=1e-9)
    assert 20 < sum(label != FREE for label, _ in expected) < 200


def wall(row_m: float, label: int = CAR) -> torch.Tensor:
    """A wall across the volume, its near side so far ahead."""
    labels = empty()
    labels[:, :, round((row_m + 40) / 0.4)] = label
    return labels


def test_a_wall_at_another_depth_counts_by_threshold() -> None:
    scorer = RayScorer(OCCUPANCY_GRID, FREE + 1)
    ahead = scorer.directions[:, 0] > 0
    # The farther wall is met by all rays that meet the nearer one, or the volume ends before: count those by hand.
    first, first_m = cast_rays(
        wall(4.0), torch.from_numpy(LIDAR_M).expand(14040, 3), scorer.directions, OCCUPANCY_GRID, FREE
    )
    second, second_m = cast_rays(
        wall(6.0), torch.from_numpy(LIDAR_M).expand(14040, 3), scorer.directions, OCCUPANCY_GRID, FREE
    )
    met = first == CAR
    assert met.any() and bool((met <= ahead).all())
    truth, predicted, hits = scorer.count(wall(4.0), wall(6.0), LIDAR_M)
    assert truth[CAR] == met.sum() == truth.sum()
    assert predicted[CAR] == (met & (second == CAR)).sum()
    apart_m = (second_m - first_m)[met & (second == CAR)]
    assert apart_m.min() > 1.0  # two metres along x, at any angle
    np.testing.assert_array_equal(hits[:, CAR], [0, (apart_m < 2).sum(), (apart_m < 4).sum()])
    assert hits[2, CAR] > 0


def test_a_thick_wall_is_as_good_as_a_thin_one_and_another_class_is_wrong() -> None:
    scorer = RayScorer(OCCUPANCY_GRID, FREE + 1)
    thin, thick = wall(4.0), wall(4.0)
    thick[:, :, 111:130] = CAR
    truth, predicted, hits = scorer.count(thin, thick, LIDAR_M)
    np.testing.assert_array_equal(hits, np.stack([truth] * 3))
    np.testing.assert_array_equal(predicted, truth)
    _, predicted, hits = scorer.count(thin, wall(4.0, ROAD), LIDAR_M)
    assert hits.sum() == 0 and predicted[ROAD] == truth[CAR]


def test_rays_that_meet_nothing_in_the_truth_do_not_count() -> None:
    truth, predicted, hits = RayScorer(OCCUPANCY_GRID, FREE + 1).count(empty(), wall(4.0), LIDAR_M)
    assert truth.sum() == predicted.sum() == hits.sum() == 0
    counted = RayScorer(OCCUPANCY_GRID, FREE + 1).count(wall(4.0), empty(), LIDAR_M)
    assert counted[0][CAR] > 0 and counted[1].sum() == counted[2].sum() == 0


def test_rays_of_several_origins_add_up() -> None:
    scorer = RayScorer(OCCUPANCY_GRID, FREE + 1)
    origins = np.concatenate((LIDAR_M, LIDAR_M + np.array([2.0, 5.0, 0.1])))
    both = scorer.count(wall(6.0), wall(6.8), origins)
    apart = [scorer.count(wall(6.0), wall(6.8), origin[None]) for origin in origins]
    for together, one, other in zip(both, *apart, strict=True):
        np.testing.assert_array_equal(together, one + other)
    nowhere = scorer.count(wall(6.0), wall(6.8), np.zeros((0, 3)))
    assert sum(part.sum() for part in nowhere) == 0
