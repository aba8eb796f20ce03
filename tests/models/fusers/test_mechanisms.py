"""What makes each fuser what it is."""

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn

from perception.models.fusers._common import LevelInputs, MapFinish, masked_softmax, shrink, stretch
from perception.models.fusers.bottleneck import BottleneckFuser, join_windows, split_windows
from perception.models.fusers.cmx import CmxFuser
from perception.models.fusers.gmu import GmuFuser
from perception.models.fusers.metaocc import MetaOccFuser
from perception.models.fusers.sequential import SequentialFuser
from perception.models.fusers.ssma import SsmaFuser
from perception.structures import BevMap, SensorFeatures
from tests.models.fusers.features import (
    GRIDS,
    IN_CHANNELS,
    OUT_CHANNELS,
    SENSORS,
    make_features,
    make_fuser,
    present_of,
)

PAIR = {"main": {"camera": 4, "radar": 4}}
GRID = GRIDS["main"]


class ConstantOne(nn.Module):
    """Says 1, whatever it hears."""

    def forward(self, heard: Tensor) -> Tensor:
        """1 in every cell."""
        return torch.ones_like(heard)


def pair(camera: Tensor, radar: Tensor) -> dict[str, SensorFeatures]:
    """Two present sensors with the given maps (B, C, 16, 16)."""
    features = {}
    for sensor, maps in (("camera", camera), ("radar", radar)):
        bev = BevMap(features=maps, validity=torch.ones_like(maps[:, :1], dtype=torch.bool), grid=GRID)
        features[sensor] = SensorFeatures(present=torch.ones(len(maps), dtype=torch.bool), bev={"main": bev})
    return features


def random_pair(count: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    camera, radar = torch.randn(2, count, 4, 16, 16, generator=generator)
    return camera, radar


def test_a_softmax_over_present_sensors_leaves_the_others_nothing() -> None:
    weights = masked_softmax(torch.tensor([[[0.0], [1.0], [9.0]]]), torch.tensor([[True, True, False]]))
    torch.testing.assert_close(weights[0, :, 0], torch.tensor([1 / (1 + torch.e), torch.e / (1 + torch.e), 0.0]))
    assert weights[0, 2, 0] == 0


def test_shrinking_averages_what_a_block_holds() -> None:
    maps = torch.arange(15.0).view(1, 1, 3, 5)
    expected = torch.tensor([[[[3.0, 5.0, 6.5], [10.5, 12.5, 14.0]]]])
    assert torch.equal(shrink(maps, 2), expected)


@pytest.mark.parametrize("present", [((1, 1, 1),) * 3, ((1, 0, 1), (0, 1, 0), (1, 1, 1)), ((0, 1, 0),)])
def test_a_convolution_over_parts_is_that_over_all_side_by_side(present: tuple[tuple[int, ...], ...]) -> None:
    """At the border too, where the vector of an absent sensor ends as its map would; so do the gradients."""
    generator = torch.Generator().manual_seed(4)
    channels, there = {"camera": 3, "lidar": 5, "radar": 2}, torch.tensor(present, dtype=torch.bool)
    convolution = nn.Conv2d(10, 7, 3, padding=1, bias=False).double()
    absence = nn.ParameterDict(
        {name: torch.randn(count, 1, 1, generator=generator).double() for name, count in channels.items()}
    )
    index = {name: there[:, number].nonzero()[:, 0] for number, name in enumerate(channels) if there[:, number].any()}
    rows = {
        name: torch.randn(len(at), channels[name], 6, 4, generator=generator).double().requires_grad_()
        for name, at in index.items()
    }
    inputs = LevelInputs(sensors=tuple(channels), present=there, size=(6, 4), rows=rows, index=index)
    expected = convolution(torch.cat(inputs.filled(absence), dim=1))
    found = inputs.convolved(convolution.weight, absence)
    torch.testing.assert_close(found, expected)
    weights = torch.randn(expected.shape, generator=generator).double()
    wanted = [convolution.weight, *absence.values(), *rows.values()]
    gradients = [torch.autograd.grad((it * weights).sum(), wanted, allow_unused=True) for it in (found, expected)]
    for name, one, other in zip(["weight", *absence, *rows], *gradients, strict=True):
        torch.testing.assert_close(one, torch.zeros_like(one) if other is None else other, msg=name)


@pytest.mark.parametrize(("stride", "size"), [(2, (7, 11)), (4, (13, 6)), (4, (8, 12)), (1, (3, 5))])
def test_what_was_shrunk_comes_back_to_its_place(stride: int, size: tuple[int, int]) -> None:
    """A plane, which bilinear reading keeps between the centres of whole blocks, on levels of any size."""
    rows, columns = torch.meshgrid(*(torch.arange(float(count)) for count in size), indexing="ij")
    plane = (2 * rows - 3 * columns)[None, None]
    back = stretch(shrink(plane, stride), stride, size)
    assert back.shape == plane.shape
    first, last = stride // 2, [count // stride * stride - stride // 2 for count in size]
    inner = (..., slice(first, last[0]), slice(first, last[1]))
    torch.testing.assert_close(back[inner], plane[inner])


def test_details_pass_a_coarse_answer_unchanged() -> None:
    finish = MapFinish(2, 2, 2).eval()
    with torch.no_grad():
        nn.init.dirac_(finish.mix[0].weight)
    detail = torch.rand(1, 2, 8, 8)
    torch.testing.assert_close(finish(torch.ones(1, 2, 4, 4), detail), detail + 1, rtol=1e-4, atol=0)


def test_gated_units_are_the_published_ones_for_two_sensors() -> None:
    fuser = GmuFuser(in_channels=PAIR, out_channels={"main": 4}, kernel=1)
    camera, radar = random_pair()
    fused = fuser(pair(camera, radar))
    level = fuser.levels["main"]
    logits = level.gates(torch.cat((camera, radar), dim=1))
    gate = (logits[:, :4] - logits[:, 4:]).sigmoid()  # a softmax of two is a sigmoid of their difference
    values = level.values["camera"](camera), level.values["radar"](radar)
    torch.testing.assert_close(fused.bev["main"].features, gate * values[0] + (1 - gate) * values[1])
    torch.testing.assert_close(fused.aux["trust/main"][:, 0], gate.mean(1))


def test_gates_of_every_channel_add_up_to_one_over_the_present_sensors() -> None:
    """If every sensor said 1, every channel of the sum would be 1."""
    fuser = make_fuser("gmu").eval()
    for sensor, value in fuser.levels["main"].values.items():
        fuser.levels["main"].values[sensor] = nn.Sequential(value[0], ConstantOne())
    subsets = (SENSORS, ("lidar",), ("camera", "radar"), ("ultrasonic", "lidar", "radar"))
    fused = fuser(make_features(present_of(*subsets))).bev["main"].features
    torch.testing.assert_close(fused, torch.ones(4, OUT_CHANNELS["main"], 16, 16))


def test_a_closed_ssma_gate_shuts_a_sensor_out() -> None:
    fuser = SsmaFuser(in_channels=PAIR, out_channels={"main": 4}, reduction=4).eval()
    last = fuser.levels["main"].gate[2]
    assert last.in_channels == 2  # 8 channels over 4
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.tensor([100.0] * 4 + [-200.0] * 4))  # of the camera open, of the radar closed
    camera, radar = random_pair()
    fused = fuser(pair(camera, radar)).bev["main"].features
    assert torch.equal(fused, fuser(pair(camera, 7 * radar)).bev["main"].features)
    assert not torch.equal(fused, fuser(pair(7 * camera, radar)).bev["main"].features)


def swapped(fuser: nn.Module) -> nn.Module:
    """The fuser with the parameters of its two sensors exchanged."""
    names = {"camera": "radar", "radar": "camera"}
    state = {
        ".".join(names.get(word, word) for word in key.split(".")): value for key, value in fuser.state_dict().items()
    }
    other = copy.deepcopy(fuser)
    other.load_state_dict(state)
    return other


def test_cmx_swaps_with_its_inputs() -> None:
    torch.manual_seed(0)
    fuser = CmxFuser(in_channels=PAIR, out_channels={"main": 8}, num_heads=2).eval()
    camera, radar = random_pair()
    one = fuser(pair(camera, radar)).bev["main"].features
    other = swapped(fuser)(pair(radar, camera)).bev["main"].features
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(one, fuser(pair(radar, camera)).bev["main"].features, rtol=1e-2, atol=1e-2)


def test_cmx_sensors_hear_the_others_and_alone_nothing() -> None:
    torch.manual_seed(0)
    fuser = CmxFuser(in_channels=PAIR, out_channels={"main": 8}, num_heads=2).eval()
    features = pair(*random_pair())
    alone = {"camera": features["camera"]}
    before = [fuser(given).bev["main"].features for given in (features, alone)]
    with torch.no_grad():
        fuser.levels["main"].exchange["camera"].join.weight[:, 8:] += 1  # what becomes of what was heard
    after = [fuser(given).bev["main"].features for given in (features, alone)]
    assert not torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])


def test_cmx_sensors_are_rectified_by_the_others_alone() -> None:
    torch.manual_seed(0)
    level = CmxFuser(in_channels=PAIR, out_channels={"main": 8}, num_heads=2).eval().levels["main"]
    made, read = [], {}
    level.rectify.register_forward_hook(lambda _, given, offers: made.append((given[0], offers)))
    for name, exchange in level.exchange.items():
        exchange.register_forward_pre_hook(lambda _, given, name=name: read.setdefault(name, given[0]))
    index = torch.arange(2)
    rows = dict(zip(("camera", "radar"), random_pair(), strict=True))
    present, size = torch.ones(2, 2, dtype=torch.bool), tuple(rows["camera"].shape[-2:])
    level(LevelInputs(sensors=tuple(rows), present=present, size=size, rows=rows, index=dict.fromkeys(rows, index)))
    ((cells, offers),) = made
    torch.testing.assert_close(read["camera"], cells[0] + offers[1])
    torch.testing.assert_close(read["radar"], cells[1] + offers[0])


def test_cmx_offers_are_gated_and_of_present_sensors_alone() -> None:
    fuser = CmxFuser(in_channels=PAIR, out_channels={"main": 8}, num_heads=2).eval()
    cells = [torch.rand(2, 16, 8), torch.rand(2, 16, 8)]
    share = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    camera, radar = fuser.levels["main"].rectify(cells, share)
    assert (camera > 0).all()
    assert (camera < cells[0]).all()  # both gates are below 1, and each counts half
    assert (radar[0] > 0).all()
    assert not radar[1].any()


def test_cmx_attention_is_the_published_one_in_another_order() -> None:
    """Keys, values and heads laid out for every cell, as the paper writes them."""
    torch.manual_seed(0)
    exchange = CmxFuser(in_channels=PAIR, out_channels={"main": 8}, num_heads=2).levels["main"].exchange["camera"]
    cells, foreign = torch.randn(2, 30, 8), torch.randn(2, 30, 8)
    halves, _ = exchange(cells)
    _, context = exchange(foreign)
    ask = exchange.split(foreign)[:, :, 8:]
    stay, own_ask = exchange.split(cells).chunk(2, dim=2)
    heard = []
    for head in range(2):
        rows = slice(4 * head, 4 * head + 4)
        key, value = exchange.key(ask)[:, :, rows], exchange.value(ask)[:, :, rows]
        expected = (exchange.sharpness[head].exp() * (key.transpose(1, 2) @ value / 30)).softmax(1)
        torch.testing.assert_close(context[:, head], expected)
        heard.append(own_ask[:, :, rows] @ expected)
    joined = exchange.norm(cells + exchange.join(torch.cat((stay, *heard), dim=2)))
    torch.testing.assert_close(exchange.answer(cells, halves, context), joined)


def test_cmx_contexts_of_large_maps_stay_finite_in_half_precision() -> None:
    torch.manual_seed(0)
    exchange = CmxFuser(in_channels=PAIR, out_channels={"main": 8}, num_heads=2).levels["main"].exchange["camera"]
    cells = 6 * torch.randn(1, 128 * 128, 8)
    _, exact = exchange(cells)
    _, context = exchange.half()(cells.half())
    torch.testing.assert_close(context.float(), exact, rtol=0, atol=0.02)


def test_windows_come_back_from_any_size() -> None:
    maps = torch.randn(2, 3, 7, 10)
    windows = split_windows(maps, 4)
    assert windows.shape == (2, 6, 16, 3)
    assert torch.equal(windows[1, 1, 6], maps[1, :, 1, 6])  # window 1 starts at column 4; cell 6 is row 1, column 2
    assert torch.equal(join_windows(windows, 4, (7, 10)), maps)


@pytest.mark.parametrize("num_tokens", [0, 2])
def test_only_through_the_bottleneck_do_sensors_hear_of_one_another(num_tokens: int) -> None:
    torch.manual_seed(0)
    fuser = BottleneckFuser(
        in_channels=PAIR, out_channels={"main": 4}, num_tokens=num_tokens, num_layers=3, window=4, num_heads=2
    )
    rows = {"camera": torch.randn(1, 4, 8, 8), "radar": torch.randn(1, 4, 8, 8)}
    for maps in rows.values():
        maps.requires_grad_()
    index = torch.zeros(1, dtype=torch.long)
    inputs = LevelInputs(
        sensors=("camera", "radar"),
        present=torch.ones(1, 2, dtype=torch.bool),
        size=(8, 8),
        rows=rows,
        index={"camera": index, "radar": index},
    )
    streams = fuser.levels["main"].streams(inputs)
    streams.rows["camera"].square().sum().backward()
    assert rows["camera"].grad.abs().sum() > 0
    heard = rows["radar"].grad
    assert (heard is not None and bool(heard.any())) == (num_tokens > 0)


@pytest.mark.parametrize("settings", [{}, {"num_layers": 3, "from_layer": 1}, {"num_tokens": 0}])
def test_every_sensor_hears_every_other_through_tokens_that_late_layers_have(settings: dict[str, int]) -> None:
    torch.manual_seed(0)
    channels = dict.fromkeys(("camera", "lidar", "radar"), 4)
    fuser = BottleneckFuser(in_channels={"main": channels}, out_channels={"main": 4}, num_heads=2, **settings)
    level, index, tokens = fuser.levels["main"], torch.zeros(1, dtype=torch.long), []
    for layers in level.layers:
        layers["lidar"].register_forward_pre_hook(lambda _, given: tokens.append(given[1].shape[2]))
    rows = {name: torch.randn(1, 4, 8, 8, requires_grad=True) for name in channels}
    inputs = LevelInputs(
        sensors=tuple(channels),
        present=torch.ones(1, 3, dtype=torch.bool),
        size=(8, 8),
        rows=rows,
        index=dict.fromkeys(channels, index),
    )
    streams = level.streams(inputs)
    for name in channels:
        heard = torch.autograd.grad(
            streams.rows[name].square().sum(), list(rows.values()), retain_graph=True, allow_unused=True
        )
        for other, gradient in zip(rows, heard, strict=True):
            assert (gradient is not None and bool(gradient.any())) == (other == name or "num_tokens" not in settings)
    count, first = settings.get("num_tokens", 4), settings.get("from_layer", 0)
    assert tokens == [0 if number < first else count for number in range(len(level.layers))]


def test_filled_up_windows_hide_what_does_not_exist() -> None:
    torch.manual_seed(0)
    layer = BottleneckFuser(in_channels=PAIR, out_channels={"main": 4}, window=6, num_heads=2).levels["main"].layers[0]
    maps, tokens = torch.randn(1, 4, 4, 5), torch.randn(1, 1, 3, 4)
    filled, heard = layer["camera"](maps, tokens)
    assert filled.shape == maps.shape
    cells = (maps + layer["camera"].look(maps)).flatten(2).transpose(1, 2)  # (1, 20, 4) cells alone
    both = torch.cat((cells, tokens[:, 0]), dim=1)[:, None]
    both = both + layer["camera"].join(layer["camera"]._attend(layer["camera"].attention_norm(both), None))
    both = both + layer["camera"].feed(both)
    torch.testing.assert_close(heard[:, 0], both[:, 0, 20:], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(filled.flatten(2).transpose(1, 2), both[:, 0, :20], rtol=1e-4, atol=1e-5)


def test_the_state_is_readable_after_every_step_and_a_skipped_step_changes_nothing() -> None:
    torch.manual_seed(0)
    order = ["radar", "lidar", "ultrasonic", "camera"]
    fuser = SequentialFuser(in_channels=IN_CHANNELS, out_channels=OUT_CHANNELS, order=order).eval()
    fused = fuser(make_features(present_of(SENSORS, ("radar", "camera"))))
    states = [fused.aux[f"state_{number}/main"] for number in range(4)]
    assert torch.equal(states[3], fused.bev["main"].features)
    assert all(not torch.equal(one[0], other[0]) for one, other in itertools.pairwise(states))
    assert torch.equal(states[0][1], states[1][1])
    assert torch.equal(states[1][1], states[2][1])
    assert "state_2/near" not in fused.aux  # two sensors have that level


def test_skipping_a_sensor_equals_not_having_it() -> None:
    torch.manual_seed(0)
    with_radar = SequentialFuser(in_channels=PAIR, out_channels={"main": 4}).eval()
    without = SequentialFuser(in_channels={"main": {"camera": 4}}, out_channels={"main": 4}).eval()
    missing, unexpected = without.load_state_dict(with_radar.state_dict(), strict=False)
    assert not missing
    assert all("radar" in key for key in unexpected)
    camera, radar = random_pair()
    features = pair(camera, radar)
    absent = {**features, "radar": SensorFeatures(present=torch.zeros(2).bool(), bev=features["radar"].bev)}
    alone = without({"camera": features["camera"]}).bev["main"].features
    assert torch.equal(with_radar(absent).bev["main"].features, alone)


def test_training_shuffles_the_steps_and_evaluation_does_not() -> None:
    fuser = make_fuser("sequential")
    visited: list[str] = []
    for sensor, step in fuser.levels["main"].steps.items():
        step.register_forward_pre_hook(lambda *_, sensor=sensor: visited.append(sensor))
    features = make_features(present_of(SENSORS, SENSORS))
    orders = {training: set() for training in (True, False)}
    for training in orders:
        for _ in range(10):
            visited.clear()
            fuser.train(training)(features)
            orders[training].add(tuple(visited))
    assert len(orders[True]) > 2
    assert orders[False] == {SENSORS}
    with pytest.raises(ValueError, match=r"order must name each of \['camera', 'radar'\] once, got \['radar'\]"):
        SequentialFuser(in_channels=PAIR, out_channels={"main": 4}, order=["radar"])


def test_local_weights_learn_which_sensor_is_clean() -> None:
    """Where the camera's map is noise the radar gets the weight, and the other way round."""
    torch.manual_seed(0)
    fuser = MetaOccFuser(in_channels=PAIR, out_channels={"main": 4}, width=8, num_points=1, query_stride=4)
    level = fuser.levels["main"]
    optimizer = torch.optim.Adam(level.parameters(), 1e-2)
    truth = torch.randn(1, 4, 16, 16).sign()
    noisy = torch.zeros(1, 1, 16, 16)
    noisy[..., :8] = 1  # the camera on the left half, the radar on the right one

    def look() -> dict[str, SensorFeatures]:
        sign = torch.randn(4, 1, 1, 1).sign() * truth
        noise = 2 * torch.randn(2, 4, 4, 16, 16)
        return pair(torch.where(noisy > 0, noise[0], sign), torch.where(noisy > 0, sign, noise[1])), sign

    probe = nn.Conv2d(4, 4, 1)
    optimizer.add_param_group({"params": probe.parameters()})
    for _ in range(80):
        features, target = look()
        loss = (probe(fuser(features).bev["main"].features) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    features, _ = look()
    trust = fuser.eval()(features).aux["trust/main"]
    assert ((trust >= 0) & (trust <= 1)).all()
    assert trust[:, 1, :, :7].mean() > 0.6
    assert trust[:, 0, :, 9:].mean() > 0.6


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SsmaFuser(in_channels=PAIR, out_channels={"main": 4}, reduction=0), "reduction must be at least 1"),
        (lambda: CmxFuser(in_channels=PAIR, out_channels={"main": 4}, num_heads=3), "num_heads must divide"),
        (lambda: CmxFuser(in_channels=PAIR, out_channels={"main": 4}, num_heads=4), "two or more each"),
        (lambda: BottleneckFuser(in_channels=PAIR, out_channels={"main": 4}, num_heads=3), "num_heads must divide"),
        (lambda: BottleneckFuser(in_channels=PAIR, out_channels={"main": 4}, from_layer=2), "from_layer a layer"),
        (lambda: MetaOccFuser(in_channels=PAIR, out_channels={"main": 4}, query_stride=0), "must be at least 1"),
        (lambda: MetaOccFuser(in_channels=PAIR, out_channels={"main": 4}, num_heads=3), "num_heads must divide"),
    ],
)
def test_settings_that_make_no_sense_are_refused(build, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
