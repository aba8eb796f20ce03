"""Pillars: what turns with the points, what is counted, what is refused."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from perception.geometry.grid import Grid
from perception.geometry.transforms import yaw_matrix
from perception.models.encoders.pillars import PillarEncoder
from perception.models.encoders.points import PointReader
from perception.models.layers import RowNorm
from tests.models.scenes import GRID, make_lidar, second

FIELDS = {"intensity": 1 / 255, "time_lag_s": 1.0}
SQUARE = Grid.square(12.8, 0.8)


class Unchanged(nn.Identity):
    """A backbone that gives the map of pillars as it is."""

    in_channels = out_channels = 6
    stride = total_stride = 1


def bare_encoder() -> PillarEncoder:
    """An encoder that looks only at height, offset from the mean height and fields, none of which turn."""
    encoder = PillarEncoder(fields=FIELDS, point_channels=[6], backbone=Unchanged()).eval()  # type: ignore[arg-type]
    weight = encoder.point_layers[0][0].weight
    with torch.no_grad():
        weight[:, [0, 1, 3, 4, 6, 7]] = 0
    return encoder


def turn(angle_rad: float, count: int = 1) -> Tensor:
    return yaw_matrix(torch.tensor(angle_rad, dtype=torch.float64)).repeat(count, 1, 1)


def clockwise(bev: Tensor) -> Tensor:
    """The map after the scene has turned by 90 degrees counter-clockwise: new[y, x] = old[-x, y]."""
    return torch.rot90(bev, -1, (-2, -1))


@pytest.mark.parametrize("quarter_turns", [1, 2, 3])
def test_turning_the_points_turns_the_map(quarter_turns: int) -> None:
    encoder, points = bare_encoder(), make_lidar([400])
    still = encoder(points, turn(0.0), {"main": SQUARE})
    turned = encoder(points, turn(quarter_turns * math.pi / 2), {"main": SQUARE})
    features, validity = still.features, still.validity
    for _ in range(quarter_turns):
        features, validity = clockwise(features), clockwise(validity)
    assert still.features.any()
    torch.testing.assert_close(turned.features, features, rtol=1e-4, atol=1e-4)
    assert torch.equal(turned.validity, validity)


def test_points_are_described_by_their_pillar() -> None:
    encoder = PillarEncoder(fields={}, point_channels=[6], backbone=Unchanged()).eval()  # type: ignore[arg-type]
    seen: list[Tensor] = []
    encoder.point_layers[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    xyz = torch.tensor([[0.1, 0.1, 0.0], [0.3, 0.1, 1.0]])  # in the cell from (0, 0)
    points = dataclasses.replace(make_lidar([2]), points=torch.cat((xyz, torch.zeros(2, 2)), dim=1))
    encoder(points, turn(0.0), {"main": GRID})
    size_x, size_y, size_z = GRID.cell_m
    for row, (x, y, z) in zip(seen[0].tolist(), xyz.tolist(), strict=True):
        reach = [max(map(abs, bounds)) for bounds in (GRID.x_range_m, GRID.y_range_m, GRID.z_range_m)]
        position = [value / most for value, most in zip((x, y, z), reach, strict=True)]
        from_mean = [(x - 0.2) / size_x, 0.0, (z - 0.5) / size_z]
        from_center = [x / size_x - 0.5, y / size_y - 0.5]
        assert row == pytest.approx([*position, *from_mean, *from_center], abs=1e-5)


def test_fields_that_no_lidar_says_read_as_0_or_as_the_most_that_one_might() -> None:
    reader, values = PointReader(fields={"intensity": 0.1}), [math.nan, math.inf, -math.inf, 1e30, -1e30, 50.0]
    points = torch.zeros(len(values), 5)
    points[:, 3] = torch.tensor(values)
    found = reader(dataclasses.replace(make_lidar([len(values)]), points=points), turn(0.0))
    assert found[:, 3].tolist() == [0, 0, 0, 10, -10, 5]


def test_the_direction_of_the_turn() -> None:
    # A point ahead (+x) lies to the left (+y) after a quarter turn counter-clockwise.
    points = dataclasses.replace(make_lidar([1]), points=torch.tensor([[10.1, 0.1, 0.0, 50.0, 0.0]]))
    ahead = bare_encoder()(points, turn(0.0), {"main": GRID}).validity
    left = bare_encoder()(points, turn(math.pi / 2), {"main": GRID}).validity
    assert ahead.nonzero().tolist() == [[0, 0, 16, 32]]
    assert left.nonzero().tolist() == [[0, 0, 28, 19]]


def test_the_order_of_the_points_does_not_matter() -> None:
    points = make_lidar([300])
    encoder = PillarEncoder(fields=FIELDS, point_channels=[8], backbone=second(8, stride=2)).eval()
    mixed = dataclasses.replace(points, points=points.points[torch.randperm(300)])
    one, other = (encoder(p, turn(0.3), {"main": GRID}) for p in (points, mixed))
    torch.testing.assert_close(one.features, other.features, rtol=1e-4, atol=1e-5)


def test_fields_are_read_by_name() -> None:
    points = make_lidar([200])
    swapped = dataclasses.replace(points, points=points.points[:, [0, 1, 2, 4, 3]], fields=("time_lag_s", "intensity"))
    encoder = bare_encoder()
    one, other = (encoder(p, turn(0.0), {"main": GRID}) for p in (points, swapped))
    assert torch.equal(one.features, other.features)
    with pytest.raises(ValueError, match=r"points must have the fields .'time_lag_s'., got .'intensity'."):
        encoder(
            dataclasses.replace(points, points=points.points[:, :4], fields=("intensity",)), turn(0.0), {"main": GRID}
        )


@pytest.mark.parametrize("outside", [[100.0, 0, 0], [0, 0, 50.0], [math.nan, 0, 0], [math.inf, 1, 1]])
def test_points_outside_the_grid_do_not_count(outside: list[float]) -> None:
    points = make_lidar([100])
    extra = torch.tensor([[*outside, 100.0, 0.0]])
    more = dataclasses.replace(
        points, points=torch.cat((points.points, extra)), batch_index=torch.zeros(101, dtype=torch.long)
    )
    encoder = PillarEncoder(fields=FIELDS, point_channels=[8], backbone=second(8)).train()
    state = {name: value.clone() for name, value in encoder.state_dict().items()}
    one = encoder(points, turn(0.0), {"main": GRID}).features
    encoder.load_state_dict(state)
    torch.testing.assert_close(encoder(more, turn(0.0), {"main": GRID}).features, one)


def test_pillars_may_be_finer_than_the_cells() -> None:
    encoder = PillarEncoder(fields=FIELDS, point_channels=[8], backbone=second(8, stride=4))
    points = make_lidar([100, 0])
    level = encoder(points, turn(0.0, 2), {"main": GRID})
    assert level.features.shape == (2, 16, GRID.num_y, GRID.num_x)
    cells, inside = GRID.cells(points.points)
    assert inside.all()
    assert {tuple(cell) for cell in level.validity[0, 0].nonzero().tolist()} == {(y, x) for _, y, x in cells.tolist()}
    assert not level.validity[1].any()


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_points_for_statistics_use_the_running_ones(count: int) -> None:
    norm = RowNorm(4).train()
    rows = torch.randn(count, 4, requires_grad=True)
    result = norm(rows)
    torch.testing.assert_close(result, rows / math.sqrt(1 + norm.eps))
    result.sum().backward()
    assert norm.weight.grad is not None
    assert torch.equal(norm.running_mean, torch.zeros(4))


def test_backbone_must_fit_the_points_and_the_grid() -> None:
    with pytest.raises(ValueError, match=r"backbone must read the last of point_channels .4., got 8 channels"):
        PillarEncoder(fields=FIELDS, point_channels=[4], backbone=second(8))
    encoder = PillarEncoder(fields=FIELDS, point_channels=[8], backbone=second(8, stride=2))
    encoder(make_lidar([5]), turn(0.0), {"main": Grid.square(13.6, 0.8)})  # 34 cells, 68 pillars
    with pytest.raises(ValueError, match="rows and columns in multiples of 4, got"):
        encoder(make_lidar([5]), turn(0.0), {"main": Grid.square(13.2, 0.8)})  # 33 cells, 66 pillars


def test_each_sample_moves_by_its_own_augmentation() -> None:
    encoder, points = bare_encoder(), make_lidar([50, 70])
    moves = torch.cat((turn(0.0), turn(math.pi / 2)))
    both = encoder(points, moves, {"main": SQUARE}).features
    still = encoder(points, turn(0.0, 2), {"main": SQUARE}).features
    torch.testing.assert_close(both[0], still[0])
    torch.testing.assert_close(both[1], clockwise(still[1]), rtol=1e-4, atol=1e-4)
