import pytest
import torch
from torch.nn.functional import conv3d, conv_transpose3d

from perception.ops.sparse_conv import sparse_conv, sparse_conv_reference
from perception.ops.sparse_conv_plan import strided_plan, submanifold_plan

SHAPE = 5, 8, 9
KINDS = ["submanifold", "strided", "inverse"]


def make_plan(kind, generator, device, share=0.3, shape=SHAPE):
    coords = (torch.rand(2, *shape, generator=generator) < share).nonzero()
    coords = coords[torch.randperm(len(coords), generator=generator)].to(device)
    if kind == "submanifold":
        return submanifold_plan(coords, shape)
    plan = strided_plan(coords, shape, stride=(2, 1, 2), padding=(1, 0, 1))
    return plan if kind == "strided" else plan.inverse()


def random_case(kind, generator, device, dtype=torch.float64, channels=(4, 6)):
    plan = make_plan(kind, generator, device)
    features = torch.randn(len(plan.in_coords), channels[0], generator=generator, dtype=torch.float64)
    weights = torch.randn(27, *channels, generator=generator, dtype=torch.float64) / 8
    return features.to(device, dtype), weights.to(device, dtype), plan


def dense(rows, coords, shape):
    volume = rows.new_zeros(2, rows.shape[1], *shape)
    batch, z, y, x = coords.unbind(1)
    volume[batch, :, z, y, x] = rows
    return volume


def at(volume, coords):
    batch, z, y, x = coords.unbind(1)
    return volume[batch, :, z, y, x]


@pytest.mark.parametrize("function", [sparse_conv, sparse_conv_reference])
@pytest.mark.parametrize("kind", KINDS)
def test_matches_dense_convolution(device, generator, kind, function):
    features, weights, plan = random_case(kind, generator, device)
    volume = dense(features, plan.in_coords, plan.in_shape)
    kernel = weights.view(3, 3, 3, 4, 6)
    if kind == "submanifold":
        expected = conv3d(volume, kernel.permute(4, 3, 0, 1, 2), padding=1)
    elif kind == "strided":
        expected = conv3d(volume, kernel.permute(4, 3, 0, 1, 2), stride=(2, 1, 2), padding=(1, 0, 1))
    else:
        expected = conv_transpose3d(volume, kernel.permute(3, 4, 0, 1, 2), stride=(2, 1, 2), padding=(1, 0, 1))
        assert expected.shape[2:] == plan.shape
    torch.testing.assert_close(function(features, weights, plan), at(expected, plan.coords))
    if kind == "strided":  # no output was missed
        assert torch.equal(dense(torch.ones_like(plan.coords[:, :1]), plan.coords, plan.shape)[:, 0] > 0,
                           (conv3d(volume.abs(), torch.ones(1, 4, 3, 3, 3, dtype=volume.dtype, device=device),
                                   stride=(2, 1, 2), padding=(1, 0, 1)) > 0)[:, 0])  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("channels", [(1, 1), (5, 16), (16, 37), (67, 64)])
def test_values_and_gradients_match_reference(device, generator, kind, dtype, channels):
    features, weights, plan = random_case(kind, generator, device, dtype, channels)
    upstream = torch.randn(len(plan.coords), channels[1], generator=generator).to(device, dtype)
    results = []
    for function in (sparse_conv, sparse_conv_reference):
        leaves = features.clone().requires_grad_(), weights.clone().requires_grad_()
        rows = function(*leaves, plan)
        rows.backward(upstream)
        assert rows.dtype == leaves[0].grad.dtype == leaves[1].grad.dtype == dtype
        results.append((rows.detach(), leaves[0].grad, leaves[1].grad))
    reduced = {"rtol": 3e-2, "atol": 0.3} if dtype in (torch.float16, torch.bfloat16) else {"rtol": 1e-5, "atol": 1e-4}
    torch.testing.assert_close(results[0], results[1], **reduced)


@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck(device, generator, kind):
    plan = make_plan(kind, generator, device, share=0.15, shape=(3, 4, 5))
    features = torch.randn(len(plan.in_coords), 2, generator=generator, dtype=torch.float64).to(device)
    weights = torch.randn(27, 2, 3, generator=generator, dtype=torch.float64).to(device)
    inputs = features.requires_grad_(), weights.requires_grad_()
    assert torch.autograd.gradcheck(lambda f, w: sparse_conv(f, w, plan), inputs)


@pytest.mark.parametrize("kind", KINDS)
def test_opcheck(kernel_device, generator, kind):
    features, weights, plan = random_case(kind, generator, kernel_device, channels=(2, 3))
    lists = plan.sources, plan.targets, plan.back_sources, plan.back_targets, plan.offsets
    inputs = features.requires_grad_(), weights.requires_grad_(), *lists, len(plan.coords), plan.mirrored
    torch.library.opcheck(torch.ops.perception.sparse_conv.default, inputs)


def test_frozen_weights_or_features_get_no_gradient(device, generator):
    features, weights, plan = random_case("submanifold", generator, device)
    sparse_conv(features.requires_grad_(), weights, plan).sum().backward()
    alone = features.grad.clone()
    features.grad = None
    sparse_conv(features, weights.requires_grad_(), plan).sum().backward()
    assert torch.equal(features.grad, alone)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_do_not_affect_one_another(device, generator, kind):
    features, weights, plan = random_case(kind, generator, device)
    other = torch.where(plan.in_coords[:, :1] == 0, torch.randn_like(features), features)
    second = plan.coords[:, 0] == 1
    changed, before = sparse_conv(other, weights, plan), sparse_conv(features, weights, plan)
    assert torch.equal(changed[second], before[second])
    assert not torch.equal(changed, before)


@pytest.mark.parametrize("channels", [(3, 5), (0, 5), (3, 0)])
@pytest.mark.parametrize("make", [submanifold_plan, strided_plan])
def test_no_voxels_or_no_channels(device, make, channels):
    for num_voxels in (0, 1):
        plan = make(torch.zeros(num_voxels, 4, dtype=torch.int64, device=device), SHAPE)
        features = torch.ones(num_voxels, channels[0], device=device, requires_grad=True)
        weights = torch.ones(27, *channels, device=device, requires_grad=True)
        rows = sparse_conv(features, weights, plan)
        assert rows.shape == (num_voxels, channels[1])
        rows.sum().backward()
        assert features.grad.shape == features.shape
        assert weights.grad.shape == weights.shape


def test_nan_stays_where_it_is_met(device):
    coords = torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 5]], device=device)
    features = torch.tensor([[torch.nan], [1.0], [1.0]], device=device)
    rows = sparse_conv(features, torch.ones(27, 1, 1, device=device), submanifold_plan(coords, SHAPE))
    assert rows.isnan()[:, 0].tolist() == [True, True, False]


@pytest.mark.parametrize("function", [sparse_conv, sparse_conv_reference])
def test_autocast_computes_in_float32(device, generator, function):
    features, weights, plan = random_case("submanifold", generator, device, torch.bfloat16)
    with torch.autocast(device, dtype=torch.bfloat16):
        rows = function(features, weights, plan)
        mixed = function(features.float(), weights, plan)
    assert rows.dtype == mixed.dtype == torch.float32
    torch.testing.assert_close(rows, sparse_conv(features.float(), weights.float(), plan))
    torch.testing.assert_close(mixed, rows)


def test_layout_in_memory_does_not_matter_and_inputs_stay(device, generator):
    features, weights, plan = random_case("strided", generator, device)
    wide, turned = features.repeat(1, 2), weights.transpose(1, 2).contiguous()
    before = wide.clone(), turned.clone()
    actual = sparse_conv(wide[:, :4], turned.transpose(1, 2), plan)
    torch.testing.assert_close(actual, sparse_conv(features, weights, plan))
    assert torch.equal(wide, before[0])
    assert torch.equal(turned, before[1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [(13, 64), (64, 23)])
def test_same_bits_on_any_number_of_threads(kernel_device, generator, on_threads, kind, channels):
    plan = make_plan(kind, generator, kernel_device, shape=(8, 40, 40))
    features = torch.randn(len(plan.in_coords), channels[0], generator=generator).to(kernel_device)
    weights = torch.randn(27, *channels, generator=generator).to(kernel_device)
    results = []
    for threads in (1, 2, 5):
        on_threads(threads)
        leaves = features.clone().requires_grad_(), weights.clone().requires_grad_()
        rows = sparse_conv(*leaves, plan)
        rows.square().sum().backward()
        results.append((rows.detach(), leaves[0].grad, leaves[1].grad))
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


def test_rejects_wrong_arguments(generator):
    features, weights, plan = random_case("submanifold", generator, "cpu")
    with pytest.raises(ValueError, match=rf"sparse_conv: features must be \({len(features)}, C_in\) .*, got \(3, 4\)"):
        sparse_conv(features[:3], weights, plan)
    with pytest.raises(ValueError, match=r"sparse_conv: weights must be \(27, 4, C_out\) .*, got \(9, 4, 6\) float64"):
        sparse_conv(features, weights[:9], plan)
    with pytest.raises(ValueError, match=r"sparse_conv: weights must be \(27, 4, C_out\) .*, got \(27, 6, 4\) float64"):
        sparse_conv(features, weights.transpose(1, 2), plan)
    with pytest.raises(TypeError, match="sparse_conv: weights must be a tensor, got NoneType"):
        sparse_conv(features, None, plan)
    with pytest.raises(
        ValueError, match="sparse_conv: features, weights, plan must be on one device, got cpu, cpu, meta"
    ):
        sparse_conv(features, weights, plan.to("meta"))


def test_compiled_op_rejects_what_the_kernel_cannot_read(kernel_device, generator):
    op = torch.ops.perception.sparse_conv
    features, weights, plan = random_case("submanifold", generator, kernel_device)
    lists = plan.sources, plan.targets, plan.sources, plan.targets, plan.offsets
    with pytest.raises(RuntimeError, match=r"sparse_conv: weights must be \(27, 4, any\), got \(26, 4, 6\) Double"):
        op(features, weights[1:], *lists, len(features), True)
    with pytest.raises(RuntimeError, match="sparse_conv: weights must have the dtype of the first argument"):
        op(features, weights.float(), *lists, len(features), True)
    with pytest.raises(RuntimeError, match="sparse_conv: targets must be"):
        op(features, weights, plan.sources, plan.targets[1:], *lists[2:], len(features), True)
    with pytest.raises(RuntimeError, match="sparse_conv: num_targets must not be negative, got -1"):
        op(features, weights, *lists, -1, True)
