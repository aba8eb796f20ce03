"""What a frame that turns, mirrors and scales makes of radar returns and ultrasonic echoes, number by number."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from perception.formats.ultrasonic import EchoState
from perception.geometry.grid import Grid
from perception.models.encoders.radar import RadarEncoder
from perception.models.encoders.ultrasonic import UltrasonicEncoder
from perception.ops.echo_splat import EchoKind
from perception.structures import EchoBatch, PointBatch
from perception.structures.sensors import ECHO_AXES
from tests.models.near_scenes import NEAR, echo, radar_returns
from tests.models.scenes import GRID
from tests.models.test_radar import bare_encoder as bare_radar
from tests.models.test_radar import encoder as radar_encoder
from tests.models.test_radar import points_of
from tests.models.test_ultrasonic import AGE, CLOSE, FREE, MUTE, NOTHING, OBSERVED, OCCUPIED, Seen, cell_of

NAN, INF = math.nan, math.inf


def plane(rows: list[list[float]]) -> Tensor:
    """(4, 4) `ego2aug` of a (2, 2) one."""
    move = torch.eye(4, dtype=torch.float64)
    move[:2, :2] = torch.tensor(rows, dtype=torch.float64)
    return move


def joined(echoes: list[EchoBatch]) -> EchoBatch:
    """Echoes of one sample."""
    rows = {name: torch.cat([getattr(one, name) for one in echoes]) for name in ECHO_AXES}
    return EchoBatch(**rows, batch_index=torch.zeros(len(echoes), dtype=torch.long), present=torch.tensor([True]))


def certain_encoder(believed: float = 100.0, wider: float = -100.0) -> UltrasonicEncoder:
    """Says the same of all echoes: by default, that they are true and as wide as they say."""
    part = UltrasonicEncoder(channels=6)
    part.around = Seen()
    last = part.belief[-1]
    last.weight.data.zero_()
    last.bias.data.copy_(torch.tensor([believed, wider]))
    return part


def drawn(echoes: EchoBatch, ego2aug: Tensor = NOTHING, part: UltrasonicEncoder | None = None) -> Tensor:
    """(6, Y, X) what the convolutions would read."""
    part = certain_encoder() if part is None else part
    return part(echoes, ego2aug[None], {"near": NEAR})["near"].features[0].detach()


def judged(echoes: list[EchoBatch], ego2aug: Tensor = NOTHING) -> list[list[float]]:
    """(E, 8) what the network that judges them reads of echoes: level, age, distance, direct and four kinds."""
    part = UltrasonicEncoder(channels=6).eval()
    seen: list[Tensor] = []
    part.belief.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    part(joined(echoes), ego2aug[None], {"near": NEAR})
    return seen[0].tolist()


def ahead(channel: Tensor, *distances_m: float) -> list[float]:
    """Values of a channel on the axis of a sensor at (2.1, 0.1) that looks ahead, in the augmented frame."""
    return [channel[cell_of(2.1 + distance, 0.1)].item() for distance in distances_m]


def occupied(distance_m: float, thing_m: float, sigma_m: float) -> float:
    return math.exp(-(((distance_m - thing_m) / sigma_m) ** 2) / 2)


def free(distance_m: float, end_m: float, sigma_m: float) -> float:
    return math.erfc(((distance_m - end_m) / sigma_m + 2) / math.sqrt(2)) / 2


# Frame -> sensor that it brings to (2.1, 0.1), looking ahead, and what it multiplies lengths by.
SENSORS = {
    "none": ([[1, 0], [0, 1]], [2.1, 0.1, 0.0], 1.0),
    "twice": ([[2, 0], [0, 2]], [1.05, 0.05, 0.0], 2.0),
    "half and mirrored": ([[0.5, 0], [0, -0.5]], [4.2, -0.2, 0.0], 0.5),
    "twice, front and rear": ([[-2, 0], [0, 2]], [-1.05, 0.05, math.pi], 2.0),
    "twice and a quarter turn": ([[0, -2], [2, 0]], [0.05, -1.05, -math.pi / 2], 2.0),
}


@pytest.mark.parametrize("name", SENSORS)
def test_an_echo_is_as_wide_as_its_scaled_deviation_and_half_a_cell(name: str) -> None:
    rows, pose, scale = SENSORS[name]
    one = echo(sender=pose, receiver=pose, distance_m=1.66 / scale, sigma_m=0.24 / scale)
    channels = drawn(one, plane(rows))
    places = (1.0, 1.4, 1.6, 2.0, 2.4)
    sigma_m = 0.26  # of 0.24 m and half a cell of 0.2 m
    assert ahead(channels[OCCUPIED], 1.4)[0] == pytest.approx(math.exp(-0.5), abs=1e-5)
    assert ahead(channels[OCCUPIED], *places) == pytest.approx(
        [occupied(place, 1.66, sigma_m) for place in places], abs=1e-5
    )
    assert ahead(channels[FREE], *places) == pytest.approx([free(place, 1.66, sigma_m) for place in places], abs=1e-5)
    assert ahead(channels[AGE], 1.6)[0] == pytest.approx(0.1)  # time does not grow


@pytest.mark.parametrize(("cell_m", "pose", "rho_m"), [((0.2, 0.4), [2.1, 0.2], 1.4), ((0.4, 0.2), [2.2, 0.1], 1.6)])
def test_an_oblong_cell_widens_an_echo_by_half_its_longer_side(
    cell_m: tuple[float, float], pose: list[float], rho_m: float
) -> None:
    grid = Grid((-8.0, 8.0), (-6.4, 6.4), (-5.0, 3.0), (*cell_m, 8.0))
    one = echo(sender=[*pose, 0.0], receiver=[*pose, 0.0], distance_m=rho_m + 0.25, sigma_m=0.15)
    channels = certain_encoder()(one, NOTHING[None], {"near": grid})["near"].features[0]
    place = cell_of(pose[0] + rho_m, pose[1], grid)
    assert channels[OCCUPIED][place].item() == pytest.approx(math.exp(-0.5), abs=1e-5)  # 0.25 m of 0.15 m and 0.2 m


def test_an_echo_believed_by_half_is_drawn_half_and_its_width_grows_by_the_softplus() -> None:
    sigma_m = 0.26 * (1 + math.log(2))  # 1 + softplus(2 - 2)
    pose = [2.1, 0.1, 0.0]
    one = echo(sender=pose, receiver=pose, distance_m=1.4 + sigma_m, sigma_m=0.24)
    channels = drawn(one, part=certain_encoder(believed=0.0, wider=2.0))
    assert ahead(channels[OCCUPIED], 1.4)[0] == pytest.approx(0.5 * math.exp(-0.5), abs=1e-5)
    assert ahead(channels[FREE], 1.4)[0] == pytest.approx(free(-1, 0, 1), abs=1e-5)  # belief does not close the way


def test_belief_reads_level_age_distance_and_kind() -> None:
    rows = judged([echo(kind=int(kind), level=0.25, age_s=0.05, distance_m=3.0) for kind in EchoKind])
    assert [row[:4] for row in rows] == [pytest.approx([0.25, 0.05, 0.6, 1.0])] * 4
    assert [row[4:] for row in rows] == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


@pytest.mark.parametrize("name", SENSORS)
def test_belief_knows_whether_a_sensor_heard_itself_in_every_frame(name: str) -> None:
    rows, (x, y, heading), scale = SENSORS[name]
    sender = [x, y, heading]
    receivers = [sender, [x + 0.5, y, heading], [x, y - 0.5, heading], [x, y, heading + 0.5]]
    read = judged([echo(sender=sender, receiver=receiver) for receiver in receivers], plane(rows))
    assert [row[3] for row in read] == [1, 0, 0, 0]
    assert [row[2] for row in read] == [pytest.approx(2.0 * scale / 5)] * 4  # as far as it is drawn


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_belief_reads_a_number_that_is_none_as_0(value: float) -> None:
    rows = judged([echo(level=value), echo(age_s=value), echo(distance_m=value), echo(sender=[value, 0.0, 0.0])])
    expected = [[0.5, 0.1, 0.4, 1.0, 0, 1, 0, 0] for _ in range(4)]
    for column, row in enumerate(expected):
        row[column] = 0.0
    assert rows == [pytest.approx(row) for row in expected]


@pytest.mark.parametrize("state", [EchoState.BLIND, EchoState.FAULTED, EchoState.NOT_AVAILABLE])
@pytest.mark.parametrize(("distance_m", "end_m"), [(0.0, 3.0), (NAN, 3.0), (-1.0, 3.0), (2.0, 2.0), (3.6, 3.6)])
def test_a_mute_sensor_that_names_no_reach_darkens_three_metres(
    state: EchoState, distance_m: float, end_m: float
) -> None:
    pose = [2.1, 0.1, 0.0]
    values = {"distance_m": distance_m, "sigma_m": math.sqrt(0.03)}  # with half a cell, 0.2 m
    channels = drawn(echo(sender=pose, receiver=pose, kind=int(EchoKind.NOTHING), state=int(state), **values))
    assert ahead(channels[MUTE], end_m - 0.8, end_m - 0.4, end_m) == pytest.approx(
        [free(-4, 0, 1), 0.5, free(0, 0, 1)], abs=1e-4
    )
    assert ahead(channels[MUTE], end_m + 1.0) == [0]  # beyond four deviations
    assert channels[[OCCUPIED, FREE, AGE, OBSERVED, CLOSE]].abs().max() == 0


@pytest.mark.parametrize("distance_m", [0.0, 4.0, NAN])
def test_what_is_too_close_is_drawn_a_fifth_of_a_metre_off(distance_m: float) -> None:
    pose = [2.1, 0.1, 0.0]
    values = {"distance_m": distance_m, "sigma_m": math.sqrt(0.03)}
    one = echo(sender=pose, receiver=pose, kind=int(EchoKind.NOTHING), state=int(EchoState.TOO_CLOSE), **values)
    channels = drawn(one)
    assert ahead(channels[CLOSE], 0.2, 0.4, 0.6) == pytest.approx([1, math.exp(-0.5), math.exp(-2)], abs=1e-4)
    assert not channels[[OCCUPIED, FREE, AGE, OBSERVED, MUTE]].any()
    # The doubts of an echo's judge do not make a silent sensor's statement weaker.
    assert ahead(drawn(one, part=certain_encoder(believed=-3.0))[CLOSE], 0.2)[0] == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("name", SENSORS)
def test_what_is_assumed_of_silent_sensors_scales_with_the_frame(name: str) -> None:
    rows, pose, scale = SENSORS[name]
    values = {"kind": int(EchoKind.NOTHING), "distance_m": 0.0, "sigma_m": math.sqrt(0.03) / scale}
    blind = drawn(echo(sender=pose, receiver=pose, state=int(EchoState.BLIND), **values), plane(rows))[MUTE]
    said = drawn(
        echo(sender=pose, receiver=pose, state=int(EchoState.BLIND), **{**values, "distance_m": 3.0}), plane(rows)
    )[MUTE]
    assert torch.equal(blind, said)
    if scale <= 1:  # six metres leave the level
        assert ahead(blind, 3 * scale - 0.5 + 0.5 * scale, 3 * scale + 1.0)[1] == 0
    close = drawn(echo(sender=pose, receiver=pose, state=int(EchoState.TOO_CLOSE), **values), plane(rows))[CLOSE]
    expected = [math.exp(-(((rho - 0.2 * scale) / 0.2) ** 2) / 2) for rho in (0.2, 0.4, 0.6)]
    assert ahead(close, 0.2, 0.4, 0.6) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("channel", [MUTE, CLOSE, OBSERVED])
def test_what_silent_sensors_say_trains_no_belief(channel: int) -> None:
    none = {"kind": int(EchoKind.NOTHING)}
    part = UltrasonicEncoder(channels=6)
    part.around = Seen()
    silent = [echo(state=int(EchoState.BLIND), **none), echo(state=int(EchoState.TOO_CLOSE), **none)]
    channels = part(joined([*silent, echo()]), NOTHING[None], {"near": NEAR})["near"].features[0]
    assert channels[channel].sum() > 0.5
    channels[channel].square().sum().backward()
    assert not any(parameter.grad.any() for parameter in part.belief.parameters())


def test_echoes_train_belief_and_width() -> None:
    part = certain_encoder(believed=0.0, wider=2.0)
    channels = part(echo(), NOTHING[None], {"near": NEAR})["near"].features[0]
    (by_free,) = torch.autograd.grad(channels[FREE].sum(), part.belief[-1].bias, retain_graph=True)
    assert by_free[0] == 0  # the way to the thing is free however much it is believed
    assert by_free[1] != 0
    (by_occupied,) = torch.autograd.grad(channels[OCCUPIED].sum(), part.belief[-1].bias)
    # The sum grows with the sigmoid, whose slope at 0 is half its value.
    assert by_occupied[0].item() == pytest.approx(channels[OCCUPIED].sum().item() / 2, rel=1e-4)
    assert by_occupied[1] > 0


@pytest.mark.parametrize(
    ("kind", "state", "channels"),
    [
        (EchoKind.FIRST, EchoState.OBJECT, [OCCUPIED, FREE]),
        (EchoKind.LATER, EchoState.OBJECT, [OCCUPIED]),
        (EchoKind.NONE, EchoState.NO_OBJECT, [FREE]),
        (EchoKind.NOTHING, EchoState.TOO_CLOSE, [CLOSE]),
        (EchoKind.NOTHING, EchoState.BLIND, []),
    ],
)
def test_a_map_is_valid_where_something_is_said_of_the_place(
    kind: EchoKind, state: EchoState, channels: list[int]
) -> None:
    level = certain_encoder()(echo(kind=int(kind), state=int(state)), NOTHING[None], {"near": NEAR})["near"]
    features = level.features[0]
    said = (features[channels] > 0).any(0)
    assert bool(said.any()) == bool(channels)
    assert torch.equal(level.validity[0, 0], said)
    others = [channel for channel in (OCCUPIED, FREE, CLOSE) if channel not in channels]
    assert not features[others].any()
    assert torch.equal(features[OBSERVED], (features[[OCCUPIED, FREE]] > 0).any(0).float())


# Frame -> (2, 2), standard deviations, correlation and velocity of a return of 2 m, 1 m, 0.75 and (4.0, 2.5) m/s.
RETURNS = {
    "none": ([[1, 0], [0, 1]], [2, 1, 0.75], [4, 2.5]),
    "twice": ([[2, 0], [0, 2]], [4, 2, 0.75], [8, 5]),
    "half": ([[0.5, 0], [0, 0.5]], [1, 0.5, 0.75], [2, 1.25]),
    "mirrored": ([[1, 0], [0, -1]], [2, 1, -0.75], [4, -2.5]),
    "front and rear": ([[-1, 0], [0, 1]], [2, 1, -0.75], [-4, 2.5]),
    "half a turn": ([[-1, 0], [0, -1]], [2, 1, 0.75], [-4, -2.5]),
    "left": ([[0, -1], [1, 0]], [1, 2, -0.75], [-2.5, 4]),
    "right": ([[0, 1], [-1, 0]], [1, 2, -0.75], [2.5, -4]),
    "mirrored, left, half": ([[0, 0.5], [0.5, 0]], [0.5, 1, 0.75], [1.25, 2]),
    # Variances (4 -+ 2 * 1.5 + 1) / 2, covariance (4 - 1) / 2.
    "an eighth to the left": ([[0.5**0.5, -(0.5**0.5)], [0.5**0.5, 0.5**0.5]], [1, 2, 0.75], [1.06066, 4.596194]),
}
XX, XY, YY = 7, 8, 9  # columns of returns
RCS, VX, VY, LAG, QUALITY = 3, 4, 5, 6, 10


def oblong(x: float, y: float) -> Tensor:
    """(1, 11) a return of 2 m, 1 m and a correlation of 0.75, 4 m/s ahead and 2.5 m/s to the left."""
    returns = radar_returns([(x, y, 4.0, 2.5, 1.0)])
    returns[:, XX:QUALITY] = torch.tensor([4.0, 1.5, 1.0])
    return returns


def every_frame(returns: Tensor) -> tuple[PointBatch, Tensor]:
    """The same returns in as many samples as there are frames, and these."""
    moves = torch.stack([plane(rows) for rows, _, _ in RETURNS.values()])
    batch = PointBatch(
        points=returns.repeat(len(moves), 1),
        batch_index=torch.arange(len(moves)).repeat_interleave(len(returns)),
        present=torch.ones(len(moves), dtype=torch.bool),
        sensor2ego=torch.eye(4, dtype=torch.float64).repeat(len(moves), 1, 1),
        fields=points_of(returns).fields,
    )
    return batch, moves


def read(points: PointBatch, moves: Tensor, part: RadarEncoder | None = None) -> tuple[Tensor, Tensor]:
    """(P, 14) what the network reads of returns, and the map (S, C, Y, X)."""
    part = bare_radar() if part is None else part
    seen: list[Tensor] = []
    part.point_layers[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    features = part(points, moves, {"main": GRID}).features
    return seen[0], features.detach()


def read_of(returns: Tensor, ego2aug: Tensor = NOTHING, part: RadarEncoder | None = None) -> tuple[Tensor, Tensor]:
    """What the network reads of the returns of one sample, and its map (C, Y, X)."""
    rows, features = read(points_of(returns), ego2aug[None], part)
    return rows, features[0]


def test_each_sample_turns_mirrors_and_scales_what_is_known_of_its_returns() -> None:
    rows, features = read(*every_frame(oblong(0.3, 0.1)))
    for row, level, (move, spread, velocity) in zip(rows, features, RETURNS.values(), strict=True):
        assert row[8:11].tolist() == pytest.approx(spread, abs=1e-5)
        assert row[5:8].tolist() == pytest.approx([velocity[0] / 10, velocity[1] / 10, 1], abs=1e-6)
        moved = [0.3 * move[0][0] + 0.1 * move[0][1], 0.3 * move[1][0] + 0.1 * move[1][1]]
        assert row[:3].tolist() == pytest.approx([moved[0] / 16, moved[1] / 12.8, 0.5 / 5], abs=1e-6)
        peak = level[6].flatten().argmax()
        assert (level[7:9].flatten(1)[:, peak] * 10).tolist() == pytest.approx(velocity, abs=1e-4)


def test_velocities_spread_as_the_frame_scales() -> None:
    pair = radar_returns([(0.2, 0.2, 3.0, 1.0, 0.2), (0.2, 0.2, 5.0, 1.0, 0.2)])
    _, features = read(*every_frame(pair))
    for level, (rows, _, _) in zip(features, RETURNS.values(), strict=True):
        scale = math.hypot(rows[0][0], rows[1][0])
        peak = level[6].flatten().argmax()
        mean = [4.0 * rows[0][0] + rows[0][1], 4.0 * rows[1][0] + rows[1][1]]
        assert (level[7:].flatten(1)[:, peak] * 10).tolist() == pytest.approx([*mean, scale], abs=1e-4)


@pytest.mark.parametrize(
    ("rows", "place", "cells2"),
    [
        ([[2, 0], [0, 2]], (0.2, 0.2), (2, 0.5, 1)),
        ([[2, 0], [0, -2]], (0.2, -0.2), (2, -0.5, 1)),
        ([[-2, 0], [0, 2]], (-0.2, 0.2), (2, -0.5, 1)),
        ([[0, -2], [2, 0]], (0.2, -0.2), (1, -0.5, 2)),
        ([[0, 2], [2, 0]], (0.2, 0.2), (1, 0.5, 2)),
        ([[0.5, 0], [0, 0.5]], (0.8, 0.8), (0.125, 0.03125, 0.0625)),
    ],
)
def test_a_return_is_spread_by_the_covariance_of_the_augmented_frame(
    rows: list[list[float]], place: tuple[float, float], cells2: tuple[float, float, float]
) -> None:
    returns = radar_returns([(*place, 0.0, 0.0, 1.0)])  # each frame brings it to the middle of a cell of 0.8 m
    returns[:, XX:QUALITY] = torch.tensor([0.32, 0.08, 0.16])  # 2, 0.5 and 1 squared cells once doubled
    density = read_of(returns, plane(rows))[1][6].expm1()
    xx, xy, yy = cells2[0] + 1 / 12, cells2[1], cells2[2] + 1 / 12  # and a cell's own width
    for dx, dy in [(1, 0), (0, 1), (-1, 0), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1)]:
        squared = (yy * dx**2 - 2 * xy * dx * dy + xx * dy**2) / (xx * yy - xy**2)
        expected = math.exp(-squared / 2) if squared <= 9 else 0.0
        assert (density[16 + dy, 20 + dx] / density[16, 20]).item() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize(("column", "place"), [(RCS, 11), (LAG, 12), (QUALITY, 13)])
def test_a_field_that_is_not_finite_reads_as_0_and_its_return_counts(column: int, place: int, value: float) -> None:
    broken = oblong(5.3, -3.1)
    broken[:, column] = value
    rows, features = read_of(broken)
    expected, whole = read_of(oblong(5.3, -3.1))
    expected[:, place] = 0.0
    assert torch.equal(rows, expected)
    assert torch.equal(features[6:], whole[6:])  # density and motion


def test_what_no_radar_says_reads_as_the_most_that_one_might_or_is_unknown() -> None:
    returns = oblong(1.3, -2.1).repeat(4, 1)
    returns[0, VX], returns[1, VY], returns[2, VX], returns[3, 2] = 101.0, -1e30, 99.0, 1e30
    returns[:, RCS] = torch.tensor([1e8, -1e30, 199.0, 5.0])  # a twentieth of it is read
    rows, _ = read_of(returns)
    assert rows[:, 5:8].tolist() == [[0, 0, 0], [0, 0, 0], [pytest.approx(9.9), 0.25, 1], [pytest.approx(0.4), 0.25, 1]]
    assert rows[:, 11].tolist() == pytest.approx([10, -10, 9.95, 0.25])
    assert rows[:, 2].tolist() == pytest.approx([0.1, 0.1, 0.1, 10])


@pytest.mark.parametrize("name", ["none", "mirrored, left, half", "an eighth to the left"])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("column", [VX, VY])
def test_a_velocity_of_which_one_number_is_not_finite_is_unknown(column: int, value: float, name: str) -> None:
    move = plane(RETURNS[name][0])
    broken = oblong(1.3, -2.1)
    broken[:, column] = value
    rows, features = read_of(broken, move)
    whole_rows, whole = read_of(oblong(1.3, -2.1), move)
    assert rows[0, 5:8].tolist() == [0, 0, 0]
    torch.testing.assert_close(rows[:, [0, 1, 2, 3, 4, *range(8, 14)]], whole_rows[:, [0, 1, 2, 3, 4, *range(8, 14)]])
    assert torch.equal(features[6], whole[6])  # it is there
    assert not features[7:].any()
    both = read_of(torch.cat((oblong(1.3, -2.1), broken)), move)[1]
    torch.testing.assert_close(both[7:9], whole[7:9])  # the mean is that of the other one


@pytest.mark.parametrize("name", ["none", "mirrored, left, half", "an eighth to the left"])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_a_return_whose_place_or_covariance_is_not_finite_does_not_count(value: float, name: str) -> None:
    move, good, part = plane(RETURNS[name][0]), oblong(1.3, -2.1), bare_radar()
    alone_rows, alone = read_of(good, move, part)
    for column in (0, 1, 2, XX, XY, YY):
        broken = good.clone()
        broken[:, column] = value
        rows, features = read_of(torch.cat((broken, good)), move, part)
        assert torch.equal(rows, alone_rows)
        assert torch.equal(features, alone)
        rows, features = read_of(broken, move)
        assert len(rows) == 0
        assert not features.any()


@pytest.mark.parametrize("impossible", [(1.0, 5.0, 1.0), (-1.0, 0.0, 1.0), (1.0, 0.0, -1.0)])
def test_a_return_of_a_covariance_that_cannot_be_does_not_count(impossible: tuple[float, float, float]) -> None:
    good = oblong(1.3, -2.1)
    broken = good.clone()
    broken[0, [XX, XY, YY]] = torch.tensor(impossible)
    part = bare_radar()
    rows, features = read_of(torch.cat((broken, good)), plane(RETURNS["half"][0]), part)
    alone_rows, alone = read_of(good, plane(RETURNS["half"][0]), part)
    assert torch.equal(rows, alone_rows)
    assert torch.equal(features, alone)


def test_numbers_that_are_none_do_not_spoil_the_gradient_of_the_others() -> None:
    returns = oblong(5.3, -3.1).repeat(1 + 3 * 11, 1)
    for row in range(3 * 11):
        returns[1 + row, row // 3] = (NAN, INF, -INF)[row % 3]
    part = radar_encoder().train()
    features = part(points_of(returns), plane(RETURNS["half"][0])[None], {"main": GRID}).features
    features.square().sum().backward()
    assert features.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in part.parameters())


def test_deviations_are_read_up_to_ten_metres_and_from_a_millimetre_on() -> None:
    returns = radar_returns([(1.0, 1.0, 0.0, 0.0, sigma_m) for sigma_m in (0.0, 1e-4, 9.0, 11.0)])
    returns[2, XY], returns[3, XY] = 40.5, -60.5
    rows, _ = read_of(returns)
    expected = [[1e-3, 1e-3, 0], [1e-3, 1e-3, 0], [9, 9, 0.5], [10, 10, -0.5]]
    torch.testing.assert_close(rows[:, 8:11], torch.tensor(expected), rtol=1e-5, atol=1e-6)


def test_a_level_ends_before_its_upper_bounds_in_the_augmented_frame() -> None:
    below = torch.nextafter(torch.tensor(16.0), torch.tensor(0.0)).item()
    places = [(-16.0, 0.0), (16.0, 0.0), (below, 0.0), (0.0, -12.8), (0.0, 12.8), (0.0, 12.7), (16.2, 0.0)]
    rows, features = read_of(radar_returns([(x, y, 0.0, 0.0, 2.0) for x, y in places]))
    assert (rows[:, 0] * 16).tolist() == pytest.approx([-16, 16, 0, 0])
    assert (rows[:, 1] * 12.8).tolist() == pytest.approx([0, 0, -12.8, 12.7])
    assert features[6].expm1().sum() < 4
    # What reaches in from beyond does not count either; what a frame brings in or out does.
    beyond = radar_returns([(16.2, 0.0, 0.0, 0.0, 2.0)])
    assert not read_of(beyond)[1].any()
    assert read_of(beyond, plane([[0.5, 0], [0, 0.5]]))[0][0, 0].item() == pytest.approx(8.1 / 16)
    assert len(read_of(radar_returns([(9.0, 0.0, 0.0, 0.0, 0.1)]), plane([[2, 0], [0, 2]]))[0]) == 0


def test_a_backbone_with_a_stride_reads_finer_cells() -> None:
    part = radar_encoder()
    assert part.backbone.stride == 2
    returns = radar_returns([(5.3, -3.15, 0.0, 0.0, 0.05), (5.4, 2.2, 0.0, 0.0, 0.05)])
    rows, features = read(points_of(returns), NOTHING[None], part)
    # In cells of 0.4 m from (-16, -12.8): 53.25 and 24.125, and the middle of 53 and 37.
    assert rows[:, 3:5].flatten().tolist() == pytest.approx([-0.25, -0.375, 0, 0], abs=1e-4)
    assert features.shape[2:] == (32, 40)
    middle = part(points_of(returns[1:]), NOTHING[None], {"main": GRID})
    assert middle.validity[0, 0].nonzero().tolist() == [[18, 26]]


def test_the_height_of_a_return_neither_turns_its_spread_nor_places_it() -> None:
    move = plane([[1, 0], [0, 1]])
    move[2, 2], move[2, 3] = 2.0, 0.25
    low, high = oblong(5.3, -3.1), oblong(5.3, -3.1)
    high[:, 2] = 20.0  # far above the level, which has no bounds there
    rows, features = read_of(torch.cat((low, high)), move)
    assert (rows[:, 2] * 5).tolist() == pytest.approx([1.25, 40.25])
    assert torch.equal(rows[0, 3:], rows[1, 3:])
    assert features[6].expm1().sum().item() == pytest.approx(2, abs=1e-3)
    kept = dataclasses.replace(points_of(low), points=low.clone())
    before = kept.points.clone()
    read(kept, move[None])
    assert torch.equal(kept.points, before)  # the caller's returns stay where they are
