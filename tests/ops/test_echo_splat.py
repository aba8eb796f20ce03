import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perception.geometry.grid import Grid
from perception.ops.echo_splat import CHANNELS, EchoGeometry, EchoKind, echo_splat, echo_splat_reference

GRID = Grid((-2.0, 4.0), (-3.0, 3.0), (-1.0, 2.0), (0.2, 0.25, 3.0))
NAMES = [field.name for field in dataclasses.fields(EchoGeometry)]


def random_case(generator, device, count=20, batch=3):
    def uniform(low, high, *size):
        return torch.rand(count, *size, generator=generator, dtype=torch.float64) * (high - low) + low

    sender = torch.cat((uniform(-1, 1, 2), uniform(-3, 3, 1)), 1)
    receiver = torch.where(uniform(0, 1, 1) < 0.5, sender, sender + uniform(-0.4, 0.4, 3))
    echoes = EchoGeometry(
        sender=sender.to(device),
        receiver=receiver.to(device),
        distance_m=uniform(0.2, 3).to(device),
        beam_rad=uniform(0.5, 0.9).to(device),
        age_s=uniform(0, 0.3).to(device),
        kind=torch.randint(0, 4, (count,), generator=generator).to(device),
        batch_index=torch.randint(-1, batch or 1, (count,), generator=generator).to(device),
    )
    return uniform(0.1, 0.9).to(device), uniform(0.05, 0.3).to(device), echoes, batch


def one_echo(device="cpu", kind=EchoKind.FIRST, **changes):
    """At the origin, looking along x, 2 m away, half at 45 degrees."""
    known = {"sender": [0.0, 0, 0], "receiver": [0.0, 0, 0], "distance_m": 2.0, "beam_rad": math.pi / 4, "age_s": 0.1}
    known = {
        name: torch.tensor([value], device=device, dtype=torch.float64) for name, value in (known | changes).items()
    }
    index = torch.zeros(1, dtype=torch.int64, device=device)
    return EchoGeometry(**known, kind=index + int(kind), batch_index=index)


def splat_one(function, device="cpu", amplitude=0.8, sigma=0.1, grid=None, **changes):
    values = (torch.tensor([value], device=device, dtype=torch.float64) for value in (amplitude, sigma))
    return function(*values, one_echo(device, **changes), 1, grid or Grid.square(3.0, 0.1))[0]


def cell(grid, x, y):
    (_, row, column), inside = grid.cells(torch.tensor([x, y, 0.0]))
    assert inside
    return int(row), int(column)


@pytest.mark.parametrize("function", [echo_splat, echo_splat_reference])
def test_known_values(device, function):
    grid = Grid.square(3.0, 0.2)  # the centre (2.1, 0.1) is 0.1024 m beyond the echo
    occupied, free, age = splat_one(function, device, grid=grid)
    row, column = cell(grid, 2.1, 0.1)
    rho = math.hypot(2.1, 0.1)
    beam = (2.1 / rho) ** 2
    z = (rho - 2) / 0.1
    assert occupied[row, column].item() == pytest.approx(0.8 * beam * math.exp(-z * z / 2))
    assert free[row, column].item() == pytest.approx(beam * math.erfc((z + 2) / math.sqrt(2)) / 2)
    row, column = cell(grid, 0.9, 0.9)  # 45 degrees off the axis, well before the echo
    assert occupied[row, column].item() == pytest.approx(0, abs=1e-9)
    assert free[row, column].item() == pytest.approx(0.5)
    assert age[row, column].item() == pytest.approx(0.1)
    for x, y in ((-0.5, 0.1), (2.9, 0.1)):  # behind the sensor, behind the obstacle
        row, column = cell(grid, x, y)
        assert not occupied[row, column] and not free[row, column] and not age[row, column]


@pytest.mark.parametrize("function", [echo_splat, echo_splat_reference])
def test_kinds_of_echo(device, function):
    first = splat_one(function, device, kind=EchoKind.FIRST)
    later = splat_one(function, device, kind=EchoKind.LATER)
    none = splat_one(function, device, kind=EchoKind.NONE)
    nothing = splat_one(function, device, kind=EchoKind.NOTHING)
    assert torch.equal(first[0], later[0]) and first[0].max() > 0.7 and not later[1].any()
    assert torch.equal(first[1], none[1]) and first[1].max() > 0.9 and not none[0].any()
    assert not nothing.any()


@pytest.mark.parametrize("function", [echo_splat, echo_splat_reference])
def test_an_indirect_echo_lies_on_an_ellipse(device, function):
    grid = Grid.square(3.0, 0.05)
    occupied = splat_one(function, device, grid=grid, sender=[0.0, 0.5, 0], receiver=[0.0, -0.5, 0], sigma=0.02)[
        0
    ].cpu()
    rows, columns = (occupied > 0.9 * occupied.max()).nonzero().unbind(1)
    places = grid.centers_xy()[rows, columns]
    from_sender = (places - torch.tensor((0.0, 0.5))).norm(dim=1)
    from_receiver = (places - torch.tensor((0.0, -0.5))).norm(dim=1)
    assert len(places) > 3
    torch.testing.assert_close((from_sender + from_receiver) / 2, torch.full_like(from_sender, 2), rtol=0, atol=0.01)


def test_sensors_are_joined_by_a_noisy_or(device):
    values = [torch.tensor(value, device=device, dtype=torch.float64) for value in ([0.8, 0.6], [0.1, 0.1])]
    other = one_echo(device, sender=[0.0, 0.4, 0], receiver=[0.0, 0.4, 0], age_s=0.3)
    both = EchoGeometry(**{name: torch.cat([getattr(e, name) for e in (one_echo(device), other)]) for name in NAMES})
    grid = Grid.square(3.0, 0.1)
    joined = echo_splat(*values, both, 2, grid)
    a = echo_splat(values[0][:1], values[1][:1], one_echo(device), 1, grid)[0]
    b = echo_splat(values[0][1:], values[1][1:], other, 1, grid)[0]
    torch.testing.assert_close(joined[0, :2], 1 - (1 - a[:2]) * (1 - b[:2]))
    strongest_is_b = b[:2].amax(0) > a[:2].amax(0)
    torch.testing.assert_close(joined[0, 2], torch.where(strongest_is_b, b[2], a[2]))
    assert not joined[1].any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_values_and_gradients_match_reference(device, generator, dtype):
    amplitude, sigma, echoes, batch = random_case(generator, device)
    upstream = torch.randn(batch, len(CHANNELS), GRID.num_y, GRID.num_x, generator=generator).to(device, dtype)
    results = []
    for function in (echo_splat, echo_splat_reference):
        leaves = [tensor.to(dtype).requires_grad_() for tensor in (amplitude, sigma)]
        bev = function(*leaves, echoes, batch, GRID)
        bev.backward(upstream)
        assert bev.dtype == dtype
        results.append((bev.detach(), leaves[0].grad, leaves[1].grad))
    torch.testing.assert_close(results[0], results[1])
    assert results[0][0][:, :2].amin() >= 0 and results[0][0][:, :2].amax() <= 1


def test_gradcheck(device, generator):
    amplitude, sigma, echoes, batch = random_case(generator, device, count=5, batch=1)
    grid = Grid.square(2.0, 1.0)
    inputs = amplitude.requires_grad_(), sigma.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, s: echo_splat(a, s, echoes, batch, grid)[:, :2], inputs)


@pytest.mark.parametrize("certain", [1, 2])
def test_gradients_where_an_obstacle_is_certain(device, certain):
    # A cell's centre exactly on the axis and at the distance: the evidence is 1, and one factor of the product is 0.
    grid = Grid((1.9, 2.1), (-0.1, 0.1), (0.0, 1.0), (0.2, 0.2, 1.0))
    echoes = EchoGeometry(**{name: torch.cat([getattr(one_echo(device), name)] * 3) for name in NAMES})
    amplitude = torch.tensor([1.0, 1.0 if certain == 2 else 0.5, 0.25], dtype=torch.float64, device=device)
    results = []
    for function in (echo_splat, echo_splat_reference):
        leaf = amplitude.clone().requires_grad_()
        bev = function(leaf, torch.full_like(amplitude, 0.1), echoes, 1, grid)
        bev[0, 0].sum().backward()
        assert bev[0, 0].item() == 1
        results.append(leaf.grad.tolist())
    assert results[0] == results[1] == ([0.375, 0, 0] if certain == 1 else [0, 0, 0])


def test_opcheck(kernel_device, generator):
    amplitude, sigma, echoes, batch = random_case(generator, kernel_device, count=5)
    geometry = torch.rand(5, 11, generator=generator, dtype=torch.float64).to(kernel_device)
    tensors = amplitude.requires_grad_(), sigma.requires_grad_(), geometry, echoes.kind, echoes.batch_index
    grid = [-2.0, -3.0], [0.5, 0.5], [batch, 12, 12]
    torch.library.opcheck(torch.ops.perception.echo_splat.default, (*tensors, *grid))


@pytest.mark.parametrize("function", [echo_splat, echo_splat_reference])
@pytest.mark.parametrize(
    "bad",
    [
        {"amplitude": math.nan},
        {"sigma": math.nan},
        {"sigma": math.inf},
        {"sigma": 0.0},
        {"sigma": -0.1},
        {"distance_m": -1.0},
        {"distance_m": math.inf},
        {"sender": [math.nan, 0.0, 0.0]},
        {"receiver": [0.0, 0.0, math.inf]},
        {"sender": [1e30, 0.0, 0.0]},
        {"beam_rad": 0.0},
        {"beam_rad": 2.0},
        {"beam_rad": math.nan},
        {"age_s": math.nan},
    ],
)
def test_bad_and_distant_echoes_say_nothing(device, function, bad):
    assert not splat_one(function, device, **bad).any()


def test_bad_echoes_receive_no_gradient(device):
    amplitude = torch.tensor([0.5], device=device, dtype=torch.float64, requires_grad=True)
    sigma = torch.tensor([math.nan], device=device, dtype=torch.float64, requires_grad=True)
    echo_splat(amplitude, sigma, one_echo(device), 1, GRID).sum().backward()
    assert amplitude.grad.item() == sigma.grad.item() == 0


@pytest.mark.parametrize("function", [echo_splat, echo_splat_reference])
def test_amplitudes_are_clamped(device, function):
    assert torch.equal(splat_one(function, device, amplitude=7.0), splat_one(function, device, amplitude=1.0))
    assert not splat_one(function, device, amplitude=-1.0)[0].any()


@pytest.mark.parametrize("sizes", [{"count": 0}, {"batch": 0}, {"count": 0, "batch": 0}])
def test_no_echoes_or_samples(device, generator, sizes):
    amplitude, sigma, echoes, batch = random_case(generator, device, **sizes)
    echoes = dataclasses.replace(echoes, batch_index=echoes.batch_index.clamp(max=batch - 1))
    amplitude.requires_grad_()
    for function in (echo_splat, echo_splat_reference):
        bev = function(amplitude, sigma, echoes, batch, GRID)
        assert bev.shape == (batch, 3, GRID.num_y, GRID.num_x)
        assert not bev.any()
    echo_splat(amplitude, sigma, echoes, batch, GRID).sum().backward()
    assert not amplitude.grad.any()


def test_turning_the_sensors_turns_the_bev(device, generator):
    amplitude, sigma, echoes, batch = random_case(generator, device)
    quarter = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]], dtype=torch.float64, device=device)
    more = quarter.new_tensor((0, 0, math.pi / 2))
    turned = dataclasses.replace(
        echoes, sender=echoes.sender @ quarter.T + more, receiver=echoes.receiver @ quarter.T + more
    )
    grid = Grid.square(3.0, 0.2)
    before, after = (echo_splat(amplitude, sigma, e, batch, grid) for e in (echoes, turned))
    torch.testing.assert_close(after[:, :2], before[:, :2].rot90(-1, (2, 3)))


def test_samples_do_not_affect_one_another(device, generator):
    amplitude, sigma, echoes, batch = random_case(generator, device)
    together = echo_splat(amplitude, sigma, echoes, batch, GRID)
    only = dataclasses.replace(echoes, batch_index=torch.where(echoes.batch_index == 1, 1, -1))
    alone = echo_splat(amplitude, sigma, only, batch, GRID)
    assert torch.equal(alone[1], together[1]) and not alone[0].any()


@pytest.mark.parametrize("function", [echo_splat, echo_splat_reference])
def test_autocast_gives_float32(device, generator, function):
    amplitude, sigma, echoes, batch = random_case(generator, device)
    with torch.autocast(device, dtype=torch.bfloat16):
        bev = function(amplitude.bfloat16(), sigma.bfloat16(), echoes, batch, GRID)
    assert bev.dtype == torch.float32


def test_layout_in_memory_does_not_matter_and_inputs_stay(device, generator):
    amplitude, sigma, echoes, batch = random_case(generator, device)
    expected = echo_splat(amplitude, sigma, echoes, batch, GRID)
    wide = {name: torch.stack((getattr(echoes, name),) * 2, -1) for name in NAMES}
    before = {name: tensor.clone() for name, tensor in wide.items()}
    views = EchoGeometry(**{name: tensor[..., 0] for name, tensor in wide.items()})
    pairs = torch.stack((amplitude, sigma), -1)
    assert torch.equal(echo_splat(pairs[:, 0], pairs[:, 1], views, batch, GRID), expected)
    assert all(torch.equal(wide[name], before[name]) for name in NAMES)


def test_same_bits_on_any_number_of_threads(generator, on_threads):
    amplitude, sigma, echoes, batch = random_case(generator, "cpu", count=100)
    results = []
    for threads in (1, 2, 5):
        on_threads(threads)
        leaves = amplitude.clone().requires_grad_(), sigma.clone().requires_grad_()
        bev = echo_splat(*leaves, echoes, batch, GRID)
        bev.square().sum().backward()
        results.append((bev.detach(), leaves[0].grad, leaves[1].grad))
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_fuzz(data):
    count, batch = data.draw(st.integers(0, 4)), data.draw(st.integers(0, 3))
    number = st.floats() | st.floats(-3, 3)
    rows = [[data.draw(number) for _ in range(11)] for _ in range(count)]
    values = torch.tensor(rows, dtype=torch.float64).view(count, 11)
    integers = [[data.draw(st.integers(-1, 5)), data.draw(st.integers(-1, batch - 1))] for _ in range(count)]
    kinds = torch.tensor(integers, dtype=torch.int64).view(count, 2)
    echoes = EchoGeometry(
        sender=values[:, :3],
        receiver=values[:, 3:6],
        distance_m=values[:, 6],
        beam_rad=values[:, 7],
        age_s=values[:, 8],
        kind=kinds[:, 0],
        batch_index=kinds[:, 1],
    )
    leaves = [values[:, column].clone().requires_grad_() for column in (9, 10)]
    bev = echo_splat(*leaves, echoes, batch, GRID)
    assert bev.isfinite().all() and bev[:, :2].ge(0).all() and bev[:, :2].le(1).all()
    torch.testing.assert_close(bev[:, :2], echo_splat_reference(*leaves, echoes, batch, GRID)[:, :2])
    bev.sum().backward()
    assert not any(leaf.grad.isnan().any() for leaf in leaves)


def test_rejects_wrong_arguments(generator):
    amplitude, sigma, echoes, batch = random_case(generator, "cpu")
    with pytest.raises(TypeError, match="echo_splat: amplitude must be a tensor, got float"):
        echo_splat(1.0, sigma, echoes, batch, GRID)
    with pytest.raises(ValueError, match=r"echo_splat: sigma_m must be \(20\) .*, got \(19,\)"):
        echo_splat(amplitude, sigma[1:], echoes, batch, GRID)
    with pytest.raises(ValueError, match=r"echo_splat: sender must be \(20, 3\) .*, got \(20, 2\)"):
        echo_splat(amplitude, sigma, dataclasses.replace(echoes, sender=echoes.sender[:, :2]), batch, GRID)
    with pytest.raises(ValueError, match=r"echo_splat: kind must be \(20\) int64, got \(20,\) int32"):
        echo_splat(amplitude, sigma, dataclasses.replace(echoes, kind=echoes.kind.int()), batch, GRID)
    with pytest.raises(ValueError, match=r"echo_splat: batch_size must be a whole number of at least 0, got 1\.5"):
        echo_splat(amplitude, sigma, echoes, 1.5, GRID)
    with pytest.raises(ValueError, match=r"echo_splat: amplitude, .* must be on one device, got cpu, meta"):
        echo_splat(amplitude, sigma.to("meta"), echoes, batch, GRID)
    with pytest.raises(TypeError, match="echo_splat: grid must be a Grid, got NoneType"):
        echo_splat(amplitude, sigma, echoes, batch, None)


@pytest.mark.parametrize("function", [echo_splat, echo_splat_reference])
@pytest.mark.parametrize("bad", [-2, 3])
def test_rejects_samples_out_of_range(generator, function, bad):
    amplitude, sigma, echoes, batch = random_case(generator, "cpu")
    echoes.batch_index[7] = bad
    with pytest.raises(ValueError, match=rf"echo_splat: index must be in \[-1, 3\), got {bad} at row 7"):
        function(amplitude, sigma, echoes, batch, GRID)


def test_compiled_op_rejects_what_the_kernel_cannot_read(kernel_device, generator):
    op = torch.ops.perception.echo_splat
    amplitude, sigma, echoes, _ = random_case(generator, kernel_device)
    geometry = torch.zeros(20, 11, dtype=torch.float64, device=kernel_device)
    rest = echoes.kind, echoes.batch_index, [0.0, 0.0], [0.5, 0.5], [3, 4, 4]
    with pytest.raises(RuntimeError, match="echo_splat: amplitude must be float64, got"):
        op(amplitude.float(), sigma, geometry, *rest)
    with pytest.raises(RuntimeError, match=r"echo_splat: geometry must be \(20, 11\), got \(20, 9\)"):
        op(amplitude, sigma, geometry[:, :9], *rest)
    with pytest.raises(RuntimeError, match="echo_splat: cell_m and shape must be positive"):
        op(amplitude, sigma, geometry, *rest[:-1], [3, 0, 4])
