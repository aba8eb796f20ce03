"""Deformable attention to several sensors: a hand-computed case, a naive reference, and the layout of its memory."""

import pytest
import torch
from torch import Tensor

from perception.models.fusers._common import LevelInputs
from perception.models.fusers._deformable import DeformableLayer, Memory, MemoryBuilder, query_centers
from perception.models.fusers.concat_conv import ConcatConvFuser
from perception.models.fusers.deformable import DeformableFuser, position_waves
from perception.structures import BevMap, SensorFeatures
from tests.models.fusers.features import GRIDS

SENSORS = ("camera", "lidar", "radar")


def inputs_of(maps: dict[str, Tensor], present: list[list[bool]]) -> LevelInputs:
    """Maps (S, C, Y, X) of sensors; the rows that are there are picked out."""
    there = torch.tensor(present)
    index = {name: there[:, n].nonzero()[:, 0] for n, name in enumerate(SENSORS) if there[:, n].any()}
    first = next(iter(maps.values()))
    return LevelInputs(
        sensors=SENSORS,
        present=there,
        size=(first.shape[-2], first.shape[-1]),
        rows={name: maps[name][rows] for name, rows in index.items()},
        index=index,
    )


def plain_memory(inputs: LevelInputs, strides: tuple[int, ...], num_heads: int) -> Memory:
    """A memory without the vectors that tell sensors and resolutions apart."""
    width = next(iter(inputs.rows.values())).shape[1]
    builder = MemoryBuilder(num_sensors=3, width=width, strides=strides, num_heads=num_heads)
    with torch.no_grad():
        builder.sensor.zero_()
        builder.scale.zero_()
    return builder(inputs)


def test_a_case_by_hand() -> None:
    """One head, one place per sensor: the camera is read one cell to the right, the radar half a cell below."""
    row = torch.tensor([0.0, 1.0, 2.0, 3.0])
    camera = row.expand(1, 1, 4, 4)  # says its column
    radar = 10 * row[:, None].expand(1, 1, 4, 4)  # says ten times its row
    inputs = inputs_of({"camera": camera, "radar": radar}, [[True, False, True]])
    layer = DeformableLayer(width=1, num_heads=1, num_sensors=3, num_scales=1, num_points=1)
    with torch.no_grad():
        layer.offsets.bias.copy_(torch.tensor([1.0, 0.0, 9.0, 9.0, 0.0, 0.5]))  # camera, lidar, radar: x y
        layer.logits.bias.copy_(torch.tensor([0.0, 5.0, 1.0]).log() + 3)  # 0 for the camera as yet
        layer.logits.bias[0] = torch.tensor(3.0).log() + 3  # camera 3 to radar 1; the lidar's 5 must not count
    heard, share = layer.read(torch.randn(1, 16, 1), plain_memory(inputs, (1,), 1), (4, 4), 1)
    cell = 2 * 4 + 1  # row 2, column 1: the camera says 2, the radar 25
    assert heard[0, cell, 0].item() == pytest.approx(0.75 * 2 + 0.25 * 25)
    corner = 15  # beyond the last column there is nothing, and half of what is below the last row
    assert heard[0, corner, 0].item() == pytest.approx(0.75 * 0 + 0.25 * 0.5 * 30)
    torch.testing.assert_close(share, torch.tensor([0.75, 0.0, 0.25]).expand(1, 16, 3))


def bilinear(picture: Tensor, x: float, y: float) -> Tensor:
    """Reads (C, Y, X) at cell coordinates, where whole numbers plus a half are centres; zeros outside."""
    left, top = int(torch.tensor(x - 0.5).floor()), int(torch.tensor(y - 0.5).floor())
    total = torch.zeros(picture.shape[0], dtype=picture.dtype)
    for row, column in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
        if 0 <= row < picture.shape[1] and 0 <= column < picture.shape[2]:
            total += (1 - abs(x - 0.5 - column)) * (1 - abs(y - 0.5 - row)) * picture[:, row, column]
    return total


def test_reading_is_what_the_sums_say() -> None:
    """Against loops over every query, head, sensor, resolution and place; maps that no stride divides."""
    torch.manual_seed(0)
    strides, query_stride, size = (1, 2), 2, (3, 4)  # maps of 5 x 7 cells
    maps = {name: torch.randn(2, 4, 5, 7, dtype=torch.float64) for name in SENSORS}
    inputs = inputs_of(maps, [[True, True, False], [False, True, False]])
    memory = plain_memory(inputs, strides, 2)
    assert memory.sizes == ((5, 7), (3, 4))
    assert [sample.active.tolist() for sample in memory.samples] == [[0, 1], [1]]
    assert [sample.values.shape for sample in memory.samples] == [(1, 94, 2, 2), (1, 47, 2, 2)]
    layer = DeformableLayer(width=4, num_heads=2, num_sensors=3, num_scales=2, num_points=2).double()
    with torch.no_grad():
        for linear in (layer.offsets, layer.logits):
            linear.weight.copy_(0.3 * torch.randn_like(linear.weight))
    tokens = torch.randn(2, 12, 4, dtype=torch.float64)
    heard, share = layer.read(tokens, memory, size, query_stride)

    offsets = layer.offsets(tokens).view(2, 12, 2, 3, 2, 2, 2)
    logits = layer.logits(tokens).view(2, 12, 2, 3, 2, 2)
    coarse = {name: torch.nn.functional.avg_pool2d(maps[name], 2, ceil_mode=True) for name in SENSORS}
    for sample, query in ((0, 0), (0, 7), (1, 5), (1, 11)):
        there = inputs.present[sample]
        for head in range(2):
            weights = logits[sample, query, head][there].flatten().softmax(0).view(-1, 2, 2)
            expected, shares = torch.zeros(2, dtype=torch.float64), []
            for weight, sensor in zip(weights, there.nonzero()[:, 0].tolist(), strict=True):
                for scale, stride in enumerate(strides):
                    picture = (maps if stride == 1 else coarse)[SENSORS[sensor]][sample, 2 * head : 2 * head + 2]
                    for place in range(2):
                        move = offsets[sample, query, head, sensor, scale, place]
                        x = (query % 4 + 0.5) * query_stride / stride + move[0].item()
                        y = (query // 4 + 0.5) * query_stride / stride + move[1].item()
                        expected += weight[scale, place] * bilinear(picture, x, y)
                shares.append(weight.sum())
            torch.testing.assert_close(heard[sample, query, 2 * head : 2 * head + 2], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(share.sum(2), torch.ones(2, 12), rtol=1e-5, atol=1e-5)
    assert not share[1, :, 0].any()
    assert not share[:, :, 2].any()


def test_queries_begin_in_the_middle_of_their_cells() -> None:
    centers = query_centers((2, 3), 4, torch.device("cpu"))
    assert centers.tolist() == [[2, 2], [6, 2], [10, 2], [2, 6], [6, 6], [10, 6]]
    waves = position_waves((2, 3), 4, (8, 12), torch.device("cpu"))
    assert waves.shape == (2, 3, 24)
    assert len(waves.flatten(0, 1).unique(dim=0)) == 6  # every cell has its own


def test_a_fuser_learns_to_undo_a_shift() -> None:
    """The radar sees everything two cells away from where it is; the offsets find out."""
    torch.manual_seed(0)
    fuser = DeformableFuser(
        in_channels={"main": {"radar": 2}}, out_channels={"main": 8}, width=8, num_layers=1, query_stride=1
    )
    probe = torch.nn.Conv2d(8, 2, 1)
    optimizer = torch.optim.Adam([*fuser.parameters(), *probe.parameters()], 2e-2)
    losses = []
    for _ in range(60):
        truth = torch.randn(2, 2, 16, 16)
        bev = BevMap(
            features=truth.roll(2, dims=3), validity=torch.ones(2, 1, 16, 16, dtype=torch.bool), grid=GRIDS["main"]
        )
        radar = SensorFeatures(present=torch.ones(2, dtype=torch.bool), bev={"main": bev})
        found = probe(fuser({"radar": radar}).bev["main"].features)
        loss = (found - truth)[..., 2:-2].square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) / 5 < 0.5  # without moving, nothing below 1 can be reached


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_heads": 3}, "num_heads must divide the channels, got 3 and 8"),
        ({"value_strides": []}, "strides must be at least 1 and, times 2 sensors, at most 16 maps"),
        ({"value_strides": [1] * 9}, "strides must be at least 1 and, times 2 sensors, at most 16 maps"),
        ({"num_layers": 0}, "num_layers, num_points and query_stride must be at least 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DeformableFuser(in_channels={"main": {"lidar": 6, "radar": 4}}, out_channels={"main": 8}, **settings)


def test_untrained_it_is_the_convolution_over_all_sensors() -> None:
    """A sensor that is absent counts with its learned vector, and the queries have no say before the first step."""
    torch.manual_seed(0)
    channels = {"camera": 3, "radar": 5}
    levels = {"in_channels": {"main": channels}, "out_channels": {"main": 8}}
    fuser, plain = DeformableFuser(**levels, num_heads=2), ConcatConvFuser(**levels)
    level, other = fuser.levels["main"], plain.levels["main"]
    with torch.no_grad():
        other.mix[0].weight.copy_(level.mix.weight)
        for sensor, vector in other.absence.items():
            level.absence[sensor].copy_(vector.normal_())
    features = {
        sensor: SensorFeatures(
            present=torch.tensor(present),
            bev={
                "main": BevMap(
                    features=torch.randn(2, count, 16, 16),
                    validity=torch.ones(2, 1, 16, 16, dtype=torch.bool),
                    grid=GRIDS["main"],
                )
            },
        )
        for (sensor, count), present in zip(channels.items(), ([True, True], [True, False]), strict=True)
    }
    torch.testing.assert_close(fuser(features).bev["main"].features, plain(features).bev["main"].features)
    with torch.no_grad():
        level.answer.weight.normal_()
    assert not torch.allclose(fuser(features).bev["main"].features, plain(features).bev["main"].features)
