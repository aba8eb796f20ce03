"""Ultrasonic sensors: where echoes are drawn under every augmentation, missing echoes, learned belief, two levels."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from perception.formats.ultrasonic import EchoState
from perception.geometry.grid import Grid
from perception.models.branches import UltrasonicBranch
from perception.models.encoders.dilation import ContentAwareDilation
from perception.models.encoders.ultrasonic import UltrasonicEncoder
from perception.ops.echo_splat import EchoGeometry, EchoKind, echo_splat
from perception.structures import EchoBatch
from perception.structures.sensors import ECHO_AXES
from tests.models.near_scenes import NEAR, NUM_ULTRASONIC, echo, make_echoes
from tests.models.scenes import GRID, augmentation, make_batch

GRIDS = {"main": GRID, "near": NEAR}
NOTHING = torch.eye(4, dtype=torch.float64)
OCCUPIED, FREE, AGE, OBSERVED, MUTE, CLOSE = range(6)


class Seen(nn.Module):
    """Takes the place of the convolutions and gives the drawn map as it is."""

    def forward(self, drawn: Tensor) -> Tensor:
        return drawn


def bare_encoder() -> UltrasonicEncoder:
    part = UltrasonicEncoder(channels=6, coarse_channels=7).eval()
    part.around, part.coarse = Seen(), Seen()
    return part


def drawn(echoes: EchoBatch, ego2aug: Tensor = NOTHING) -> Tensor:
    """(6, Y, X) what the convolutions of the fine level would read."""
    return bare_encoder()(echoes, ego2aug[None], GRIDS)["near"].features[0].detach()


def cell_of(x: float, y: float, grid: Grid = NEAR) -> tuple[int, int]:
    cells, inside = grid.cells(torch.tensor([x, y, 0.0], dtype=torch.float64))
    assert inside
    return int(cells[1]), int(cells[2])


def selected(echoes: EchoBatch, sample: int) -> EchoBatch:
    mine = echoes.batch_index == sample
    rows = {name: getattr(echoes, name)[mine] for name in ECHO_AXES}
    return EchoBatch(**rows, batch_index=echoes.batch_index[mine] * 0, present=torch.tensor([True]))


@pytest.mark.parametrize("yaw_rad", [0.0, 0.9, -2.4])
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("scale", [1.0, 0.8])
def test_an_echo_is_drawn_where_the_thing_stands_in_the_augmented_frame(
    yaw_rad: float, mirrored: bool, scale: float
) -> None:
    # A sensor at the front left that looks 60 degrees to the left: a thing 1.6 m off on its axis.
    heading = math.pi / 3
    pose = [1.2, 0.6, heading]
    one = echo(sender=pose, receiver=pose, distance_m=1.6)
    move = augmentation(yaw_rad, scale, mirrored)
    start = torch.tensor([1.2, 0.6, 0.0, 1.0], dtype=torch.float64)
    along = torch.tensor([math.cos(heading), math.sin(heading), 0, 0], dtype=torch.float64)
    thing, between, behind = (move @ (start + distance * along) for distance in (1.6, 0.8, -0.8))
    channels = drawn(one, move)
    offsets = NEAR.centers_xy() - (move @ start)[:2]  # (Y, X, 2) from the sensor
    weights = channels[OCCUPIED, ..., None].double()
    middle = (weights * offsets).sum((0, 1)) / weights.sum()
    axis = (thing - move @ start)[:2]
    assert torch.dot(middle, axis) / middle.norm() / axis.norm() > 0.99  # the arc lies about the axis
    peak = channels[OCCUPIED].flatten().argmax()
    assert offsets.flatten(0, 1)[peak].norm().item() == pytest.approx(1.6 * scale, abs=0.15)
    row, column = cell_of(thing[0].item(), thing[1].item())
    free = channels[FREE][cell_of(between[0].item(), between[1].item())]
    assert free > 0.95
    assert channels[OBSERVED][cell_of(behind[0].item(), behind[1].item())] == 0
    assert channels[AGE][row, column].item() == pytest.approx(0.1)


def test_what_is_drawn_is_what_the_op_draws() -> None:
    echoes = make_echoes([range(NUM_ULTRASONIC)])
    part = bare_encoder()
    channels = part(echoes, NOTHING[None], GRIDS)["near"].features
    amplitude, widening = part._believe(echoes).unbind(1)
    geometry = EchoGeometry(
        sender=echoes.sender, receiver=echoes.receiver, distance_m=echoes.distance_m, beam_rad=echoes.beam_rad,
        age_s=echoes.age_s, kind=echoes.kind, batch_index=echoes.batch_index,
    )  # fmt: skip
    sigma_m = (echoes.sigma_m.square() + 0.1**2).sqrt() * widening
    torch.testing.assert_close(channels[:, :3], echo_splat(amplitude, sigma_m, geometry, 1, NEAR))


def test_mixed_precision_draws_the_same_arcs() -> None:
    part, echoes = bare_encoder(), make_echoes([range(NUM_ULTRASONIC)])
    exact = part(echoes, augmentation()[None], GRIDS)["near"]
    with torch.autocast("cpu", torch.bfloat16):
        level = part(echoes, augmentation()[None], GRIDS)["near"]
    assert torch.equal(level.features, exact.features)
    assert torch.equal(level.validity, exact.validity)


def test_an_indirect_echo_lies_on_an_ellipse() -> None:
    one = echo(sender=[2.0, 0.5, 0.0], receiver=[2.0, -0.5, 0.0], distance_m=1.5)
    occupied = drawn(one)[OCCUPIED]
    row, column = divmod(occupied.argmax().item(), 80)
    y, x = (row + 0.5) * 0.2 - 6.4, (column + 0.5) * 0.2 - 8.0
    assert (math.hypot(x - 2, y - 0.5) + math.hypot(x - 2, y + 0.5)) / 2 == pytest.approx(1.5, abs=0.15)


@pytest.mark.parametrize("state", [EchoState.BLIND, EchoState.FAULTED, EchoState.NOT_AVAILABLE])
def test_a_mute_sensor_is_not_one_that_heard_nothing(state: EchoState) -> None:
    place = cell_of(4.1, 0.1)
    mute = drawn(echo(kind=int(EchoKind.NOTHING), state=int(state)))
    free = drawn(echo(kind=int(EchoKind.NONE), state=int(EchoState.NO_OBJECT)))
    assert mute[MUTE][place] > 0.9
    assert mute[[OCCUPIED, FREE, OBSERVED, CLOSE]].abs().max() == 0
    assert free[FREE][place] > 0.9
    assert free[OBSERVED][place] == 1
    assert free[[OCCUPIED, MUTE, CLOSE]].abs().max() == 0
    maps = bare_encoder()(echo(kind=int(EchoKind.NOTHING), state=int(state)), NOTHING[None], GRIDS)
    assert not any(level.validity.any() for level in maps.values())


def test_a_mute_neighbour_darkens_its_own_sight() -> None:
    # Sensor 1 sends ahead, sensor 2 that looks to the left would listen.
    channels = drawn(
        echo(receiver=[0.0, 2.0, math.pi / 2], kind=int(EchoKind.NOTHING), state=int(EchoState.BLIND), sensor=2)
    )
    assert channels[MUTE][cell_of(0.1, 3.0)] > 0.9
    assert channels[MUTE][cell_of(4.1, 0.1)] == 0


def test_what_is_too_close_to_measure_stands_before_the_sensor() -> None:
    channels = drawn(echo(kind=int(EchoKind.NOTHING), state=int(EchoState.TOO_CLOSE), distance_m=4.0))
    row, column = divmod(channels[CLOSE].argmax().item(), 80)
    assert math.hypot((column + 0.5) * 0.2 - 8.0 - 3.2, (row + 0.5) * 0.2 - 6.4) < 0.3
    assert channels[[OCCUPIED, FREE, MUTE]].abs().max() == 0


def test_belief_is_learnt() -> None:
    # Loud echoes come from things, faint ones from nowhere: the network learns to draw the first alone.
    part = UltrasonicEncoder(channels=6)
    part.around = Seen()
    loud, faint = echo(level=0.9), echo(level=0.1, sender=[-3.0, 0.0, math.pi], receiver=[-3.0, 0.0, math.pi])
    rows = {name: torch.cat((getattr(loud, name), getattr(faint, name))) for name in ECHO_AXES}
    both = EchoBatch(**rows, batch_index=torch.zeros(2, dtype=torch.long), present=torch.tensor([True]))
    thing, ghost = cell_of(5.0, 0.1), cell_of(-5.0, 0.1)
    optimizer = torch.optim.Adam(part.parameters(), 0.05)
    for _ in range(60):
        occupied = part(both, NOTHING[None], GRIDS)["near"].features[0, OCCUPIED]
        loss = (1 - occupied[thing]).square() + occupied[ghost].square()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert occupied[thing] > 0.8
    assert occupied[ghost] < 0.2


def test_belief_knows_the_age_of_an_echo() -> None:
    part = UltrasonicEncoder(channels=6).eval()
    young, old = echo(), echo()
    old = dataclasses.replace(old, age_s=old.age_s + 0.5)
    assert not torch.equal(part._believe(young), part._believe(old))


def test_the_coarse_level_takes_the_maximum_of_its_cells() -> None:
    echoes, move = make_echoes([range(NUM_ULTRASONIC)] * 2), torch.stack([NOTHING, augmentation()])
    maps = bare_encoder()(echoes, move, GRIDS)
    near, main = maps["near"], maps["main"]
    pooled = nn.functional.max_pool2d(near.features, 4)  # cells of 0.2 m -> 0.8 m
    torch.testing.assert_close(main.features[:, :, 8:24, 10:30], pooled)
    assert torch.equal(main.validity[:, :, 8:24, 10:30], nn.functional.max_pool2d(near.validity.float(), 4) > 0)
    outside = main.features.clone()
    outside[:, :, 8:24, 10:30] = 0
    assert not outside.any()


def test_levels_whose_cells_do_not_fit_each_other_are_joined_too() -> None:
    odd = Grid.square(12.6, 0.7)
    maps = bare_encoder()(make_echoes([range(NUM_ULTRASONIC)]), NOTHING[None], {"near": NEAR, "main": odd})
    near, main = maps["near"], maps["main"]
    for channel in range(6):
        assert main.features[0, channel].max() == near.features[0, channel].max()
    with pytest.raises(ValueError, match=r"cells of the coarse level must be at least \(0.2, 0.2\) m, got \(0.1"):
        bare_encoder()(make_echoes([[1]]), NOTHING[None], {"near": NEAR, "main": Grid.square(6.4, 0.1)})


@pytest.mark.parametrize(
    "sensors",
    [[range(12), range(12)], [range(12), None], [range(7), [3]], [[], range(2)], [[], []], [None, []], [None, None]],
)
def test_any_sensors_train_and_absent_rows_are_zero(sensors: list) -> None:
    batch = dataclasses.replace(make_batch(None, None, [None] * 2, augmentation()), ultrasonic=make_echoes(sensors))
    branch = UltrasonicBranch(encoder=UltrasonicEncoder(channels=8, coarse_channels=5))
    assert branch.out_channels == {"near": 8, "main": 5}
    result = branch(batch, GRIDS)
    assert result.present.tolist() == [numbers is not None for numbers in sensors]
    assert result.bev["near"].features.shape == (2, 8, 64, 80)
    assert result.bev["main"].features.shape == (2, 5, 32, 40)
    for level in result.bev.values():
        assert level.features.isfinite().all()
        for numbers, features, validity in zip(sensors, level.features, level.validity, strict=True):
            assert not (numbers is None and features.any())
            assert not (not numbers and validity.any())
    if any(numbers is not None for numbers in sensors):
        sum(level.features.square().sum() for level in result.bev.values()).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in branch.parameters())
    if sensors[0] == sensors[1] == range(12):
        assert all(p.grad.any() for p in branch.parameters())


def test_a_system_that_no_sample_has_is_absent() -> None:
    result = UltrasonicBranch(encoder=UltrasonicEncoder(channels=8))(make_batch(None, None, [None] * 2), GRIDS)
    assert set(result.bev) == {"near"}
    assert not result.present.any()
    assert not result.bev["near"].features.any()


def test_neighbours_in_a_batch_do_not_matter() -> None:
    part = UltrasonicEncoder(channels=8, coarse_channels=5).eval()
    echoes = make_echoes([range(12), range(5), []])
    moves = torch.stack([NOTHING, augmentation(), NOTHING])
    together = part(echoes, moves, GRIDS)
    for sample in range(3):
        single = part(selected(echoes, sample), moves[sample : sample + 1], GRIDS)
        for level, alone in single.items():
            rows = slice(sample, sample + 1)
            torch.testing.assert_close(together[level].features[rows], alone.features, rtol=1e-4, atol=1e-5)
            assert torch.equal(together[level].validity[rows], alone.validity)


def test_numbers_that_are_none_do_not_spoil_the_gradient() -> None:
    broken = [{"distance_m": math.nan}, {"sigma_m": math.nan}, {"level": math.nan}, {"age_s": math.nan}]
    broken += [{"sender": [math.nan, 0.0, 0.0]}, {"beam_rad": math.nan}, {"sigma_m": math.inf}, {"age_s": math.inf}]
    rows = [echo(), *(echo(**values) for values in broken)]
    merged = {name: torch.cat([getattr(row, name) for row in rows]) for name in ECHO_AXES}
    batch = EchoBatch(**merged, batch_index=torch.zeros(len(rows), dtype=torch.long), present=torch.tensor([True]))
    part = UltrasonicEncoder(channels=8, coarse_channels=5)
    maps = part(batch, NOTHING[None], GRIDS)
    sum(level.features.square().sum() for level in maps.values()).backward()
    assert all(level.features.isfinite().all() for level in maps.values())
    assert all(p.grad.isfinite().all() for p in part.parameters())


def test_content_aware_dilation_is_the_gated_sum_of_its_convolutions() -> None:
    part = ContentAwareDilation(in_channels=3, out_channels=4, dilations=(1, 3)).eval()
    bev = torch.randn(2, 3, 12, 10)
    gates = (part.locally(bev) + part.globally(bev.mean((2, 3)))[:, :, None, None]).softmax(1)
    expected = sum(
        gates[:, k : k + 1] * nn.functional.conv2d(bev, part.convolutions[k].weight, padding=step, dilation=step)
        for k, step in enumerate((1, 3))
    )
    torch.testing.assert_close(part(bev), (expected / math.sqrt(1 + part.finish[0].eps)).relu(), rtol=1e-4, atol=1e-5)
    with torch.no_grad():  # a gate that has decided looks at one distance only
        part.locally.bias[1] = 100.0
    impulse = torch.zeros(1, 3, 12, 10)
    impulse[0, 0, 6, 5] = 1.0
    reached = (part.convolutions[1](impulse)[0].abs().sum(0) > 0).nonzero()
    assert set(map(tuple, reached.tolist())) == {(6 + 3 * i, 5 + 3 * j) for i in (-1, 0, 1) for j in (-1, 0, 1)}
    with pytest.raises(ValueError, match="dilations must be at least one, each above 0"):
        ContentAwareDilation(in_channels=3, out_channels=4, dilations=())
