"""Radar: where returns land and how they move under every augmentation, what does not count, height attention."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from perception.geometry.boxes import transform_boxes
from perception.geometry.grid import Grid
from perception.models.branches import RadarBranch
from perception.models.encoders.height_attention import HeightAttention
from perception.models.encoders.radar import RadarEncoder
from perception.models.necks.second import SecondBackbone
from perception.structures import Batch, PointBatch
from tests.models.near_scenes import make_radar, radar_returns
from tests.models.scenes import GRID, augmentation, make_batch, second

FIELDS = {"rcs_dbsm": 0.05, "time_lag_s": 1.0, "quality": 1.0}
NOTHING = torch.eye(4, dtype=torch.float64)
MOVES = {
    "none": NOTHING,
    "mirrored": torch.diag(torch.tensor([1.0, -1.0, 1.0, 1.0], dtype=torch.float64)),
    "front and rear": torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0], dtype=torch.float64)),
    "all": augmentation(),
}


class Unchanged(nn.Identity):
    """A backbone that gives the map of returns as it is."""

    stride = total_stride = 1

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.in_channels = self.out_channels = channels


def bare_encoder() -> RadarEncoder:
    """Gives the sums, then log(1 + density), mean velocity and spread, both over 10 m/s."""
    return RadarEncoder(fields=FIELDS, point_channels=[6], backbone=Unchanged(10)).eval()  # type: ignore[arg-type]


def encoder(*, heights: bool = False, backbone: SecondBackbone | None = None) -> RadarEncoder:
    fields = {"power_db": 0.05} if heights else FIELDS
    attention = HeightAttention(channels=8, num_layers=4) if heights else None
    return RadarEncoder(fields=fields, point_channels=[8, 8], backbone=backbone or second(12, 2), heights=attention)


def points_of(returns: Tensor) -> PointBatch:
    return dataclasses.replace(make_radar([0]), points=returns, batch_index=torch.zeros(len(returns), dtype=torch.long))


def batch_of(radar: PointBatch | None, size: int = 2, ego2aug: Tensor | None = None) -> Batch:
    return dataclasses.replace(make_batch(None, None, [None] * size, ego2aug), radar=radar)


@pytest.mark.parametrize("name", MOVES)
def test_a_return_lands_and_moves_as_a_box_there_would(name: str) -> None:
    move = MOVES[name]
    x, y, vx, vy = 5.3, -3.1, 4.0, 2.5
    box = torch.tensor([[x, y, 0.5, 4.0, 2.0, 1.5, 0.0, vx, vy]])
    moved = transform_boxes(move, box)[0]
    column, row = ((moved[:2] + torch.tensor([16.0, 12.8])) / 0.8).floor().long().tolist()
    features = bare_encoder()(points_of(radar_returns([(x, y, vx, vy, 0.05)])), move[None], {"main": GRID}).features[0]
    density = features[6].expm1()
    assert density.sum().item() == pytest.approx(1, abs=1e-4)
    assert density.argmax().item() == row * GRID.num_x + column
    torch.testing.assert_close(features[7:9, row, column] * 10, moved[7:], rtol=1e-4, atol=1e-4)
    assert features[9].abs().max() < 1e-4  # one return has no spread


def test_mixed_precision_leaves_returns_in_their_cells() -> None:
    radar, part = make_radar([200]), bare_encoder()
    exact = part(radar, augmentation()[None], {"main": GRID})
    with torch.autocast("cpu", torch.bfloat16):
        level = part(radar, augmentation()[None], {"main": GRID})
    assert torch.equal(level.validity, exact.validity)
    torch.testing.assert_close(level.features[:, 6:].float(), exact.features[:, 6:])  # density and motion


def test_an_oblong_covariance_turns_with_the_frame() -> None:
    # 2 m along x, 0.1 m along y: after a quarter turn the smear lies along y.
    returns = radar_returns([(0.4, 0.4, 0, 0, 0.1)])
    returns[:, 7] = 4.0
    quarter = torch.tensor([[0.0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=torch.float64)
    still = bare_encoder()(points_of(returns), NOTHING[None], {"main": GRID}).validity[0, 0]
    turned = bare_encoder()(points_of(returns), quarter[None], {"main": GRID}).validity[0, 0]
    assert still.any(0).sum() > 10 >= 3 >= still.any(1).sum()
    assert turned.any(1).sum() > 10 >= 3 >= turned.any(0).sum()


def test_the_mean_velocity_and_its_spread_are_those_of_the_returns() -> None:
    returns = radar_returns([(0.4, 0.4, 3.0, 1.0, 0.01), (0.4, 0.4, 5.0, 1.0, 0.01), (0.4, 0.4, 0, 0, 0.01)])
    returns[2, 4:6] = torch.nan
    features = bare_encoder()(points_of(returns), NOTHING[None], {"main": GRID}).features[0, :, 16, 20]
    assert (features[7:] * 10).tolist() == pytest.approx([4.0, 1.0, 1.0], abs=1e-3)
    assert features[6].expm1().item() == pytest.approx(3.0, abs=0.1)


def test_what_a_network_reads_of_a_return() -> None:
    part = bare_encoder()
    seen: list[Tensor] = []
    part.point_layers[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    returns = radar_returns([(5.3, -3.1, 4.0, -2.0, 0.5), (1.0, 1.0, 0, 0, 0.5)])
    returns[0, 7:10] = torch.tensor([0.25, 0.1, 1.0])
    returns[1, [3, 4]] = torch.nan  # neither cross-section nor velocity
    part(points_of(returns), NOTHING[None], {"main": GRID})
    place = [(5.3 + 16) / 0.8 % 1 - 0.5, (-3.1 + 12.8) / 0.8 % 1 - 0.5]
    position = [5.3 / 16, -3.1 / 12.8, 0.5 / 5]
    assert seen[0][0].tolist() == pytest.approx(
        [*position, *place, 0.4, -0.2, 1, 0.5, 1.0, 0.1 / 0.5, 0.25, 0.1, 1.0], abs=1e-5
    )
    assert seen[0][1, 5:8].tolist() == [0, 0, 0]
    assert seen[0][1, 11] == 0


def test_returns_that_cannot_be_placed_change_nothing() -> None:
    good = radar_returns([(5.3, -3.1, 4.0, 2.5, 0.3)])
    bad = good.repeat(5, 1)
    bad[0, 0], bad[1, 7], bad[2, 1], bad[3, 0], bad[4, 2] = torch.nan, torch.nan, 100.0, -math.inf, torch.nan
    part = encoder().train()
    state = {name: value.clone() for name, value in part.state_dict().items()}
    alone = part(points_of(good), NOTHING[None], {"main": GRID})
    after = {name: value.clone() for name, value in part.state_dict().items()}
    part.load_state_dict(state)
    together = part(points_of(torch.cat((good, bad))), NOTHING[None], {"main": GRID})
    torch.testing.assert_close(together.features, alone.features)
    assert torch.equal(together.validity, alone.validity)
    assert all(torch.equal(after[name], value) for name, value in part.state_dict().items())


@pytest.mark.parametrize("heights", [False, True])
@pytest.mark.parametrize("counts", [[40, 30], [40, None], [None, 0], [0, 0], [1, 0], [None, None]])
def test_any_returns_train_and_absent_rows_are_zero(heights: bool, counts: list[int | None]) -> None:
    radar = make_radar(counts, measures_height=heights)
    batch = dataclasses.replace(batch_of(None, 2, augmentation()), radar4d=radar) if heights else batch_of(radar)
    branch = RadarBranch(encoder=encoder(heights=heights), source="radar4d" if heights else "radar")
    result = branch(batch, {"main": GRID})
    assert result.present.tolist() == [count is not None for count in counts]
    level = result.bev["main"]
    assert level.features.shape == (2, 16, 32, 40)
    assert level.features.isfinite().all()
    for count, features, validity in zip(counts, level.features, level.validity, strict=True):
        assert not (count is None and features.any())
        assert bool(validity.any()) == bool(count)
    if any(count is not None for count in counts):
        level.features.square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in branch.parameters())
    if counts == [40, 30]:
        assert all(p.grad.any() for p in branch.parameters())


def test_a_radar_that_no_sample_has_is_absent() -> None:
    result = RadarBranch(encoder=encoder())(batch_of(None), {"main": GRID})
    assert not result.present.any()
    assert not result.bev["main"].features.any()
    assert not result.bev["main"].validity.any()


@pytest.mark.parametrize("heights", [False, True])
def test_neighbours_in_a_batch_do_not_matter(heights: bool) -> None:
    part = encoder(heights=heights).eval()
    radar = make_radar([50, 30, 0], measures_height=heights)
    moves = torch.stack([NOTHING, augmentation(), NOTHING])
    together = part(radar, moves, {"main": GRID})
    for sample in range(3):
        mine = radar.batch_index == sample
        alone = dataclasses.replace(
            radar,
            points=radar.points[mine],
            batch_index=radar.batch_index[mine] * 0,
            present=radar.present[:1],
            sensor2ego=radar.sensor2ego[:1],
        )
        single = part(alone, moves[sample : sample + 1], {"main": GRID})
        torch.testing.assert_close(together.features[sample : sample + 1], single.features, rtol=1e-4, atol=1e-5)
        assert torch.equal(together.validity[sample : sample + 1], single.validity)


def test_height_attention_stays_within_its_column() -> None:
    attention = HeightAttention(channels=8, num_layers=4).eval()
    points = torch.tensor([[0.1, 0.1, -4.0], [0.2, 0.3, 2.0], [0.3, 0.2, 2.1], [5.0, 5.0, 0.0]])
    features, sample = torch.rand(4, 8), torch.zeros(4, dtype=torch.long)
    before = attention(features, points, sample, GRID)
    assert torch.equal(before[1], before[2])  # one token
    other = features.clone()
    other[0] += 1.0
    after = attention(other, points, sample, GRID)
    assert not torch.allclose(after[1], before[1])  # it is asked by the layer above
    torch.testing.assert_close(after[3], before[3])
    moved = attention(other, points, torch.tensor([1, 0, 0, 0]), GRID)  # another sample's column
    torch.testing.assert_close(moved[1], attention(features[1:], points[1:], sample[1:], GRID)[0])


def test_height_attention_keeps_a_return_that_rounding_puts_beyond_the_last_column() -> None:
    grid = Grid.square(54.0, 0.6)
    beyond = torch.nextafter(torch.tensor(54.0), torch.tensor(0.0))
    assert ((beyond + 54.0) / torch.tensor(0.6)).floor() == grid.num_x  # in float32
    attention = HeightAttention(channels=8, num_layers=4).eval()
    points = torch.tensor([[beyond, beyond, 0.0], [-53.9, -53.9, 0.0]])
    features, sample = torch.rand(2, 8), torch.tensor([0, 1])
    together = attention(features, points, sample, grid)
    torch.testing.assert_close(together[1], attention(features[1:], points[1:], sample[1:], grid)[0])
    torch.testing.assert_close(together[0], attention(features[:1], points[:1], sample[:1], grid)[0])


def test_height_attention_tells_heights_apart_and_takes_what_lies_beyond() -> None:
    attention = HeightAttention(channels=8, num_layers=4).eval()
    features, sample = torch.rand(1, 8), torch.zeros(1, dtype=torch.long)

    def at(height_m: float) -> Tensor:
        return attention(features, torch.tensor([[0.1, 0.1, height_m]]), sample, GRID)

    assert not torch.allclose(at(-4.0), at(2.0))
    torch.testing.assert_close(at(2.0), at(50.0))
    torch.testing.assert_close(at(-4.0), at(-50.0))
    assert attention(features[:0], torch.zeros(0, 3), sample[:0], GRID).shape == (0, 8)


def test_parts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"backbone must read 4 channels more than .* \[8\], got 8"):
        RadarEncoder(fields=FIELDS, point_channels=[8], backbone=second(8))
    with pytest.raises(ValueError, match="heights must have 8 channels as the points, got 4"):
        RadarEncoder(fields=FIELDS, point_channels=[8], backbone=second(12), heights=HeightAttention(channels=4))
    with pytest.raises(ValueError, match="fields must not name any of vx_mps"):
        RadarEncoder(fields={"vx_mps": 1.0}, point_channels=[8], backbone=second(12))
    with pytest.raises(ValueError, match="num_heads must divide 8 channels, got 3"):
        HeightAttention(channels=8, num_heads=3)
    with pytest.raises(ValueError, match="source must be 'radar' or 'radar4d', got 'lidar'"):
        RadarBranch(encoder=encoder(), source="lidar")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"must have the fields \['power_db'\]"):
        encoder(heights=True)(make_radar([3]), NOTHING[None], {"main": GRID})
