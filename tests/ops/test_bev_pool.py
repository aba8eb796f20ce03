import dataclasses

import pytest
import torch

from perception.ops.bev_pool import bev_pool, bev_pool_plan, bev_pool_reference

SHAPE = 6, 9  # Y, X


def random_case(generator, device, dtype=torch.float64, sizes=(2, 3, 7, 4, 5), channels=6):
    samples, cameras, _, rows, columns = sizes
    cells = torch.randint(-1, SHAPE[0] * SHAPE[1], sizes, generator=generator).to(device)
    depth = torch.rand(sizes, generator=generator, dtype=torch.float64).to(device, dtype)
    features = torch.randn(samples, cameras, channels, rows, columns, generator=generator, dtype=torch.float64)
    return depth, features.to(device, dtype), cells


@pytest.mark.parametrize("function", [bev_pool, bev_pool_reference])
def test_known_values(device, function):
    cells = torch.tensor([[0, 3], [0, -1], [5, 2]], device=device).view(1, 1, 3, 1, 2)  # 3 bins, 1 x 2 pixels
    depth = torch.tensor([[0.5, 0.25], [0.25, 0.75], [0.25, 0.0]], device=device).view(1, 1, 3, 1, 2)
    features = torch.tensor([[4.0, 8.0], [40.0, 80.0]], device=device).view(1, 1, 2, 1, 2)  # 2 channels
    bev = function(depth, features, bev_pool_plan(cells, (2, 3)))
    assert bev.shape == (1, 2, 2, 3)
    assert bev[0, 0].tolist() == [
        [3, 0, 0],
        [2, 0, 1],
    ]  # 0.5 * 4 + 0.25 * 4; 0.25 * 8; 0.25 * 4
    assert torch.equal(bev[0, 1], 10 * bev[0, 0])


def test_plan_sorts_points_by_cell(generator):
    _, _, cells = random_case(generator, "cpu")
    plan = bev_pool_plan(cells, SHAPE)
    flat = plan.cells.flatten()
    assert torch.equal(plan.points, torch.argsort(flat, stable=True)[(flat < 0).sum() :])
    assert torch.equal(plan.offsets.diff(), torch.bincount(flat[flat >= 0], minlength=2 * 54))
    _, _, bins, rows, columns = cells.shape
    pixels = torch.arange(2 * 3 * rows * columns).view(2, 3, 1, rows, columns).expand(-1, -1, bins, -1, -1)
    assert torch.equal(plan.pixels, pixels.flatten()[plan.points])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("channels", [1, 6, 80])
def test_values_and_gradients_match_reference(device, generator, dtype, channels):
    depth, features, cells = random_case(generator, device, dtype, channels=channels)
    plan = bev_pool_plan(cells, SHAPE)
    upstream = torch.randn(2, channels, *SHAPE, generator=generator).to(device, dtype)
    results = []
    for function in (bev_pool, bev_pool_reference):
        leaves = depth.clone().requires_grad_(), features.clone().requires_grad_()
        bev = function(*leaves, plan)
        bev.backward(upstream)
        assert bev.dtype == dtype
        results.append((bev.detach(), leaves[0].grad, leaves[1].grad))
    reduced = {"rtol": 2e-2, "atol": 2e-2} if dtype in (torch.float16, torch.bfloat16) else {}
    torch.testing.assert_close(results[0], results[1], **reduced)


@pytest.mark.parametrize("sizes", [(1, 0, 3, 2, 2), (0, 2, 3, 2, 2), (1, 1, 0, 2, 2), (1, 1, 3, 0, 2)])
def test_nothing_to_pool_gives_zeros(device, generator, sizes):
    depth, features, cells = random_case(generator, device, sizes=sizes)
    depth.requires_grad_()
    bev = bev_pool(depth, features, bev_pool_plan(cells, SHAPE))
    assert bev.shape == (sizes[0], 6, *SHAPE)
    assert not bev.any()
    bev.sum().backward()
    assert depth.grad.shape == sizes


def test_all_points_outside_give_zeros_and_no_gradient(device, generator):
    depth, features, cells = random_case(generator, device)
    depth.requires_grad_()
    bev = bev_pool(depth, features, bev_pool_plan(torch.full_like(cells, -1), SHAPE))
    bev.sum().backward()
    assert not bev.any()
    assert not depth.grad.any()


def test_without_loss_the_bev_holds_what_the_pixels_gave(device, generator):
    depth, features, cells = random_case(generator, device)
    bev = bev_pool(depth, features, bev_pool_plan(cells.clamp(min=0), SHAPE))
    given = (depth.sum(2)[:, :, None] * features).sum((1, 3, 4))  # (B, C)
    torch.testing.assert_close(bev.sum((2, 3)), given)


def test_samples_do_not_affect_one_another(device, generator):
    depth, features, cells = random_case(generator, device)
    together = bev_pool(depth, features, bev_pool_plan(cells, SHAPE))
    alone = bev_pool(depth[1:], features[1:], bev_pool_plan(cells[1:], SHAPE))
    assert torch.equal(together[1:], alone)


def test_gradcheck(device, generator):
    depth, features, cells = random_case(generator, device, sizes=(1, 2, 3, 2, 2), channels=3)
    plan = bev_pool_plan(cells, SHAPE)
    inputs = depth.requires_grad_(), features.requires_grad_()
    assert torch.autograd.gradcheck(lambda d, f: bev_pool(d, f, plan), inputs)


def test_opcheck(kernel_device, generator):
    depth, features, cells = random_case(generator, kernel_device, sizes=(1, 2, 3, 2, 2), channels=3)
    plan = bev_pool_plan(cells, SHAPE)
    features = features.permute(0, 1, 3, 4, 2).contiguous()
    inputs = depth.requires_grad_(), features.requires_grad_(), plan.cells, plan.points, plan.pixels, plan.offsets
    torch.library.opcheck(torch.ops.perception.bev_pool.default, inputs)


@pytest.mark.parametrize("function", [bev_pool, bev_pool_reference])
def test_autocast_computes_in_float32(device, generator, function):
    depth, features, cells = random_case(generator, device, torch.bfloat16)
    plan = bev_pool_plan(cells, SHAPE)
    with torch.autocast(device, dtype=torch.bfloat16):
        bev = function(depth, features, plan)
        mixed = function(depth.float(), features, plan)
    assert bev.dtype == mixed.dtype == torch.float32
    torch.testing.assert_close(bev, bev_pool(depth.float(), features.float(), plan))
    torch.testing.assert_close(mixed, bev)


def test_layout_in_memory_does_not_matter_and_inputs_stay(device, generator):
    depth, features, cells = random_case(generator, device)
    plan = bev_pool_plan(cells, SHAPE)
    expected = bev_pool(depth, features, plan)
    turned = features.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)  # channels last in memory
    wide = torch.stack((depth, depth), dim=-1)
    before = wide.clone(), turned.clone(), plan.cells.clone()
    assert torch.equal(bev_pool(wide[..., 0], turned, plan), expected)
    assert all(torch.equal(a, b) for a, b in zip((wide, turned, plan.cells), before, strict=True))
    assert expected.is_contiguous(memory_format=torch.channels_last)


def test_same_bits_on_any_number_of_threads(generator, on_threads):
    depth, features, cells = random_case(generator, "cpu", torch.float32, sizes=(2, 3, 20, 12, 16), channels=20)
    results = []
    for threads in (1, 2, 5):
        on_threads(threads)
        plan = bev_pool_plan(cells, SHAPE)
        leaves = depth.clone().requires_grad_(), features.clone().requires_grad_()
        bev = bev_pool(*leaves, plan)
        bev.square().sum().backward()
        results.append((plan.points, bev.detach(), leaves[0].grad, leaves[1].grad))
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


def test_plan_moves_with_its_fields(generator):
    _, _, cells = random_case(generator, "cpu")
    moved = bev_pool_plan(cells, SHAPE).to("meta")
    fields = [getattr(moved, field.name) for field in dataclasses.fields(moved)]
    assert all(tensor.is_meta for tensor in fields[:-1])
    assert fields[-1] == SHAPE


@pytest.mark.parametrize("bad", [-2, 54])
def test_plan_rejects_cells_out_of_range(bad):
    with pytest.raises(ValueError, match=r"bev_pool_plan: cells must be in \[-1, 54\), got"):
        bev_pool_plan(torch.full((1, 1, 2, 2, 2), bad), SHAPE)


def test_rejects_wrong_arguments(generator):
    depth, features, cells = random_case(generator, "cpu")
    plan = bev_pool_plan(cells, SHAPE)
    with pytest.raises(ValueError, match=r"bev_pool_plan: cells must be \(B, N, D, H, W\) int64, got .* int32"):
        bev_pool_plan(cells.int(), SHAPE)
    with pytest.raises(ValueError, match="bev_pool_plan: shape must be a whole number of at least 1, got 0"):
        bev_pool_plan(cells, (0, 3))
    with pytest.raises(ValueError, match=r"bev_pool: depth must be \(2, 3, 7, 4, 5\) .*, got \(1, 3, 7, 4, 5\)"):
        bev_pool(depth[:1], features, plan)
    with pytest.raises(ValueError, match=r"bev_pool: features must be \(2, 3, C, 4, 5\) .*, got \(2, 3, 6, 5, 4\)"):
        bev_pool(depth, features.transpose(3, 4), plan)
    with pytest.raises(ValueError, match="bev_pool: depth, features, plan must be on one device, got cpu, cpu, meta"):
        bev_pool(depth, features, plan.to("meta"))


def test_compiled_op_rejects_what_the_kernel_cannot_read(kernel_device, generator):
    op = torch.ops.perception.bev_pool
    depth, features, cells = random_case(generator, kernel_device)
    plan = bev_pool_plan(cells, SHAPE)
    rest = plan.cells, plan.points, plan.pixels, plan.offsets
    with pytest.raises(RuntimeError, match=r"bev_pool: features must be \(2, 3, 4, 5, any\), got \(2, 3, 6, 4, 5\)"):
        op(depth, features, *rest)
    features = features.permute(0, 1, 3, 4, 2)
    with pytest.raises(RuntimeError, match="bev_pool: features must have the dtype of the first argument"):
        op(depth.float(), features, *rest)
    with pytest.raises(RuntimeError, match="bev_pool: pixels must be"):
        op(depth, features, plan.cells, plan.points, plan.pixels[:-1], plan.offsets)
