import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perception.geometry.grid import Grid
from perception.ops import _library
from perception.ops.radar_splat import RadarReturns, radar_covariances, radar_splat, radar_splat_reference

GRID = Grid((-6.0, 6.0), (-4.0, 4.0), (-1.0, 1.0), (0.5, 0.4, 2.0))
FIELDS = "features", "density", "velocity_mps", "spread_mps"


def random_case(generator, device, dtype=torch.float64, count=60, channels=6, batch=3):
    positions = (torch.rand(count, 2, generator=generator, dtype=torch.float64) * 2 - 1) * torch.tensor((7.0, 5.0))
    root = torch.randn(count, 2, 2, generator=generator, dtype=torch.float64) * 0.5
    velocities = torch.randn(count, 2, generator=generator, dtype=torch.float64) * 5
    velocities[::7, 1] = math.nan
    returns = RadarReturns(
        positions_m=positions.to(device),
        covariances_m2=(root @ root.mT).to(device),
        velocities_mps=velocities.to(device),
        batch_index=torch.randint(-1, batch, (count,), generator=generator).to(device)
        if batch
        else torch.empty(0).long(),
    )
    features = torch.randn(count, channels, generator=generator, dtype=torch.float64)
    return features.to(device, dtype), returns, batch


def one_return(device="cpu", x=0.25, y=0.2, variance=(1e-6, 0.0, 1e-6), velocity=(3.0, 4.0)):
    xx, xy, yy = variance
    return RadarReturns(
        positions_m=torch.tensor([[x, y]], device=device),
        covariances_m2=torch.tensor([[[xx, xy], [xy, yy]]], device=device),
        velocities_mps=torch.tensor([velocity], device=device),
        batch_index=torch.zeros(1, dtype=torch.int64, device=device),
    )


def joined(*returns):
    names = [field.name for field in dataclasses.fields(RadarReturns)]
    return RadarReturns(**{name: torch.cat([getattr(one, name) for one in returns]) for name in names})


def fields(bev):
    return [getattr(bev, name).detach() for name in FIELDS]


@pytest.mark.parametrize("function", [radar_splat, radar_splat_reference])
def test_a_well_known_return_stays_in_its_cell_and_its_neighbours(device, function):
    bev = function(torch.tensor([[2.0, -1.0]], device=device), one_return(device), 1, GRID)
    # At the centre of a cell with a variance of 1/12 cell, the 3-sigma ellipse ends short of the neighbours' centres.
    assert bev.density.nonzero().tolist() == [[0, 0, 10, 12]]
    assert bev.features[0, :, 10, 12].tolist() == [2, -1]
    assert bev.velocity_mps[0, :, 10, 12].tolist() == [3, 4]
    assert not bev.spread_mps.any()


@pytest.mark.parametrize("function", [radar_splat, radar_splat_reference])
def test_weights_follow_the_covariance(device, function):
    returns = one_return(device, variance=(0.5, 0.3, 0.4))
    density = function(torch.zeros(1, 0, device=device), returns, 1, GRID).density[0, 0].double().cpu()
    covariance = torch.tensor([[0.5, 0.3], [0.3, 0.4]], dtype=torch.float64)
    covariance += torch.diag(torch.tensor(GRID.cell_m[:2], dtype=torch.float64).square() / 12)
    offset = GRID.centers_xy() - torch.tensor((0.25, 0.2), dtype=torch.float64)
    squared = torch.einsum("yxi,ij,yxj->yx", offset, torch.linalg.inv(covariance), offset)
    expected = torch.where(squared <= 9, torch.exp(-squared / 2), 0)
    torch.testing.assert_close(density, expected / expected.sum(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("function", [radar_splat, radar_splat_reference])
def test_motion_of_several_returns_in_a_cell(device, function):
    returns = joined(*(one_return(device, velocity=v) for v in ((1.0, 0.0), (3.0, 0.0), (math.nan, 5.0))))
    bev = function(torch.ones(3, 1, device=device), returns, 1, GRID)
    at = (0, slice(None), 10, 12)
    assert bev.density[at].item() == bev.features[at].item() == 3
    assert bev.velocity_mps[at].tolist() == [2, 0]
    assert bev.spread_mps[at].item() == 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("channels", [1, 6, 45])
def test_values_and_gradients_match_reference(device, generator, dtype, channels):
    features, returns, batch = random_case(generator, device, dtype, channels=channels)
    upstream = torch.randn(batch, channels, GRID.num_y, GRID.num_x, generator=generator).to(device, dtype)
    results = []
    for function in (radar_splat, radar_splat_reference):
        leaf = features.clone().requires_grad_()
        bev = function(leaf, returns, batch, GRID)
        bev.features.backward(upstream)
        assert all(field.dtype == dtype for field in fields(bev))
        results.append((*fields(bev), leaf.grad))
    tolerance = 2e-2 if dtype in (torch.float16, torch.bfloat16) else 1e-5 if dtype == torch.float32 else 1e-6
    torch.testing.assert_close(results[0], results[1], rtol=tolerance, atol=tolerance)


def test_nothing_is_lost_on_a_grid_that_is_large_enough(device, generator):
    features, returns, batch = random_case(generator, device)
    bev = radar_splat(features, returns, batch, Grid.square(40.0, 0.5))
    for sample in range(batch):
        of_sample = returns.batch_index == sample
        torch.testing.assert_close(bev.features[sample].sum((1, 2)), features[of_sample].sum(0))
        torch.testing.assert_close(bev.density[sample].sum(), of_sample.sum().double())


def test_a_quarter_turn_of_the_returns_turns_the_bev(device, generator):
    features, returns, batch = random_case(generator, device)
    turn = torch.tensor([[0.0, -1], [1, 0]], dtype=torch.float64, device=device)
    turned = RadarReturns(
        positions_m=returns.positions_m @ turn.T,
        covariances_m2=turn @ returns.covariances_m2 @ turn.T,
        velocities_mps=returns.velocities_mps.nan_to_num(0.0) @ turn.T,
        batch_index=returns.batch_index,
    )
    grid = Grid.square(6.0, 0.5)
    before = radar_splat(features, returns, batch, grid)
    after = radar_splat(features, turned, batch, grid)
    torch.testing.assert_close(after.features, before.features.rot90(-1, (2, 3)))
    torch.testing.assert_close(after.density, before.density.rot90(-1, (2, 3)))


def test_gradcheck(device, generator):
    features, returns, batch = random_case(generator, device, count=5, channels=2)
    grid = Grid.square(4.0, 1.0)
    leaf = features.requires_grad_()
    assert torch.autograd.gradcheck(lambda f: radar_splat(f, returns, batch, grid).features, (leaf,))


def test_opcheck(kernel_device, generator):
    features, returns, batch = random_case(generator, kernel_device, count=8)
    tensors = returns.positions_m, returns.covariances_m2, returns.velocities_mps, returns.batch_index
    inputs = features.requires_grad_(), *tensors, [-6.0, -4.0], [0.5, 0.4], [batch, GRID.num_y, GRID.num_x]
    torch.library.opcheck(torch.ops.perception.radar_splat.default, inputs)


@pytest.mark.parametrize("function", [radar_splat, radar_splat_reference])
@pytest.mark.parametrize(
    "bad",
    [
        {"x": math.nan},
        {"y": math.inf},
        {"x": -1e30},
        {"x": 1e300},
        {"variance": (math.nan, 0.0, 1.0)},
        {"variance": (1.0, math.nan, 1.0)},
        {"variance": (math.inf, 0.0, 1.0)},
        {"variance": (-1.0, 0.0, 1.0)},
        {"variance": (1.0, 2.0, 1.0)},
        {"x": 9.0, "variance": (0.1, 0.0, 0.1)},
    ],
)
def test_bad_and_distant_returns_leave_nothing(device, function, bad):
    features = torch.ones(1, 2, device=device, requires_grad=True)
    bev = function(features, one_return(device, **bad), 1, GRID)
    assert not any(field.any() for field in fields(bev))
    bev.features.sum().backward()
    assert not features.grad.any()


@pytest.mark.parametrize("function", [radar_splat, radar_splat_reference])
def test_a_return_known_badly_is_cut_off_and_still_adds_up_to_one(device, function):
    returns = one_return(device, variance=(1e5, 0.0, 1e5))
    density = function(torch.ones(1, 1, device=device), returns, 1, Grid.square(40.0, 0.5)).density
    torch.testing.assert_close(density.sum().item(), 1.0)
    columns = density[0, 0].any(0).nonzero()[:, 0]
    assert columns.aminmax() == (80 - 64, 80 + 64)


@pytest.mark.parametrize("sizes", [{"count": 0}, {"channels": 0}, {"count": 0, "batch": 0}])
def test_nothing_to_splat_gives_zeros(device, generator, sizes):
    features, returns, batch = random_case(generator, device, **sizes)
    features.requires_grad_()
    bev = radar_splat(features, returns, batch, GRID)
    assert bev.features.shape == (batch, features.shape[1], GRID.num_y, GRID.num_x)
    assert not bev.features.any()
    bev.features.sum().backward()
    assert features.grad.shape == features.shape


def test_samples_do_not_affect_one_another(device, generator):
    features, returns, batch = random_case(generator, device)
    together = radar_splat(features, returns, batch, GRID)
    only = dataclasses.replace(returns, batch_index=torch.where(returns.batch_index == 1, 1, -1))
    alone = radar_splat(features, only, batch, GRID)
    assert all(torch.equal(a[1], b[1]) for a, b in zip(fields(together), fields(alone), strict=True))
    assert not alone.density[0].any()


@pytest.mark.parametrize("function", [radar_splat, radar_splat_reference])
def test_autocast_computes_in_float32(device, generator, function):
    features, returns, batch = random_case(generator, device, torch.bfloat16)
    with torch.autocast(device, dtype=torch.bfloat16):
        bev = function(features, returns, batch, GRID)
    assert bev.features.dtype == torch.float32
    torch.testing.assert_close(fields(bev), fields(radar_splat(features.float(), returns, batch, GRID)))


def test_layout_in_memory_does_not_matter_and_inputs_stay(device, generator):
    features, returns, batch = random_case(generator, device)
    expected = fields(radar_splat(features, returns, batch, GRID))
    names = [field.name for field in dataclasses.fields(RadarReturns)]
    wide = {name: torch.stack((getattr(returns, name),) * 2, dim=-1) for name in names}
    before = {name: tensor.clone() for name, tensor in wide.items()}
    views = RadarReturns(**{name: tensor[..., 0] for name, tensor in wide.items()})
    results = fields(radar_splat(torch.stack((features,) * 2, -1)[..., 0], views, batch, GRID))
    assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))
    assert all(torch.equal(wide[name].nan_to_num(), before[name].nan_to_num()) for name in names)
    assert expected[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.skipif(not _library.has_kernels(torch.device("cpu")), reason="torch's index_add splits sums by threads")
def test_same_bits_on_any_number_of_threads(generator, on_threads):
    features, returns, batch = random_case(generator, "cpu", torch.float32, count=500, channels=20)
    results = []
    for threads in (1, 2, 5):
        on_threads(threads)
        leaf = features.clone().requires_grad_()
        bev = radar_splat(leaf, returns, batch, GRID)
        bev.features.square().sum().backward()
        results.append((*fields(bev), leaf.grad))
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_fuzz(data):
    count, channels, batch = (data.draw(st.integers(0, 4)) for _ in range(3))
    number = st.floats() | st.floats(-10, 10)
    rows = [[data.draw(number) for _ in range(8)] for _ in range(count)]
    values = torch.tensor(rows, dtype=torch.float64).view(count, 8)
    returns = RadarReturns(
        positions_m=values[:, :2],
        covariances_m2=values[:, [2, 3, 3, 4]].view(count, 2, 2),
        velocities_mps=values[:, 5:7],
        batch_index=torch.tensor([data.draw(st.integers(-1, batch - 1)) for _ in range(count)], dtype=torch.int64),
    )
    features = torch.ones(count, channels)
    bev, expected = (function(features, returns, batch, GRID) for function in (radar_splat, radar_splat_reference))
    torch.testing.assert_close(bev.features, expected.features)
    torch.testing.assert_close(bev.density, expected.density)
    assert bev.density.isfinite().all()


def test_covariances_lie_along_and_across_the_line_of_sight():
    positions = torch.tensor([[10.0, 0.0, 5.0], [0.0, 20.0, 5.0], [0.0, 0.0, 0.0]])
    rms = torch.tensor([[0.3, math.nan], [0.0, 0.4], [0.1, 0.1]])
    known = {"range_sigma_m": 0.5, "azimuth_sigma_rad": 0.1}
    covariances = radar_covariances(positions, rms, torch.eye(2), **known)
    expected = [[[0.25 + 0.09, 0], [0, 1]], [[4, 0], [0, 0.25 + 0.16]], [[0.01, 0], [0, 0.01]]]
    torch.testing.assert_close(covariances, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-9)
    turn = torch.tensor([[0.0, -2.0], [2.0, 0.0]])  # a quarter to the left, twice as large
    turned = radar_covariances(positions, rms, turn, **known)
    torch.testing.assert_close(turned, 4 * covariances.flip(1, 2))


def test_rejects_wrong_arguments(generator):
    features, returns, batch = random_case(generator, "cpu")
    with pytest.raises(ValueError, match=r"radar_splat: features must be \(P, C\) .*, got \(60,\)"):
        radar_splat(features[:, 0], returns, batch, GRID)
    with pytest.raises(ValueError, match=r"radar_splat: positions_m must be \(59, 2\) .*, got \(60, 2\)"):
        radar_splat(features[1:], returns, batch, GRID)
    with pytest.raises(ValueError, match=r"radar_splat: covariances_m2 must be \(60, 2, 2\) .*, got \(60, 2\)"):
        radar_splat(features, dataclasses.replace(returns, covariances_m2=returns.positions_m), batch, GRID)
    with pytest.raises(ValueError, match=r"radar_splat: batch_index must be \(60\) int64, got \(60,\) int32"):
        radar_splat(features, dataclasses.replace(returns, batch_index=returns.batch_index.int()), batch, GRID)
    with pytest.raises(ValueError, match="radar_splat: batch_size must be a whole number of at least 0, got -1"):
        radar_splat(features, returns, -1, GRID)
    with pytest.raises(TypeError, match="radar_splat: grid must be a Grid, got NoneType"):
        radar_splat(features, returns, batch, None)
    with pytest.raises(
        ValueError, match=r"radar_splat: features, positions_m, .* must be on one device, got cpu, meta"
    ):
        radar_splat(features, dataclasses.replace(returns, positions_m=returns.positions_m.to("meta")), batch, GRID)
    with pytest.raises(ValueError, match=r"radar_covariances: rms_m must be \(60, 2\)"):
        radar_covariances(returns.positions_m, features, torch.eye(2), range_sigma_m=1.0, azimuth_sigma_rad=0.1)
    with pytest.raises(ValueError, match=r"radar_covariances: radar2bev must be \(2, 2\) float.*, got \(3, 3\)"):
        radar_covariances(
            returns.positions_m, returns.positions_m, torch.eye(3), range_sigma_m=1.0, azimuth_sigma_rad=0.1
        )


@pytest.mark.parametrize("function", [radar_splat, radar_splat_reference])
@pytest.mark.parametrize("bad", [-2, 3])
def test_rejects_samples_out_of_range(generator, function, bad):
    features, returns, batch = random_case(generator, "cpu")
    returns.batch_index[7] = bad
    with pytest.raises(ValueError, match=rf"radar_splat: index must be in \[-1, 3\), got {bad} at row 7"):
        function(features, returns, batch, GRID)


def test_compiled_op_rejects_what_the_kernel_cannot_read(kernel_device, generator):
    op = torch.ops.perception.radar_splat
    features, returns, _ = random_case(generator, kernel_device)
    tensors = returns.positions_m, returns.covariances_m2, returns.velocities_mps, returns.batch_index
    grid = [-6.0, -4.0], [0.5, 0.4], [3, 20, 24]
    with pytest.raises(RuntimeError, match="radar_splat: positions must be float64, got"):
        op(features, tensors[0].float(), *tensors[1:], *grid)
    with pytest.raises(RuntimeError, match="radar_splat: cell_m and shape must be positive"):
        op(features, *tensors, grid[0], [0.5, 0.0], grid[2])
    with pytest.raises(RuntimeError, match="radar_splat: lower_m, cell_m and shape must have two, two and three"):
        op(features, *tensors, *grid[:2], [20, 24])
