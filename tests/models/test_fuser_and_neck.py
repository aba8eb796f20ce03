"""Fuser and neck: levels, absence, validity, refusals."""

import copy

import pytest
import torch

from perception.geometry.grid import Grid
from perception.models.fusers.concat_conv import ConcatConvFuser
from perception.models.layers import scatter_samples, zero_of
from perception.models.necks.bev import BevNeck
from perception.models.necks.second import SecondBackbone
from perception.structures import BevMap, FusedFeatures, SensorFeatures
from tests.models.scenes import second

MAIN, NEAR = Grid.square(6.4, 0.8), Grid.square(1.6, 0.2)


def seen(channels: dict[str, int], present: list[bool]) -> SensorFeatures:
    """Random maps on the named levels; every second column is valid."""
    bev = {}
    for level, count in channels.items():
        grid = {"main": MAIN, "near": NEAR}[level]
        validity = torch.zeros(len(present), 1, grid.num_y, grid.num_x, dtype=torch.bool)
        validity[..., ::2] = True
        features = torch.randn(len(present), count, grid.num_y, grid.num_x)
        bev[level] = BevMap(features=features, validity=validity, grid=grid)
    return SensorFeatures(present=torch.tensor(present), bev=bev)


def fuser() -> ConcatConvFuser:
    return ConcatConvFuser(
        in_channels={"main": {"camera": 3, "lidar": 4}, "near": {"camera": 2}}, out_channels={"main": 5, "near": 6}
    )


def test_every_level_is_fused_from_its_sensors() -> None:
    features = {
        "camera": seen({"main": 3, "near": 2}, [True, True, False]),
        "lidar": seen({"main": 4}, [True, False, True]),
    }
    fused = fuser()(features)
    assert fused.bev["main"].features.shape == (3, 5, 16, 16)
    assert fused.bev["near"].features.shape == (3, 6, 16, 16)
    assert fused.bev["main"].grid == MAIN
    assert fused.bev["near"].validity.any(-1).any(-1).flatten().tolist() == [True, True, False]
    assert fused.bev["main"].validity[:, 0, 0, :2].tolist() == [[True, False]] * 3


def test_what_lies_in_absent_rows_is_not_read_forward_or_backward() -> None:
    part = fuser()
    features = {"camera": seen({"main": 3, "near": 2}, [True, False]), "lidar": seen({"main": 4}, [True, True])}
    for level in features["camera"].bev.values():
        level.features[1] = torch.nan
    fused = part(features)
    assert all(level.features.isfinite().all() for level in fused.bev.values())
    sum(level.features.square().sum() for level in fused.bev.values()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in part.parameters())


def test_a_sensor_missing_altogether_is_absent_in_every_sample() -> None:
    part = fuser().eval()
    with torch.no_grad():
        for level in part.levels.values():
            for vector in level.absence.values():
                vector.normal_()
    camera = seen({"main": 3, "near": 2}, [True, True])
    lidar = seen({"main": 4}, [False, False])
    with_absent, without = part({"camera": camera, "lidar": lidar}), part({"camera": camera})
    assert torch.equal(with_absent.bev["main"].features, without.bev["main"].features)


def test_bad_fusers_and_features_are_refused() -> None:
    with pytest.raises(ValueError, match="must name the same levels, each with a sensor"):
        ConcatConvFuser(in_channels={"main": {"lidar": 4}}, out_channels={"near": 4})
    with pytest.raises(ValueError, match="must name the same levels, each with a sensor"):
        ConcatConvFuser(in_channels={"main": {}}, out_channels={"main": 4})
    single = ConcatConvFuser(in_channels={"main": {"a": 2, "b": 2}}, out_channels={"main": 4})
    a, b = seen({"main": 2}, [True]), seen({"near": 2}, [True])
    with pytest.raises(ValueError, match="must hold maps of level 'main' on one grid"):
        single({"a": a, "b": SensorFeatures(present=b.present, bev={"main": b.bev["near"]})})
    with pytest.raises(ValueError, match=r"must hold maps of level 'main' on one grid, got \[\]"):
        single({})


def test_the_neck_keeps_validity_and_leaves_other_levels_out() -> None:
    features = seen({"main": 4, "near": 2}, [True])
    fused = FusedFeatures(bev=features.bev, aux={"trust": torch.ones(1)})
    refined = BevNeck(levels={"main": second(4)})(fused)
    assert list(refined.bev) == ["main"]
    assert refined.bev["main"].features.shape == (1, 16, 16, 16)
    assert refined.bev["main"].validity is features.bev["main"].validity
    assert "trust" in refined.aux


def test_batch_statistics_of_the_neck_are_of_what_sensors_see() -> None:
    """A sample of which the level knows nothing changes neither them nor its neighbour, and has zeros."""
    grid = Grid.square(half_m=8.0, cell_m=1.0)
    maps, validity = torch.randn(2, 4, 16, 16), torch.ones(2, 1, 16, 16, dtype=torch.bool)
    maps[0], validity[0] = 0.5, False
    neck = BevNeck(levels={"main": second(4)}).train()
    alone = copy.deepcopy(neck)
    both = neck(FusedFeatures(bev={"main": BevMap(features=maps, validity=validity, grid=grid)}))
    single = alone(FusedFeatures(bev={"main": BevMap(features=maps[1:], validity=validity[1:], grid=grid)}))
    assert torch.equal(both.bev["main"].features[1:], single.bev["main"].features)
    assert not both.bev["main"].features[0].any()
    assert all(torch.equal(one, other) for one, other in zip(neck.buffers(), alone.buffers(), strict=True))
    nowhere = BevMap(features=maps, validity=torch.zeros_like(validity), grid=grid)
    assert not neck(FusedFeatures(bev={"main": nowhere})).bev["main"].features.any()


def test_a_level_that_the_stride_does_not_divide_is_named() -> None:
    grid = Grid((-2.0, 2.0), (-2.5, 2.5), (-5.0, 3.0), (1.0, 1.0, 8.0))  # 5 rows of 4 cells
    validity = torch.ones(1, 1, 5, 4, dtype=torch.bool)
    fused = FusedFeatures(bev={"main": BevMap(features=torch.randn(1, 4, 5, 4), validity=validity, grid=grid)})
    with pytest.raises(ValueError, match="level 'main' must have rows and columns in multiples of 2, got 5 and 4"):
        BevNeck(levels={"main": second(4)})(fused)


def test_bad_necks_are_refused() -> None:
    with pytest.raises(ValueError, match="levels must name at least one level, got none"):
        BevNeck(levels={})
    with pytest.raises(ValueError, match="the backbone of level 'main' must have stride 1, got 2"):
        BevNeck(levels={"main": second(4, stride=2)})
    with pytest.raises(ValueError, match="must have one length above 0, got 1, 2 and 1"):
        SecondBackbone(in_channels=1, stage_channels=[1], stage_layers=[1, 1], stage_strides=[1], up_channels=1)


def test_rows_of_some_samples_go_back_among_all() -> None:
    rows = torch.tensor([[1.0], [2.0]], requires_grad=True)
    spread = scatter_samples(rows, torch.tensor([0, 2]), 4)
    assert spread.flatten().tolist() == [1, 0, 2, 0]
    spread.sum().backward()
    assert rows.grad.flatten().tolist() == [1, 1]


def test_the_zero_reaches_every_trainable_parameter() -> None:
    used, frozen = torch.nn.Parameter(torch.full((2, 3), 7.0)), torch.nn.Parameter(torch.ones(2), requires_grad=False)
    huge = torch.nn.Parameter(torch.full((100_000,), 60_000.0, dtype=torch.float16))
    zero = zero_of([used, frozen, huge])
    assert zero == 0
    zero.backward()
    assert torch.equal(used.grad, torch.zeros(2, 3))
    assert torch.equal(huge.grad, torch.zeros_like(huge))
    assert frozen.grad is None
    assert zero_of([frozen]) == 0


@pytest.mark.parametrize(("result_stage", "stride"), [(0, 2), (1, 4), (2, 8)])
def test_any_stage_may_give_the_size_of_the_result(result_stage: int, stride: int) -> None:
    backbone = SecondBackbone(
        in_channels=3,
        stage_channels=[4, 5, 6],
        stage_layers=[0, 1, 0],
        stage_strides=[2, 2, 2],
        up_channels=7,
        result_stage=result_stage,
    )
    assert (backbone.stride, backbone.total_stride, backbone.out_channels) == (stride, 8, 21)
    result = backbone(torch.randn(2, 3, 16, 24, requires_grad=True))
    assert result.shape == (2, 21, 16 // stride, 24 // stride)
    result.sum().backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())


def test_a_result_stage_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match=r"result_stage must be in \[0, 2\), got 2"):
        SecondBackbone(
            in_channels=3,
            stage_channels=[4, 4],
            stage_layers=[0, 0],
            stage_strides=[1, 2],
            up_channels=4,
            result_stage=2,
        )
